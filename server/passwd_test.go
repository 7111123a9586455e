package server

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestWhoScripts runs the scripts of the verbs that write who may call.
func TestWhoScripts(t *testing.T) {
	dir := filepath.Dir(program(t))
	testscript.Run(t, testscript.Params{
		Files:               []string{"testdata/passwd.txtar", "testdata/token.txtar"},
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", dir+":"+e.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				status := 0
				if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
					status = exit.ExitCode()
				}
				if fmt.Sprint(status) != args[0] {
					ts.Fatalf("exit status %d, want %s", status, args[0])
				}
			},
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				fi, err := os.Stat(ts.MkAbs(args[1]))
				ts.Check(err)
				if got := fmt.Sprintf("%o", fi.Mode().Perm()); got != args[0] {
					ts.Fatalf("mode %s, want %s", got, args[0])
				}
			},
			"samepassword": func(ts *testscript.TestScript, neg bool, args []string) {
				line := regexp.MustCompile(`(?m)^password = .*$`)
				a, b := line.FindString(ts.ReadFile(args[0])), line.FindString(ts.ReadFile(args[1]))
				if a == "" || b == "" || (a == b) == neg {
					ts.Fatalf("%q and %q", a, b)
				}
			},
		},
	})
}

func TestParseEnd(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 500, time.UTC)
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"90d", "2027-02-20T12:00:00Z"},
		{"2w", "2026-12-06T12:00:00Z"},
		{"12h", "2026-11-23T00:00:00Z"},
		{"1h30m", "2026-11-22T13:30:00Z"},
		{"2027-01-31", "2027-01-31"},
		{"2027-01-31T12:00:00+01:00", "2027-01-31T12:00:00+01:00"},
		{"2026-11-22", "over"}, // the day has begun
		{"0d", "over"},
		{"-1h", "over"},
		{"-1d", "neither"},
		{"65536d", "neither"},
		{"1.5d", "neither"},
		{"d", "neither"},
		{"tomorrow", "neither"},
	} {
		got, err := parseEnd(tt.text, now)
		if tt.want == "over" || tt.want == "neither" {
			if err == nil || !regexp.MustCompile(tt.want).MatchString(err.Error()) {
				t.Errorf("%q: %q, %v; want an error with %q", tt.text, got, err, tt.want)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%q: %q, %v; want %q", tt.text, got, err, tt.want)
		}
	}
}
