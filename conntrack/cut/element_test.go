package cut

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

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

// TestEachOnce: of what shares a key, the longest is kept.
func TestEachOnce(t *testing.T) {
	element := func(key string, timeout time.Duration) nftables.SetElement {
		return nftables.SetElement{Key: []byte(key), Timeout: timeout}
	}
	got := eachOnce([]nftables.SetElement{element("b", 1), element("a", 2), element("b", 3), element("b", 2)})
	if want := []nftables.SetElement{element("a", 2), element("b", 3)}; !cmp.Equal(got, want) {
		t.Errorf("-want +got\n%s", cmp.Diff(want, got))
	}
}

// TestRoom forgets what has ended.
func TestRoom(t *testing.T) {
	var r room
	e := elements{}
	for i := range maxTuples {
		e.put(7, setPorts4, nftables.SetElement{Key: be16(uint16(i)), Timeout: time.Hour})
	}
	r.take(e, time.Now())
	r.take(e, time.Now())
	const keys = 1 << 16
	if err := r.check(maxTuples-keys, "flows"); err != nil {
		t.Error(err)
	}
	if err := r.check(maxTuples-keys+1, "flows"); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	r.take(e, time.Now().Add(-2*time.Hour))
	if err := r.check(maxTuples, "flows"); err != nil || r.n != 0 {
		t.Errorf("%d left, %v", r.n, err)
	}
}
