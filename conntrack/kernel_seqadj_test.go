package conntrack_test

import (
	"errors"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// TestKernelAdjustSeq: what is set of a flow that has a helper and NAT is read back by conntrack's own
// list; a flow without either says that there is nothing to set.
func TestKernelAdjustSeq(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		tp := conntracktest.NewTopology(t)
		table := open(t, tp.Router)
		tp.Helper("tcp dport 5001", "q931")
		tp.Masquerade("tcp dport 5001-5002")
		tp.TCP(conntracktest.Path{V6: v6, Port: 5001})
		tp.TCP(conntracktest.Path{V6: v6, Port: 5002})
		adj := conntrack.SeqAdj{CorrectionPos: 1<<31 + 5, OffsetBefore: 0, OffsetAfter: 7}
		for _, f := range list(t, table, conntrack.Filter{}) {
			if f.Proto() != conntrack.TCP {
				continue
			}
			for dir, reply := range []bool{false, true} {
				err := table.AdjustSeq(t.Context(), f.Key(), reply, adj)
				if f.Orig.DstPort == 5002 {
					if !errors.Is(err, conntrack.ErrNoSeqAdj) {
						t.Errorf("without a helper: %v", err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				got, err := table.Get(t.Context(), f.Key())
				if err != nil || got.SeqAdj[dir] != adj || got.Status&conntrack.StatusSeqAdjust == 0 {
					t.Errorf("%+v %v, want %+v", got.SeqAdj, err, adj)
				}
			}
		}
	})
}

// TestKernelEndedFlows: a flow that is killed and one that expires are told of once each.
func TestKernelEndedFlows(t *testing.T) {
	_, table := tracking(t)
	events, err := table.EndedFlows(within(t, 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	killed, expiring := flowTo(false, 1), flowTo(false, 2)
	expiring.Timeout = 2 * time.Second
	killed = create(t, table, killed)
	expiring = create(t, table, expiring)
	if err := table.Kill(t.Context(), []conntrack.Key{killed.Key()})[0]; err != nil {
		t.Fatal(err)
	}
	// The kernel looks for flows that are over once a minute or so, and whenever the table is read.
	conntracktest.Eventually(t, "the flow expires", func() bool { return len(list(t, table, conntrack.Filter{})) == 0 })
	want := []conntrack.Flow{killed, expiring}
	for f, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		if f.Orig != want[0].Orig || f.ID != want[0].ID {
			t.Errorf("told of %v, want %v", f.Orig, want[0].Orig)
		}
		if want = want[1:]; len(want) == 0 {
			break
		}
	}
}
