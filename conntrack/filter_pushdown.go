package conntrack

import "net/netip"

// pushdown is the part of a filter that the kernel can decide by itself. It may let more through
// than the filter, never less.
type pushdown struct {
	family             Family // FamilyAny: both
	zone               *uint16
	mark, markMask     uint32 // markMask 0: not filtered
	status, statusMask Status // statusMask 0: not filtered; status may be 0 under a mask
	// orig and reply go to CTA_FILTER; without a family each is asked for. Only the fields whose
	// bit (filterFlag*) is set count. IPv6 addresses are never among them.
	orig, reply           Tuple
	origFlags, replyFlags uint32
}

// Bits of CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS: which fields of the tuple count
// (CTA_FILTER_F_* in net/netfilter/nf_internals.h, in native byte order). A bit of a port or of
// ICMP needs the one of the protocol.
const (
	filterFlagSrc        uint32 = 1 << 0  // CTA_FILTER_F_CTA_IP_SRC
	filterFlagDst        uint32 = 1 << 1  // CTA_FILTER_F_CTA_IP_DST
	filterFlagZone       uint32 = 1 << 2  // CTA_FILTER_F_CTA_TUPLE_ZONE
	filterFlagProto      uint32 = 1 << 3  // CTA_FILTER_F_CTA_PROTO_NUM
	filterFlagSrcPort    uint32 = 1 << 4  // CTA_FILTER_F_CTA_PROTO_SRC_PORT
	filterFlagDstPort    uint32 = 1 << 5  // CTA_FILTER_F_CTA_PROTO_DST_PORT
	filterFlagICMPType   uint32 = 1 << 6  // CTA_FILTER_F_CTA_PROTO_ICMP_TYPE
	filterFlagICMPCode   uint32 = 1 << 7  // CTA_FILTER_F_CTA_PROTO_ICMP_CODE
	filterFlagICMPID     uint32 = 1 << 8  // CTA_FILTER_F_CTA_PROTO_ICMP_ID
	filterFlagICMPv6Type uint32 = 1 << 9  // CTA_FILTER_F_CTA_PROTO_ICMPV6_TYPE
	filterFlagICMPv6Code uint32 = 1 << 10 // CTA_FILTER_F_CTA_PROTO_ICMPV6_CODE
	filterFlagICMPv6ID   uint32 = 1 << 11 // CTA_FILTER_F_CTA_PROTO_ICMPV6_ID
)

// pushdown returns what the kernel can filter of f: of each clause the fields with one exact
// value, and of several clauses what they have in common.
func (f Filter) pushdown() pushdown {
	if f.c == nil {
		return pushdown{}
	}
	p := f.c.clauses[0].pushdown()
	for i := range f.c.clauses[1:] {
		p = p.common(f.c.clauses[i+1].pushdown())
	}
	return p
}

func (c *filterClause) pushdown() pushdown {
	var p pushdown
	p.family = c.family()
	// To the kernel a zone of one direction is the flow's zone too, so that it would leave such
	// flows out where zone 0 is asked for.
	if v, ok := c.exact(fieldZone); ok && v.lo != 0 {
		zone := uint16(v.lo)
		p.zone = &zone
	}
	if v, ok := c.exact(fieldMark); ok {
		p.mark, p.markMask = uint32(v.lo), v.mask
	}
	if v, ok := c.exact(fieldStatus); ok {
		p.status, p.statusMask = Status(v.lo), Status(v.lo)
	} else if v, ok := c.exact(fieldNAT); ok {
		p.statusMask = StatusSNAT | StatusDNAT
		if v.lo&natSNAT != 0 {
			p.status |= StatusSNAT
		}
		if v.lo&natDNAT != 0 {
			p.status |= StatusDNAT
		}
	}
	if p.family == FamilyIPv4 {
		p.orig.Src, p.orig.Dst, p.origFlags = c.addrs(fieldSrc, fieldDst)
		p.reply.Src, p.reply.Dst, p.replyFlags = c.addrs(fieldReplySrc, fieldReplyDst)
	}
	c.pushProtocol(&p)
	return p
}

// exact returns the value of a field of which one value is meant. Negated values beside it only
// take flows away.
func (c *filterClause) exact(field fieldID) (v filterValue, ok bool) {
	for _, t := range c.terms {
		if t.field != field {
			continue
		}
		n := 0
		for i := range t.values {
			if !t.values[i].not {
				v = t.values[i]
				n++
			}
		}
		return v, n == 1 && v.lo == v.hi && v.from == v.to && !v.any
	}
	return v, false
}

