package conntrack

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// filterValue is one value of a field.
type filterValue struct {
	not  bool
	any  bool   // "*"
	text string // as it is printed, without "!"

	lo, hi   uint64     // numbers, states apart: the range that is meant
	mask     uint32     // mark: which bits count
	from, to netip.Addr // addresses: the range that is meant
	name     string     // state, helper, user: as it is compared
}

// The values of Status.NAT as numbers.
const (
	natNone = iota
	natSNAT
	natDNAT
	natBoth
)

// parseValue reads one value of a field.
func parseValue(spec *FilterField, raw rawValue) (filterValue, error) {
	v := filterValue{not: raw.not}
	bad := func(msg, hint string) (filterValue, error) {
		return filterValue{}, &FilterError{Field: spec.Name, Value: clip(raw.text), Msg: msg, Hint: hint}
	}
	s := raw.text
	switch spec.kind {
	case kindFamily:
		f, ok := ParseFamily(s)
		if !ok || f == FamilyAny {
			return bad("not an address family", "ipv4 or ipv6; leave the field out for both")
		}
		v.text, v.lo, v.hi = f.String(), uint64(f), uint64(f)

	case kindProto:
		p, ok := ParseProtocol(s)
		if !ok {
			return bad("not a protocol", nearHint(s, protocolNameList(), "a name like tcp, or a number from 0 to 255"))
		}
		v.text, v.lo, v.hi = p.String(), uint64(p), uint64(p)

	case kindAddr:
		var ok bool
		if v.from, v.to, v.text, ok = parseAddrs(s); !ok {
			return bad("not an address or network", "an address (10.0.0.1, 2001:db8::1), a network (10.0.0.0/8) or a range (10.0.0.1-10.0.0.9)")
		}

	case kindNumber, kindLabel:
		if spec.kind == kindLabel && s == "*" && !raw.quoted {
			v.any, v.text = true, s
			break
		}
		var ok bool
		if v.lo, v.hi, ok = parseNumbers(s, spec.max); !ok {
			return bad("not a number or range", fmt.Sprintf("a number from 0 to %d, or a range like 3-7", spec.max))
		}
		v.text = rangeText(v.lo, v.hi)

	case kindMark:
		if !v.parseMark(s) {
			return bad("not a mark", "a number (16, 0x10), value/mask (0x10/0xf0; the mask not 0 and the value within it) or a range")
		}

	case kindState:
		if !v.parseState(s) {
			return bad("not a connection state", nearHint(s, allStateNames(), "a state like ESTABLISHED, or a number from 0 to 255"))
		}

	case kindStatus:
		bit, ok := ParseStatusBit(s)
		if !ok {
			hint := nearHint(s, statusNames[:], "one of "+strings.Join(statusNames[:], ", ")+", or a bit's number")
			if strings.EqualFold(s, "unreplied") {
				hint = "write !seen_reply"
			}
			return bad("not a status bit", hint)
		}
		v.text, v.lo, v.hi = bit.String(), uint64(bit), uint64(bit)

	case kindNAT:
		switch strings.ToLower(s) {
		case "none", "false":
			v.text, v.lo, v.hi = "none", natNone, natNone
		case "any", "true":
			v.text, v.lo, v.hi = "any", natSNAT, natBoth
		case "snat":
			v.text, v.lo, v.hi = "snat", natSNAT, natSNAT
		case "dnat":
			v.text, v.lo, v.hi = "dnat", natDNAT, natDNAT
		case "both":
			v.text, v.lo, v.hi = "both", natBoth, natBoth
		default:
			return bad("not a kind of translation", "snat, dnat, both, any or none")
		}

	case kindText:
		v.name, v.text = s, quoteText(s)
		if s == "*" && !raw.quoted {
			v.any, v.name, v.text = true, "", s
		}

	default:
		if msg, hint := v.parseComparison(spec.kind, s); msg != "" {
			return bad(msg, hint)
		}
	}
	return v, nil
}

