package conntrack

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// filterSet holds the values of one field that are all meant, or all negated, so that looking one
// up costs the logarithm of their number. Which members are used depends on the field's kind.
type filterSet struct {
	nums   []numberRange       // sorted, apart
	v4     []v4Range           // sorted, apart
	v6     []v6Range           // sorted, apart
	masks  []maskedSet         // mark: one for each mask
	bits   Status              // status
	labels Labels              // label
	names  map[string]struct{} // helper, user
	name   string              // helper, user: the one name where there is one
	any    bool                // "*"
}

// numberRange, v4Range and v6Range hold both ends.
type (
	numberRange struct{ lo, hi uint64 }
	v4Range     struct{ lo, hi uint32 }
	v6Range     struct{ lo, hi netip.Addr }
)

// maskedSet is the marks that are meant under one mask.
type maskedSet struct {
	mask uint32
	nums []numberRange
}

// newFilterSet gathers the values of a term that are negated or not; nil where there are none.
func newFilterSet(t filterTerm, not bool) *filterSet {
	s := &filterSet{}
	n := 0
	for _, v := range t.values {
		if v.not != not {
			continue
		}
		n++
		s.any = s.any || v.any
		switch t.field.spec().kind {
		case kindStatus:
			s.bits |= Status(v.lo)
		case kindLabel:
			for i := v.lo; !v.any && i <= v.hi; i++ {
				s.labels.SetBit(int(i))
			}
		case kindText:
			if !v.any {
				s.addName(v.name)
			}
		}
	}
	if n == 0 {
		return nil
	}
	switch kind := t.field.spec().kind; kind {
	case kindAddr:
		s.addAddrs(t.values, not)
	case kindMark:
		s.addMarks(t.values, not)
	case kindState:
		s.nums = stateRanges(t.values, not)
	case kindStatus, kindLabel, kindText:
	default:
		s.nums = numberRanges(t.values, not)
	}
	return s
}

func (s *filterSet) addName(name string) {
	if s.name == "" && s.names == nil {
		s.name = name
		return
	}
	if s.names == nil {
		s.names = map[string]struct{}{s.name: {}}
		s.name = ""
	}
	s.names[name] = struct{}{}
}

func (s *filterSet) addAddrs(values []filterValue, not bool) {
	for _, v := range values {
		switch {
		case v.not != not:
		case v.from.Is4():
			s.v4 = append(s.v4, v4Range{v4Number(v.from), v4Number(v.to)})
		default:
			s.v6 = append(s.v6, v6Range{v.from, v.to})
		}
	}
	slices.SortFunc(s.v4, func(a, b v4Range) int { return cmp.Compare(a.lo, b.lo) })
	v4 := s.v4[:0]
	for _, r := range s.v4 {
		if n := len(v4); n > 0 && r.lo <= v4[n-1].hi {
			v4[n-1].hi = max(v4[n-1].hi, r.hi)
		} else {
			v4 = append(v4, r)
		}
	}
	slices.SortFunc(s.v6, func(a, b v6Range) int { return a.lo.Compare(b.lo) })
	v6 := s.v6[:0]
	for _, r := range s.v6 {
		if n := len(v6); n == 0 || v6[n-1].hi.Less(r.lo) {
			v6 = append(v6, r)
		} else if v6[n-1].hi.Less(r.hi) {
			v6[n-1].hi = r.hi
		}
	}
	s.v4, s.v6 = v4, v6
}

func (s *filterSet) addMarks(values []filterValue, not bool) {
	byMask := make(map[uint32][]filterValue)
	for _, v := range values {
		if v.not == not {
			byMask[v.mask] = append(byMask[v.mask], v)
		}
	}
	for mask, values := range byMask {
		s.masks = append(s.masks, maskedSet{mask, numberRanges(values, not)})
	}
	slices.SortFunc(s.masks, func(a, b maskedSet) int { return cmp.Compare(a.mask, b.mask) })
}

// numberRanges returns the ranges of the values that are negated or not, sorted and merged.
func numberRanges(values []filterValue, not bool) []numberRange {
	var all []numberRange
	for _, v := range values {
		if v.not == not {
			all = append(all, numberRange{v.lo, v.hi})
		}
	}
	return mergeRanges(all)
}

func mergeRanges(all []numberRange) []numberRange {
	slices.SortFunc(all, func(a, b numberRange) int { return cmp.Compare(a.lo, b.lo) })
	merged := all[:0]
	for _, r := range all {
		// lo-1 can't wrap: lo is 0 only where the ranges overlap anyway.
		if n := len(merged); n > 0 && (r.lo == 0 || r.lo-1 <= merged[n-1].hi) {
			merged[n-1].hi = max(merged[n-1].hi, r.hi)
		} else {
			merged = append(merged, r)
		}
	}
	return merged
}

// stateProtocols are the protocols with a state, see Protocol.HasState.
var stateProtocols = [...]Protocol{TCP, SCTP, DCCP}

// stateNumber joins protocol and state, as the same name has another number elsewhere.
func stateNumber(p Protocol, state uint8) uint64 { return uint64(p)<<8 | uint64(state) }

func stateRanges(values []filterValue, not bool) []numberRange {
	var all []numberRange
	for _, v := range values {
		for _, p := range stateProtocols {
			if state, ok := ParseState(p, v.name); ok && v.not == not {
				n := stateNumber(p, state)
				all = append(all, numberRange{n, n})
			}
		}
	}
	return mergeRanges(all)
}

// hasNumber tells whether n is in one of the ranges.
func hasNumber(ranges []numberRange, n uint64) bool {
	lo, hi := 0, len(ranges)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		switch r := &ranges[mid]; {
		case n < r.lo:
			hi = mid
		case n > r.hi:
			lo = mid + 1
		default:
			return true
		}
	}
	return false
}

func (s *filterSet) hasAddr(a netip.Addr) bool {
	if a.Is4() {
		n := v4Number(a)
		lo, hi := 0, len(s.v4)
		for lo < hi {
			mid := int(uint(lo+hi) / 2)
			switch r := &s.v4[mid]; {
			case n < r.lo:
				hi = mid
			case n > r.hi:
				lo = mid + 1
			default:
				return true
			}
		}
		return false
	}
	lo, hi := 0, len(s.v6)
	if !a.IsValid() {
		return false
	}
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		switch r := &s.v6[mid]; {
		case a.Less(r.lo):
			hi = mid
		case r.hi.Less(a):
			lo = mid + 1
		default:
			return true
		}
	}
	return false
}

func (s *filterSet) hasMark(mark uint32) bool {
	for i := range s.masks {
		if hasNumber(s.masks[i].nums, uint64(mark&s.masks[i].mask)) {
			return true
		}
	}
	return false
}

func (s *filterSet) hasName(name string) bool {
	switch {
	case name == "":
		return false
	case s.any || name == s.name:
		return true
	}
	_, ok := s.names[name]
	return ok
}

func (s *filterSet) hasLabel(l *Labels) bool {
	if s.any && !l.IsZero() {
		return true
	}
	for i := range l {
		if l[i]&s.labels[i] != 0 {
			return true
		}
	}
	return false
}

func v4Number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
