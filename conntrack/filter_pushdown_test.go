package conntrack

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func v4(a, b, c, d byte) netip.Addr { return netip.AddrFrom4([4]byte{a, b, c, d}) }

func pushdownOpts() []cmp.Option {
	return []cmp.Option{
		cmp.AllowUnexported(pushdown{}),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	}
}

func TestFilterPushdown(t *testing.T) {
	zone := func(n uint16) *uint16 { return &n }
	for _, tt := range []struct {
		text string
		want pushdown
	}{
		{"family=ipv6", pushdown{family: FamilyIPv6}},
		{"family=ipv4,ipv6", pushdown{}},
		{"family=!ipv4", pushdown{}},
		{"zone=0", pushdown{}}, // the kernel would leave out flows with a zone of one direction
		{"zone=5,!6", pushdown{zone: zone(5)}},
		{"zone=5,6", pushdown{}},
		{"zone=!5", pushdown{}},
		{"mark=0", pushdown{mark: 0, markMask: 0xffffffff}},
		{"mark=0x10/0xf0", pushdown{mark: 0x10, markMask: 0xf0}},
		{"mark=0/0x1", pushdown{mark: 0, markMask: 1}},
		{"mark=1-2", pushdown{}},
		{"mark=!1", pushdown{}},
		{"status=assured", pushdown{status: StatusAssured, statusMask: StatusAssured}},
		{"status=assured,!dying", pushdown{status: StatusAssured, statusMask: StatusAssured}},
		{"status=assured,seen_reply", pushdown{}},
		{"nat=snat", pushdown{status: StatusSNAT, statusMask: StatusSNAT | StatusDNAT}},
		{"nat=none", pushdown{status: 0, statusMask: StatusSNAT | StatusDNAT}},
		{"nat=any", pushdown{}},
		{"nat=both status=assured", pushdown{status: StatusAssured, statusMask: StatusAssured}},
		{ // each family is asked for it
			"proto=tcp dport=22",
			pushdown{orig: Tuple{Proto: TCP, DstPort: 22}, origFlags: filterFlagProto | filterFlagDstPort},
		},
		{
			"family=ipv4 proto=tcp dport=22 sport=1-2",
			pushdown{family: FamilyIPv4, orig: Tuple{Proto: TCP, DstPort: 22}, origFlags: filterFlagProto | filterFlagDstPort},
		},
		{
			"src=10.0.0.1",
			pushdown{family: FamilyIPv4, orig: Tuple{Src: v4(10, 0, 0, 1)}, origFlags: filterFlagSrc},
		},
		{
			"src=10.0.0.0/31 dst=10.0.0.2,!10.0.0.3",
			pushdown{family: FamilyIPv4, orig: Tuple{Dst: v4(10, 0, 0, 2)}, origFlags: filterFlagDst},
		},
		{"addr=10.0.0.1", pushdown{family: FamilyIPv4}},
		{"net=10.0.0.0/8,11.0.0.0/8", pushdown{family: FamilyIPv4}},
		{"addr=10.0.0.1,2001:db8::1", pushdown{}},
		{"addr=!10.0.0.1", pushdown{}},
		{"src=2001:db8::1 dst=2001:db8::2", pushdown{family: FamilyIPv6}},
		{
			"src=2001:db8::1 proto=udp dport=53",
			pushdown{family: FamilyIPv6, orig: Tuple{Proto: UDP, DstPort: 53}, origFlags: filterFlagProto | filterFlagDstPort},
		},
		{"family=ipv6 src=10.0.0.1", pushdown{family: FamilyIPv6}},
		{
			"reply_src=10.0.0.1 reply_dst=10.0.0.2 reply_sport=80 reply_dport=1 proto=tcp",
			pushdown{
				family: FamilyIPv4,
				orig:   Tuple{Proto: TCP}, origFlags: filterFlagProto,
				reply:      Tuple{Src: v4(10, 0, 0, 1), Dst: v4(10, 0, 0, 2), Proto: TCP, SrcPort: 80, DstPort: 1},
				replyFlags: filterFlagSrc | filterFlagDst | filterFlagProto | filterFlagSrcPort | filterFlagDstPort,
			},
		},
		{"src=10.0.0.1 dport=22", pushdown{family: FamilyIPv4, orig: Tuple{Src: v4(10, 0, 0, 1)}, origFlags: filterFlagSrc}},
		{"family=ipv4 proto=tcp,udp dport=22", pushdown{family: FamilyIPv4}},
		{"family=ipv4 proto=gre dport=22", pushdown{family: FamilyIPv4, orig: Tuple{Proto: GRE}, origFlags: filterFlagProto}},
		{
			"family=ipv4 proto=icmp icmp_type=8 icmp_code=0",
			pushdown{
				family: FamilyIPv4, orig: Tuple{Proto: ICMP, ICMPType: 8},
				origFlags: filterFlagProto | filterFlagICMPType | filterFlagICMPCode,
			},
		},
		{ // the kernel would refuse type 3
			"family=ipv4 proto=icmp icmp_type=3",
			pushdown{family: FamilyIPv4, orig: Tuple{Proto: ICMP}, origFlags: filterFlagProto},
		},
		{
			"family=ipv6 proto=icmpv6 icmp_type=128",
			pushdown{family: FamilyIPv6, orig: Tuple{Proto: ICMPv6, ICMPType: 128}, origFlags: filterFlagProto | filterFlagICMPv6Type},
		},
		{"bytes=>1M timeout=<60 user=jane label=3 helper=ftp id=5 state=ESTABLISHED", pushdown{}},
		{
			"src=10.0.0.1 proto=tcp dport=22 mark=3/3 or src=10.0.0.1 proto=tcp dport=80 mark=1/1 zone=1",
			pushdown{
				family: FamilyIPv4, mark: 1, markMask: 1,
				orig: Tuple{Src: v4(10, 0, 0, 1), Proto: TCP}, origFlags: filterFlagSrc | filterFlagProto,
			},
		},
		{"mark=1 or mark=2", pushdown{mark: 0, markMask: 0xfffffffc}},
		{"status=assured or status=dying", pushdown{}},
		{"nat=snat or nat=both", pushdown{status: StatusSNAT, statusMask: StatusSNAT}},
		{
			"src=10.0.0.1 dst=10.0.0.2 or src=10.0.0.3 dst=10.0.0.2",
			pushdown{family: FamilyIPv4, orig: Tuple{Dst: v4(10, 0, 0, 2)}, origFlags: filterFlagDst},
		},
		{ // another protocol: the port alone can't be asked for
			"family=ipv6 proto=tcp dport=53 or family=ipv6 proto=udp dport=53", pushdown{family: FamilyIPv6},
		},
		{
			"family=ipv4 proto=icmp icmp_type=8 icmp_code=0 or family=ipv4 proto=icmp icmp_type=0 icmp_code=0",
			pushdown{family: FamilyIPv4, orig: Tuple{Proto: ICMP}, origFlags: filterFlagProto | filterFlagICMPCode},
		},
		{"src=10.0.0.1 or src=2001:db8::1", pushdown{}},
		{"zone=1 src=10.0.0.1 or zone=1", pushdown{zone: zone(1)}},
		{"zone=1 or zone=2", pushdown{}},
	} {
		t.Run(tt.text, func(t *testing.T) {
			f, err := ParseFilter(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, f.pushdown(), pushdownOpts()...); diff != "" {
				t.Errorf("pushdown (-want +got):\n%s", diff)
			}
		})
	}
}

