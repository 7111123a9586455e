package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReadFilters(t *testing.T) {
	l := openLog(t, newConfig(t))
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	local := begin("b", at(1))
	local.Principal, local.From, local.Method, local.Via = "root", "unix", "conntrack.modify", "unix"
	local.Params, local.Reason, local.Flows = json.RawMessage(`{"filter":"bytes=\u003e5M"}`), "Über", nil
	failed := end("b", at(3))
	failed.Outcome, failed.Changed, failed.Failed, failed.Message = "conflict", new(0), 1, "taken"
	failed.Flows, failed.Matched = []string{"udp 10.9.9.9:1>10.9.9.8:2"}, new(7)
	write(t, l, begin("a", at(0)), local, end("a", at(2)), failed, refusal("c", at(4)), begin("d", at(5)))
	for _, tt := range []struct {
		name string
		q    Query
		want string
	}{
		{"all", Query{}, "a b c d"},
		{"since", Query{Since: at(1)}, "b c d"},
		{"since within a change", Query{Since: at(2)}, "c d"},
		{"until", Query{Until: at(4)}, "a b"},
		{"between", Query{Since: at(1), Until: at(2)}, "b"},
		{"principal", Query{Principal: "jane"}, "a d"},
		{"principal in other letters", Query{Principal: "Jane"}, ""},
		{"claimed principal", Query{Principal: "mallory"}, "c"},
		{"method", Query{Method: "conntrack.modify"}, "b"},
		{"ok", Query{Outcome: "ok"}, "a"},
		{"unknown", Query{Outcome: Unknown}, "d"},
		{"code", Query{Outcome: "conflict"}, "b"},
		{"changes", Query{Kind: Change}, "a b d"},
		{"refusals", Query{Kind: Refused}, "c"},
		{"unix", Query{Unix: true}, "b"},
		{"address", Query{From: netip.MustParsePrefix("10.0.0.1/32")}, "a d"},
		{"network", Query{From: netip.MustParsePrefix("10.0.0.0/8")}, "a d"},
		{"another network", Query{From: netip.MustParsePrefix("10.1.0.0/16")}, ""},
		{"IPv6", Query{From: netip.MustParsePrefix("2001:db8::/32")}, "c"},
		{"text of a flow", Query{Text: "10.3.0.7"}, "a d"},
		{"text of a flow of the end", Query{Text: "10.9.9.9"}, "b"},
		{"text of parameters", Query{Text: "bytes=>1k"}, "a d"},
		{"text of escaped parameters", Query{Text: "bytes=>5"}, "b"},
		{"text of a reason", Query{Text: "über"}, "b"},
		{"several", Query{Principal: "jane", Outcome: "ok", Kind: Change, Text: "spam"}, "a"},
		{"none", Query{Principal: "jane", Kind: Refused}, ""},
	} {
		got := read(t, l, tt.q)
		var ids []string
		for _, r := range got.Records {
			ids = append(ids, r.ID)
		}
		if s := strings.Join(ids, " "); s != tt.want || got.Truncated || got.Unread != 0 {
			t.Errorf("%s: %q, want %q; %v, %d", tt.name, s, tt.want, got.Truncated, got.Unread)
		}
	}
	joined := read(t, l, Query{Method: "conntrack.modify"}).Records[0]
	if *joined.Matched != 7 || len(joined.Flows) != 1 || joined.Message != "taken" || joined.Failed != 1 || *joined.Changed != 0 {
		t.Errorf("joined %+v", joined)
	}
	got := read(t, l, Query{Limit: 2})
	if len(got.Records) != 2 || got.Records[0].ID != "c" || !got.Truncated {
		t.Errorf("the latest 2: %+v", got)
	}
	if got := read(t, l, Query{Limit: 4}); got.Truncated {
		t.Error("all 4 are said to be cut off")
	}
}

// TestReadJoinsAcrossFiles: a change that lasted while its file was set aside is one record, and an end
// whose begin is no longer kept is told as it is.
func TestReadJoinsAcrossFiles(t *testing.T) {
	cfg := newConfig(t)
	l := openLog(t, cfg)
	l.file.cfg.MaxSize = maxLine
	write(t, l, filled(t, l.file.cfg, "gone", t0), filled(t, l.file.cfg, "a", t0), begin("b", t0), filled(t, l.file.cfg, "c", t0))
	write(t, l, end("gone", t0.Add(1)), end("b", t0.Add(2)), end("a", t0.Add(3)), end("c", t0.Add(4)))
	got := read(t, l, Query{Outcome: "ok"})
	if len(got.Records) != 4 || got.Truncated {
		t.Fatalf("%+v", got)
	}
	if err := os.Remove(numbered(cfg.File, 2)); err != nil {
		t.Fatal(err)
	}
	got = read(t, l, Query{})
	var ids []string
	for _, r := range got.Records {
		ids = append(ids, r.ID+" "+r.Outcome+" "+string(r.Event))
	}
	if s := strings.Join(ids, ", "); s != "a ok begin, b ok begin, c ok begin, gone ok end" {
		t.Error(s)
	}
}

