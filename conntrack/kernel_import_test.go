package conntrack_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"

	"golang.org/x/sys/unix"
)

// TestKernelImportMixed carries flows of all kinds from one table to another, where they are the
// same; a second time changes nothing.
func TestKernelImportMixed(t *testing.T) {
	conntracktest.Kernel(t)
	nsA, a := tracking(t)
	nsB, b := tracking(t)
	const n = 300
	imported(t, a.Import(t.Context(), conntracktest.Mixed(n), conntrack.OnConflictSkip), conntrack.OutcomeCreated)
	var flows []conntrack.Flow
	for _, f := range agree(t, nsA, a) {
		r, err := f.Replayable()
		if err != nil {
			t.Errorf("%s: %v", f.Orig, err)
		}
		flows = append(flows, r)
	}
	if len(flows) != n {
		t.Fatalf("%d flows, want %d", len(flows), n)
	}
	imported(t, b.CanImport(t.Context(), flows, conntrack.OnConflictFail), conntrack.OutcomeCreated)
	imported(t, b.CanImport(t.Context(), flows, conntrack.OnConflictSkip), conntrack.OutcomeCreated)
	imported(t, b.Import(t.Context(), flows, conntrack.OnConflictFail), conntrack.OutcomeCreated)
	conntracktest.SameFlows(t, list(t, a, conntrack.Filter{}), agree(t, nsB, b))
	for _, on := range []conntrack.OnConflict{conntrack.OnConflictSkip, conntrack.OnConflictReplace} {
		imported(t, b.CanImport(t.Context(), flows, on), conntrack.OutcomeSkipped)
		imported(t, b.Import(t.Context(), flows, on), conntrack.OutcomeSkipped)
	}
	for _, do := range []func(context.Context, []conntrack.Flow, conntrack.OnConflict) []conntrack.Imported{b.CanImport, b.Import} {
		for i, r := range do(t.Context(), flows, conntrack.OnConflictFail) {
			if !errors.Is(r.Err, conntrack.ErrExists) {
				t.Fatalf("%s again: %v, want ErrExists", flows[i].Orig, r.Err)
			}
		}
	}
	conntracktest.SameFlows(t, list(t, a, conntrack.Filter{}), agree(t, nsB, b))
}

// imported fails the test where anything else became of flows.
func imported(t *testing.T, results []conntrack.Imported, want conntrack.Outcome) {
	t.Helper()
	for i, r := range results {
		if r != (conntrack.Imported{Outcome: want}) {
			t.Fatalf("flow %d: %+v, want outcome %d", i, r, want)
		}
	}
}

