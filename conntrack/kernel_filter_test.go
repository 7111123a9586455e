package conntrack_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// TestKernelFilter makes 200 random flows by conntrack(8) and holds random filters against a
// plain matcher over what conntrack(8) shows. What the kernel filters for us is in it.
func TestKernelFilter(t *testing.T) {
	conntracktest.Kernel(t)
	t.Parallel()
	ns, table := tracking(t)
	const flows, filters = 200, 200
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	var script strings.Builder
	for i := range flows {
		script.WriteString(randomFlow(rng, i))
	}
	if _, err := ns.Conntrack8In(script.String(), "-R", "-"); err != nil {
		t.Fatal(err)
	}
	entries := conntracktest.Oracle(t, ns)
	if len(entries) != flows {
		t.Fatalf("conntrack(8) made %d flows, want %d", len(entries), flows)
	}
	agree(t, ns, table)
	var some, pushed int
	for range filters {
		text, match := randomFilter(rng, entries[rng.IntN(len(entries))])
		f, err := conntrack.ParseFilter(text)
		if err != nil {
			t.Fatalf("filter %q: %v", text, err)
		}
		var want, got []uint32
		for _, e := range conntracktest.Find(entries, match) {
			want = append(want, e.ID)
		}
		scanned := 0
		for _, fl := range list(t, table, f, conntrack.CountScanned(&scanned)) {
			got = append(got, fl.ID)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			t.Errorf("filter %q: %d flows, want %d", text, len(got), len(want))
		}
		n, err := table.Count(t.Context(), f)
		if err != nil || n != len(want) {
			t.Errorf("filter %q: count %d, want %d: %v", text, n, len(want), err)
		}
		if len(want) > 0 {
			some++
		}
		if scanned < flows {
			pushed++
		}
	}
	// Otherwise the test shows nothing.
	if some < filters/3 || pushed < filters/10 {
		t.Errorf("of %d filters %d matched anything, %d were decided by the kernel", filters, some, pushed)
	}
}

// randomFlow returns a line for conntrack -R. Addresses, ports, marks and zones are of a few, so
// that filters match several flows; the first port tells flows apart.
func randomFlow(rng *rand.Rand, i int) string {
	src, dst := fmt.Sprintf("10.0.%d.%d", rng.IntN(3), rng.IntN(4)), fmt.Sprintf("192.0.2.%d", rng.IntN(4))
	if rng.IntN(2) == 0 {
		src, dst = fmt.Sprintf("2001:db8:%d::%d", rng.IntN(3), rng.IntN(4)), fmt.Sprintf("2001:db8:f::%d", rng.IntN(4))
	}
	line := fmt.Sprintf("-A -s %s -d %s -t %d -m %d -w %d", src, dst, 1000*(1+rng.IntN(5)), rng.IntN(5)*0x101, rng.IntN(3))
	port := []int{22, 80, 443, 8080}[rng.IntN(4)]
	switch rng.IntN(5) {
	case 0:
		line += fmt.Sprintf(" -p udp --sport %d --dport %d", 1000+i, port)
	case 1:
		line += fmt.Sprintf(" -p sctp --sport %d --dport %d --state ESTABLISHED --orig-vtag 1 --reply-vtag 2", 1000+i, port)
	case 2:
		line += fmt.Sprintf(" -p gre --srckey %d --dstkey %d", 1000+i, port)
	default:
		state := []string{"SYN_SENT", "ESTABLISHED", "TIME_WAIT"}[rng.IntN(3)]
		line += fmt.Sprintf(" -p tcp --sport %d --dport %d --state %s", 1000+i, port, state)
		if rng.IntN(2) == 0 {
			line += " -u SEEN_REPLY,ASSURED"
		}
	}
	return line + "\n"
}

type matcher = func(conntracktest.Entry) bool