// TestReadHoldsLittle: however many ends have no begin, and however much fits.
func TestReadHoldsLittle(t *testing.T) {
	r := newReading(Query{Limit: 100000, Principal: "nobody"})
	for i := range 3 * maxPending {
		e := end(fmt.Sprint(i), t0)
		line, err := e.line()
		if err != nil || r.line(line) != nil {
			t.Fatal(err)
		}
	}
	if len(r.pending) > maxPending || len(r.order) > 2*maxPending {
		t.Errorf("%d pending, %d in order", len(r.pending), len(r.order))
	}
	r = newReading(Query{Limit: 100000})
	big := begin("x", t0)
	big.Reason = strings.Repeat("r", maxText)
	line, err := big.line()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if err := r.line(line); errors.Is(err, errEnough) {
			break
		}
	}
	if r.held > maxHeld || r.held < maxHeld/2 || !r.result().Truncated {
		t.Errorf("%d bytes held", r.held)
	}
}

func TestReadBounds(t *testing.T) {
	l := openLog(t, newConfig(t))
	for range maxReaders {
		l.reading <- struct{}{}
	}
	if _, err := l.Read(t.Context(), Query{Limit: 1}); !errors.Is(err, ErrReading) {
		t.Errorf("one reader too many: %v", err)
	}
	<-l.reading
	write(t, l, begin("a", t0))
	if got := read(t, l, Query{}); len(got.Records) != 1 {
		t.Errorf("%+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Read(ctx, Query{Limit: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
	if len(l.reading) != maxReaders-1 {
		t.Error("a place is lost")
	}
}

// TestBackwards compares with reading forwards, at the boundaries of blocks.
func TestBackwards(t *testing.T) {
	long := strings.Repeat("l", maxRead)
	for name, text := range map[string]string{
		"empty": "", "one": "a\n", "no break": "a", "two": "a\nb\n", "being written": "a\nb", "empty lines": "\n\na\n\nb\n\n",
		"at a block":      strings.Repeat("x", readBlock-1) + "\nb\n",
		"one past it":     strings.Repeat("x", readBlock) + "\nb\n",
		"break first":     strings.Repeat("x", 10) + "\n" + strings.Repeat("y", readBlock-1) + "\n",
		"longest":         "a\n" + long + "\nb\n",
		"too long":        "a\n" + long + "l\nb\n",
		"far too long":    "a\n" + strings.Repeat(long, 5) + "\nb\n",
		"too long first":  long + "l\nb\n",
		"too long last":   "a\n" + long + "l\n",
		"too long undone": "a\n" + long + long,
		"many":            strings.Repeat("0123456789abcdef\n", 3*readBlock/17),
	} {
		t.Run(name, func(t *testing.T) { compareBackwards(t, []byte(text)) })
	}
}

func compareBackwards(t testing.TB, text []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var want [][]byte
	all := bytes.Split(text, []byte{'\n'})
	for _, line := range all[:len(all)-1] {
		if len(line) > maxRead {
			line = nil
		} else if len(line) == 0 {
			continue
		}
		want = append(want, line)
	}
	slices.Reverse(want)
	i := 0
	err = backwards(t.Context(), f, func(line []byte) error {
		if i >= len(want) || !bytes.Equal(line, want[i]) || (line == nil) != (want[i] == nil) {
			return fmt.Errorf("line %d of %d from the end has %d bytes", i, len(want), len(line))
		}
		i++
		return nil
	})
	if err != nil || i != len(want) {
		t.Errorf("%d lines of %d, %v", i, len(want), err)
	}
}

// FuzzRead: whatever is in a file, it is read, records are never more than lines, and what is written
// afterwards is found.
func FuzzRead(f *testing.F) {
	for _, r := range []Record{begin("a", t0), end("a", t0), refusal("b", t0)} {
		line, err := r.line()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
		f.Add(line[:len(line)/2])
		f.Add(append(line, line...))
	}
	f.Add([]byte("\x00\xff\n\n{}\nnull\n[1]\n{\"event\":\"begin\"}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		compareBackwards(t, text)
		cfg := Config{To: ToFile, File: filepath.Join(t.TempDir(), "audit.log"), MaxSize: 1 << 30, MaxFiles: 1}
		first := refusal("first", t0)
		line, err := first.line()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cfg.File, append(line, text...), 0o600); err != nil {
			t.Fatal(err)
		}
		l := openLog(t, cfg)
		write(t, l, begin("written after all", time.Now().UTC()))
		got := read(t, l, Query{Limit: 10000, Kind: Change})
		if n := bytes.Count(text, []byte{'\n'}) + 3; len(got.Records)+got.Unread > n {
			t.Errorf("%d records and %d unread in %d lines", len(got.Records), got.Unread, n)
		}
		for _, r := range got.Records {
			if r.ID == "written after all" {
				return
			}
		}
		t.Errorf("the last record isn't found: %+v", got)
	})
}
