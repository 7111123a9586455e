package conntrack_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// TestKernelImportReplacesItsOwn: the second flow has a tuple of what the first one replaced, whose
// original tuple, and mostly id, are the first one's by then.
func TestKernelImportReplacesItsOwn(t *testing.T) {
	conntracktest.Kernel(t)
	_, table := tracking(t)
	flow := func(src byte, port uint16) conntrack.Flow {
		f := flowTo(false, 1)
		f.Orig.Src = netip.AddrFrom4([4]byte{10, 1, 0, src})
		f.Reply = f.Orig.Inverse()
		f.Reply.Dst, f.Reply.DstPort = natAddr, port
		f.Status = conntrack.StatusSeenReply | conntrack.StatusAssured
		return f
	}
	for try := range 8 {
		flush(t, table)
		imported(t, table.Import(t.Context(), []conntrack.Flow{flow(11, 1000)}, conntrack.OnConflictSkip), conntrack.OutcomeCreated)
		flows := []conntrack.Flow{flow(11, 2000), flow(12, 1000)}
		imported(t, table.Import(t.Context(), flows, conntrack.OnConflictReplace), conntrack.OutcomeReplaced)
		if got, want := flowSet(list(t, table, conntrack.Filter{})), flowSet(flows); !gocmp.Equal(got, want) {
			t.Fatalf("try %d: %s", try, gocmp.Diff(want, got))
		}
	}
}

// TestKernelImportModel imports random lists into random tables, with conflicts of all kinds, and
// compares the outcome with a dry run's, and with what a table in memory holds then.
func TestKernelImportModel(t *testing.T) {
	conntracktest.Kernel(t)
	_, table := tracking(t)
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		there, flows := manyFlows(r, r.IntN(6)), manyFlows(r, 1+r.IntN(7))
		for name, on := range onConflicts {
			flush(t, table)
			table.Import(t.Context(), there, conntrack.OnConflictSkip)
			m := model{flows: list(t, table, conntrack.Filter{})}
			want := m.importAll(flows, on)
			would := outcomes(t, table.CanImport(t.Context(), flows, on))
			if diff := gocmp.Diff(want, would); diff != "" {
				t.Fatalf("seed %d, %s, dry run (-want +got):\n%s%s\n%s", seed, name, diff, flowSet(there), flowSet(flows))
			}
			got := outcomes(t, table.Import(t.Context(), flows, on))
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Fatalf("seed %d, %s (-want +got):\n%s%s\n%s", seed, name, diff, flowSet(there), flowSet(flows))
			}
			left := flowSet(list(t, table, conntrack.Filter{}))
			if diff := gocmp.Diff(flowSet(m.flows), left); diff != "" {
				t.Fatalf("seed %d, %s, the table (-want +got):\n%s%s\n%s", seed, name, diff, flowSet(there), flowSet(flows))
			}
			if on == conntrack.OnConflictFail {
				continue
			}
			for _, again := range table.Import(t.Context(), flows, on) {
				if again.Outcome != conntrack.OutcomeSkipped {
					t.Fatalf("seed %d, %s, again: %+v", seed, name, again)
				}
			}
		}
	}
}

// TestKernelImportRelated is the same with flows that have masters, some of which aren't there or
// are replaced: what a dry run says becomes true.
func TestKernelImportRelated(t *testing.T) {
	conntracktest.Kernel(t)
	_, table := tracking(t)
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 2))
		there, flows := manyFlows(r, r.IntN(6)), manyFlows(r, 1+r.IntN(7))
		for i := range flows {
			if r.IntN(2) == 0 {
				flows[i].Master = someFlow(r).Orig
			}
		}
		for name, on := range onConflicts {
			flush(t, table)
			table.Import(t.Context(), there, conntrack.OnConflictSkip)
			before := flowSet(list(t, table, conntrack.Filter{}))
			would := table.CanImport(t.Context(), flows, on)
			if diff := gocmp.Diff(before, flowSet(list(t, table, conntrack.Filter{}))); diff != "" {
				t.Fatalf("seed %d, %s: a dry run did something:\n%s", seed, name, diff)
			}
			got := table.Import(t.Context(), flows, on)
			n := 0
			for i := range got {
				if got[i].Outcome != would[i].Outcome || got[i].Orphan != would[i].Orphan || (got[i].Err == nil) != (would[i].Err == nil) {
					t.Fatalf("seed %d, %s: flow %d: %+v, a dry run says %+v\n%s\n%s", seed, name, i, got[i], would[i], before, flowSet(flows))
				}
				if got[i].Outcome == conntrack.OutcomeCreated || got[i].Outcome == conntrack.OutcomeReplaced {
					n++
				}
			}
			left := flowSet(list(t, table, conntrack.Filter{}))
			for i, f := range flows {
				made := got[i].Outcome == conntrack.OutcomeCreated || got[i].Outcome == conntrack.OutcomeReplaced
				if made && !slices.Contains(left, flowName(&f)) {
					t.Fatalf("seed %d, %s: flow %d was made and isn't there: %s", seed, name, i, left)
				}
			}
			if len(left) < n {
				t.Fatalf("seed %d, %s: %d were made, %d are there", seed, name, n, len(left))
			}
		}
	}
}

