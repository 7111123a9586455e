package cli

import (
	"fmt"
	"strconv"
	"strings"

	"ctd/rpc/wire"
)

// humanBytes writes a number of bytes with one of the units K M G T P, powers of 1024 as in
// filters.
func humanBytes(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	v, unit := float64(n), 0
	for v >= 1023.5 && unit < len(byteUnits) {
		v /= 1024
		unit++
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f%c", v, byteUnits[unit-1])
	}
	return fmt.Sprintf("%.0f%c", v, byteUnits[unit-1])
}

const byteUnits = "KMGTPE"

// humanSeconds writes a time by its two largest units: 59s, 4m59s, 1h30m, 4d23h.
func humanSeconds(n uint32) string {
	units := []struct {
		name string
		size uint32
	}{{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}}
	for i, u := range units {
		if n < u.size && u.size > 1 {
			continue
		}
		text := strconv.FormatUint(uint64(n/u.size), 10) + u.name
		if i+1 < len(units) {
			if next := n % u.size / units[i+1].size; next > 0 {
				text += fmt.Sprintf("%d%s", next, units[i+1].name)
			}
		}
		return text
	}
	return ""
}

// plural writes a number and its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// endpoint writes an address with its port: 10.0.0.1:80, [fd00::1]:80, fd00::1.
func endpoint(addr string, port *uint16) string {
	if port == nil {
		return addr
	}
	if strings.Contains(addr, ":") {
		addr = "[" + addr + "]"
	}
	return addr + ":" + strconv.Itoa(int(*port))
}

// sides writes a tuple as source and destination. What stands in place of ports goes with the
// destination: the ICMP type and code with the id, the GRE key.
func sides(t *wire.Tuple) (src, dst string) {
	if t == nil {
		return "", ""
	}
	src, dst = endpoint(t.Src, t.SPort), endpoint(t.Dst, t.DPort)
	if t.Type != nil && t.Code != nil {
		dst += fmt.Sprintf(" type=%d/%d", *t.Type, *t.Code)
	}
	if t.ID != nil {
		dst += fmt.Sprintf(" id=%d", *t.ID)
	}
	if t.Key != nil && *t.Key != 0 {
		dst += fmt.Sprintf(" key=%#x", *t.Key)
	}
	return src, dst
}

// sum adds a counter of both directions; ok is false where there is none.
func sum[N uint64 | float64](f *wire.Flow, counter func(*wire.Tuple) *N) (total N, ok bool) {
	for _, t := range []*wire.Tuple{f.Orig, f.Reply} {
		if t == nil {
			continue
		}
		if n := counter(t); n != nil {
			total += *n
			ok = true
		}
	}
	return total, ok
}