// family returns the family that all flows of the clause have: the one asked for, or the one of
// the addresses.
func (c *filterClause) family() Family {
	if v, ok := c.exact(fieldFamily); ok {
		return Family(v.lo)
	}
	for _, t := range c.terms {
		if t.field.spec().kind != kindAddr {
			continue
		}
		v4, v6 := 0, 0
		for _, v := range t.values {
			switch {
			case v.not:
			case v.from.Is4():
				v4++
			default:
				v6++
			}
		}
		if v4 > 0 && v6 == 0 {
			return FamilyIPv4
		}
		if v6 > 0 && v4 == 0 {
			return FamilyIPv6
		}
	}
	return FamilyAny
}

// addrs returns the IPv4 addresses of one direction that are exact.
func (c *filterClause) addrs(src, dst fieldID) (s, d netip.Addr, flags uint32) {
	if v, ok := c.exact(src); ok && v.from.Is4() {
		s = v.from
		flags |= filterFlagSrc
	}
	if v, ok := c.exact(dst); ok && v.from.Is4() {
		d = v.from
		flags |= filterFlagDst
	}
	return s, d, flags
}

// pushProtocol adds the protocol, and what it makes comparable.
func (c *filterClause) pushProtocol(p *pushdown) {
	v, ok := c.exact(fieldProto)
	if !ok {
		return
	}
	proto := Protocol(v.lo)
	p.orig.Proto = proto
	p.origFlags |= filterFlagProto
	switch {
	case proto.HasPorts():
		c.pushPorts(&p.orig, &p.origFlags, fieldSPort, fieldDPort)
		c.pushPorts(&p.reply, &p.replyFlags, fieldReplySPort, fieldReplyDPort)
		if p.replyFlags&(filterFlagSrcPort|filterFlagDstPort) != 0 {
			p.reply.Proto = proto
			p.replyFlags |= filterFlagProto
		}
	case proto.IsICMP():
		typeFlag, codeFlag, known := filterFlagICMPType, filterFlagICMPCode, icmpInverse
		if proto == ICMPv6 {
			typeFlag, codeFlag, known = filterFlagICMPv6Type, filterFlagICMPv6Code, icmpv6Inverse
		}
		// The kernel refuses a type that it can't invert (EINVAL).
		if v, ok := c.exact(fieldICMPType); ok {
			if _, ok := known[uint8(v.lo)]; ok {
				p.orig.ICMPType = uint8(v.lo)
				p.origFlags |= typeFlag
			}
		}
		if v, ok := c.exact(fieldICMPCode); ok {
			p.orig.ICMPCode = uint8(v.lo)
			p.origFlags |= codeFlag
		}
	}
}

func (c *filterClause) pushPorts(t *Tuple, flags *uint32, src, dst fieldID) {
	if v, ok := c.exact(src); ok {
		t.SrcPort = uint16(v.lo)
		*flags |= filterFlagSrcPort
	}
	if v, ok := c.exact(dst); ok {
		t.DstPort = uint16(v.lo)
		*flags |= filterFlagDstPort
	}
}

// common returns what both p and q ask for.
func (p pushdown) common(q pushdown) pushdown {
	if p.family != q.family {
		p.family = FamilyAny
	}
	if p.zone == nil || q.zone == nil || *p.zone != *q.zone {
		p.zone = nil
	}
	p.markMask &= q.markMask &^ (p.mark ^ q.mark)
	p.mark &= p.markMask
	p.statusMask &= q.statusMask &^ (p.status ^ q.status)
	p.status &= p.statusMask
	p.orig, p.origFlags = commonTuple(p.orig, q.orig, p.origFlags&q.origFlags)
	p.reply, p.replyFlags = commonTuple(p.reply, q.reply, p.replyFlags&q.replyFlags)
	return p
}

// commonTuple returns the fields of flags in which a and b agree.
func commonTuple(a, b Tuple, flags uint32) (t Tuple, agreed uint32) {
	if flags&filterFlagSrc != 0 && a.Src == b.Src {
		t.Src = a.Src
		agreed |= filterFlagSrc
	}
	if flags&filterFlagDst != 0 && a.Dst == b.Dst {
		t.Dst = a.Dst
		agreed |= filterFlagDst
	}
	if flags&filterFlagProto == 0 || a.Proto != b.Proto {
		return t, agreed
	}
	t.Proto = a.Proto
	agreed |= filterFlagProto
	if flags&filterFlagSrcPort != 0 && a.SrcPort == b.SrcPort {
		t.SrcPort = a.SrcPort
		agreed |= filterFlagSrcPort
	}
	if flags&filterFlagDstPort != 0 && a.DstPort == b.DstPort {
		t.DstPort = a.DstPort
		agreed |= filterFlagDstPort
	}
	if a.ICMPType == b.ICMPType {
		t.ICMPType = a.ICMPType
		agreed |= flags & (filterFlagICMPType | filterFlagICMPv6Type)
	}
	if a.ICMPCode == b.ICMPCode {
		t.ICMPCode = a.ICMPCode
		agreed |= flags & (filterFlagICMPCode | filterFlagICMPv6Code)
	}
	return t, agreed
}
