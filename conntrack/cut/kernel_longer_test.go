package cut

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// behind returns a flow without ports from src, behind an address that it shares with others.
func behind(src string) conntrack.Flow {
	addr := netip.MustParseAddr
	f := conntrack.Flow{Orig: conntrack.Tuple{Proto: 50, Src: addr(src), Dst: addr("198.51.100.9")}}
	f.Reply = conntrack.Tuple{Proto: 50, Src: f.Orig.Dst, Dst: addr("203.0.113.1")}
	return f
}

// left returns for how long the kernel keeps a tuple out; 0 where it doesn't.
func (r *rig) left(t *conntrack.Tuple) time.Duration {
	r.t.Helper()
	place, key := tupleKey(t)
	elements, err := r.cut.elements(0, place)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range elements {
		if string(elements[i].Key) == string(key) {
			return elements[i].Expires
		}
	}
	return 0
}

// TestLonger cuts two flows that share a direction: what is kept out is never so for a shorter time than
// before.
func TestLonger(t *testing.T) {
	conntracktest.Kernel(t)
	const day = 24 * time.Hour
	for _, c := range []struct {
		name          string
		first, second Options
		others        string // what others do to the ruleset in between
		want          time.Duration
		answer        string
	}{
		{name: "shorter", first: Options{For: day}, second: Options{For: time.Second}, want: day, answer: chainDrop},
		{name: "longer", first: Options{For: time.Minute}, second: Options{For: day}, want: day, answer: chainDrop},
		{name: "shorter, answered", first: Options{For: day}, second: Options{For: time.Second, Reject: true}, want: day, answer: chainDrop},
		{name: "longer, answered", first: Options{For: time.Minute}, second: Options{For: day, Reject: true}, want: day, answer: chainReject},
		{
			name: "shorter by a bound", first: Options{For: day},
			second: Options{For: day, Most: func(*conntrack.Tuple) time.Duration { return time.Second }}, want: day, answer: chainDrop,
		},
		{
			name: "shorter, after others changed the ruleset", first: Options{For: day}, second: Options{For: time.Second},
			others: "add table inet others", want: day, answer: chainDrop,
		},
		{
			name: "longer, after others changed the ruleset", first: Options{For: time.Minute}, second: Options{For: day, Reject: true},
			others: "add table inet others", want: day, answer: chainReject,
		},
		{
			name: "after others emptied the set", first: Options{For: day}, second: Options{For: time.Hour},
			others: "flush map inet ctd_cut hosts4", want: time.Hour, answer: chainDrop,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			first, second := behind("172.16.0.1"), behind("10.3.0.7")
			if _, err := r.cut.Cut(t.Context(), []conntrack.Flow{first}, c.first); err != nil {
				t.Fatal(err)
			}
			if c.others != "" {
				r.Router.Nft(c.others)
			}
			// Once more, so that what the first time left in memory counts too.
			for range 2 {
				if _, err := r.cut.Cut(t.Context(), []conntrack.Flow{second, second}, c.second); err != nil {
					t.Fatal(err)
				}
			}
			if left := r.left(&first.Reply); left > c.want || left < c.want-conntracktest.Slow(time.Minute) {
				t.Errorf("the shared direction is kept out for %v, want %v", left, c.want)
			}
			if left := r.left(&second.Orig); left > c.second.For {
				t.Errorf("the other's own direction is kept out for %v, want %v", left, c.second.For)
			}
			listed := r.Router.Exec("nft", "list", "map", "inet", "ctd_cut", "hosts4")
			if !strings.Contains(only(listed, "198.51.100.9 . 203.0.113.1"), c.answer) {
				t.Errorf("the shared direction isn't sent to %s:\n%s", c.answer, listed)
			}
		})
	}
}

// only returns the element of a listing that has a text.
func only(listing, text string) string {
	for element := range strings.SplitSeq(listing, ",") {
		if strings.Contains(element, text) {
			return element
		}
	}
	return ""
}

