package conntrack_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// TestKernelKill kills a thousand flows at once, of which some are gone and some have another id.
func TestKernelKill(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		ns, table := tracking(t)
		const n = 1000
		load(t, ns, v6, n)
		create(t, table, flowTo(!v6, 1)) // of the other family
		flows := list(t, table, conntrack.Filter{})
		if len(flows) != n+1 {
			t.Fatalf("%d flows were made, want %d", len(flows), n+1)
		}
		var keys []conntrack.Key
		var want []error
		spared := map[conntrack.Tuple]bool{}
		for i, f := range flows {
			k := f.Key()
			switch {
			case f.Orig.Src.Is6() != v6:
				spared[f.Orig] = true
				continue
			case i%10 == 3: // another flow that has taken over the tuple
				k.ID++
				want = append(want, conntrack.ErrNotFound)
				spared[f.Orig] = true
			case i%10 == 4: // gone
				k.Orig.SrcPort, k.Orig.DstPort = uint16(i), 9
				want = append(want, conntrack.ErrNotFound)
				spared[f.Orig] = true
			case i%10 == 5: // no id
				k.ID = 0
				want = append(want, nil)
			case i%10 == 6: // by the reply direction
				k = conntrack.Key{Reply: f.Reply, ID: f.ID}
				want = append(want, nil)
			default:
				want = append(want, nil)
			}
			keys = append(keys, k)
		}
		keys = append(keys, conntrack.Key{}, conntrack.Key{ID: flows[0].ID})
		want = append(want, conntrack.ErrNoKey, conntrack.ErrNoKey)
		got := table.Kill(within(t, 10*time.Second), keys)
		if len(got) != len(want) {
			t.Fatalf("%d results for %d keys", len(got), len(want))
		}
		for i := range want {
			if !errors.Is(got[i], want[i]) {
				t.Errorf("key %d, %s: got %v, want %v", i, keys[i].Orig, got[i], want[i])
			}
		}
		left := conntracktest.Oracle(t, ns)
		for _, e := range left {
			if !spared[e.Orig] {
				t.Errorf("%s is still there", e.Orig)
			}
		}
		if len(left) != len(spared) {
			t.Errorf("%d flows are left, want %d", len(left), len(spared))
		}
	})
}

// TestKernelBatchBoundary kills as many flows as fit into a batch, one fewer and one more.
func TestKernelBatchBoundary(t *testing.T) {
	conntracktest.Kernel(t)
	t.Parallel()
	ns, table := tracking(t)
	for _, n := range []int{0, 1, 63, 64, 65, 128, 129} {
		load(t, ns, false, n)
		var keys []conntrack.Key
		for _, f := range list(t, table, conntrack.Filter{}) {
			keys = append(keys, f.Key())
		}
		if len(keys) != n {
			t.Fatalf("%d flows, want %d", len(keys), n)
		}
		for i, err := range table.Kill(within(t, 5*time.Second), keys) {
			if err != nil {
				t.Errorf("%d flows, key %d: %v", n, i, err)
			}
		}
		if left := list(t, table, conntrack.Filter{}); len(left) != 0 {
			t.Errorf("%d of %d flows are left", len(left), n)
		}
	}
}

// TestKernelFlush flushes by family, by zone, by both, and all.
func TestKernelFlush(t *testing.T) {
	conntracktest.Kernel(t)
	zone := func(n uint16) *uint16 { return &n }
	tests := []struct {
		name   string
		family conntrack.Family
		zone   *uint16
		keeps  func(e conntracktest.Entry) bool
	}{
		{"IPv4", conntrack.FamilyIPv4, nil, func(e conntracktest.Entry) bool { return e.Orig.Src.Is6() }},
		{"IPv6", conntrack.FamilyIPv6, nil, func(e conntracktest.Entry) bool { return e.Orig.Src.Is4() }},
		{"zone 5", conntrack.FamilyAny, zone(5), func(e conntracktest.Entry) bool { return e.Zone != 5 }},
		{"zone 0", conntrack.FamilyAny, zone(0), func(e conntracktest.Entry) bool { return e.Zone != 0 }},
		{"IPv6 in zone 5", conntrack.FamilyIPv6, zone(5), func(e conntracktest.Entry) bool { return e.Zone != 5 || e.Orig.Src.Is4() }},
		{"a zone without flows", conntrack.FamilyAny, zone(77), func(conntracktest.Entry) bool { return true }},
		{"all", conntrack.FamilyAny, nil, func(conntracktest.Entry) bool { return false }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ns, table := tracking(t)
			for i := range 20 {
				f := flowTo(i%2 == 1, i)
				f.Zone = uint16(i % 3 * 5)
				create(t, table, f)
			}
			before := conntracktest.Oracle(t, ns)
			keeps := conntracktest.Find(before, tt.keeps)
			n, err := table.Flush(within(t, 5*time.Second), tt.family, tt.zone)
			if err != nil || n != len(before)-len(keeps) {
				t.Errorf("flush: %v, %d flows, want %d", err, n, len(before)-len(keeps))
			}
			if d := conntracktest.DiffAll(list(t, table, conntrack.Filter{}), keeps); d != "" {
				t.Errorf("what is left (-want +got):\n%s", d)
			}
		})
	}
}

