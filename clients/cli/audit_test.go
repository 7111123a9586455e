package cli

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ctd/rpc/wire"
)

func TestPointInTime(t *testing.T) {
	zone := time.FixedZone("", -5*3600)
	now := time.Date(2026, 11, 22, 13, 30, 5, 0, zone)
	day := func(d, h, m, s int) time.Time { return time.Date(2026, 11, d, h, m, s, 0, zone) }
	for text, want := range map[string]time.Time{
		"90":                     now.Add(-90 * time.Second),
		"90s":                    now.Add(-90 * time.Second),
		"1h30m":                  now.Add(-90 * time.Minute),
		"2d":                     now.Add(-48 * time.Hour),
		"13:05":                  day(22, 13, 5, 0),
		"2026-11-21":             day(21, 0, 0, 0),
		"2026-11-21T04:05":       day(21, 4, 5, 0),
		"2026-11-21 04:05":       day(21, 4, 5, 0),
		"2026-11-21T04:05:06":    day(21, 4, 5, 6),
		"2026-11-21 04:05:06":    day(21, 4, 5, 6),
		"2026-11-21T04:05:06Z":   time.Date(2026, 11, 21, 4, 5, 6, 0, time.UTC),
		"2026-11-21T04:05:06+01": {},
		"yesterday":              {},
		"1h2":                    {},
		"-1h":                    {},
		"25:00":                  {},
		"2026-13-01":             {},
		"s":                      {},
	} {
		got, err := pointInTime("--since", text, now)
		if want.IsZero() {
			if err == nil {
				t.Errorf("%q is %v", text, got)
			}
			continue
		}
		if err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	if got, err := pointInTime("--since", "", now); got != nil || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
}

func TestAuditParams(t *testing.T) {
	now := time.Date(2026, 11, 22, 13, 30, 5, 0, time.UTC)
	for _, tt := range []struct {
		name string
		cmd  auditCmd
		want string // in the error; empty for none
	}{
		{"usual", auditCmd{Limit: 100}, ""},
		{"none", auditCmd{Limit: 0}, "--limit: 0 is not from 1"},
		{"below 0", auditCmd{Limit: -1}, "--limit: -1 is not from 1"},
		{"an hour", auditCmd{Limit: 1, Since: "2h", Until: "1h"}, ""},
		{"an hour backwards", auditCmd{Limit: 1, Since: "1h", Until: "2h"}, "--until 2h is before --since 1h"},
		{"no time", auditCmd{Limit: 1, Until: "soon"}, "--until"},
		{"neither", auditCmd{Limit: 1, Changes: true, Refusals: true}, "--changes or --refusals"},
	} {
		p, err := tt.cmd.params(now)
		var usage *usageError
		switch {
		case tt.want == "":
			if err != nil || p.Limit != tt.cmd.Limit {
				t.Errorf("%s: %+v, %v", tt.name, p, err)
			}
		case !errors.As(err, &usage) || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestAuditWho: a name that is only claimed has a question mark; what stands for one that nobody has needs none.
func TestAuditWho(t *testing.T) {
	for _, tt := range []struct{ name, via, want string }{
		{"jane", "password", "jane"}, {"jane", "", "jane?"}, {"", "", ""}, {"(unknown)", "", "(unknown)"},
	} {
		if got := auditRow(&wire.AuditRecord{Principal: tt.name, Via: tt.via})[1]; got != tt.want {
			t.Errorf("%q by %q: %q, want %q", tt.name, tt.via, got, tt.want)
		}
	}
}