// TestKernelImportConflicts has flows in the way of others.
func TestKernelImportConflicts(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		ns, table := tracking(t)
		nat := netip.MustParseAddr(choose(v6, "2001:db8:2::1", "203.0.113.1"))
		translated := func(n int, port uint16) conntrack.Flow {
			f := flowTo(v6, n)
			f.Reply = f.Orig.Inverse()
			f.Reply.Dst, f.Reply.DstPort = nat, port
			return f
		}
		sentTo := func(dst byte, port uint16) conntrack.Flow {
			f := flowTo(v6, 1)
			server := f.Orig.Dst
			f.Orig.SrcPort = port
			a := f.Orig.Dst.AsSlice()
			a[len(a)-1] += dst
			f.Orig.Dst, _ = netip.AddrFromSlice(a)
			f.Reply = f.Orig.Inverse()
			f.Reply.Src = server
			return f
		}
		zoned := func(zone uint16) conntrack.Flow {
			f := flowTo(v6, 1)
			f.Orig.DstPort, f.Reply = zone, conntrack.Tuple{}
			f.Reply = f.Orig.Inverse()
			f.Reply.Zone = zone
			return f
		}
		marked := func(f conntrack.Flow, mark uint32) conntrack.Flow { f.Mark = mark; return f }
		straight := func(f conntrack.Flow) conntrack.Flow { f.Reply = f.Orig.Inverse(); return f }
		related := flowTo(v6, 50)
		related.Master = flowTo(v6, 51).Orig
		const skip, replace, fail = conntrack.OnConflictSkip, conntrack.OnConflictReplace, conntrack.OnConflictFail
		const created, replaced, skipped, none = conntrack.OutcomeCreated, conntrack.OutcomeReplaced, conntrack.OutcomeSkipped, conntrack.OutcomeNone
		tests := []struct {
			name  string
			there []conntrack.Flow
			flows []conntrack.Flow
			on    conntrack.OnConflict
			want  []conntrack.Outcome
			err   error // of those with none
			marks []uint32
		}{
			{"skip", []conntrack.Flow{flowTo(v6, 1)}, []conntrack.Flow{marked(flowTo(v6, 1), 5), flowTo(v6, 2)}, skip, []conntrack.Outcome{skipped, created}, nil, []uint32{0, 0}},
			{"replace", []conntrack.Flow{flowTo(v6, 1)}, []conntrack.Flow{marked(flowTo(v6, 1), 5), flowTo(v6, 2)}, replace, []conntrack.Outcome{replaced, created}, nil, []uint32{0, 5}},
			{"fail", []conntrack.Flow{flowTo(v6, 1)}, []conntrack.Flow{flowTo(v6, 2), marked(flowTo(v6, 1), 5)}, fail, []conntrack.Outcome{none, none}, conntrack.ErrExists, []uint32{0}},
			{"skip the translation of another", []conntrack.Flow{translated(1, 4000)}, []conntrack.Flow{marked(translated(2, 4000), 5)}, skip, []conntrack.Outcome{skipped}, nil, []uint32{0}},
			{"replace two at once", []conntrack.Flow{translated(1, 4000), translated(2, 4001)}, []conntrack.Flow{marked(translated(2, 4000), 5)}, replace, []conntrack.Outcome{replaced}, nil, []uint32{5}},
			{"fail by the translation", []conntrack.Flow{translated(1, 4000)}, []conntrack.Flow{translated(2, 4000)}, fail, []conntrack.Outcome{none}, conntrack.ErrExists, []uint32{0}},
			// The kernel would give such a flow another source port, which nobody asked for.
			{"skip what is sent to the same server", []conntrack.Flow{sentTo(1, 5000)}, []conntrack.Flow{marked(sentTo(2, 5000), 5)}, skip, []conntrack.Outcome{skipped}, nil, []uint32{0}},
			{"skip leaves the original tuple free", []conntrack.Flow{sentTo(1, 5000)}, []conntrack.Flow{sentTo(2, 5000), marked(straight(sentTo(2, 5000)), 5)}, skip, []conntrack.Outcome{skipped, created}, nil, []uint32{0, 5}},
			{"replace what is sent to the same server", []conntrack.Flow{sentTo(1, 5000)}, []conntrack.Flow{marked(sentTo(2, 5000), 5)}, replace, []conntrack.Outcome{replaced}, nil, []uint32{5}},
			{"fail by what is sent to the same server", []conntrack.Flow{sentTo(1, 5000)}, []conntrack.Flow{sentTo(2, 5000)}, fail, []conntrack.Outcome{none}, conntrack.ErrExists, []uint32{0}},
			{"zone of one direction", []conntrack.Flow{zoned(6)}, []conntrack.Flow{marked(zoned(6), 5), zoned(7)}, replace, []conntrack.Outcome{replaced, created}, nil, []uint32{0, 5}},
			{"skip twice the same", nil, []conntrack.Flow{flowTo(v6, 1), marked(flowTo(v6, 1), 5)}, skip, []conntrack.Outcome{created, skipped}, nil, []uint32{0}},
			{"replace twice the same", nil, []conntrack.Flow{flowTo(v6, 1), marked(flowTo(v6, 1), 5)}, replace, []conntrack.Outcome{skipped, created}, nil, []uint32{5}},
			{"fail twice the same", nil, []conntrack.Flow{flowTo(v6, 1), flowTo(v6, 1)}, fail, []conntrack.Outcome{none, none}, conntrack.ErrExists, nil},
			{"another timeout is the same", []conntrack.Flow{flowTo(v6, 1)}, []conntrack.Flow{func() conntrack.Flow { f := flowTo(v6, 1); f.Timeout = time.Hour; return f }()}, replace, []conntrack.Outcome{skipped}, nil, []uint32{0}},
			{"without the master", nil, []conntrack.Flow{marked(related, 5)}, skip, []conntrack.Outcome{created}, nil, []uint32{5}},
			{"still without the master", []conntrack.Flow{flowTo(v6, 50)}, []conntrack.Flow{related}, replace, []conntrack.Outcome{skipped}, nil, []uint32{0}},
			{"now with the master", []conntrack.Flow{flowTo(v6, 50), flowTo(v6, 51)}, []conntrack.Flow{marked(related, 5)}, replace, []conntrack.Outcome{replaced}, nil, []uint32{0, 5}},
			{"put back", []conntrack.Flow{marked(flowTo(v6, 1), 3)}, []conntrack.Flow{func() conntrack.Flow { f := flowTo(v6, 1); f.Helper = "nonesuch"; return f }()}, replace, []conntrack.Outcome{none}, unix.EOPNOTSUPP, []uint32{3}},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				flush(t, table)
				for _, f := range tt.there {
					create(t, table, f)
				}
				would := table.CanImport(t.Context(), tt.flows, tt.on)
				results := table.Import(t.Context(), tt.flows, tt.on)
				for i, r := range results {
					if r.Outcome != tt.want[i] || r.Outcome != none && r.Err != nil {
						t.Errorf("flow %d: %+v, want outcome %d", i, r, tt.want[i])
					}
					if tt.err != unix.EOPNOTSUPP && (would[i].Outcome != r.Outcome || (would[i].Err == nil) != (r.Err == nil)) {
						t.Errorf("flow %d: a dry run says %+v, it was %+v", i, would[i], r)
					}
				}
				if last := results[len(results)-1].Err; !errors.Is(last, tt.err) {
					t.Errorf("error %v, want %v", last, tt.err)
				}
				var marks []uint32
				for _, f := range agree(t, ns, table) {
					marks = append(marks, f.Mark)
				}
				if slices.Sort(marks); !slices.Equal(marks, tt.marks) {
					t.Errorf("marks %v are left, want %v", marks, tt.marks)
				}
			})
		}
	})
}

