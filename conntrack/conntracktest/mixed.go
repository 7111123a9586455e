package conntracktest

import (
	"net/netip"
	"testing"
	"time"

	"ctd/conntrack"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Mixed returns n flows that can be made by Table.Import, of all kinds: of both families, of each
// protocol that the kernel tracks, with and without translations, zones, marks, labels, helpers and
// masters. A flow with a master comes before it.
func Mixed(n int) []conntrack.Flow {
	flows := make([]conntrack.Flow, 0, n)
	for i := 0; len(flows) < n; i++ {
		f := mixed(i, i%len(mixedKinds), i/len(mixedKinds)%2 == 1)
		if i%len(mixedKinds) == relatedKind {
			// Its master is the FTP connection of the kind before, which comes after.
			last := len(flows) - 1
			f.Master, f.Status = flows[last].Orig, conntrack.StatusSeenReply
			flows = append(flows, flows[last])
			flows[last] = f
			continue
		}
		flows = append(flows, f)
	}
	return flows
}

// mixedKinds make of a plain TCP connection one of each kind; relatedKind is the one that gets a
// master, and comes after an FTP connection.
var mixedKinds = []func(f *conntrack.Flow){
	tcpState(1, 0, 0), // SYN_SENT
	tcpState(3, 10, 7),
	tcpState(4, 2, 14), // FIN_WAIT
	tcpState(7, 7, 7),  // TIME_WAIT
	func(f *conntrack.Flow) { tcpState(3, 1, 1)(f); f.Helper = "ftp" },
	datagrams(conntrack.UDP, 0), // related
	func(f *conntrack.Flow) { tcpState(3, 1, 1)(f); f.Status |= conntrack.StatusFixedTimeout },
	datagrams(conntrack.UDP, 0),
	datagrams(conntrack.UDP, conntrack.StatusSeenReply|conntrack.StatusAssured),
	datagrams(conntrack.UDPLite, conntrack.StatusSeenReply),
	func(f *conntrack.Flow) {
		datagrams(conntrack.SCTP, conntrack.StatusSeenReply|conntrack.StatusAssured)(f)
		f.State, f.SCTP = 4, conntrack.SCTPInfo{VTag: [2]uint32{0x80c11e01, 7}}
		f.Set(conntrack.AttrState | conntrack.AttrSCTP)
	},
	func(f *conntrack.Flow) { datagrams(conntrack.GRE, 0)(f); f.Orig.DstPort = 0x8001 },
	func(f *conntrack.Flow) {
		datagrams(conntrack.ICMP, 0)(f)
		f.Orig.ICMPType, f.Orig.ICMPID = 8, f.Orig.SrcPort
		if f.Orig.Src.Is6() {
			f.Orig.Proto, f.Orig.ICMPType = conntrack.ICMPv6, 128
		}
		f.Orig.SrcPort, f.Orig.DstPort = 0, 0
	},
	func(f *conntrack.Flow) { tcpState(3, 7, 7)(f); translate(f, true, false) },
	func(f *conntrack.Flow) { tcpState(3, 7, 7)(f); translate(f, false, true) },
	func(f *conntrack.Flow) { datagrams(conntrack.UDP, 0)(f); translate(f, true, true) },
	func(f *conntrack.Flow) { datagrams(conntrack.UDP, 0)(f); f.Zone = 7 },
	func(f *conntrack.Flow) { datagrams(conntrack.UDP, 0)(f); f.Orig.Zone = 8 },
	func(f *conntrack.Flow) { datagrams(conntrack.UDP, 0)(f); f.Reply = f.Orig.Inverse(); f.Reply.Zone = 9 },
	func(f *conntrack.Flow) {
		tcpState(3, 7, 7)(f)
		f.Mark = 0xfffffff0
		f.Labels.SetBit(0)
		f.Labels.SetBit(127)
		f.Set(conntrack.AttrMark | conntrack.AttrLabels)
	},
	func(f *conntrack.Flow) {
		tcpState(3, 7, 7)(f)
		f.SeqAdj = [2]conntrack.SeqAdj{{CorrectionPos: 1 << 31, OffsetBefore: -3, OffsetAfter: 4}, {CorrectionPos: 7, OffsetAfter: 1}}
		f.SynProxy = conntrack.SynProxy{ISN: 1 << 31, ITS: 2, TSOff: 3}
		f.Set(conntrack.AttrSeqAdj | conntrack.AttrSynProxy)
	},
	func(f *conntrack.Flow) { // another protocol
		datagrams(50, 0)(f)
		// It has addresses alone to be told apart by.
		a := f.Orig.Src.AsSlice()
		a[len(a)-2], a[len(a)-1] = byte(f.Orig.SrcPort>>8), byte(f.Orig.SrcPort)
		f.Orig.Src, _ = netip.AddrFromSlice(a)
		f.Orig.SrcPort, f.Orig.DstPort = 0, 0
	},
}

// relatedKind is the place in mixedKinds that follows the FTP connection.
const relatedKind = 5

func mixed(i, kind int, v6 bool) conntrack.Flow {
	f := conntrack.Flow{
		Orig: conntrack.Tuple{
			Src: pick(v6, clientIPv6, clientIPv4), Dst: pick(v6, serverIPv6, serverIPv4), Proto: conntrack.TCP,
			SrcPort: uint16(1024 + i), DstPort: 80,
		},
		Timeout: time.Duration(600+i) * time.Second,
	}
	mixedKinds[kind](&f)
	return f
}

// tcpState gives a connection a state, and window scales past its first packet.
func tcpState(state, orig, reply uint8) func(f *conntrack.Flow) {
	return func(f *conntrack.Flow) {
		f.State = state
		f.Set(conntrack.AttrState)
		if state == 1 {
			return
		}
		f.Status = conntrack.StatusSeenReply | conntrack.StatusAssured
		const flags = conntrack.TCPFlagWindowScale | conntrack.TCPFlagSACK
		f.TCP = conntrack.TCPInfo{WScale: [2]uint8{orig, reply}, Flags: [2]uint8{flags, flags | conntrack.TCPFlagCloseInit}}
		f.Set(conntrack.AttrTCP)
	}
}

func datagrams(p conntrack.Protocol, status conntrack.Status) func(f *conntrack.Flow) {
	return func(f *conntrack.Flow) {
		f.Orig.Proto, f.Status = p, status
		if !p.HasPorts() {
			f.Orig.DstPort = 0
		}
	}
}

// translate gives a flow other addresses and ports.
func translate(f *conntrack.Flow, source, destination bool) {
	f.Reply = f.Orig.Inverse()
	v6 := f.Orig.Src.Is6()
	if source {
		f.Reply.Dst, f.Reply.DstPort = pick(v6, serverGate6, serverGate4), f.Orig.SrcPort+20000
	}
	if destination {
		f.Reply.Src, f.Reply.SrcPort = netip.MustParseAddr(pick(v6, "fd00:3::1", "10.3.0.1")), 8080
	}
}

// SameFlows fails the test where two tables don't hold the same flows, field by field, but for what
// can't be carried from one to the other. Timeouts may be some seconds apart.
func SameFlows(t testing.TB, want, got []conntrack.Flow) {
	t.Helper()
	type key struct {
		orig conntrack.Tuple
		zone uint16
	}
	found := map[key]conntrack.Flow{}
	for _, f := range got {
		found[key{f.Orig, f.Zone}] = f
	}
	if len(want) != len(got) || len(found) != len(got) {
		t.Errorf("%d flows (%d of them different), want %d", len(got), len(found), len(want))
	}
	carried := func(f conntrack.Flow) conntrack.Flow {
		f.ID, f.Use, f.Start, f.Stop = 0, 0, 0, 0
		f.OrigCounter, f.ReplyCounter = conntrack.Counter{}, conntrack.Counter{}
		for i := range f.TCP.Flags {
			f.TCP.Flags[i] &^= conntrack.TCPFlagBeLiberal // Import adds it
		}
		return f
	}
	opts := append(compare(), cmpopts.IgnoreUnexported(conntrack.Flow{}))
	for _, f := range want {
		if d := cmp.Diff(carried(f), carried(found[key{f.Orig, f.Zone}]), opts); d != "" {
			t.Errorf("%s (-want +got):\n%s", f.Orig, d)
		}
	}
}