// kernelPasses compares as the kernel does: ctnetlink_filter_match and
// ctnetlink_filter_match_tuple in net/netfilter/nf_conntrack_netlink.c.
func kernelPasses(p pushdown, fl *Flow) bool {
	if p.family != FamilyAny && p.family != fl.Family() {
		return false
	}
	if p.zone != nil && *p.zone != fl.Zone+fl.Orig.Zone+fl.Reply.Zone { // one of them is set
		return false
	}
	return kernelPassesTuple(p.family, p.orig, p.origFlags, fl.Orig) &&
		kernelPassesTuple(p.family, p.reply, p.replyFlags, fl.Reply) &&
		fl.Mark&p.markMask == p.mark && fl.Status&p.statusMask == p.status
}

func kernelPassesTuple(family Family, want Tuple, flags uint32, t Tuple) bool {
	differs := func(flag int, differ bool) bool { return flags&(1<<flag) != 0 && differ }
	if family == FamilyIPv4 && (differs(0, want.Src != t.Src) || differs(1, want.Dst != t.Dst)) {
		return false
	}
	if differs(3, want.Proto != t.Proto) {
		return false
	}
	switch t.Proto {
	case TCP, UDP:
		return !differs(4, want.SrcPort != t.SrcPort) && !differs(5, want.DstPort != t.DstPort)
	case ICMP:
		return !differs(6, want.ICMPType != t.ICMPType) && !differs(7, want.ICMPCode != t.ICMPCode) &&
			!differs(8, want.ICMPID != t.ICMPID)
	case ICMPv6:
		return !differs(9, want.ICMPType != t.ICMPType) && !differs(10, want.ICMPCode != t.ICMPCode) &&
			!differs(11, want.ICMPID != t.ICMPID)
	}
	return true
}

// TestFilterPushdownKeeps holds that the kernel never leaves out what the filter matches, and
// that it accepts what it is asked for.
func TestFilterPushdownKeeps(t *testing.T) {
	pushed, less := 0, 0
	randomFilters(t, func(text string, f Filter, flows []*Flow) {
		p := f.pushdown()
		if diff := cmp.Diff(pushdown{}, p, pushdownOpts()...); diff != "" {
			pushed++
		}
		checkAccepted(t, text, p)
		for _, fl := range flows {
			passes := kernelPasses(p, fl)
			if !passes {
				less++
			}
			if f.Match(fl) && !passes {
				t.Fatalf("%q: the kernel leaves out %v\n%+v\n%+v", text, fl.Orig, p, fl)
			}
		}
	})
	if pushed < 100 || less < 10000 {
		t.Errorf("%d filters pushed, %d flows left out: too few to say anything", pushed, less)
	}
}

// checkAccepted holds p against what the kernel asks of CTA_FILTER.
func checkAccepted(t *testing.T, text string, p pushdown) {
	t.Helper()
	for _, family := range p.families() {
		if p.hasTuple() && family == FamilyAny {
			t.Errorf("%q: a tuple without a family", text)
		}
	}
	const addrs, proto = 1<<0 | 1<<1, 1 << 3
	for _, flags := range []uint32{p.origFlags, p.replyFlags} {
		if flags&addrs != 0 && p.family != FamilyIPv4 {
			t.Errorf("%q: addresses that are not IPv4", text)
		}
		if flags&^(addrs|proto) != 0 && flags&proto == 0 {
			t.Errorf("%q: flags %#x without the protocol", text, flags)
		}
	}
	for _, tuple := range []Tuple{p.orig, p.reply} {
		if tuple.Src.Is6() || tuple.Dst.Is6() {
			t.Errorf("%q: an IPv6 address", text)
		}
	}
	if p.mark&^p.markMask != 0 || p.status&^p.statusMask != 0 {
		t.Errorf("%q: a value outside its mask", text)
	}
}