// TestLongerAgain: what has ended is cut again.
func TestLongerAgain(t *testing.T) {
	r := newRig(t)
	flows := []conntrack.Flow{behind("10.3.0.7")}
	for range 2 {
		if _, err := r.cut.Cut(t.Context(), flows, Options{For: time.Second}); err != nil {
			t.Fatal(err)
		}
		if r.left(&flows[0].Reply) == 0 {
			t.Fatal("it isn't kept out")
		}
		conntracktest.Eventually(t, "the end of the cut", func() bool { return r.left(&flows[0].Reply) == 0 })
	}
}

// TestLongerMany: cuts of what is kept out already take no time that grows with all that is, also after
// others have changed the ruleset.
func TestLongerMany(t *testing.T) {
	r := newRig(t)
	flows := make([]conntrack.Flow, MaxFlows)
	for i := range flows {
		f := &flows[i]
		f.Orig = conntrack.Tuple{
			Proto: conntrack.UDP, Src: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), SrcPort: 1,
			Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1}), DstPort: 2,
		}
		f.Reply = f.Orig.Inverse()
	}
	cut := func(flows []conntrack.Flow, d time.Duration) time.Duration {
		began := time.Now()
		for part := range slices.Chunk(flows, 1<<11) {
			if _, err := r.cut.Cut(t.Context(), part, Options{For: d}); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(began)
	}
	all := cut(flows, time.Hour)
	var undisturbed, disturbed time.Duration
	for i := range 64 {
		undisturbed += cut(flows[i:i+1], time.Second)
	}
	const times = 8 // each makes the table whole again, which takes some 20 ms
	for i := range times {
		r.Router.Nft(fmt.Sprintf("add table inet others%d", i))
		disturbed += cut(flows[i:i+1], time.Second)
	}
	t.Logf("all in %v, 64 shorter ones in %v, %d after others in %v", all, undisturbed, times, disturbed)
	// To list the sets once takes the kernel three times as long as to make them, and so 8 times 24 times as long.
	if most := max(conntracktest.Slow(time.Second), 4*all); undisturbed > most || disturbed > most {
		t.Errorf("64 shorter ones took %v, %d after others %v, all %v", undisturbed, times, disturbed, all)
	}
	if left := r.left(&flows[0].Orig); left < 50*time.Minute {
		t.Errorf("kept out for %v", left)
	}
	if r.cut.tuples.n != maxTuples {
		t.Errorf("room for %d taken, want %d", r.cut.tuples.n, maxTuples)
	}
}

// disturbed is a Table at whose first look at a sysctl, between two looks at the ruleset, something happens.
type disturbed struct {
	Table
	happens func()
}

func (d *disturbed) Sysctl(name string) (string, error) {
	if fn := d.happens; fn != nil {
		d.happens = nil
		fn()
	}
	return d.Table.Sysctl(name)
}

// TestFlushBetween: blocks that others flush while the table is made whole are made again by the next cut.
func TestFlushBetween(t *testing.T) {
	r := newRig(t)
	flow := func(last byte) []conntrack.Flow {
		f := conntrack.Flow{Orig: conntrack.Tuple{
			Proto: conntrack.UDP, Src: netip.AddrFrom4([4]byte{10, 9, 0, last}), SrcPort: 1,
			Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1}), DstPort: 2,
		}}
		f.Reply = f.Orig.Inverse()
		return []conntrack.Flow{f}
	}
	cut := func(last byte) {
		t.Helper()
		if _, err := r.cut.Cut(t.Context(), flow(last), Options{For: time.Minute, Block: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	cut(1)
	r.Router.Nft("add table inet others")
	r.cut.table = &disturbed{r.cut.table, func() { r.Router.Nft("flush ruleset") }}
	cut(2)
	cut(1)
	if blocks, err := r.cut.Blocks(); err != nil || len(blocks) != 2 {
		t.Errorf("%d pairs of addresses are kept apart, want 2: %v", len(blocks), err)
	}
}
