package conntrack

import (
	"fmt"
	"net/netip"
)

// Tuple is one direction of a flow: what the kernel compares of a packet (struct
// nf_conntrack_tuple). It is comparable and can be a map's key.
//
// Which of the fields below the addresses mean something depends on Proto: ports for TCP, UDP,
// UDPLite, SCTP and DCCP; type, code and id for ICMP and ICMPv6; the keys for GRE; none for
// other protocols.
type Tuple struct {
	Src, Dst netip.Addr // both of one family, without zone
	Proto    Protocol

	// SrcPort and DstPort are in host order. For GRE they are the 16-bit keys (the call ids of
	// PPTP, 0 for plain GRE), as the kernel keeps them.
	SrcPort, DstPort uint16

	ICMPType, ICMPCode uint8
	ICMPID             uint16 // host order

	// Zone is the zone of this direction alone (CTA_TUPLE_ZONE); a zone for both directions is
	// Flow.Zone.
	Zone uint16
}

// IsZero tells whether t is the zero tuple, which no flow has.
func (t Tuple) IsZero() bool { return t == Tuple{} }

// Family returns the family of the tuple's addresses.
func (t Tuple) Family() Family {
	switch {
	case t.Src.Is4() || t.Dst.Is4():
		return FamilyIPv4
	case t.Src.Is6() || t.Dst.Is6():
		return FamilyIPv6
	}
	return FamilyAny
}

// icmpInverse maps a request's type to the reply's and back, as the kernel does when it inverts
// a tuple (invmap in nf_conntrack_proto_icmp.c and nf_conntrack_proto_icmpv6.c).
var (
	icmpInverse   = map[uint8]uint8{8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
	icmpv6Inverse = map[uint8]uint8{128: 129, 129: 128, 139: 140, 140: 139}
)

// Inverse returns the tuple of the packets that answer t, as it is without NAT. The tuple of an
// ICMP type that the kernel can't invert keeps its type.
func (t Tuple) Inverse() Tuple {
	r := t
	r.Src, r.Dst = t.Dst, t.Src
	r.SrcPort, r.DstPort = t.DstPort, t.SrcPort
	r.Zone = 0
	inverse := icmpInverse
	if t.Proto == ICMPv6 {
		inverse = icmpv6Inverse
	}
	if t.Proto.IsICMP() {
		if typ, ok := inverse[t.ICMPType]; ok {
			r.ICMPType = typ
		}
	}
	return r
}

// String returns the tuple in a form for messages: "tcp 10.0.0.1:1025 -> 10.0.0.2:80".
func (t Tuple) String() string {
	switch {
	case t.Proto.HasPorts():
		return fmt.Sprintf("%s %s -> %s", t.Proto,
			netip.AddrPortFrom(t.Src, t.SrcPort), netip.AddrPortFrom(t.Dst, t.DstPort))
	case t.Proto.IsICMP():
		return fmt.Sprintf("%s %s -> %s type %d code %d id %d", t.Proto, t.Src, t.Dst,
			t.ICMPType, t.ICMPCode, t.ICMPID)
	case t.Proto == GRE:
		return fmt.Sprintf("%s %s -> %s key %#x/%#x", t.Proto, t.Src, t.Dst, t.SrcPort, t.DstPort)
	}
	return fmt.Sprintf("%s %s -> %s", t.Proto, t.Src, t.Dst)
}
