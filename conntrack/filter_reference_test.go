package conntrack

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// filterNow is the moment that the tests count the age of flows to.
var filterNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// randomFlow returns a flow out of few values, so that filters meet it. What the kernel may leave
// out is left out at times.
func randomFlow(r *rand.Rand) *Flow {
	fl := &Flow{}
	addr := randomV4
	if r.IntN(3) == 0 {
		addr = randomV6
	}
	proto := []Protocol{TCP, TCP, UDP, ICMP, ICMPv6, GRE, SCTP, DCCP, UDPLite, 50}[r.IntN(10)]
	fl.Orig = Tuple{Src: addr(r), Dst: addr(r), Proto: proto}
	switch {
	case proto.HasPorts(), proto == GRE:
		fl.Orig.SrcPort, fl.Orig.DstPort = randomPort(r), randomPort(r)
	case proto.IsICMP():
		fl.Orig.ICMPType = []uint8{0, 3, 8, 13, 128, 129}[r.IntN(6)]
		fl.Orig.ICMPCode, fl.Orig.ICMPID = uint8(r.IntN(3)), uint16(r.IntN(3))
	}
	fl.Reply = fl.Orig.Inverse()
	switch r.IntN(4) {
	case 0:
		fl.Status |= StatusSNAT
		fl.Reply.Dst = addr(r)
	case 1:
		fl.Status |= StatusDNAT
		fl.Reply.Src = addr(r)
		if proto.HasPorts() {
			fl.Reply.SrcPort = randomPort(r)
		}
	case 2:
		fl.Status |= StatusSNAT | StatusDNAT
		fl.Reply.Src, fl.Reply.Dst = addr(r), addr(r)
	}
	fl.Status |= Status(r.Uint32N(16)) | Status(r.Uint32N(2))<<20
	fl.ID = r.Uint32N(5)
	fl.Mark = []uint32{0, 1, 0x10, 0x1f, 0xffffffff}[r.IntN(5)]
	switch zone := uint16(r.IntN(3)); r.IntN(4) {
	case 0:
		fl.Orig.Zone = zone
	case 1:
		fl.Reply.Zone = zone
	default:
		fl.Zone = zone
	}
	if proto.HasState() && r.IntN(5) > 0 {
		fl.State = uint8(r.IntN(11))
		fl.Set(AttrState)
	}
	fl.Helper = []string{"", "ftp", "sip"}[r.IntN(3)]
	fl.User = []string{"", "jane", "Jane Doe", "a,b", "*", "!x"}[r.IntN(6)]
	for range r.IntN(3) {
		fl.Labels.SetBit([]int{0, 3, 4, 31, 32, 127}[r.IntN(6)])
	}
	if r.IntN(4) > 0 {
		fl.Timeout = time.Duration(r.IntN(200)) * time.Second
		fl.Set(AttrTimeout)
	}
	if r.IntN(4) > 0 {
		fl.OrigCounter = Counter{Packets: r.Uint64N(6), Bytes: r.Uint64N(3000)}
		fl.ReplyCounter = Counter{Packets: r.Uint64N(6), Bytes: r.Uint64N(3000)}
		fl.Set(AttrCounters)
	}
	if r.IntN(4) > 0 {
		fl.Start = filterNow.UnixNano() - r.Int64N(int64(200*time.Second))
	}
	if r.IntN(4) > 0 {
		fl.OrigRate, fl.ReplyRate = r.Float64()*3000, r.Float64()*3000
		fl.Set(AttrRate)
	}
	return fl
}

func randomV4(r *rand.Rand) netip.Addr {
	return v4(10, byte(r.IntN(2)), byte(r.IntN(2)), byte(r.IntN(6)))
}

func randomV6(r *rand.Rand) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: byte(r.IntN(2)), 15: byte(r.IntN(6))})
}

func randomPort(r *rand.Rand) uint16 { return []uint16{0, 1, 22, 80, 443, 8080, 65535}[r.IntN(7)] }

// randomFilter returns a filter as text, with at most three clauses.
func randomFilter(r *rand.Rand) string {
	var clauses []string
	for range 1 + r.IntN(6)/4 + r.IntN(6)/5 {
		fields := r.Perm(int(fieldCount))[:1+r.IntN(3)]
		var words []string
		for _, i := range fields {
			name := filterFields[i].Name
			var values []string
			for range 1 + r.IntN(8)/4 + r.IntN(3)/2 {
				v := randomValue(r, name)
				if r.IntN(3) == 0 {
					v = "!" + v
				}
				values = append(values, v)
			}
			words = append(words, name+"="+strings.Join(values, ","))
		}
		clauses = append(clauses, strings.Join(words, " "))
	}
	return strings.Join(clauses, " or ")
}

