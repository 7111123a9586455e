package conntrack

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// filterCond is a term in the form that Match runs: the values that are meant and those that are
// negated.
type filterCond struct {
	field    fieldID
	pos, neg *filterSet // nil: none
}

// compileConds returns the conditions of terms, those first that cost little.
func compileConds(terms []filterTerm) []filterCond {
	conds := make([]filterCond, len(terms))
	for i, t := range terms {
		conds[i] = filterCond{t.field, newFilterSet(t, false), newFilterSet(t, true)}
	}
	slices.SortStableFunc(conds, func(a, b filterCond) int {
		return cmp.Compare(a.cost(), b.cost())
	})
	return conds
}

func (c *filterCond) cost() int {
	switch c.field {
	case fieldAddr, fieldNet, fieldPort, fieldGREKey:
		return 2
	case fieldHelper, fieldUser, fieldLabel:
		return 3
	}
	if c.field.spec().kind == kindAddr {
		return 1
	}
	return 0
}

func (c *filterClause) match(fl *Flow, now int64) bool {
	for i := range c.conds {
		if !c.conds[i].match(fl, now) {
			return false
		}
	}
	return true
}

// match tells whether a flow has one of the values that are meant and none that is negated.
func (c *filterCond) match(fl *Flow, now int64) bool {
	switch c.field {
	case fieldSrc:
		return c.addr(fl.Orig.Src)
	case fieldDst:
		return c.addr(fl.Orig.Dst)
	case fieldReplySrc:
		return c.addr(fl.Reply.Src)
	case fieldReplyDst:
		return c.addr(fl.Reply.Dst)
	case fieldAddr, fieldNet:
		return c.addrs(fl.Addrs())
	case fieldPort:
		return c.ports(fl, fl.Orig.Proto.HasPorts())
	case fieldGREKey:
		return c.ports(fl, fl.Orig.Proto == GRE)
	case fieldMark:
		return c.decide(c.pos != nil && c.pos.hasMark(fl.Mark), c.neg != nil && c.neg.hasMark(fl.Mark))
	case fieldStatus:
		return c.decide(c.pos != nil && fl.Status&c.pos.bits != 0, c.neg != nil && fl.Status&c.neg.bits != 0)
	case fieldLabel:
		return c.decide(c.pos != nil && c.pos.hasLabel(&fl.Labels), c.neg != nil && c.neg.hasLabel(&fl.Labels))
	case fieldHelper:
		return c.name(fl.Helper)
	case fieldUser:
		return c.name(fl.User)
	}
	n, ok := flowNumber(fl, c.field, now)
	if !ok {
		return c.pos == nil && !c.field.spec().kind.compares()
	}
	return c.decide(c.pos != nil && hasNumber(c.pos.nums, n), c.neg != nil && hasNumber(c.neg.nums, n))
}

// decide joins what the two sets say.
func (c *filterCond) decide(pos, neg bool) bool { return (c.pos == nil || pos) && !neg }

func (c *filterCond) addr(a netip.Addr) bool {
	return (c.pos == nil || c.pos.hasAddr(a)) && (c.neg == nil || !c.neg.hasAddr(a))
}

func (c *filterCond) addrs(places [4]netip.Addr) bool {
	var pos, neg bool
	for _, a := range places {
		pos = pos || c.pos != nil && c.pos.hasAddr(a)
		neg = neg || c.neg != nil && c.neg.hasAddr(a)
	}
	return c.decide(pos, neg)
}

func (c *filterCond) ports(fl *Flow, has bool) bool {
	if !has {
		return c.pos == nil
	}
	var pos, neg bool
	for _, p := range [4]uint16{fl.Orig.SrcPort, fl.Orig.DstPort, fl.Reply.SrcPort, fl.Reply.DstPort} {
		pos = pos || c.pos != nil && hasNumber(c.pos.nums, uint64(p))
		neg = neg || c.neg != nil && hasNumber(c.neg.nums, uint64(p))
	}
	return c.decide(pos, neg)
}

func (c *filterCond) name(s string) bool {
	return c.decide(c.pos != nil && c.pos.hasName(s), c.neg != nil && c.neg.hasName(s))
}

// flowNumber returns the value of a field that is one number; ok is false where the flow doesn't
// have it or the kernel did not say.
func flowNumber(fl *Flow, field fieldID, now int64) (n uint64, ok bool) {
	switch field {
	case fieldFamily:
		return uint64(fl.Family()), true
	case fieldProto:
		return uint64(fl.Orig.Proto), true
	case fieldSPort:
		return uint64(fl.Orig.SrcPort), fl.Orig.Proto.HasPorts()
	case fieldDPort:
		return uint64(fl.Orig.DstPort), fl.Orig.Proto.HasPorts()
	case fieldReplySPort:
		return uint64(fl.Reply.SrcPort), fl.Orig.Proto.HasPorts()
	case fieldReplyDPort:
		return uint64(fl.Reply.DstPort), fl.Orig.Proto.HasPorts()
	case fieldFlowID:
		return uint64(fl.ID), true
	case fieldZone:
		return uint64(fl.Zone), true
	case fieldState:
		return stateNumber(fl.Orig.Proto, fl.State), fl.Has(AttrState)
	case fieldNAT:
		return natNumber(fl.Status), true
	case fieldICMPType:
		return uint64(fl.Orig.ICMPType), fl.Orig.Proto.IsICMP()
	case fieldICMPCode:
		return uint64(fl.Orig.ICMPCode), fl.Orig.Proto.IsICMP()
	case fieldTimeout:
		return uint64(max(fl.Timeout, 0) / time.Second), fl.Has(AttrTimeout)
	case fieldBytes:
		return addSaturated(fl.OrigCounter.Bytes, fl.ReplyCounter.Bytes), fl.Has(AttrCounters)
	case fieldPackets:
		return addSaturated(fl.OrigCounter.Packets, fl.ReplyCounter.Packets), fl.Has(AttrCounters)
	case fieldAge:
		return uint64(max(now-fl.Start, 0)) / uint64(time.Second), fl.Start != 0
	case fieldRate:
		return wholeNumber(fl.OrigRate + fl.ReplyRate), fl.Has(AttrRate)
	}
	return 0, false
}

func natNumber(s Status) uint64 {
	n := uint64(natNone)
	if s&StatusSNAT != 0 {
		n |= natSNAT
	}
	if s&StatusDNAT != 0 {
		n |= natDNAT
	}
	return n
}

func addSaturated(a, b uint64) uint64 {
	if sum := a + b; sum >= a {
		return sum
	}
	return maxUint64
}

// wholeNumber drops the fraction; what is out of range becomes the end of the range.
func wholeNumber(f float64) uint64 {
	switch {
	case !(f > 0): // NaN too
		return 0
	case f >= 1<<64:
		return maxUint64
	}
	return uint64(f)
}