// randomFilter returns a filter of one to three fields, whose values come from a flow or near
// it, and the same as a function.
func randomFilter(rng *rand.Rand, e conntracktest.Entry) (string, matcher) {
	fields := rng.Perm(len(terms))[:1+rng.IntN(3)]
	var words []string
	var all []matcher
	for _, i := range fields {
		name, value, match := terms[i](rng, e)
		if value == "" || slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, name+"=") }) {
			continue // a flow without a state, or a field that stands there already
		}
		not := ""
		if rng.IntN(4) == 0 {
			positive := match
			not, match = "!", func(e conntracktest.Entry) bool { return !positive(e) }
			value = strings.ReplaceAll(value, ",", ",!") // negations of all values
		}
		words = append(words, name+"="+not+value)
		all = append(all, match)
	}
	return strings.Join(words, " "), func(e conntracktest.Entry) bool {
		return !slices.ContainsFunc(all, func(m matcher) bool { return !m(e) })
	}
}

// terms make a field's name, a value, and what it means.
var terms = []func(rng *rand.Rand, e conntracktest.Entry) (name, value string, match matcher){
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "family", choose(e.Orig.Src.Is6(), "ipv6", "ipv4"),
			func(x conntracktest.Entry) bool { return x.Orig.Src.Is6() == e.Orig.Src.Is6() }
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "proto", e.Orig.Proto.String(), func(x conntracktest.Entry) bool { return x.Orig.Proto == e.Orig.Proto }
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "src", e.Orig.Src.String(), func(x conntracktest.Entry) bool { return x.Orig.Src == e.Orig.Src }
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "reply_src", e.Reply.Src.String(), func(x conntracktest.Entry) bool { return x.Reply.Src == e.Reply.Src }
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		network := netip.PrefixFrom(e.Orig.Src, choose(e.Orig.Src.Is6(), 48, 24)).Masked()
		return "net", network.String(), func(x conntracktest.Entry) bool {
			return network.Contains(x.Orig.Src) || network.Contains(x.Orig.Dst)
		}
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "addr", e.Orig.Dst.String(), func(x conntracktest.Entry) bool {
			return x.Orig.Src == e.Orig.Dst || x.Orig.Dst == e.Orig.Dst
		}
	},
	func(rng *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		low, high := e.Orig.DstPort, e.Orig.DstPort+uint16(rng.IntN(500))
		return "dport", fmt.Sprintf("%d-%d", low, high), func(x conntracktest.Entry) bool {
			return x.Orig.Proto.HasPorts() && x.Orig.DstPort >= low && x.Orig.DstPort <= high
		}
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "port", fmt.Sprintf("%d,22", e.Orig.SrcPort), func(x conntracktest.Entry) bool {
			is := func(p uint16) bool { return p == e.Orig.SrcPort || p == 22 }
			return x.Orig.Proto.HasPorts() && (is(x.Orig.SrcPort) || is(x.Orig.DstPort))
		}
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "mark", fmt.Sprint(e.Mark), func(x conntracktest.Entry) bool { return x.Mark == e.Mark }
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "mark", fmt.Sprintf("%#x/0xff", e.Mark&0xff), func(x conntracktest.Entry) bool { return x.Mark&0xff == e.Mark&0xff }
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "zone", fmt.Sprint(e.Zone), func(x conntracktest.Entry) bool { return x.Zone == e.Zone }
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "id", fmt.Sprint(e.ID), func(x conntracktest.Entry) bool { return x.ID == e.ID }
	},
	func(_ *rand.Rand, e conntracktest.Entry) (string, string, matcher) {
		return "state", e.State, func(x conntracktest.Entry) bool { return x.State == e.State }
	},
	func(*rand.Rand, conntracktest.Entry) (string, string, matcher) {
		return "status", "assured", func(x conntracktest.Entry) bool { return x.Assured }
	},
	func(rng *rand.Rand, _ conntracktest.Entry) (string, string, matcher) {
		// Far from any flow's, so that seconds passing change nothing.
		limit := 500 + 1000*rng.IntN(6)
		return "timeout", fmt.Sprintf(">%d", limit), func(x conntracktest.Entry) bool {
			return x.Timeout > time.Duration(limit)*time.Second
		}
	},
	func(*rand.Rand, conntracktest.Entry) (string, string, matcher) {
		return "bytes", ">=1", func(x conntracktest.Entry) bool { return x.OrigCounter.Bytes+x.ReplyCounter.Bytes >= 1 }
	},
}
