package conntrack_test

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestKernelCreate makes flows with every attribute, which conntrack(8) must show.
func TestKernelCreate(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		ns, table := tracking(t)
		nat := netip.MustParseAddr(choose(v6, "2001:db8:2::1", "203.0.113.1"))
		tests := []struct {
			name   string
			change func(*conntrack.Flow)
		}{
			{"plain", func(f *conntrack.Flow) {}},
			{"mark", func(f *conntrack.Flow) { f.Mark = 0xffffffff }},
			{"seen reply", func(f *conntrack.Flow) { f.Status = conntrack.StatusSeenReply }},
			{"assured", func(f *conntrack.Flow) { f.Status = conntrack.StatusSeenReply | conntrack.StatusAssured }},
			{"zone", func(f *conntrack.Flow) { f.Zone = 65535 }},
			{"zone of one direction", func(f *conntrack.Flow) { f.Orig.Zone = 5 }},
			{"zone of the reply", func(f *conntrack.Flow) { f.Reply = f.Orig.Inverse(); f.Reply.Zone = 6 }},
			{"labels", func(f *conntrack.Flow) {
				f.Labels.SetBit(0)
				f.Labels.SetBit(127)
				f.Set(conntrack.AttrLabels)
			}},
			{"helper", func(f *conntrack.Flow) { f.Helper = "ftp" }},
			{"timeout", func(f *conntrack.Flow) { f.Timeout = 3 * time.Hour }},
			{"SYN_SENT", func(f *conntrack.Flow) { f.State = 1 }},
			{"source NAT", func(f *conntrack.Flow) { f.Reply = f.Orig.Inverse(); f.Reply.Dst, f.Reply.DstPort = nat, 4000 }},
			{"source NAT of the address", func(f *conntrack.Flow) { f.Reply = f.Orig.Inverse(); f.Reply.Dst = nat }},
			{"source NAT of the port", func(f *conntrack.Flow) { f.Reply = f.Orig.Inverse(); f.Reply.DstPort = 4001 }},
			{"destination NAT", func(f *conntrack.Flow) { f.Reply = f.Orig.Inverse(); f.Reply.Src, f.Reply.SrcPort = nat, 8080 }},
			{"both", func(f *conntrack.Flow) {
				f.Reply = conntrack.Tuple{Src: nat, Dst: nat, Proto: conntrack.TCP, SrcPort: 8081, DstPort: 4002}
			}},
			{"UDP", proto(conntrack.UDP, 0)},
			{"UDP-Lite", proto(conntrack.UDPLite, 0)},
			{"SCTP", func(f *conntrack.Flow) {
				proto(conntrack.SCTP, 4)(f)
				f.Set(conntrack.AttrSCTP)
				f.SCTP.VTag = [2]uint32{7, 0xfffffff9}
			}},
			{"GRE", func(f *conntrack.Flow) { proto(conntrack.GRE, 0)(f); f.Orig.SrcPort, f.Orig.DstPort = 1, 0xffff }},
			{"any protocol", func(f *conntrack.Flow) { proto(253, 0)(f); f.Orig.SrcPort, f.Orig.DstPort = 0, 0 }},
			{"ping", func(f *conntrack.Flow) {
				proto(choose(v6, conntrack.ICMPv6, conntrack.ICMP), 0)(f)
				f.Orig.SrcPort, f.Orig.DstPort = 0, 0
				f.Orig.ICMPType, f.Orig.ICMPID = choose[uint8](v6, 128, 8), 77
			}},
		}
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				want := flowTo(v6, i)
				tt.change(&want)
				made := create(t, table, want)
				if want.Reply.IsZero() {
					want.Reply = want.Orig.Inverse()
				}
				e := oracleOf(t, ns, want.Orig, want.Zone)
				sameAs(t, made, e)
				// What the kernel adds to what was asked for.
				want.ID, want.Use, want.Start = made.ID, e.Use, made.Start
				want.Set(conntrack.AttrCounters)
				if d := conntracktest.Diff(want, e); d != "" {
					t.Errorf("asked for (-conntrack(8) +asked):\n%s", d)
				}
				if made.SCTP != want.SCTP {
					t.Errorf("tags %v, want %v", made.SCTP, want.SCTP)
				}
				if _, err := table.Create(t.Context(), want); !errors.Is(err, conntrack.ErrExists) {
					t.Errorf("create again: got %v, want ErrExists", err)
				}
			})
		}
		agree(t, ns, table)
	})
}

func proto(p conntrack.Protocol, state uint8) func(f *conntrack.Flow) {
	return func(f *conntrack.Flow) {
		o := f.Orig
		o.Proto = p
		*f = conntrack.Flow{Orig: o, Timeout: f.Timeout, State: state}
		if p.HasState() {
			f.Set(conntrack.AttrState)
		}
	}
}

