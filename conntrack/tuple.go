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

// ctattr_tuple, ctattr_ip and ctattr_l4proto (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaTupleIP    = 1 // CTA_TUPLE_IP
	ctaTupleProto = 2 // CTA_TUPLE_PROTO
	ctaTupleZone  = 3 // CTA_TUPLE_ZONE

	ctaIPv4Src = 1 // CTA_IP_V4_SRC
	ctaIPv4Dst = 2 // CTA_IP_V4_DST
	ctaIPv6Src = 3 // CTA_IP_V6_SRC
	ctaIPv6Dst = 4 // CTA_IP_V6_DST

	ctaProtoNum        = 1 // CTA_PROTO_NUM
	ctaProtoSrcPort    = 2 // CTA_PROTO_SRC_PORT
	ctaProtoDstPort    = 3 // CTA_PROTO_DST_PORT
	ctaProtoICMPID     = 4 // CTA_PROTO_ICMP_ID
	ctaProtoICMPType   = 5 // CTA_PROTO_ICMP_TYPE
	ctaProtoICMPCode   = 6 // CTA_PROTO_ICMP_CODE
	ctaProtoICMPv6ID   = 7 // CTA_PROTO_ICMPV6_ID
	ctaProtoICMPv6Type = 8 // CTA_PROTO_ICMPV6_TYPE
	ctaProtoICMPv6Code = 9 // CTA_PROTO_ICMPV6_CODE
)

func (d *decoder) decodeTuple(t *Tuple, unknown *[]Attribute, outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaTupleIP:
			ok = t.decodeIP(unknown, outer.typ, &a)
		case ctaTupleProto:
			ok = t.decodeProto(unknown, outer.typ, &a)
		case ctaTupleZone:
			ok = a.be16(&t.Zone)
		}
		if !ok {
			*unknown = append(*unknown, a.unknown(outer.typ))
		}
	}
	return a.err == nil
}

func (t *Tuple) decodeIP(unknown *[]Attribute, tuple uint16, outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaIPv4Src:
			ok = a.addr4(&t.Src)
		case ctaIPv4Dst:
			ok = a.addr4(&t.Dst)
		case ctaIPv6Src:
			ok = a.addr16(&t.Src)
		case ctaIPv6Dst:
			ok = a.addr16(&t.Dst)
		}
		if !ok {
			*unknown = append(*unknown, a.unknown(tuple, outer.typ))
		}
	}
	return a.err == nil
}

func (t *Tuple) decodeProto(unknown *[]Attribute, tuple uint16, outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaProtoNum:
			ok = a.u8((*uint8)(&t.Proto))
		case ctaProtoSrcPort:
			ok = a.be16(&t.SrcPort)
		case ctaProtoDstPort:
			ok = a.be16(&t.DstPort)
		case ctaProtoICMPID, ctaProtoICMPv6ID:
			ok = a.be16(&t.ICMPID)
		case ctaProtoICMPType, ctaProtoICMPv6Type:
			ok = a.u8(&t.ICMPType)
		case ctaProtoICMPCode, ctaProtoICMPv6Code:
			ok = a.u8(&t.ICMPCode)
		}
		if !ok {
			*unknown = append(*unknown, a.unknown(tuple, outer.typ))
		}
	}
	return a.err == nil
}

// appendTuple appends t as an attribute of type typ.
func appendTuple(b []byte, typ uint16, t *Tuple) []byte {
	start := len(b)
	b = beginNest(b, typ)
	b = appendIP(b, t)
	b = appendProto(b, t)
	if t.Zone != 0 {
		b = appendBE16(b, ctaTupleZone, t.Zone)
	}
	return endNest(b, start)
}

func appendIP(b []byte, t *Tuple) []byte {
	start := len(b)
	b = beginNest(b, ctaTupleIP)
	b = appendAddr(b, ctaIPv4Src, ctaIPv6Src, t.Src)
	b = appendAddr(b, ctaIPv4Dst, ctaIPv6Dst, t.Dst)
	return endNest(b, start)
}

// appendAddr appends an address under the type of its family, and nothing for none.
func appendAddr(b []byte, typ4, typ6 uint16, addr netip.Addr) []byte {
	switch {
	case addr.Is4():
		return appendAttr(b, typ4, addr.AsSlice())
	case addr.Is6():
		return appendAttr(b, typ6, addr.AsSlice())
	}
	return b
}

func appendProto(b []byte, t *Tuple) []byte {
	start := len(b)
	b = beginNest(b, ctaTupleProto)
	b = appendU8(b, ctaProtoNum, uint8(t.Proto))
	switch {
	case t.Proto.HasPorts(), t.Proto == GRE:
		b = appendBE16(b, ctaProtoSrcPort, t.SrcPort)
		b = appendBE16(b, ctaProtoDstPort, t.DstPort)
	case t.Proto == ICMP:
		b = appendBE16(b, ctaProtoICMPID, t.ICMPID)
		b = appendU8(b, ctaProtoICMPType, t.ICMPType)
		b = appendU8(b, ctaProtoICMPCode, t.ICMPCode)
	case t.Proto == ICMPv6:
		b = appendBE16(b, ctaProtoICMPv6ID, t.ICMPID)
		b = appendU8(b, ctaProtoICMPv6Type, t.ICMPType)
		b = appendU8(b, ctaProtoICMPv6Code, t.ICMPCode)
	}
	return endNest(b, start)
}