// TestKernelImportOrphan says that the master is missing, also of a flow that takes another's place.
func TestKernelImportOrphan(t *testing.T) {
	conntracktest.Kernel(t)
	_, table := tracking(t)
	f := flowTo(false, 1)
	f.Master = flowTo(false, 2).Orig
	for _, want := range []conntrack.Outcome{conntrack.OutcomeCreated, conntrack.OutcomeReplaced} {
		r := table.Import(t.Context(), []conntrack.Flow{f}, conntrack.OnConflictReplace)[0]
		if r != (conntrack.Imported{Outcome: want, Orphan: true}) {
			t.Errorf("%+v, want outcome %d, an orphan", r, want)
		}
		f.Mark++
	}
}

// TestKernelImportLabels: without a rule that uses labels the kernel drops them without a word.
func TestKernelImportLabels(t *testing.T) {
	conntracktest.Kernel(t)
	ns := conntracktest.NewNS(t)
	ns.Nft("table inet t {\n chain c {\n type filter hook input priority 0\n ct state new\n }\n}")
	table := open(t, ns)
	f := flowTo(false, 1)
	f.Labels.SetBit(3)
	f.Set(conntrack.AttrLabels)
	results := table.Import(t.Context(), []conntrack.Flow{f, flowTo(false, 2)}, conntrack.OnConflictSkip)
	if !errors.Is(results[0].Err, unix.ENOSPC) || results[1] != (conntrack.Imported{Outcome: conntrack.OutcomeCreated}) {
		t.Errorf("%+v, want ENOSPC and created", results)
	}
	if flows := agree(t, ns, table); len(flows) != 1 {
		t.Errorf("%d flows are left, want 1", len(flows))
	}
}

// TestKernelImportCancelled ends in between.
func TestKernelImportCancelled(t *testing.T) {
	conntracktest.Kernel(t)
	_, table := tracking(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := table.Import(ctx, []conntrack.Flow{flowTo(false, 1)}, conntrack.OnConflictSkip)[0]
	if !errors.Is(r.Err, context.Canceled) || len(list(t, table, conntrack.Filter{})) != 0 {
		t.Errorf("%+v, want that it was cancelled", r)
	}
}

// BenchmarkKernelImport compares with conntrack -R of the same flows, which are established and
// masqueraded.
func BenchmarkKernelImport(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		flows := make([]conntrack.Flow, n)
		script := []byte{}
		for i := range flows {
			f := flowTo(false, i)
			f.Status = conntrack.StatusSeenReply | conntrack.StatusAssured
			f.Mark = 7
			f.Reply = f.Orig.Inverse()
			f.Reply.Dst = natAddr
			flows[i] = f
			script = fmt.Appendf(script, "-A -s %s -d %s -p tcp --sport %d --dport %d --src-nat %s:%d --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 600 -m 7\n",
				f.Orig.Src, f.Orig.Dst, f.Orig.SrcPort, f.Orig.DstPort, natAddr, f.Orig.SrcPort)
		}
		file := filepath.Join(b.TempDir(), "flows")
		if err := os.WriteFile(file, script, 0o600); err != nil {
			b.Fatal(err)
		}
		ns := conntracktest.NewNS(b)
		ns.Conntrack()
		table := open(b, ns)
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			b.ReportAllocs()
			var own, other time.Duration
			for b.Loop() {
				flush(b, table)
				began := time.Now()
				for _, r := range table.Import(b.Context(), flows, conntrack.OnConflictSkip) {
					if r.Outcome != conntrack.OutcomeCreated {
						b.Fatal(r.Err)
					}
				}
				own += time.Since(began)
				flush(b, table)
				began = time.Now()
				if _, err := ns.Conntrack8("-R", file); err != nil {
					b.Fatal(err)
				}
				other += time.Since(began)
			}
			b.ReportMetric(float64(own.Microseconds())/float64(b.N*n), "us/flow")
			b.ReportMetric(own.Seconds()/other.Seconds(), "of-conntrack-R")
		})
	}
}

func flush(t testing.TB, table *conntrack.Table) {
	t.Helper()
	if _, err := table.Flush(t.Context(), conntrack.FamilyAny, nil); err != nil {
		t.Fatal(err)
	}
}

var natAddr = netip.MustParseAddr("203.0.113.1")
