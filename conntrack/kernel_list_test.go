package conntrack_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	timo "github.com/ti-mo/conntrack"
)

// TestKernelList sends traffic of every protocol through a router and holds what is listed
// against conntrack(8), field by field.
func TestKernelList(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		for _, nat := range []string{"", "snat", "dnat", "both"} {
			t.Run("nat "+nat, func(t *testing.T) {
				t.Parallel()
				tp := conntracktest.NewTopology(t)
				p := conntracktest.Path{V6: v6}
				if nat == "snat" || nat == "both" {
					tp.SNAT(choose(v6, "ip6", "ip")+" saddr "+tp.ClientAddr(v6).String(), netip.AddrPortFrom(tp.RouterAddr(v6), 0))
				}
				if nat == "dnat" || nat == "both" {
					virtual := netip.MustParseAddr(choose(v6, "2001:db8::99", "198.51.100.99"))
					tp.DNAT(choose(v6, "ip6", "ip")+" daddr "+virtual.String(), netip.AddrPortFrom(tp.ServerAddr(v6), 0))
					p.Via = netip.AddrPortFrom(virtual, 0)
				}
				want := everyProtocol(tp, p)
				conntracktest.Quiesce(t, tp.Router)
				got := map[conntrack.Protocol]int{}
				for _, f := range agree(t, tp.Router, open(t, tp.Router)) {
					got[f.Proto()]++
					if f.Status.NAT() != nat {
						t.Errorf("%s: NAT is %q, want %q", f.Orig, f.Status.NAT(), nat)
					}
					if len(f.Unknown) > 0 {
						t.Errorf("%s: unknown attributes %v", f.Orig, f.Unknown)
					}
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("flows by protocol (-want +got):\n%s", d)
				}
			})
		}
	})
}

// everyProtocol sends something of each protocol and returns how many flows of each that makes.
func everyProtocol(tp *conntracktest.Topology, p conntracktest.Path) map[conntrack.Protocol]int {
	tp.TCP(p)
	tp.UDP(p)
	tp.UDPLite(p)
	tp.SCTP(p)
	tp.Ping(p, 4711)
	tp.GRE(p)
	tp.PPTP(p, 0x1234)
	tp.Protocol(p, 253)
	return map[conntrack.Protocol]int{
		conntrack.TCP: 1, conntrack.UDP: 1, conntrack.UDPLite: 1, conntrack.SCTP: 1,
		choose(p.V6, conntrack.ICMPv6, conntrack.ICMP): 1, conntrack.GRE: 2, 253: 1,
	}
}

// TestKernelListAttributes lists flows with a mark, labels, zones, helper and master.
func TestKernelListAttributes(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		tp := conntracktest.NewTopology(t)
		tp.Mark("tcp dport 7001", 0xdeadbeef)
		tp.Label("tcp dport 7001", 0)
		tp.Label("tcp dport 7001", 33)
		tp.Label("tcp dport 7001", 127)
		for _, match := range []string{"tcp dport 7002", "tcp sport 7002"} {
			tp.Zone(match, "", 65535)
		}
		tp.Zone("tcp dport 7003", "original", 7)
		tp.Zone("udp sport 7004", "reply", 8)
		tp.Helper("tcp dport 7005", "q931")
		for port := range uint16(5) {
			tp.TCP(conntracktest.Path{V6: v6, Port: 7001 + port})
		}
		control := tp.FTPControl(conntracktest.Path{V6: v6}, 2100)
		data := tp.FTPData(conntracktest.Path{V6: v6}, 2100)
		conntracktest.Quiesce(t, tp.Router)

		table := open(t, tp.Router)
		flows := agree(t, tp.Router, table)
		byPort := map[uint16]conntrack.Flow{}
		for _, f := range flows {
			byPort[f.Orig.DstPort] = f
		}
		if f := byPort[7001]; f.Mark != 0xdeadbeef || f.Labels.String() != "0,33,127" {
			t.Errorf("mark %#x and labels %s", f.Mark, f.Labels.String())
		}
		if f := byPort[7002]; f.Zone != 65535 || f.Orig.Zone != 0 {
			t.Errorf("zone %d, %d of the original direction", f.Zone, f.Orig.Zone)
		}
		if f := byPort[7003]; f.Orig.Zone != 7 || f.Reply.Zone != 0 || f.Zone != 0 {
			t.Errorf("zones %d and %d by direction, %d of both", f.Orig.Zone, f.Reply.Zone, f.Zone)
		}
		if f := byPort[7005]; f.Helper != "Q.931" {
			t.Errorf("helper %q", f.Helper)
		}
		related := byPort[2100]
		master := conntrack.Tuple{
			Src: control.Local.Addr(), Dst: control.Remote.Addr(), Proto: conntrack.TCP,
			SrcPort: control.Local.Port(), DstPort: 21,
		}
		if related.Master != master || related.Status&conntrack.StatusExpected == 0 || related.Orig.SrcPort != data.Local.Port() {
			t.Errorf("related flow: %+v, want the master %s", related, master)
		}
		secondOpinion(t, tp.Router, flows)
	})
}

