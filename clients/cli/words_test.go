package cli

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctd/rpc/wire"
)

func TestSeconds(t *testing.T) {
	for text, want := range map[string]uint32{
		"0": 0, "600": 600, "10m": 600, "1h30m": 5400, "5d": 432000, "1d1s": 86401, "4294967295": 1<<32 - 1,
	} {
		if got, err := seconds(text); err != nil || got != want {
			t.Errorf("%s: want %d, got %d, %v", text, want, got, err)
		}
	}
	for _, text := range []string{"", "-1", "-1s", "1.5", "500ms", "1x", "d", "4294967296", "65535d"} {
		if got, err := seconds(text); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
}

func TestMark(t *testing.T) {
	for text, want := range map[string]any{
		"0": uint32(0), "0x10": uint32(16), "4294967295": uint32(1<<32 - 1), "0x10/0xff": "0x10/0xff", "010": uint32(10),
	} {
		if got, err := mark(text); err != nil || got != want {
			t.Errorf("%s: want %v, got %v, %v", text, want, got, err)
		}
	}
	for _, text := range []string{"", "red", "-1", "4294967296", "1/", "/1", "1/x", "1_0", "0b1", "0o7", "1/0o7", "0x"} {
		if got, err := mark(text); err == nil {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

func TestLabels(t *testing.T) {
	for text, want := range map[string][]any{"": {}, "1,2": {1, 2}, "+3,-4": {"+3", "-4"}, "127": {127}} {
		got, err := labels(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: -want +got\n%s", text, diff)
		}
	}
	for _, text := range []string{"128", "+128", "++1", "1,", "x"} {
		if got, err := labels(text); err == nil {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

func TestSelector(t *testing.T) {
	got, err := selector([]string{"id=7", "proto=icmp", "zone=3", "reply_src=10.0.0.1", "reply_icmp_id=9", "family=ipv4"})
	if err != nil {
		t.Fatal(err)
	}
	want := wire.Selector{
		ID: 7, Protocol: "icmp", Zone: 3, Family: "ipv4", Reply: &wire.Tuple{Src: "10.0.0.1", ID: new(uint16(9))},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got, _ := selector([]string{"4294967295"}); got != uint32(1<<32-1) {
		t.Errorf("id: got %v", got)
	}
	for _, word := range []string{"4294967296", "src=router", "sport=65536", "sport=-1", "src", "=1", "src=", "icmp_type=256"} {
		if got, err := selector([]string{word}); err == nil {
			t.Errorf("%s: got %v", word, got)
		}
	}
}

func TestCreateReply(t *testing.T) {
	for name, tc := range map[string]struct {
		cmd  createCmd
		want *wire.Tuple
	}{
		"no translation": {createCmd{Flow: []string{"proto=tcp src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 timeout=9"}}, nil},
		"snat": {
			createCmd{Flow: []string{"proto=tcp src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 timeout=9"}, SNAT: "192.0.2.1"},
			&wire.Tuple{Src: "10.0.0.2", Dst: "192.0.2.1", SPort: new(uint16(2)), DPort: new(uint16(1))},
		},
		"dnat ipv6": {
			createCmd{Flow: []string{"proto=tcp src=fd00::1 dst=fd00::2 sport=1 dport=2 timeout=9"}, DNAT: "[fd00::3]:80"},
			&wire.Tuple{Src: "fd00::3", Dst: "fd00::1", SPort: new(uint16(80)), DPort: new(uint16(1))},
		},
		"icmp": {
			createCmd{Flow: []string{"proto=icmp src=10.0.0.1 dst=10.0.0.2 icmp_type=8 icmp_code=0 icmp_id=7 timeout=9 reply_dst=192.0.2.1"}},
			&wire.Tuple{Src: "10.0.0.2", Dst: "192.0.2.1", Type: new(uint8(0)), Code: new(uint8(0)), ID: new(uint16(7))},
		},
		"gre": {
			createCmd{Flow: []string{"proto=gre src=10.0.0.1 dst=10.0.0.2 gre_srckey=1 gre_key=2 timeout=9"}, SNAT: "192.0.2.1"},
			&wire.Tuple{Src: "10.0.0.2", Dst: "192.0.2.1", Key: new(uint16(1)), SrcKey: new(uint16(2))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := tc.cmd.flow()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, f.Reply); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	bad := createCmd{Flow: []string{"proto=tcp src=10.0.0.1 dst=10.0.0.2 timeout=9"}, SNAT: "router"}
	if _, err := bad.flow(); err == nil {
		t.Error("--snat router: no error")
	}
}

func TestFlowTextLimit(t *testing.T) {
	for n, want := range map[int]bool{maxFlowText: true, maxFlowText + 1: false} {
		text := "{" + strings.Repeat(" ", n-2) + "}"
		s := &session{o: Options{Stdin: strings.NewReader(text)}.withDefaults()}
		if _, err := (&createCmd{}).read(s); (err == nil) != want {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// TestInterrupt holds that a command whose context is cancelled ends at once, and quietly.
func TestInterrupt(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"jsonrpc":"2.0","id":1,"result":{"flows":[`))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer h.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	var errs bytes.Buffer
	start := time.Now()
	got := Run(ctx, []string{"list", "--server", h.URL}, Options{Stderr: &errs, Getenv: func(string) string { return "" }})
	if got != exitInterrupted || errs.Len() > 0 {
		t.Errorf("exit status %d, %q", got, errs.String())
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestBrokenPipe holds that a reader that goes away is no error, and a full disk is one.
func TestBrokenPipe(t *testing.T) {
	for err, want := range map[error]int{syscall.EPIPE: 0, syscall.ENOSPC: 6} {
		var errs bytes.Buffer
		got := Run(t.Context(), []string{"version"}, Options{Stdout: failing{err}, Stderr: &errs, Version: "1"})
		if got != want || (errs.Len() > 0) != (want != 0) {
			t.Errorf("%v: exit status %d, %q", err, got, errs.String())
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestExit holds that every code ends with the status of the one table.
func TestExit(t *testing.T) {
	for _, code := range wire.Codes() {
		var errs bytes.Buffer
		s := &session{ctx: t.Context(), g: &globals{}, o: Options{Stderr: &errs}.withDefaults()}
		err := error(&wire.Error{Code: code, Message: "a\nb", Hint: "do\x1bc", Errno: "EPERM"})
		want := code.Exit()
		if code == wire.Unavailable {
			want = wire.ExitRefused // with an errno: a change that could not be recorded
		}
		if got := s.exit(errors.Join(err)); got != int(want) {
			t.Errorf("%s: %d", code, got)
		}
		if diff := cmp.Diff("ctd: a b (EPERM)\nhint: do?c\n", errs.String()); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
}