func randomValue(r *rand.Rand, field string) string {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	number := func(limit int) string {
		a, b := r.IntN(limit), r.IntN(limit)
		return pick(strconv.Itoa(a), fmt.Sprintf("%#x", a), fmt.Sprintf("%d-%d", min(a, b), max(a, b)))
	}
	switch field {
	case "family":
		return pick("ipv4", "ipv6")
	case "proto":
		return pick("tcp", "udp", "icmp", "icmpv6", "gre", "sctp", "dccp", "udplite", "esp")
	case "src", "dst", "reply_src", "reply_dst", "addr", "net":
		a, b := randomV4(r), randomV4(r)
		if r.IntN(3) == 0 {
			a, b = randomV6(r), randomV6(r)
		}
		if b.Less(a) {
			a, b = b, a
		}
		return pick(a.String(), a.String(), fmt.Sprintf("%v/%d", a, r.IntN(a.BitLen()+1)), fmt.Sprintf("%v-%v", a, b))
	case "sport", "dport", "reply_sport", "reply_dport", "port", "gre_key":
		a, b := randomPort(r), randomPort(r)
		return pick(fmt.Sprint(a), fmt.Sprintf("%d-%d", min(a, b), max(a, b)))
	case "id", "zone":
		return number(5)
	case "mark":
		return pick("0", "1", "0x10", "0x10/0x10", "0/0x1", "1/0xf", "0-16", "4294967295", "0/0x80000000")
	case "state":
		return pick("ESTABLISHED", "syn_sent", "CLOSED", "OPEN", "NONE", "3", "10")
	case "status":
		return pick("assured", "seen_reply", "expected", "src_nat", "20")
	case "nat":
		return pick("snat", "dnat", "both", "none", "any")
	case "helper":
		return pick("ftp", "sip", "*", `"*"`)
	case "label":
		return pick("0", "3", "4", "30-40", "127", "*")
	case "user":
		return pick("jane", `"Jane Doe"`, `"a,b"`, `"*"`, "*", `"!x"`)
	case "icmp_type":
		return pick("0", "3", "8", "13", "128", "0-8")
	case "icmp_code":
		return pick("0", "1", "0-1")
	case "packets":
		return pick(">", ">=", "<=", "") + strconv.Itoa(r.IntN(10))
	case "timeout", "age":
		return pick(">1m", "<=90s", "1m-2m", "<1m40s", ">=2m", "30")
	case "bytes", "rate":
		return pick(">1K", "<=2K", "1K-3K", "<1.5K", ">=1500", "0")
	}
	panic(field)
}

// reference says by the text alone whether a flow matches, value by value and without any of the
// code that it is to judge beyond names.
func reference(text string, fl *Flow) bool {
	for _, clause := range strings.Split(text, " or ") {
		all := true
		for _, word := range referenceSplit(clause, ' ') {
			name, values, _ := strings.Cut(word, "=")
			all = all && referenceTerm(name, referenceSplit(values, ','), fl)
		}
		if all {
			return true
		}
	}
	return false
}

func referenceSplit(s string, sep rune) []string {
	quoted := false
	return strings.FieldsFunc(s, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return c == sep && !quoted
	})
}

func referenceTerm(name string, values []string, fl *Flow) bool {
	var wanted, found bool
	for _, v := range values {
		v, not := strings.CutPrefix(v, "!")
		is, known := referenceValue(name, v, fl)
		switch {
		case !known:
			return false
		case not && is:
			return false
		case !not:
			wanted = true
			found = found || is
		}
	}
	return !wanted || found
}