var onConflicts = map[string]conntrack.OnConflict{
	"skip": conntrack.OnConflictSkip, "replace": conntrack.OnConflictReplace, "fail": conntrack.OnConflictFail,
}

// someFlow returns one of few flows, so that many have a tuple in common: some have the source
// translated, some the destination, some both.
func someFlow(r *rand.Rand) conntrack.Flow {
	addr := func(last int) netip.Addr { return netip.AddrFrom4([4]byte{10, 7, 0, byte(last)}) }
	src, dst := 1+r.IntN(2), 1+r.IntN(3)
	if src == dst {
		dst = 3
	}
	f := conntrack.Flow{Timeout: 10 * time.Minute, Mark: uint32(r.IntN(2))}
	f.Orig = conntrack.Tuple{
		Src: addr(src), Dst: addr(dst), Proto: conntrack.UDP,
		SrcPort: uint16(1 + r.IntN(2)), DstPort: uint16(1 + r.IntN(2)),
	}
	f.Reply = f.Orig.Inverse()
	how := r.IntN(8)
	if how < 3 {
		f.Reply.Dst, f.Reply.DstPort = addr(9), uint16(1+r.IntN(2))
	}
	if how > 1 && how < 5 {
		f.Reply.Src, f.Reply.SrcPort = addr(8), uint16(1+r.IntN(2))
	}
	return f
}

func manyFlows(r *rand.Rand, n int) []conntrack.Flow {
	flows := make([]conntrack.Flow, n)
	for i := range flows {
		flows[i] = someFlow(r)
	}
	return flows
}

// model is a table in memory.
type model struct{ flows []conntrack.Flow }

// importAll imports one flow after the other, and returns the outcomes as outcomes does.
func (m *model) importAll(flows []conntrack.Flow, on conntrack.OnConflict) []string {
	switch on {
	case conntrack.OnConflictFail:
		return m.importAllOrNone(flows)
	case conntrack.OnConflictReplace:
		return m.importLast(flows)
	}
	results := make([]string, len(flows))
	for i, f := range flows {
		results[i] = "skipped"
		if !meets(m.flows, f) {
			results[i] = "created"
			m.flows = append(m.flows, f)
		}
	}
	return results
}

func (m *model) importAllOrNone(flows []conntrack.Flow) []string {
	results := make([]string, len(flows))
	one := "created"
	for i, f := range flows {
		if meets(m.flows, f) || meets(flows[:i], f) {
			results[i], one = "exists", "none"
		}
	}
	for i := range results {
		results[i] = cmp.Or(results[i], one)
	}
	if one == "created" {
		m.flows = append(m.flows, flows...)
	}
	return results
}

// importLast begins with the last flow, which none of those before it may replace.
func (m *model) importLast(flows []conntrack.Flow) []string {
	results := make([]string, len(flows))
	before, made := slices.Clone(m.flows), []conntrack.Flow{}
	for i, f := range slices.Backward(flows) {
		same := func(g conntrack.Flow) bool { return flowName(&f) == flowName(&g) }
		switch {
		case meets(made, f):
			results[i] = "skipped"
			continue
		case slices.ContainsFunc(before, same):
			results[i] = "skipped"
		case meets(before, f):
			results[i] = "replaced"
		default:
			results[i] = "created"
		}
		made = append(made, f)
	}
	m.flows = slices.DeleteFunc(m.flows, func(g conntrack.Flow) bool { return meets(made, g) })
	m.flows = append(m.flows, made...)
	return results
}

// meets tells whether f has a tuple of one of flows.
func meets(flows []conntrack.Flow, f conntrack.Flow) bool {
	return slices.ContainsFunc(flows, func(g conntrack.Flow) bool {
		return f.Orig == g.Orig || f.Orig == g.Reply || f.Reply == g.Orig || f.Reply == g.Reply
	})
}

// outcomes returns the outcomes in words.
func outcomes(t *testing.T, results []conntrack.Imported) []string {
	t.Helper()
	words := make([]string, len(results))
	for i, r := range results {
		switch {
		case errors.Is(r.Err, conntrack.ErrExists):
			words[i] = "exists"
		case r.Err != nil:
			words[i] = r.Err.Error()
		default:
			words[i] = [...]string{"none", "created", "replaced", "skipped"}[r.Outcome]
		}
	}
	return words
}

func flowName(f *conntrack.Flow) string {
	return fmt.Sprintf("%s / %s mark %d", f.Orig, f.Reply, f.Mark)
}

// flowSet names flows, in an order.
func flowSet(flows []conntrack.Flow) []string {
	names := []string{}
	for i := range flows {
		names = append(names, flowName(&flows[i]))
	}
	slices.Sort(names)
	return names
}
