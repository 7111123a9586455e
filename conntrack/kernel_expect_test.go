package conntrack_test

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// expects returns the expectations.
func expects(t testing.TB, table *conntrack.Table) []conntrack.Expect {
	t.Helper()
	es := []conntrack.Expect{}
	for e, err := range table.Expects(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		es = append(es, e)
	}
	return es
}

// agreeExpects fails the test where the table and conntrack(8) disagree about expectations.
func agreeExpects(t testing.TB, ns *conntracktest.NS, table *conntrack.Table) []conntrack.Expect {
	t.Helper()
	es := expects(t, table)
	if d := conntracktest.DiffExpects(es, conntracktest.OracleExpects(t, ns)); d != "" {
		t.Errorf("expectations (-conntrack(8) +listed):\n%s", d)
	}
	return es
}

// TestKernelExpectHelper lists what a helper of the kernel expects.
func TestKernelExpectHelper(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		tp := conntracktest.NewTopology(t)
		table := open(t, tp.Router)
		c := tp.FTPControl(conntracktest.Path{V6: v6}, 2100)
		es := agreeExpects(t, tp.Router, table)
		if len(es) != 1 || es[0].Helper != "ftp" || es[0].Tuple.DstPort != 2100 || es[0].Master.SrcPort != c.Local.Port() || es[0].ID == 0 {
			t.Errorf("expectations: %+v", es)
		}
	})
}

// helped makes a flow with the Q.931 helper, which allows 20 expectations.
func helped(t testing.TB, table *conntrack.Table, v6 bool, zone uint16) conntrack.Flow {
	f := flowTo(v6, 1)
	f.Helper, f.Zone = "Q.931", zone
	return create(t, table, f)
}

// expectTo returns an expectation of UDP packets from anywhere to a port.
func expectTo(master conntrack.Flow, port uint16) conntrack.Expect {
	return conntrack.Expect{
		Tuple:  conntrack.Tuple{Dst: master.Orig.Src, Proto: conntrack.UDP, DstPort: port},
		Master: master.Orig, Zone: master.Zone,
	}
}