// quoteText quotes a text where the text form needs it.
func quoteText(s string) string {
	if s != "*" && !strings.HasPrefix(s, "!") && !strings.ContainsAny(s, filterSpace+`,"`) &&
		strings.TrimSpace(s) == s {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// parseUint reads a number up to limit, decimal or hexadecimal with 0x.
func parseUint(s string, limit uint64) (uint64, bool) {
	base := 10
	if len(s) > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') {
		s, base = s[2:], 16
	}
	n, err := strconv.ParseUint(s, base, 64)
	return n, err == nil && n <= limit
}

// parseNumbers reads a number or a range of them.
func parseNumbers(s string, limit uint64) (lo, hi uint64, ok bool) {
	from, to, isRange := strings.Cut(s, "-")
	if lo, ok = parseUint(from, limit); !ok || !isRange {
		return lo, lo, ok
	}
	hi, ok = parseUint(to, limit)
	return lo, hi, ok && lo <= hi
}

func rangeText(lo, hi uint64) string {
	if lo == hi {
		return strconv.FormatUint(lo, 10)
	}
	return strconv.FormatUint(lo, 10) + "-" + strconv.FormatUint(hi, 10)
}

// parseMark reads a mark, value/mask or a range of marks.
func (v *filterValue) parseMark(s string) bool {
	value, mask, masked := strings.Cut(s, "/")
	v.mask = maxUint32
	var ok bool
	if !masked {
		v.lo, v.hi, ok = parseNumbers(s, maxUint32)
		v.text = rangeText(v.lo, v.hi)
		return ok
	}
	if v.lo, ok = parseUint(value, maxUint32); !ok {
		return false
	}
	m, ok := parseUint(mask, maxUint32)
	if !ok || m == 0 || v.lo&^m != 0 {
		return false
	}
	v.hi, v.mask = v.lo, uint32(m)
	v.text = fmt.Sprintf("%#x/%#x", v.lo, m)
	if v.mask == maxUint32 {
		v.text = rangeText(v.lo, v.lo)
	}
	return true
}

// parseState reads the name of a state of any protocol, or a number.
func (v *filterValue) parseState(s string) bool {
	for _, name := range allStateNames() {
		if strings.EqualFold(s, name) {
			v.name, v.text = name, name
			return true
		}
	}
	n, ok := parseUint(s, maxUint8)
	v.name = strconv.FormatUint(n, 10)
	v.text = v.name
	return ok
}

func allStateNames() []string {
	var names []string
	for _, p := range stateProtocols {
		names = append(names, stateNames(p)...)
	}
	return names
}

// protocolNameList returns the names of protocolNames.
func protocolNameList() []string {
	names := make([]string, 0, len(protocolNames))
	for p := range 256 {
		if name, ok := protocolNames[Protocol(p)]; ok {
			names = append(names, name)
		}
	}
	return names
}

// nearHint proposes the nearest of names, else tells what there is.
func nearHint(s string, names []string, otherwise string) string {
	if near := nearest(s, names); near != "" {
		return "did you mean " + near + "?"
	}
	return otherwise
}

// parseAddrs reads an address, a network or a range of addresses, and returns its first and last
// address and how it is printed.
func parseAddrs(s string) (from, to netip.Addr, text string, ok bool) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return from, to, "", false
		}
		const mapped = 96 // length of ::ffff:0.0.0.0's fixed part
		if p.Addr().Is4In6() && p.Bits() >= mapped {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
		}
		p = p.Masked()
		text = p.String()
		if p.IsSingleIP() {
			text = p.Addr().String()
		}
		return p.Addr(), lastAddr(p), text, true
	}
	first, last, isRange := strings.Cut(s, "-")
	if from, ok = parseAddr(first); !ok || !isRange {
		return from, from, from.String(), ok
	}
	to, ok = parseAddr(last)
	if !ok || from.BitLen() != to.BitLen() || to.Less(from) {
		return from, to, "", false
	}
	text = from.String()
	if from != to {
		text += "-" + to.String()
	}
	return from, to, text, true
}

func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a.Unmap(), err == nil && a.Zone() == ""
}

// lastAddr returns the last address of a masked prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
