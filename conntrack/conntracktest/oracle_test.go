package conntracktest

import (
	"net/netip"
	"testing"
	"time"

	"ctd/conntrack"

	"github.com/google/go-cmp/cmp"
)

// TestOracle holds what is read of conntrack(8) against what was made by it and by packets.
func TestOracle(t *testing.T) {
	tp := NewTopology(t)
	for _, args := range [][]string{
		{
			"-s", "192.0.2.1", "-d", "192.0.2.2", "-p", "gre", "--srckey", "0x1", "--dstkey", "0x102", "-t", "100", "-m", "4294967295",
			"--label-add", LabelName(127) + "," + LabelName(0),
		},
		{"-s", "192.0.2.1", "-d", "192.0.2.2", "-p", "udp", "--sport", "1", "--dport", "2", "-t", "100", "--reply-zone", "3", "-g", "192.0.2.7:99"},
		{"-s", "2001:db8::1", "-d", "2001:db8::2", "-p", "icmpv6", "--icmpv6-type", "128", "--icmpv6-code", "0", "--icmpv6-id", "65535", "-t", "100", "-w", "9"},
		{"-s", "192.0.2.1", "-d", "192.0.2.2", "-p", "253", "-t", "100", "-u", "SEEN_REPLY,ASSURED"},
	} {
		if _, err := tp.Router.Conntrack8(append([]string{"-I"}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	tp.SCTP(Path{})
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	one6, two6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	gre := conntrack.Tuple{Src: one, Dst: two, Proto: conntrack.GRE, SrcPort: 1, DstPort: 0x102}
	udp := conntrack.Tuple{Src: one, Dst: two, Proto: conntrack.UDP, SrcPort: 1, DstPort: 2}
	icmp := conntrack.Tuple{Src: one6, Dst: two6, Proto: conntrack.ICMPv6, ICMPType: 128, ICMPID: 65535}
	other := conntrack.Tuple{Src: one, Dst: two, Proto: 253}
	sctp := conntrack.Tuple{Src: clientIPv4, Dst: serverIPv4, Proto: conntrack.SCTP, SrcPort: 40000, DstPort: 5000}
	want := map[conntrack.Tuple]Entry{
		gre: {Orig: gre, Reply: gre.Inverse(), Mark: 0xffffffff, Labels: []int{0, 127}},
		udp: {Orig: udp, Reply: conntrack.Tuple{
			Src: netip.MustParseAddr("192.0.2.7"), Dst: one, Proto: conntrack.UDP,
			SrcPort: 99, DstPort: 1, Zone: 3,
		}},
		icmp:  {Orig: icmp, Reply: icmp.Inverse(), Zone: 9},
		other: {Orig: other, Reply: other.Inverse(), SeenReply: true, Assured: true},
		sctp: {
			Orig: sctp, Reply: sctp.Inverse(), SeenReply: true, Assured: true, State: "ESTABLISHED",
			OrigCounter:  conntrack.Counter{Packets: 2, Bytes: 20 + 32 + 20 + 20},
			ReplyCounter: conntrack.Counter{Packets: 2, Bytes: 20 + 40 + 20 + 16},
		},
	}
	got := map[conntrack.Tuple]Entry{}
	for _, e := range Quiesce(t, tp.Router) {
		if e.ID == 0 || e.Use != 1 || !e.Counters || e.Timeout < 90*time.Second || time.Since(time.Unix(0, e.Start)).Abs() > time.Minute {
			t.Errorf("id, use, counters, timeout or start of %+v", e)
		}
		e.ID, e.Use, e.Timeout, e.Start, e.Counters = 0, 0, 0, 0, false
		got[e.Orig] = e
	}
	if d := cmp.Diff(want, got, compare()); d != "" {
		t.Errorf("entries (-want +got):\n%s", d)
	}
	if got := Oracle(t, tp.Router, "-f", "ipv6"); len(got) != 1 || got[0].Orig != icmp {
		t.Errorf("IPv6 alone: got %+v", got)
	}
}

// TestDiff makes sure that a difference in any field is seen.
func TestDiff(t *testing.T) {
	orig := conntrack.Tuple{Src: clientIPv4, Dst: serverIPv4, Proto: conntrack.TCP, SrcPort: 1, DstPort: 2}
	make := func() conntrack.Flow {
		f := conntrack.Flow{
			Orig: orig, Reply: orig.Inverse(), ID: 7, Timeout: 100 * time.Second, Mark: 5, Use: 1,
			State: 3, Status: conntrack.StatusSeenReply | conntrack.StatusConfirmed,
		}
		f.Set(conntrack.AttrState | conntrack.AttrCounters | conntrack.AttrLabels)
		f.Labels.SetBit(4)
		return f
	}
	e := EntryOf(make())
	tests := []struct {
		name   string
		change func(*conntrack.Flow)
		same   bool
	}{
		{name: "nothing", change: func(f *conntrack.Flow) {}, same: true},
		{name: "timeout in the slack", change: func(f *conntrack.Flow) { f.Timeout -= Slow(timeoutSlack) }, same: true},
		{name: "timeout", change: func(f *conntrack.Flow) { f.Timeout -= Slow(timeoutSlack) + time.Second }},
		{name: "source", change: func(f *conntrack.Flow) { f.Orig.Src = serverIPv6 }},
		{name: "reply port", change: func(f *conntrack.Flow) { f.Reply.DstPort++ }},
		{name: "tuple zone", change: func(f *conntrack.Flow) { f.Reply.Zone++ }},
		{name: "id", change: func(f *conntrack.Flow) { f.ID++ }},
		{name: "zone", change: func(f *conntrack.Flow) { f.Zone++ }},
		{name: "mark", change: func(f *conntrack.Flow) { f.Mark++ }},
		{name: "use", change: func(f *conntrack.Flow) { f.Use++ }},
		{name: "state", change: func(f *conntrack.Flow) { f.State++ }},
		{name: "assured", change: func(f *conntrack.Flow) { f.Status |= conntrack.StatusAssured }},
		{name: "unreplied", change: func(f *conntrack.Flow) { f.Status = 0 }},
		{name: "bytes", change: func(f *conntrack.Flow) { f.OrigCounter.Bytes++ }},
		{name: "packets", change: func(f *conntrack.Flow) { f.ReplyCounter.Packets++ }},
		{name: "label", change: func(f *conntrack.Flow) { f.Labels.SetBit(5) }},
		{name: "helper", change: func(f *conntrack.Flow) { f.Helper = "ftp" }},
		{name: "start", change: func(f *conntrack.Flow) { f.Start++ }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := make()
			tt.change(&f)
			if d := Diff(f, e); (d == "") != tt.same {
				t.Errorf("same: want %t, got difference %q", tt.same, d)
			}
			all := DiffAll([]conntrack.Flow{f}, []Entry{e})
			if (all == "") != tt.same {
				t.Errorf("DiffAll: same: want %t, got difference %q", tt.same, all)
			}
		})
	}
	if DiffAll(nil, []Entry{e}) == "" || DiffAll([]conntrack.Flow{make()}, nil) == "" {
		t.Error("a flow on one side alone was not seen")
	}
}