// TestKernelCreateRefused holds that what can't be made isn't made.
func TestKernelCreateRefused(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		ns, table := tracking(t)
		taken := flowTo(v6, 1)
		taken.Reply = taken.Orig.Inverse()
		taken.Reply.DstPort = 5000
		create(t, table, taken)
		tests := []struct {
			name   string
			change func(*conntrack.Flow)
			want   error
		}{
			{"no timeout", func(f *conntrack.Flow) { f.Timeout = 0 }, conntrack.ErrIncomplete},
			{"no address", func(f *conntrack.Flow) { f.Orig.Dst = netip.Addr{} }, conntrack.ErrIncomplete},
			{"translation in use", func(f *conntrack.Flow) { f.Reply = taken.Reply }, conntrack.ErrExists},
			{"unknown helper", func(f *conntrack.Flow) { f.Helper = "nonesuch" }, syscall.EOPNOTSUPP},
			{"master that isn't there", func(f *conntrack.Flow) { f.Master = flowTo(v6, 9).Orig }, conntrack.ErrNotFound},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				f := flowTo(v6, 2)
				tt.change(&f)
				if _, err := table.Create(t.Context(), f); !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if flows := agree(t, ns, table); len(flows) != 1 {
					t.Errorf("%d flows are left, want the one before: %v", len(flows), flows)
				}
			})
		}
	})
}

// TestKernelCreateTranslates sends packets through flows with NAT that were made by hand: no rule
// of the router translates.
func TestKernelCreateTranslates(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		tp := conntracktest.NewTopology(t)
		table := open(t, tp.Router)
		virtual := netip.MustParseAddr(choose(v6, "2001:db8::99", "198.51.100.99"))
		c := tp.DatagramPair(conntracktest.Path{V6: v6, Port: 7001, Via: netip.AddrPortFrom(virtual, 99)}, unix.IPPROTO_UDP)
		f := conntrack.Flow{
			Orig: conntrack.Tuple{
				Src: c.Local.Addr(), Dst: virtual, Proto: conntrack.UDP, SrcPort: c.Local.Port(), DstPort: 99,
			},
			Reply: conntrack.Tuple{
				Src: tp.ServerAddr(v6), Dst: tp.RouterAddr(v6), Proto: conntrack.UDP, SrcPort: 7001, DstPort: 40001,
			},
			Timeout: 60 * time.Second,
			Mark:    42,
		}
		create(t, table, f)
		if err := c.Datagram("translated", conntracktest.Slow(3*time.Second)); err != nil {
			t.Fatal(err)
		}
		if want := netip.AddrPortFrom(tp.RouterAddr(v6), 40001); c.Peer != want {
			t.Errorf("the server saw %s, want %s", c.Peer, want)
		}
		e := oracleOf(t, tp.Router, f.Orig, 0)
		if e.Mark != 42 || !e.SeenReply || e.OrigCounter.Packets != 1 || e.ReplyCounter.Packets != 1 {
			t.Errorf("the packets took another flow: %+v", e)
		}

		// The same for a flow that is there: other NAT by Replace, first to a port in use.
		got, err := table.Get(t.Context(), conntrack.Key{Orig: f.Orig})
		if err != nil {
			t.Fatal(err)
		}
		other := flowTo(v6, 1)
		other.Orig.Proto, other.State = conntrack.UDP, 0
		proto(conntrack.UDP, 0)(&other)
		other.Orig = conntrack.Tuple{Src: virtual, Dst: tp.ServerAddr(v6), Proto: conntrack.UDP, SrcPort: 1, DstPort: 7001}
		other.Reply = conntrack.Tuple{Src: tp.ServerAddr(v6), Dst: tp.RouterAddr(v6), Proto: conntrack.UDP, SrcPort: 7001, DstPort: 40002}
		create(t, table, other)
		to := func(port uint16) conntrack.NAT {
			return conntrack.NAT{Src: netip.AddrPortFrom(tp.RouterAddr(v6), port), Dst: netip.AddrPortFrom(tp.ServerAddr(v6), 7001)}
		}
		if _, err := table.Replace(t.Context(), got.Key(), to(40002)); !errors.Is(err, conntrack.ErrNATTaken) {
			t.Errorf("replace by a translation in use: got %v, want ErrNATTaken", err)
		}
		if e := oracleOf(t, tp.Router, f.Orig, 0); e.Reply != f.Reply || e.Mark != 42 {
			t.Errorf("after a replace that failed: %+v", e)
		}
		replaced, err := table.Replace(t.Context(), got.Key(), to(40003))
		if err != nil {
			t.Fatal(err)
		}
		sameAs(t, replaced, oracleOf(t, tp.Router, f.Orig, 0))
		if replaced.Mark != 42 || replaced.Reply.DstPort != 40003 {
			t.Errorf("replaced: %+v", replaced)
		}
		if err := c.Datagram("again", conntracktest.Slow(3*time.Second)); err != nil {
			t.Fatal(err)
		}
		if c.Peer.Port() != 40003 {
			t.Errorf("the server saw %s, want port 40003", c.Peer)
		}
		if _, err := table.Replace(t.Context(), conntrack.Key{Orig: flowTo(v6, 3).Orig}, to(1)); !errors.Is(err, conntrack.ErrNotFound) {
			t.Errorf("replace of nothing: got %v, want ErrNotFound", err)
		}
	})
}

