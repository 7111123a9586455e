package cut

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"ctd/conntrack"
)

// TestMost: a direction is kept out no longer than it may be.
func TestMost(t *testing.T) {
	addr := netip.MustParseAddr
	f := conntrack.Flow{Orig: conntrack.Tuple{Proto: 50, Src: addr("192.168.9.6"), Dst: addr("203.0.113.1")}}
	f.Reply = conntrack.Tuple{Proto: 50, Src: addr("10.3.0.8"), Dst: f.Orig.Src}
	for _, c := range []struct {
		orig, reply time.Duration // the longest
		want        []time.Duration
	}{
		{time.Hour, time.Hour, []time.Duration{time.Minute, time.Minute}},
		{time.Second, time.Hour, []time.Duration{time.Second, time.Minute}},
		{time.Hour, time.Second, []time.Duration{time.Minute, time.Second}},
	} {
		o := Options{For: time.Minute, Most: func(t *conntrack.Tuple) time.Duration {
			if *t == f.Orig {
				return c.orig
			}
			return c.reply
		}}
		var got []time.Duration
		if sets := elementsOf([]conntrack.Flow{f}, nil, o)[0]; sets != nil {
			for _, e := range sets[setHosts4] {
				got = append(got, e.Timeout)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v and %v: %v, want %v", c.orig, c.reply, got, c.want)
		}
	}
}