// TestKernelSecondOpinion compares with ti-mo/conntrack what conntrack(8) does not show.
func TestKernelSecondOpinion(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		tp := conntracktest.NewTopology(t)
		tp.Masquerade("meta l4proto tcp")
		everyProtocol(tp, conntracktest.Path{V6: v6})
		conntracktest.Quiesce(t, tp.Router)
		flows := list(t, open(t, tp.Router), conntrack.Filter{})
		secondOpinion(t, tp.Router, flows)
		tags := [2]uint32{conntracktest.SCTPServerTag, conntracktest.SCTPClientTag}
		for _, f := range flows {
			if f.Proto() == conntrack.SCTP && f.SCTP.VTag != tags {
				t.Errorf("SCTP tags: got %#x, want %#x", f.SCTP.VTag, tags)
			}
		}
	})
}

// opinion is what is compared with ti-mo/conntrack.
type opinion struct {
	Orig, Reply, Master [2]netip.AddrPort
	Status              uint32
	WScale              [2]uint8
	TCPFlags            [2]uint8
	VTag                [2]uint32
	State               uint8
	Mark, Use           uint32
	Start               time.Time
	Helper              string
}

func secondOpinion(t testing.TB, ns *conntracktest.NS, flows []conntrack.Flow) {
	t.Helper()
	var theirs []timo.Flow
	ns.Do(func() {
		c, err := timo.Dial(&netlink.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if theirs, err = c.Dump(nil); err != nil {
			t.Fatal(err)
		}
	})
	want, got := map[uint32]opinion{}, map[uint32]opinion{}
	for _, f := range theirs {
		o := opinion{
			Orig: timoAddrs(f.TupleOrig), Reply: timoAddrs(f.TupleReply), Master: timoAddrs(f.TupleMaster),
			Status: uint32(f.Status), Mark: f.Mark, Use: f.Use, Start: f.Timestamp.Start.UTC(), Helper: f.Helper.Name,
		}
		if p := f.ProtoInfo.TCP; p != nil {
			o.State = p.State
			o.WScale = [2]uint8{p.OriginalWindowScale, p.ReplyWindowScale}
			o.TCPFlags = [2]uint8{uint8(p.OriginalFlags >> 8), uint8(p.ReplyFlags >> 8)} // flags, mask
		}
		if p := f.ProtoInfo.SCTP; p != nil {
			o.State, o.VTag = p.State, [2]uint32{p.VTagOriginal, p.VTagReply}
		}
		want[f.ID] = o
	}
	for _, f := range flows {
		got[f.ID] = opinion{
			Orig: addrs(f.Orig), Reply: addrs(f.Reply), Master: addrs(f.Master), Status: uint32(f.Status),
			WScale: f.TCP.WScale, TCPFlags: f.TCP.Flags, VTag: f.SCTP.VTag, State: f.State,
			Mark: f.Mark, Use: f.Use, Start: f.StartTime(), Helper: f.Helper,
		}
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("flows (-ti-mo +listed):\n%s", d)
	}
}

func addrs(t conntrack.Tuple) [2]netip.AddrPort {
	if !t.Proto.HasPorts() { // ti-mo doesn't read the keys of GRE
		t.SrcPort, t.DstPort = 0, 0
	}
	return [2]netip.AddrPort{netip.AddrPortFrom(t.Src, t.SrcPort), netip.AddrPortFrom(t.Dst, t.DstPort)}
}

func timoAddrs(t timo.Tuple) [2]netip.AddrPort {
	if !conntrack.Protocol(t.Proto.Protocol).HasPorts() {
		t.Proto.SourcePort, t.Proto.DestinationPort = 0, 0
	}
	return [2]netip.AddrPort{
		netip.AddrPortFrom(t.IP.SourceAddress, t.Proto.SourcePort),
		netip.AddrPortFrom(t.IP.DestinationAddress, t.Proto.DestinationPort),
	}
}

// TestKernelTables lists the tables of dying and unconfirmed flows, which are mostly empty: since
// Linux 5.19 the kernel keeps in the first only flows whose end an event listener could not be
// told, and none in the second.
func TestKernelTables(t *testing.T) {
	conntracktest.Kernel(t)
	t.Parallel()
	tp := conntracktest.NewTopology(t)
	table := open(t, tp.Router)
	for _, source := range []conntrack.Source{conntrack.Dying, conntrack.Unconfirmed} {
		name := map[conntrack.Source]string{conntrack.Dying: "dying", conntrack.Unconfirmed: "unconfirmed"}[source]
		flows := list(t, table, conntrack.Filter{}, conntrack.From(source))
		entries := conntracktest.Oracle(t, tp.Router, name)
		if d := conntracktest.DiffAll(flows, entries); d != "" {
			t.Errorf("%s (-conntrack(8) +listed):\n%s", name, d)
		}
	}
}

// TestKernelZeroing resets counters by listing.
func TestKernelZeroing(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		tp := conntracktest.NewTopology(t)
		tp.UDP(conntracktest.Path{V6: v6})
		table := open(t, tp.Router)
		scanned := 0
		before := list(t, table, conntrack.Filter{}, conntrack.Zeroing(), conntrack.CountScanned(&scanned))
		if len(before) != 1 || scanned != 1 || before[0].OrigCounter.Packets != 2 || before[0].ReplyCounter.Packets != 2 {
			t.Fatalf("listed with reset: %d scanned, %+v", scanned, before)
		}
		if e := oracleOf(t, tp.Router, before[0].Orig, 0); e.OrigCounter != (conntrack.Counter{}) || e.ReplyCounter != (conntrack.Counter{}) {
			t.Errorf("counters after: %+v %+v", e.OrigCounter, e.ReplyCounter)
		}
	})
}