func referenceValue(name, v string, fl *Flow) (is, known bool) {
	o, p := fl.Orig, fl.Reply
	ports := slices.Contains([]Protocol{TCP, UDP, DCCP, SCTP, UDPLite}, o.Proto)
	icmp := o.Proto == ICMP || o.Proto == ICMPv6
	places := [4]uint16{o.SrcPort, o.DstPort, p.SrcPort, p.DstPort}
	anyNumber := func() bool {
		return slices.ContainsFunc(places[:], func(n uint16) bool { return referenceNumber(v, uint64(n)) })
	}
	switch name {
	case "family":
		return (v == "ipv4") == o.Src.Is4(), true
	case "proto":
		return v == o.Proto.String(), true
	case "src":
		return referenceAddr(v, o.Src), true
	case "dst":
		return referenceAddr(v, o.Dst), true
	case "reply_src":
		return referenceAddr(v, p.Src), true
	case "reply_dst":
		return referenceAddr(v, p.Dst), true
	case "addr", "net":
		return referenceAddr(v, o.Src) || referenceAddr(v, o.Dst) || referenceAddr(v, p.Src) || referenceAddr(v, p.Dst), true
	case "sport":
		return ports && referenceNumber(v, uint64(o.SrcPort)), true
	case "dport":
		return ports && referenceNumber(v, uint64(o.DstPort)), true
	case "reply_sport":
		return ports && referenceNumber(v, uint64(p.SrcPort)), true
	case "reply_dport":
		return ports && referenceNumber(v, uint64(p.DstPort)), true
	case "port":
		return ports && anyNumber(), true
	case "gre_key":
		return o.Proto == GRE && anyNumber(), true
	case "id":
		return referenceNumber(v, uint64(fl.ID)), true
	case "zone":
		return referenceNumber(v, uint64(fl.Zone)), true
	case "mark":
		value, mask, masked := strings.Cut(v, "/")
		m, _ := strconv.ParseUint(mask, 0, 32)
		if !masked {
			m = 0xffffffff
		}
		return referenceNumber(value, uint64(fl.Mark)&m), true
	case "state":
		return fl.Has(AttrState) && (strings.EqualFold(v, fl.StateName()) || v == strconv.Itoa(int(fl.State))), true
	case "status":
		return slices.Contains(fl.Status.Names(), v), true
	case "nat":
		nat := fl.Status.NAT()
		return v == nat || v == "none" && nat == "" || v == "any" && nat != "", true
	case "helper":
		return referenceName(v, fl.Helper), true
	case "user":
		return referenceName(v, fl.User), true
	case "label":
		return slices.ContainsFunc(fl.Labels.Bits(), func(i int) bool { return v == "*" || referenceNumber(v, uint64(i)) }), true
	case "icmp_type":
		return icmp && referenceNumber(v, uint64(o.ICMPType)), true
	case "icmp_code":
		return icmp && referenceNumber(v, uint64(o.ICMPCode)), true
	case "timeout":
		return referenceCompare(v, fl.Timeout.Seconds()), fl.Has(AttrTimeout)
	case "age":
		age := filterNow.Sub(time.Unix(0, fl.Start)).Truncate(time.Second)
		return referenceCompare(v, age.Seconds()), fl.Start != 0
	case "bytes":
		return referenceCompare(v, float64(fl.OrigCounter.Bytes+fl.ReplyCounter.Bytes)), fl.Has(AttrCounters)
	case "packets":
		return referenceCompare(v, float64(fl.OrigCounter.Packets+fl.ReplyCounter.Packets)), fl.Has(AttrCounters)
	case "rate":
		return referenceCompare(v, float64(int(fl.OrigRate+fl.ReplyRate))), fl.Has(AttrRate)
	}
	panic(name)
}

func referenceNumber(v string, n uint64) bool {
	a, b, ok := strings.Cut(v, "-")
	if !ok {
		b = a
	}
	lo, _ := strconv.ParseUint(a, 0, 64)
	hi, _ := strconv.ParseUint(b, 0, 64)
	return lo <= n && n <= hi
}

func referenceAddr(v string, a netip.Addr) bool {
	if from, to, ok := strings.Cut(v, "-"); ok {
		lo, hi := netip.MustParseAddr(from), netip.MustParseAddr(to)
		return lo.BitLen() == a.BitLen() && lo.Compare(a) <= 0 && a.Compare(hi) <= 0
	}
	if strings.Contains(v, "/") {
		return netip.MustParsePrefix(v).Contains(a)
	}
	return netip.MustParseAddr(v) == a
}

func referenceName(v, s string) bool {
	if v == "*" {
		return s != ""
	}
	return strings.Trim(v, `"`) == s
}

func referenceCompare(v string, n float64) bool {
	quantity := func(s string) float64 {
		for _, sum := range []struct {
			text string
			n    float64
		}{{"1m40s", 100}, {"90s", 90}, {"1m", 60}, {"2m", 120}, {"1K", 1024}, {"1.5K", 1536}, {"2K", 2048}, {"3K", 3072}} {
			if s == sum.text {
				return sum.n
			}
		}
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			panic(err)
		}
		return f
	}
	if from, to, ok := strings.Cut(v, "-"); ok {
		return quantity(from) <= n && n <= quantity(to)
	}
	switch {
	case strings.HasPrefix(v, ">="):
		return n >= quantity(v[2:])
	case strings.HasPrefix(v, "<="):
		return n <= quantity(v[2:])
	case v[0] == '>':
		return n > quantity(v[1:])
	case v[0] == '<':
		return n < quantity(v[1:])
	}
	return n == quantity(v)
}
