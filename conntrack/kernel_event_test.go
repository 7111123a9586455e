package conntrack_test

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// watch subscribes to new flows.
func watch(t testing.TB, table *conntrack.Table, ctx context.Context) iter.Seq2[conntrack.Flow, error] {
	t.Helper()
	events, err := table.NewFlows(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// TestKernelNewFlows: a flow of each protocol is told of as the table has it, in this namespace alone.
func TestKernelNewFlows(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		tp := conntracktest.NewTopology(t)
		table := open(t, tp.Router)
		other, elsewhere := tracking(t)
		tp.DNAT("udp dport 53", netip.AddrPortFrom(tp.ServerAddr(v6), 5353))
		tp.Mark("udp dport 53", 7)
		events := watch(t, table, within(t, 10*time.Second))

		create(t, elsewhere, flowTo(v6, 1))
		tp.UDP(conntracktest.Path{V6: v6, Port: 5353, Via: netip.AddrPortFrom(tp.GateAddr(v6), 53)})
		tp.TCP(conntracktest.Path{V6: v6})
		tp.Ping(conntracktest.Path{V6: v6}, 9)
		made := create(t, table, flowTo(v6, 2))
		want := map[conntrack.Tuple]conntrack.Flow{}
		for _, f := range list(t, table, conntrack.Filter{}) {
			if f.Proto() != conntrack.ICMPv6 || f.Orig.ICMPType == 128 { // no neighbour discovery
				want[f.Orig] = f
			}
		}
		if len(want) != 4 {
			t.Fatalf("%d flows, want 4", len(want))
		}
		for f, err := range events {
			if err != nil {
				t.Fatal(err)
			}
			w, ok := want[f.Orig]
			delete(want, f.Orig)
			if ok && (f.ID != w.ID || f.Reply != w.Reply || f.Zone != w.Zone || f.Mark != w.Mark || f.Has(conntrack.AttrCounters) || f.Start != 0 || len(f.Unknown) > 0) {
				t.Errorf("told  %+v\nlisted %+v", f, w)
			}
			if f.Orig == flowTo(v6, 1).Orig {
				t.Errorf("%s is of %s", f.Orig, other.Name())
			}
			if f.Orig == made.Orig {
				break
			}
		}
		if len(want) != 0 {
			t.Errorf("never told: %v", want)
		}
	})
}

// TestKernelNewFlowsLost: a gap is told once the events before it have come, and the stream goes on.
func TestKernelNewFlowsLost(t *testing.T) {
	ns, table := tracking(t)
	const n = 5000
	events, err := table.NewFlowsWithin(within(t, 10*time.Second), 16<<10)
	if err != nil {
		t.Fatal(err)
	}
	load(t, ns, false, n)
	told, lost := 0, 0
	after := flowTo(false, n+1)
	for f, err := range events {
		switch {
		case errors.Is(err, conntrack.ErrLost):
			lost++
			create(t, table, after) // by now the kernel tells again
			continue
		case err != nil:
			t.Fatal(err)
		}
		if f.Orig == after.Orig {
			break
		}
		told++
		if lost > 0 {
			t.Errorf("%s comes after the gap", f.Orig)
		}
	}
	if lost != 1 || told == 0 || told >= n {
		t.Errorf("%d of %d told, %d gaps", told, n, lost)
	}
}

// sockets returns how many sockets the process has open.
func sockets(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if to, _ := os.Readlink("/proc/self/fd/" + f.Name()); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// TestKernelNewFlowsEnd: a subscription ends with its context, ranged over or not, and when the range
// is left; no socket and no goroutine stays.
func TestKernelNewFlowsEnd(t *testing.T) {
	_, table := tracking(t)
	before, goroutines := sockets(t), runtime.NumGoroutine()
	var took []time.Duration
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		events := watch(t, table, ctx)
		var ended time.Time
		time.AfterFunc(10*time.Millisecond, func() { ended = time.Now(); cancel() })
		var last error
		for _, err := range events {
			last = err
		}
		took = append(took, time.Since(ended))
		if !errors.Is(last, context.Canceled) {
			t.Fatalf("ended with %v", last)
		}

		ctx, cancel = context.WithCancel(t.Context())
		watch(t, table, ctx) // nobody ranges over it
		cancel()

		ctx, cancel = context.WithCancel(t.Context())
		events = watch(t, table, ctx)
		made := create(t, table, flowTo(false, 1))
		for range events {
			break
		}
		if err := table.Kill(ctx, []conntrack.Key{made.Key()})[0]; err != nil {
			t.Fatal(err)
		}
		// One may be idle.
		conntracktest.Eventually(t, "only the last socket is left", func() bool { return sockets(t) <= before+2 })
		cancel()
	}
	// The machine may have been busy with something else at one or the other end.
	if slices.Sort(took); took[len(took)/2] > conntracktest.Slow(100*time.Millisecond) {
		t.Errorf("the streams ended so long after the cancel: %v", took)
	}
	conntracktest.Eventually(t, "sockets and goroutines are gone", func() bool {
		return sockets(t) <= before+1 && runtime.NumGoroutine() <= goroutines
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := table.NewFlows(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the cancel: %v", err)
	}
}

// TestKernelNewFlowsOff: where the kernel tells nothing, that is an error. 2 is on while somebody
// listens.
func TestKernelNewFlowsOff(t *testing.T) {
	ns, table := tracking(t)
	ns.Sysctl("net.netfilter.nf_conntrack_events", "0")
	if _, err := table.NewFlows(t.Context()); !errors.Is(err, conntrack.ErrNoEvents) {
		t.Errorf("events are off: %v", err)
	}
	ns.Sysctl("net.netfilter.nf_conntrack_events", "2")
	events := watch(t, table, within(t, 5*time.Second))
	made := create(t, table, flowTo(false, 1))
	for f, err := range events {
		if err != nil || f.ID != made.ID {
			t.Errorf("told %+v, %v", f, err)
		}
		break
	}
	ns.Sysctl("net.netfilter.nf_conntrack_events", "1")
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := table.NewFlows(t.Context()); !errors.Is(err, conntrack.ErrClosed) {
		t.Errorf("the table is closed: %v", err)
	}
}
