package rpc

import (
	"net/netip"

	"ctd/conntrack"
)

// flowKey tells flows apart over time. The id alone does not: the kernel makes it of the entry's
// address in memory and its tuple, so that a new flow with the tuple of one that ended mostly gets
// its id too. The start differs. Where net.netfilter.nf_conntrack_timestamp is off there is none
// (0), and a flow that took the place of one with the same tuple and the same id can't be told from
// it.
//
// It holds no pointers and is small, because a million of them may be kept.
type flowKey struct {
	start      int64
	src, dst   [16]byte
	id         uint32
	a, b       uint16 // ports or keys; of ICMP the id, and type and code
	zone       uint16
	tupleZone  uint16
	proto      conntrack.Protocol
	is4, known bool
}

// keyOf returns the key of a flow.
func keyOf(f *conntrack.Flow) flowKey {
	t := &f.Orig
	k := flowKey{
		start: f.Start, id: f.ID, zone: f.Zone, tupleZone: t.Zone, proto: t.Proto,
		a: t.SrcPort, b: t.DstPort, is4: t.Src.Is4(), known: t.Src.IsValid() && t.Dst.IsValid(),
	}
	if k.known {
		k.src, k.dst = t.Src.As16(), t.Dst.As16()
	}
	if t.Proto.IsICMP() {
		k.a, k.b = t.ICMPID, uint16(t.ICMPType)<<8|uint16(t.ICMPCode)
	}
	return k
}

// key returns what names the flow to the table, which doesn't compare the start.
func (k *flowKey) key() conntrack.Key {
	t := conntrack.Tuple{Proto: k.proto, Zone: k.tupleZone}
	if k.known {
		t.Src, t.Dst = netip.AddrFrom16(k.src), netip.AddrFrom16(k.dst)
	}
	if k.is4 {
		t.Src, t.Dst = t.Src.Unmap(), t.Dst.Unmap()
	}
	if k.proto.IsICMP() {
		t.ICMPID, t.ICMPType, t.ICMPCode = k.a, uint8(k.b>>8), uint8(k.b)
	} else {
		t.SrcPort, t.DstPort = k.a, k.b
	}
	return conntrack.Key{Orig: t, Zone: k.zone, ID: k.id}
}
