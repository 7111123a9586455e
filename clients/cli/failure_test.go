package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctd/rpc/wire"
)

// TestFailures: equal failures are told together, and a hint once.
func TestFailures(t *testing.T) {
	flow := func(i int) wire.Flow {
		return wire.Flow{Protocol: "udp", Orig: &wire.Tuple{Src: fmt.Sprintf("10.0.0.%d", i), Dst: "192.0.2.1"}}
	}
	many := func(n int, message, hint string) (failed []wire.Failure) {
		for i := range n {
			failed = append(failed, wire.Failure{Flow: flow(i), Code: wire.InvalidParams, Message: message, Hint: hint})
		}
		return failed
	}
	named := func(n int, message string) (text string) {
		for i := range n {
			text += fmt.Sprintf("ctd: udp 10.0.0.%d -> 192.0.2.1: %s\n", i, message)
		}
		return text
	}
	mixed := many(2, "no", "do")
	mixed = append(mixed, wire.Failure{Code: wire.Unavailable, Message: "gone", Hint: "wait"})
	mixed = append(mixed, many(7, "no", "don't")...)
	mixed = append(mixed, many(1, "no", "do")...)
	for _, c := range []struct {
		name   string
		failed []wire.Failure
		want   string
	}{
		{"one", many(1, "no", "do"), named(1, "no") + "hint: do\n"},
		{"without a hint", many(2, "no", ""), named(2, "no")},
		{"as many as are named", many(5, "no", "do"), named(5, "no") + "hint: do\n"},
		{"one more", many(6, "no", "do"), named(5, "no") + "ctd: and 1 more\nhint: do\n"},
		{"many", many(409, "no", "do"), named(5, "no") + "ctd: and 404 more\nhint: do\n"},
		{"more than a result shows", many(1000, "no", "do"), named(5, "no") + "ctd: and 995 more at least\nhint: do\n"},
		{
			"of several kinds", mixed,
			named(2, "no") + "ctd: udp 10.0.0.0 -> 192.0.2.1: no\nhint: do\nctd: gone\nhint: wait\n" + named(5, "no") + "ctd: and 2 more\nhint: don't\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stderr strings.Builder
			s := newTestSession(t, &stderr)
			if err := s.failures(c.failed); !errors.Is(err, statusError(wire.ExitRefused)) {
				t.Errorf("%v", err)
			}
			if diff := cmp.Diff(c.want, stderr.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestPartlyDone: the status of usage says that nothing was done, and is that of nothing else.
func TestPartlyDone(t *testing.T) {
	s := newTestSession(t, io.Discard)
	if err := s.failures(nil); err != nil {
		t.Error(err)
	}
	for code, want := range map[wire.Code]wire.Exit{
		wire.InvalidParams: wire.ExitRefused, wire.Conflict: wire.ExitRefused, wire.NotFound: wire.ExitNotFound,
		wire.Unsupported: wire.ExitOther, wire.Unavailable: wire.ExitUnreachable,
	} {
		if got := s.exit(s.failures([]wire.Failure{{Code: code, Message: "no"}})); got != int(want) {
			t.Errorf("%s: %d, want %d", code, got, want)
		}
		err := &wire.Error{Code: code, Message: "no"}
		if got := s.exit(partly(err, true)); got != int(want) {
			t.Errorf("%s, after a change: %d, want %d", code, got, want)
		}
		if got := s.exit(partly(err, false)); got != int(code.Exit()) {
			t.Errorf("%s, after none: %d, want %d", code, got, code.Exit())
		}
	}
	unrecorded := &wire.Error{Code: wire.Unavailable, Message: "no", Errno: "ENOSPC"} // so that it isn't made
	for _, err := range []error{unrecorded, partly(unrecorded, true), fmt.Errorf("kill: %w", unrecorded)} {
		if got := s.exit(err); got != int(wire.ExitRefused) {
			t.Errorf("%v: %d, want %d", err, got, wire.ExitRefused)
		}
	}
	if err := partly(nil, true); err != nil {
		t.Error(err)
	}
}

func newTestSession(t *testing.T, stderr io.Writer) *session {
	o := Options{Stderr: stderr, Getenv: func(string) string { return "" }}.withDefaults()
	return &session{ctx: t.Context(), o: o, g: &globals{}, out: bufio.NewWriter(io.Discard)}
}