// TestKernelWithin: what is outside isn't counted, and keeps its counters.
func TestKernelWithin(t *testing.T) {
	tp := conntracktest.NewTopology(t)
	tp.UDP(conntracktest.Path{})
	tp.UDP(conntracktest.Path{V6: true})
	table := open(t, tp.Router)
	inside, err := conntrack.ParseFilter("addr=" + tp.ClientAddr(true).String())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := table.Count(t.Context(), conntrack.Filter{}, conntrack.Within(inside)); n != 1 || err != nil {
		t.Errorf("counted %d, %v", n, err)
	}
	scanned := 0
	zeroed := list(t, table, conntrack.Filter{}, conntrack.Within(inside), conntrack.Zeroing(), conntrack.CountScanned(&scanned))
	if len(zeroed) != 1 || scanned != 1 || zeroed[0].Family() != conntrack.FamilyIPv6 {
		t.Fatalf("%d scanned, %+v", scanned, zeroed)
	}
	for _, f := range list(t, table, conntrack.Filter{}) {
		if zero := f.OrigCounter == (conntrack.Counter{}); zero != (f.Family() == conntrack.FamilyIPv6) {
			t.Errorf("%s has %+v", f.Orig, f.OrigCounter)
		}
	}
}

// TestKernelNetNSStays holds that no thread is left behind in the table's namespace, the main
// thread least of all: it stands for the process.
func TestKernelNetNSStays(t *testing.T) {
	_, table := tracking(t)
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if _, err := table.Sysctl("nf_conntrack_max"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range append(tasks, "/proc/self/ns/net") {
		// A thread may have ended since.
		if after, err := os.Readlink(task); err == nil && after != before {
			t.Errorf("%s is %s, want %s", task, after, before)
		}
	}
}

// TestKernelNetNS opens a table by name, by path and from inside.
func TestKernelNetNS(t *testing.T) {
	conntracktest.Kernel(t)
	t.Parallel()
	ns, byName := tracking(t)
	made := create(t, byName, flowTo(false, 0))
	byPath, err := conntrack.Open(conntrack.Config{NetNS: ns.Path()})
	if err != nil {
		t.Fatal(err)
	}
	defer byPath.Close()
	var inside *conntrack.Table
	ns.Do(func() { inside, err = conntrack.Open(conntrack.Config{}) })
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	for name, table := range map[string]*conntrack.Table{"by name": byName, "by path": byPath} {
		if got, err := table.Get(t.Context(), made.Key()); err != nil || got.ID != made.ID {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
		s, err := table.Stats(within(t, 5*time.Second))
		if err != nil || s.Entries != 1 || s.Max == 0 {
			t.Errorf("%s: statistics: %v, %+v", name, err, s)
		}
	}
	ns.Do(func() {
		if got, err := inside.Get(t.Context(), made.Key()); err != nil || got.ID != made.ID {
			t.Errorf("inside: %v, %+v", err, got)
		}
	})
	if _, err := conntrack.Open(conntrack.Config{NetNS: ns.Name() + "-none"}); err == nil {
		t.Error("a namespace that isn't there was opened")
	}
}
