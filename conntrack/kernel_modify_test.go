package conntrack_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

func labels(bits ...int) conntrack.Labels {
	var l conntrack.Labels
	for _, bit := range bits {
		l.SetBit(bit)
	}
	return l
}

func allLabels() (l conntrack.Labels) {
	for i := range l {
		l[i] = 0xff
	}
	return l
}

// TestKernelModify changes each field by itself, zero values too, and looks at the flow by
// conntrack(8): the field is new, and all others are as they were.
func TestKernelModify(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		ns, table := tracking(t)
		hour, closing, assured := time.Hour, uint8(7), conntrack.StatusSeenReply|conntrack.StatusAssured
		none, ftp := "", "ftp"
		tests := []struct {
			name   string
			change conntrack.Change
			want   func(*conntrack.Flow)
		}{
			{"timeout", conntrack.Change{Timeout: &hour}, func(f *conntrack.Flow) { f.Timeout = hour }},
			{
				"fixed timeout",
				conntrack.Change{Timeout: &hour, FixedTimeout: true},
				func(f *conntrack.Flow) { f.Timeout = hour; f.Status |= conntrack.StatusFixedTimeout },
			},
			{
				"mark",
				conntrack.Change{Mark: &conntrack.MaskedMark{Value: 0xffffffff, Mask: 0xffffffff}},
				func(f *conntrack.Flow) { f.Mark = 0xffffffff },
			},
			{
				"mark 0",
				conntrack.Change{Mark: &conntrack.MaskedMark{Mask: 0xffffffff}},
				func(f *conntrack.Flow) { f.Mark = 0 },
			},
			{
				"mark in a mask",
				conntrack.Change{Mark: &conntrack.MaskedMark{Value: 0xabcd, Mask: 0x0ff0}},
				func(f *conntrack.Flow) { f.Mark = 0x1bc4 },
			},
			{"status", conntrack.Change{Status: assured}, func(f *conntrack.Flow) { f.Status |= assured }},
			{
				"labels",
				conntrack.Change{Labels: &conntrack.MaskedLabels{Value: labels(0, 127), Mask: allLabels()}},
				func(f *conntrack.Flow) { f.Labels = labels(0, 127) },
			},
			{
				"no labels",
				conntrack.Change{Labels: &conntrack.MaskedLabels{Mask: allLabels()}},
				func(f *conntrack.Flow) { f.Labels = conntrack.Labels{} },
			},
			{
				"labels in a mask",
				conntrack.Change{Labels: &conntrack.MaskedLabels{Value: labels(8, 9), Mask: labels(3, 8)}},
				func(f *conntrack.Flow) { f.Labels = labels(8, 64) },
			},
			{"state", conntrack.Change{State: &closing}, func(f *conntrack.Flow) { f.State = closing }},
			{"helper stays", conntrack.Change{Helper: &ftp}, func(f *conntrack.Flow) {}},
			{"no helper", conntrack.Change{Helper: &none}, func(f *conntrack.Flow) { f.Helper = "" }},
			{"all at once", conntrack.Change{
				Timeout: &hour, Mark: &conntrack.MaskedMark{Value: 7, Mask: 0xffffffff}, Status: assured,
				Labels: &conntrack.MaskedLabels{Value: labels(5), Mask: allLabels()}, State: &closing,
			}, func(f *conntrack.Flow) {
				f.Timeout, f.Mark, f.Labels, f.State = hour, 7, labels(5), closing
				f.Status |= assured
			}},
		}
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				f := flowTo(v6, i)
				f.Mark, f.Helper, f.Labels, f.Zone = 0x1234, "ftp", labels(3, 64), 9
				f.Set(conntrack.AttrLabels)
				want := create(t, table, f)
				tt.want(&want)
				if errs := table.Modify(t.Context(), []conntrack.Key{want.Key()}, tt.change); len(errs) != 1 || errs[0] != nil {
					t.Fatalf("modify: %v", errs)
				}
				sameAs(t, want, oracleOf(t, ns, want.Orig, want.Zone))
				got, err := table.Get(t.Context(), want.Key())
				if err != nil || got.Status != want.Status {
					t.Errorf("status: %v, %s, want %s", err, got.Status, want.Status)
				}
			})
		}
		agree(t, ns, table)
	})
}