// TestKernelExpectCreate makes expectations of every shape, which conntrack(8) must show.
func TestKernelExpectCreate(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		ns, table := tracking(t)
		masters := map[uint16]conntrack.Flow{0: helped(t, table, v6, 0), 4: helped(t, table, v6, 4)}
		ones := netip.MustParseAddr(choose(v6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "255.255.255.255"))
		network := netip.MustParseAddr(choose(v6, "ffff:ffff::", "255.255.0.0"))
		from := masters[0].Orig.Dst
		nat := netip.MustParseAddr(choose(v6, "2001:db8:9::9", "203.0.113.9"))
		tests := []struct {
			name   string
			zone   uint16
			change func(e *conntrack.Expect)
			check  func(e conntrack.Expect) bool
		}{
			{"plain", 0, func(*conntrack.Expect) {}, func(e conntrack.Expect) bool {
				return e.Mask.Src.IsUnspecified() && e.Mask.SrcPort == 0 && e.Helper == "Q.931"
			}},
			{"source", 0, func(e *conntrack.Expect) { e.Tuple.Src, e.Tuple.SrcPort = from, 5000 }, func(e conntrack.Expect) bool {
				return e.Mask.Src == ones && e.Mask.SrcPort == 0xffff
			}},
			{"mask", 0, func(e *conntrack.Expect) {
				e.Tuple.Src = from
				e.Mask = conntrack.Tuple{Src: network, SrcPort: 0xff00}
			}, func(e conntrack.Expect) bool { return e.Mask.Src == network && e.Mask.SrcPort == 0xff00 }},
			{"timeout", 0, func(e *conntrack.Expect) { e.Timeout = 77 * time.Second }, func(e conntrack.Expect) bool {
				return e.Timeout <= 77*time.Second && e.Timeout >= 70*time.Second
			}},
			{
				"flags", 0, func(e *conntrack.Expect) { e.Flags = conntrack.ExpectPermanent | conntrack.ExpectInactive },
				func(e conntrack.Expect) bool { return e.Flags == conntrack.ExpectPermanent|conntrack.ExpectInactive },
			},
			{"zone", 4, func(*conntrack.Expect) {}, func(e conntrack.Expect) bool { return e.Zone == 4 }},
			{"function", 0, func(e *conntrack.Expect) { e.Function = "Q.931" }, func(e conntrack.Expect) bool { return e.Function == "Q.931" }},
			{"NAT", 0, func(e *conntrack.Expect) {
				e.Function = "nat-follow-master"
				e.NAT = &conntrack.ExpectNAT{Reply: true, Tuple: conntrack.Tuple{Src: nat, SrcPort: 6000}}
			}, func(e conntrack.Expect) bool {
				return e.NAT != nil && e.NAT.Reply && e.NAT.Tuple.Src == nat && e.NAT.Tuple.SrcPort == 6000 && e.Function == "nat-follow-master"
			}},
		}
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				e := expectTo(masters[tt.zone], uint16(7000+i))
				tt.change(&e)
				made, err := table.CreateExpect(within(t, 5*time.Second), e)
				if err != nil {
					t.Fatal(err)
				}
				if !tt.check(made) || made.Tuple.DstPort != e.Tuple.DstPort || made.Master != e.Master || made.ID == 0 {
					t.Errorf("made: %+v", made)
				}
				if got, err := table.GetExpect(t.Context(), made.ID); err != nil || got.Tuple != made.Tuple {
					t.Errorf("get: %v, %+v", err, got)
				}
				// The other way makes the same.
				other := e
				other.Tuple.DstPort += 500
				added, err := table.AddExpect(within(t, 5*time.Second), other)
				if err != nil {
					t.Fatal(err)
				}
				if !tt.check(added) || added.Tuple.DstPort != other.Tuple.DstPort || added.Master != e.Master || added.ID == 0 {
					t.Errorf("added: %+v", added)
				}
				if errs := table.KillExpects(t.Context(), []conntrack.Expect{added}); errs[0] != nil {
					t.Error(errs[0])
				}
				if _, err := table.AddExpect(t.Context(), e); !errors.Is(err, conntrack.ErrExists) && !errors.Is(err, syscall.EBUSY) {
					t.Errorf("add again: got %v, want EEXIST or EBUSY", err)
				}
				if _, err := table.CreateExpect(t.Context(), e); !errors.Is(err, conntrack.ErrExists) && !errors.Is(err, syscall.EBUSY) {
					t.Errorf("make again: got %v, want EEXIST or EBUSY", err)
				}
			})
		}
		if es := agreeExpects(t, ns, table); len(es) != len(tests) {
			t.Errorf("%d expectations, want %d", len(es), len(tests))
		}
		zoned, err := table.CreateExpect(t.Context(), expectTo(masters[4], 7999))
		if err != nil {
			t.Fatal(err)
		}
		listed, err := table.GetExpect(t.Context(), zoned.ID)
		if err != nil {
			t.Fatal(err)
		}
		if listed.Zone != 4 {
			t.Errorf("listed with zone %d, want its master's, 4", listed.Zone)
		}
		if errs := table.KillExpects(t.Context(), []conntrack.Expect{listed}); errs[0] != nil {
			t.Errorf("kill in a zone: %v", errs)
		}

		plain := create(t, table, flowTo(v6, 2))
		if _, err := table.CreateExpect(t.Context(), expectTo(plain, 9000)); !errors.Is(err, syscall.EOPNOTSUPP) {
			t.Errorf("master without a helper: got %v, want EOPNOTSUPP", err)
		}
		if _, err := table.CreateExpect(t.Context(), expectTo(flowTo(v6, 3), 9000)); !errors.Is(err, conntrack.ErrNotFound) {
			t.Errorf("no master: got %v, want ErrNotFound", err)
		}
	})
}

