package cli

import (
	"testing"
	"time"
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
