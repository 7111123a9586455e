package conntrack_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// The tests in kernel_*_test.go run against the kernel's table in network namespaces; see
// conntracktest.Kernel for when.

// bothFamilies runs a test for IPv4 and for IPv6.
func bothFamilies(t *testing.T, fn func(t *testing.T, v6 bool)) {
	t.Helper()
	conntracktest.Kernel(t)
	for _, v6 := range []bool{false, true} {
		t.Run(choose(v6, "ipv6", "ipv4"), func(t *testing.T) {
			t.Parallel()
			fn(t, v6)
		})
	}
}

func choose[T any](v6 bool, six, four T) T {
	if v6 {
		return six
	}
	return four
}

// open opens the table of a namespace.
func open(t testing.TB, ns *conntracktest.NS) *conntrack.Table {
	t.Helper()
	table, err := conntrack.Open(conntrack.Config{NetNS: ns.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return table
}

// tracking makes a namespace that tracks connections, for tests without traffic.
func tracking(t testing.TB) (*conntracktest.NS, *conntrack.Table) {
	t.Helper()
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	return ns, open(t, ns)
}

// list returns the flows that match.
func list(t testing.TB, table *conntrack.Table, f conntrack.Filter, opts ...conntrack.ListOption) []conntrack.Flow {
	t.Helper()
	flows := []conntrack.Flow{}
	for fl, err := range table.Flows(t.Context(), f, opts...) {
		if err != nil {
			t.Fatal(err)
		}
		flows = append(flows, fl)
	}
	return flows
}

// agree fails the test where the table and conntrack(8) disagree, and returns the flows.
func agree(t testing.TB, ns *conntracktest.NS, table *conntrack.Table) []conntrack.Flow {
	t.Helper()
	flows := list(t, table, conntrack.Filter{})
	if d := conntracktest.DiffAll(flows, conntracktest.Oracle(t, ns)); d != "" {
		t.Errorf("flows (-conntrack(8) +listed):\n%s", d)
	}
	return flows
}

// oracleOf returns what conntrack(8) says about the flow with an original tuple.
func oracleOf(t testing.TB, ns *conntracktest.NS, orig conntrack.Tuple, zone uint16) conntracktest.Entry {
	t.Helper()
	found := conntracktest.Find(conntracktest.Oracle(t, ns), func(e conntracktest.Entry) bool {
		return e.Orig == orig && e.Zone == zone
	})
	if len(found) != 1 {
		t.Fatalf("conntrack(8) shows %d flows %s in zone %d, want 1", len(found), orig, zone)
	}
	return found[0]
}

// flowTo returns a TCP flow of the documentation's networks, the n-th of many.
func flowTo(v6 bool, n int) conntrack.Flow {
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	if v6 {
		src, dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:1::1")
	}
	f := conntrack.Flow{
		Orig: conntrack.Tuple{
			Src: src, Dst: dst, Proto: conntrack.TCP,
			SrcPort: uint16(1024 + n%60000), DstPort: uint16(80 + n/60000),
		},
		Timeout: 600 * time.Second,
		State:   3, // ESTABLISHED
	}
	f.Set(conntrack.AttrState)
	return f
}

// create makes a flow that must be possible.
func create(t testing.TB, table *conntrack.Table, f conntrack.Flow) conntrack.Flow {
	t.Helper()
	made, err := table.Create(t.Context(), f)
	if err != nil {
		t.Fatalf("create %s: %v", f.Orig, err)
	}
	return made
}

// load makes n flows as flowTo by conntrack(8), which is fast with many.
func load(t testing.TB, ns *conntracktest.NS, v6 bool, n int) {
	t.Helper()
	b := []byte{}
	for i := range n {
		o := flowTo(v6, i).Orig
		b = fmt.Appendf(b, "-A -s %s -d %s -p tcp --sport %d --dport %d --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 3600\n",
			o.Src, o.Dst, o.SrcPort, o.DstPort)
	}
	if _, err := ns.Conntrack8In(string(b), "-R", "-"); err != nil {
		t.Fatal(err)
	}
}

// within gives a test's calls an end, so that one that hangs fails: after d or Patience, whichever is
// longer.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), max(conntracktest.Slow(d), conntracktest.Patience()))
	t.Cleanup(cancel)
	return ctx
}

// sameAs fails the test where a flow that was got alone and conntrack(8) disagree. Getting one
// flow takes a reference to it, which its Use counts; a dump doesn't.
func sameAs(t testing.TB, f conntrack.Flow, e conntracktest.Entry) {
	t.Helper()
	f.Use--
	if d := conntracktest.Diff(f, e); d != "" {
		t.Errorf("flow (-conntrack(8) +got):\n%s", d)
	}
}