// TestKernelExpectKill kills some, then all.
func TestKernelExpectKill(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		ns, table := tracking(t)
		master := helped(t, table, v6, 0)
		var made []conntrack.Expect
		for i := range uint16(10) {
			e, err := table.CreateExpect(t.Context(), expectTo(master, 7000+i))
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, e)
		}
		stranger := made[0]
		stranger.ID++
		errs := table.KillExpects(within(t, 5*time.Second), []conntrack.Expect{made[1], stranger, made[2], made[1], {}})
		for i, want := range []error{nil, conntrack.ErrNotFound, nil, conntrack.ErrNotFound, conntrack.ErrNoKey} {
			if !errors.Is(errs[i], want) {
				t.Errorf("kill %d: got %v, want %v", i, errs[i], want)
			}
		}
		var ports []uint16
		for _, e := range agreeExpects(t, ns, table) {
			if e.Tuple.DstPort < 7003 {
				ports = append(ports, e.Tuple.DstPort)
			}
		}
		if d := cmp.Diff([]uint16{7000}, ports); d != "" {
			t.Errorf("what is left of the first three (-want +got):\n%s", d)
		}
		if n, err := table.FlushExpects(within(t, 5*time.Second)); n != 8 || err != nil {
			t.Errorf("flush: %v, %d expectations, want 8", err, n)
		}
		if es := agreeExpects(t, ns, table); len(es) != 0 {
			t.Errorf("left after the flush: %v", es)
		}
		if n, err := table.FlushExpects(within(t, 5*time.Second)); n != 0 || err != nil {
			t.Errorf("flush of nothing: %v, %d", err, n)
		}
	})
}

// TestKernelExpectMet makes an expectation with NAT by hand; the flow that comes is translated,
// bears the master, and uses the expectation up.
func TestKernelExpectMet(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		tp := conntracktest.NewTopology(t)
		tp.Helper("tcp dport 7001", "q931")
		tp.Masquerade("tcp dport 7001")
		control := tp.TCP(conntracktest.Path{V6: v6, Port: 7001})
		table := open(t, tp.Router)
		master := conntrack.Tuple{
			Src: control.Local.Addr(), Dst: control.Remote.Addr(), Proto: conntrack.TCP,
			SrcPort: control.Local.Port(), DstPort: control.Remote.Port(),
		}
		_, err := table.CreateExpect(t.Context(), conntrack.Expect{
			Tuple:  conntrack.Tuple{Src: tp.ServerAddr(v6), Dst: tp.RouterAddr(v6), Proto: conntrack.UDP, DstPort: 6000},
			Master: master, Function: "sip", Timeout: time.Minute,
			NAT: &conntrack.ExpectNAT{Reply: true, Tuple: conntrack.Tuple{Src: tp.ClientAddr(v6), SrcPort: 6001}},
		})
		if err != nil {
			t.Fatal(err)
		}
		media := tp.DatagramPair(conntracktest.Path{
			V6: v6, Back: true, Port: 6001, Via: netip.AddrPortFrom(tp.RouterAddr(v6), 6000),
		}, unix.IPPROTO_UDP)
		if err := media.Datagram("media", conntracktest.Patience()); err != nil {
			t.Fatal(err)
		}
		if media.Peer.Addr() != tp.ServerAddr(v6) {
			t.Errorf("the client saw %s, want the server", media.Peer)
		}
		f, err := table.Get(t.Context(), conntrack.Key{Orig: conntrack.Tuple{
			Src: media.Local.Addr(), Dst: tp.RouterAddr(v6), Proto: conntrack.UDP, SrcPort: media.Local.Port(), DstPort: 6000,
		}})
		if err != nil || f.Master != master || f.Status.NAT() != "dnat" {
			t.Errorf("the flow that came: %v, %+v", err, f)
		}
		if es := agreeExpects(t, tp.Router, table); len(es) != 0 {
			t.Errorf("expectations left: %+v", es)
		}
	})
}

// TestKernelExpectTimeout holds that the timeout given takes effect.
func TestKernelExpectTimeout(t *testing.T) {
	conntracktest.Kernel(t)
	t.Parallel()
	ns, table := tracking(t)
	e := expectTo(helped(t, table, false, 0), 7000)
	e.Timeout = 3 * time.Second
	if _, err := table.CreateExpect(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	conntracktest.Eventually(t, fmt.Sprintf("the end of an expectation of %v", e.Timeout), func() bool {
		return len(conntracktest.OracleExpects(t, ns)) == 0
	})
}