// TestKernelReplaceTCP moves an established connection to another source port, which both ends
// see as an interruption; the old translation again makes it go on.
func TestKernelReplaceTCP(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		tp := conntracktest.NewTopology(t)
		tp.Masquerade("tcp dport 7001")
		c := tp.TCP(conntracktest.Path{V6: v6, Port: 7001})
		table := open(t, tp.Router)
		conntracktest.Quiesce(t, tp.Router)
		before := list(t, table, conntrack.Filter{})[0]
		moved, err := table.Replace(t.Context(), before.Key(), conntrack.NAT{Src: netip.AddrPortFrom(tp.RouterAddr(v6), 45678)})
		if err != nil {
			t.Fatal(err)
		}
		if moved.Reply.DstPort != 45678 || moved.State != before.State || moved.Status&conntrack.StatusAssured == 0 {
			t.Errorf("moved: %+v", moved)
		}
		back, err := table.Replace(t.Context(), moved.Key(), conntrack.NAT{Src: c.Peer})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before.Reply, back.Reply, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("reply direction (-before +back):\n%s", d)
		}
		c.Exchange("still here")
		if e := oracleOf(t, tp.Router, before.Orig, 0); e.ID != back.ID || e.OrigCounter.Packets == 0 {
			t.Errorf("the packets took another flow than %d: %+v", back.ID, e)
		}
	})
}

// TestKernelCreateRelated makes a flow with a master, which the kernel then shows as related.
func TestKernelCreateRelated(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		ns, table := tracking(t)
		master := create(t, table, flowTo(v6, 1))
		f := flowTo(v6, 2)
		f.Master = master.Orig
		made := create(t, table, f)
		if made.Master != master.Orig || made.Status&conntrack.StatusExpected == 0 {
			t.Errorf("master %s, status %s", made.Master, made.Status)
		}
		secondOpinion(t, ns, list(t, table, conntrack.Filter{}))
	})
}

// TestKernelGet finds a flow by everything that names it.
func TestKernelGet(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		_, table := tracking(t)
		f := flowTo(v6, 1)
		f.Zone = 3
		f.Reply = f.Orig.Inverse()
		f.Reply.Dst, f.Reply.DstPort = netip.MustParseAddr(choose(v6, "2001:db8:2::1", "203.0.113.1")), 4000
		want := create(t, table, f)
		create(t, table, flowTo(v6, 1)) // the same in zone 0
		tests := []struct {
			name string
			key  conntrack.Key
			err  error
		}{
			{"original tuple", conntrack.Key{Orig: f.Orig, Zone: 3}, nil},
			{"reply tuple", conntrack.Key{Reply: f.Reply, Zone: 3}, nil},
			{"id", conntrack.Key{ID: want.ID}, nil},
			{"id and tuple", want.Key(), nil},
			{"id and reply tuple", conntrack.Key{Reply: f.Reply, Zone: 3, ID: want.ID}, nil},
			{"tuple and another id", conntrack.Key{Orig: f.Orig, Zone: 3, ID: want.ID + 1}, conntrack.ErrNotFound},
			{"another id", conntrack.Key{ID: want.ID + 1}, conntrack.ErrNotFound},
			{"another tuple", conntrack.Key{Orig: flowTo(v6, 9).Orig, Zone: 3}, conntrack.ErrNotFound},
			{"another zone", conntrack.Key{Reply: f.Reply}, conntrack.ErrNotFound},
			{"nothing", conntrack.Key{}, conntrack.ErrNoKey},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				got, err := table.Get(within(t, 5*time.Second), tt.key)
				if !errors.Is(err, tt.err) {
					t.Fatalf("got %v, want %v", err, tt.err)
				}
				if err == nil && (got.ID != want.ID || got.Reply != want.Reply) {
					t.Errorf("got %+v, want %+v", got, want)
				}
			})
		}
	})
}