// TestKernelCancel ends the dump of a large table within 100 ms.
func TestKernelCancel(t *testing.T) {
	conntracktest.Kernel(t)
	ns, table := tracking(t)
	load(t, ns, false, 50_000)
	// The best of three, as the machine may be busy with something else.
	var best time.Duration
	for i := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		var cancelled time.Time
		var last error
		seen := 0
		for _, err := range table.Flows(ctx, conntrack.Filter{}) {
			if last = err; err != nil {
				break
			}
			if seen++; seen == 1000 {
				cancelled = time.Now()
				cancel()
			}
		}
		if d := time.Since(cancelled); i == 0 || d < best {
			best = d
		}
		if !errors.Is(last, context.Canceled) {
			t.Errorf("the dump ended with %v after %d flows", last, seen)
		}
		cancel()
	}
	if best > conntracktest.Slow(100*time.Millisecond) {
		t.Errorf("the dump went on for %v", best)
	}
	// A break ends it too, and the table is good for the next request.
	for range table.Flows(t.Context(), conntrack.Filter{}) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := table.Get(ctx, conntrack.Key{Orig: flowTo(false, 1).Orig}); !errors.Is(err, context.Canceled) {
		t.Errorf("get after the cancel: %v", err)
	}
	if n := len(list(t, table, conntrack.Filter{})); n != 50_000 {
		t.Errorf("the next dump has %d flows", n)
	}
}

// TestKernelConcurrent dumps, gets, changes and kills from many goroutines at once.
func TestKernelConcurrent(t *testing.T) {
	conntracktest.Kernel(t)
	t.Parallel()
	ns, table := tracking(t)
	const n, killers = 4000, 4
	load(t, ns, false, n)
	var keys []conntrack.Key
	for _, f := range list(t, table, conntrack.Filter{}) {
		keys = append(keys, f.Key())
	}
	ctx := within(t, 30*time.Second)
	var wg sync.WaitGroup
	for i := range killers {
		mine := keys[i*n/killers/2 : (i+1)*n/killers/2] // the first half of all
		wg.Go(func() {
			for _, err := range table.Kill(ctx, mine) {
				if err != nil {
					t.Errorf("kill: %v", err)
				}
			}
		})
	}
	stay := keys[n/2:]
	for range 3 {
		wg.Go(func() {
			seen := map[uint32]bool{}
			for f, err := range table.Flows(ctx, conntrack.Filter{}) {
				if errors.Is(err, conntrack.ErrInterrupted) {
					return // said, so no short list is taken for a whole one
				}
				if err != nil {
					t.Errorf("list: %v", err)
					return
				}
				seen[f.ID] = true
			}
			for _, k := range stay {
				if !seen[k.ID] {
					t.Errorf("%s is missing", k.Orig)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for _, k := range stay[:200] {
			if f, err := table.Get(ctx, k); err != nil || f.ID != k.ID {
				t.Errorf("get: %v", err)
			}
		}
	})
	wg.Go(func() {
		mark := conntrack.Change{Mark: &conntrack.MaskedMark{Value: 3, Mask: 0xffffffff}}
		for _, err := range table.Modify(ctx, stay, mark) {
			if err != nil {
				t.Errorf("modify: %v", err)
			}
		}
	})
	wg.Wait()
	left := list(t, table, conntrack.Filter{})
	if len(left) != len(stay) {
		t.Errorf("%d flows are left, want %d", len(left), len(stay))
	}
	for _, f := range left {
		if f.Mark != 3 {
			t.Errorf("mark of %s: %d", f.Orig, f.Mark)
			break
		}
	}
}