// TestKernelModifyRefused holds that each flow has its own error, and that one that can't be
// changed stays as it was.
func TestKernelModifyRefused(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		ns, table := tracking(t)
		hour, state, ftp := time.Hour, uint8(7), "ftp"
		tcp, udp, fixed := flowTo(v6, 1), flowTo(v6, 2), flowTo(v6, 3)
		proto(conntrack.UDP, 0)(&udp)
		tcp, udp, fixed = create(t, table, tcp), create(t, table, udp), create(t, table, fixed)
		if errs := table.Modify(t.Context(), []conntrack.Key{fixed.Key()}, conntrack.Change{FixedTimeout: true}); errs[0] != nil {
			t.Fatal(errs)
		}
		stranger := tcp.Key()
		stranger.ID++
		gone := conntrack.Key{Orig: flowTo(v6, 9).Orig}
		tests := []struct {
			name   string
			keys   []conntrack.Key
			change conntrack.Change
			want   []error
		}{
			{
				"timeout",
				[]conntrack.Key{fixed.Key(), gone, stranger},
				conntrack.Change{Timeout: &hour},
				[]error{conntrack.ErrFixedTimeout, conntrack.ErrNotFound, conntrack.ErrNotFound},
			},
			{
				"state",
				[]conntrack.Key{udp.Key(), gone},
				conntrack.Change{State: &state},
				[]error{conntrack.ErrNotTCP, conntrack.ErrNotFound},
			},
			{"helper", []conntrack.Key{tcp.Key()}, conntrack.Change{Helper: &ftp}, []error{syscall.EOPNOTSUPP}},
			{"status", []conntrack.Key{tcp.Key()}, conntrack.Change{Status: conntrack.StatusDying}, []error{syscall.EBUSY}},
			{"nothing", []conntrack.Key{{}}, conntrack.Change{Timeout: &hour}, []error{conntrack.ErrNoKey}},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				before := conntracktest.Oracle(t, ns)
				errs := table.Modify(within(t, 5*time.Second), tt.keys, tt.change)
				for i, want := range tt.want {
					if !errors.Is(errs[i], want) {
						t.Errorf("flow %d: got %v, want %v", i, errs[i], want)
					}
				}
				after := list(t, table, conntrack.Filter{})
				if d := conntracktest.DiffAll(after, before); d != "" {
					t.Errorf("the table changed (-before +after):\n%s", d)
				}
			})
		}
	})
}

// TestKernelModifyLive changes connections that carry packets: they go on, and a fixed timeout
// isn't refreshed by them.
func TestKernelModifyLive(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		tp := conntracktest.NewTopology(t)
		tp.Masquerade("tcp dport 7001")
		c := tp.TCP(conntracktest.Path{V6: v6, Port: 7001})
		table := open(t, tp.Router)
		f := conntracktest.Quiesce(t, tp.Router)[0]
		minute := 60 * time.Second
		errs := table.Modify(t.Context(), []conntrack.Key{{Reply: f.Reply, ID: f.ID}}, conntrack.Change{
			Timeout: &minute, FixedTimeout: true, Mark: &conntrack.MaskedMark{Value: 1 << 31, Mask: 1 << 31},
		})
		if errs[0] != nil {
			t.Fatal(errs)
		}
		c.Exchange("on it goes")
		e := oracleOf(t, tp.Router, f.Orig, 0)
		if e.ID != f.ID || e.Mark != 1<<31 || e.Timeout > minute || e.OrigCounter.Packets <= f.OrigCounter.Packets {
			t.Errorf("got %+v, before it was %+v", e, f)
		}
	})
}
