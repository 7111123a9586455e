package conntrack

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// quantityUnit is a unit of times or sizes.
type quantityUnit struct {
	name  string
	scale uint64
}

// Units, largest first.
var (
	timeUnits = []quantityUnit{{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}}
	byteUnits = []quantityUnit{{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}}
)

// units returns the units of a kind of comparison and what to write.
func (k valueKind) units() (units []quantityUnit, hint string) {
	switch k {
	case kindTime:
		return timeUnits, "seconds, or a number with s, m, h or d: >60, <=1h30m, 1h-2h"
	case kindBytes:
		return byteUnits, "a number of bytes, with K, M, G or T for powers of 1024: >10M, <=4096, 1K-2K"
	}
	return nil, "a number without a unit: >1000, <=3, 10-20"
}

// parseComparison reads a comparison; msg is what is wrong, if anything.
func (v *filterValue) parseComparison(kind valueKind, s string) (msg, hint string) {
	units, hint := kind.units()
	op := s[:len(s)-len(strings.TrimLeft(s, "<>="))]
	from, to, isRange := strings.Cut(s[len(op):], "-")
	n, ok := parseQuantity(from, units)
	if !ok {
		return "not a comparison", hint
	}
	v.text = op + formatQuantity(n, units)
	v.lo, v.hi = n, n
	switch op {
	case ">", ">=":
		v.hi = maxUint64
		if op == ">" {
			if n == maxUint64 {
				return "nothing is greater", hint
			}
			v.lo++
		}
	case "<", "<=":
		v.lo = 0
		if op == "<" {
			if n == 0 {
				return "nothing is less", hint
			}
			v.hi--
		}
	case "":
		if isRange {
			m, ok := parseQuantity(to, units)
			if !ok || m < n {
				return "not a range", hint
			}
			if v.hi = m; m != n {
				v.text += "-" + formatQuantity(m, units)
			}
		}
		return "", ""
	default:
		return "not a comparison", hint
	}
	if isRange {
		return "not a comparison", hint
	}
	return "", ""
}

// parseQuantity reads a number with a unit or without: 60, 0x3c, 1.5K, and where the smallest
// unit is 1 (times) a sum as 1h30m. What is no whole number of the smallest unit is refused.
func parseQuantity(s string, units []quantityUnit) (uint64, bool) {
	if n, ok := parseUint(s, maxUint64); ok {
		return n, true
	}
	const maxLength = 64 // of a sensible number; longer ones cost time
	if s == "" || len(s) > maxLength {
		return 0, false
	}
	sum := new(big.Rat)
	for last := uint64(maxUint64); s != ""; {
		digits := len(s) - len(strings.TrimLeft(s, "0123456789."))
		number, ok := new(big.Rat).SetString(s[:digits])
		if !ok || strings.HasPrefix(s, ".") || s[digits-1] == '.' {
			return 0, false
		}
		s = s[digits:]
		scale := uint64(1) // without a unit
		if s == "" && last != maxUint64 {
			return 0, false // 1h30: of what?
		}
		if s != "" {
			if scale = unitScale(s[:1], units); scale == 0 {
				return 0, false
			}
			s = s[1:]
		}
		if scale >= last { // 1h30m, not 30m1h or 1h1h
			return 0, false
		}
		if last = scale; last > 1 && units[len(units)-1].scale > 1 && s != "" {
			return 0, false // no sum of sizes
		}
		sum.Add(sum, number.Mul(number, new(big.Rat).SetInt(new(big.Int).SetUint64(scale))))
	}
	if !sum.IsInt() || !sum.Num().IsUint64() {
		return 0, false
	}
	return sum.Num().Uint64(), true
}

// ParseSeconds reads a time as a filter has it: seconds, or a number with a unit or a sum of them,
// such as 90, 30s, 10m, 1h30m, 5d.
func ParseSeconds(s string) (time.Duration, bool) {
	n, ok := parseQuantity(s, timeUnits)
	return time.Duration(n) * time.Second, ok && n <= uint64(math.MaxInt64/time.Second)
}

// ParseBytes reads a size as a filter has it: bytes, or a number with K, M, G or T for powers of 1024.
func ParseBytes(s string) (int64, bool) {
	n, ok := parseQuantity(s, byteUnits)
	return int64(n), ok && n <= math.MaxInt64
}

// unitScale returns what a unit stands for, 0 for none. Sizes take small letters too; of times a
// capital letter is none, as M would be months to some.
func unitScale(name string, units []quantityUnit) uint64 {
	for _, u := range units {
		if u.name == name || units[0].name == "T" && strings.EqualFold(u.name, name) {
			return u.scale
		}
	}
	return 0
}

// formatQuantity prints n with the largest unit that leaves a whole number.
func formatQuantity(n uint64, units []quantityUnit) string {
	for _, u := range units {
		if u.scale > 1 && n > 0 && n%u.scale == 0 {
			return strconv.FormatUint(n/u.scale, 10) + u.name
		}
	}
	return strconv.FormatUint(n, 10)
}

// checkCover refuses alternative comparisons that together leave nothing out: who writes
// bytes=>1K,<1M means the range, and would get every flow.
func checkCover(spec *FilterField, values []filterValue) error {
	if !spec.kind.compares() {
		return nil
	}
	n := 0
	for _, v := range values {
		if !v.not {
			n++
		}
	}
	if n < 2 {
		return nil
	}
	if r := numberRanges(values, false); len(r) == 1 && r[0] == (numberRange{0, maxUint64}) {
		return &FilterError{
			Field: spec.Name, Msg: "the values are alternatives and leave no flow out",
			Hint: "write a range for both limits: " + spec.Name + "=10-20",
		}
	}
	return nil
}
