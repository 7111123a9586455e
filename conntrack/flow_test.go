package conntrack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var equateFlows = []cmp.Option{
	cmpopts.EquateComparable(netip.Addr{}), cmp.AllowUnexported(Flow{}), cmpopts.EquateEmpty(),
}

// appendWhole appends all attributes of a flow as the kernel sends them.
func appendWhole(b []byte, f *Flow) []byte {
	b = appendTuple(b, ctaTupleOrig, &f.Orig)
	b = appendTuple(b, ctaTupleReply, &f.Reply)
	b = appendBE32(b, ctaStatus, uint32(f.Status))
	if f.Has(AttrState) {
		b = appendProtoInfo(b, f, 0xff)
	}
	if f.Helper != "" {
		b = appendHelper(b, f.Helper)
	}
	if f.Has(AttrTimeout) {
		b = appendBE32(b, ctaTimeout, uint32(f.Timeout/time.Second))
	}
	if f.Has(AttrMark) {
		b = appendBE32(b, ctaMark, f.Mark)
	}
	if f.Has(AttrCounters) {
		b = appendCounter(b, ctaCountersOrig, f.OrigCounter)
		b = appendCounter(b, ctaCountersReply, f.ReplyCounter)
	}
	if f.Has(AttrUse) {
		b = appendBE32(b, ctaUse, f.Use)
	}
	if f.Has(AttrID) {
		b = appendBE32(b, ctaID, f.ID)
	}
	if !f.Master.IsZero() {
		b = appendTuple(b, ctaTupleMaster, &f.Master)
	}
	if f.Has(AttrSeqAdj) {
		b = appendSeqAdj(b, ctaSeqAdjOrig, f.SeqAdj[0])
		b = appendSeqAdj(b, ctaSeqAdjReply, f.SeqAdj[1])
	}
	if f.Zone != 0 {
		b = appendBE16(b, ctaZone, f.Zone)
	}
	if f.SecCtx != "" {
		start := len(b)
		b = endNest(appendName(beginNest(b, ctaSecCtx), ctaSecCtxName, f.SecCtx), start)
	}
	if f.Start != 0 || f.Stop != 0 {
		start := len(b)
		b = beginNest(b, ctaTimestamp)
		b = appendBE64(b, ctaTimestampStart, uint64(f.Start))
		b = appendBE64(b, ctaTimestampStop, uint64(f.Stop))
		b = endNest(b, start)
	}
	if f.Has(AttrLabels) {
		b = appendAttr(b, ctaLabels, f.Labels[:])
	}
	if f.Has(AttrSynProxy) {
		b = appendSynProxy(b, f.SynProxy)
	}
	return b
}

func appendCounter(b []byte, typ uint16, c Counter) []byte {
	start := len(b)
	b = beginNest(b, typ)
	b = appendBE64(b, ctaCountersPackets, c.Packets)
	b = appendBE64(b, ctaCountersBytes, c.Bytes)
	return endNest(b, start)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// sampleFlows are flows of every kind that the kernel tells apart.
func sampleFlows() map[string]Flow {
	flows := make(map[string]Flow)
	add := func(name string, f Flow, has Attrs) {
		if f.Reply.IsZero() {
			f.Reply = f.Orig.Inverse()
		}
		f.Set(has | AttrID | AttrTimeout | AttrMark | AttrUse)
		flows[name] = f
	}
	four := Tuple{Src: addr("10.0.0.1"), Dst: addr("192.0.2.7"), SrcPort: 40000, DstPort: 443}
	six := Tuple{Src: addr("fd00::1"), Dst: addr("2001:db8::7"), SrcPort: 40000, DstPort: 443}
	proto := func(t Tuple, p Protocol) Tuple {
		t.Proto = p
		if !p.HasPorts() && p != GRE {
			t.SrcPort, t.DstPort = 0, 0
		}
		return t
	}
	icmp := func(t Tuple, p Protocol, typ uint8, id uint16) Tuple {
		t = proto(t, p)
		t.ICMPType, t.ICMPID = typ, id
		return t
	}
	var labels Labels
	labels.SetBit(0)
	labels.SetBit(127)
	add("tcp with everything", Flow{
		Orig: proto(four, TCP), Reply: Tuple{Src: addr("10.9.0.1"), Dst: addr("198.51.100.1"), Proto: TCP, SrcPort: 8443, DstPort: 61000},
		OrigCounter: Counter{1 << 33, 1 << 63}, ReplyCounter: Counter{1, 60},
		ID: 0xfffffffe, Zone: 9, Status: 0x8000018e | StatusSNAT | StatusDNAT, Mark: 0x80000001, Use: 2,
		Timeout: 431999 * time.Second, State: 3,
		TCP:    TCPInfo{WScale: [2]uint8{7, 8}, Flags: [2]uint8{0x23, 0x33}},
		SeqAdj: [2]SeqAdj{{1 << 31, -3, 5}, {7, 0, -1 << 31}}, Labels: labels, Helper: "ftp",
		Master: proto(six, UDP), SecCtx: "system_u:object_r:unlabeled_t:s0",
		Start: 1795342330609608093, Stop: 1795342330609608094,
	}, AttrCounters|AttrState|AttrTCP|AttrSeqAdj|AttrLabels)
	add("tcp of an unknown state", Flow{Orig: proto(six, TCP), State: 200}, AttrState)
	add("tcp behind a syn proxy", Flow{Orig: proto(four, TCP), SynProxy: SynProxy{1 << 31, 2, 3}}, AttrSynProxy)
	add("udp", Flow{Orig: proto(six, UDP)}, 0)
	add("udplite", Flow{Orig: proto(four, UDPLite)}, 0)
	add("sctp", Flow{Orig: proto(six, SCTP), State: 4, SCTP: SCTPInfo{[2]uint32{1 << 31, 5}}}, AttrState|AttrSCTP)
	add("dccp", Flow{Orig: proto(four, DCCP), State: 2, DCCP: DCCPInfo{1, 1 << 40}}, AttrState|AttrDCCP)
	add("gre", Flow{Orig: proto(four, GRE)}, 0)
	add("icmp", Flow{Orig: icmp(four, ICMP, 8, 0xffff)}, 0)
	add("icmpv6", Flow{Orig: icmp(six, ICMPv6, 128, 1)}, 0)
	add("protocol without a name", Flow{Orig: proto(four, 253)}, 0)
	zoned := Flow{Orig: proto(four, UDP)}
	zoned.Reply = zoned.Orig.Inverse()
	zoned.Orig.Zone = 5
	add("zone of one direction", zoned, 0)
	return flows
}

func TestDecodeFlow(t *testing.T) {
	for name, want := range sampleFlows() {
		t.Run(name, func(t *testing.T) {
			var (
				d   decoder
				got Flow
			)
			if err := d.decodeFlow(&got, appendWhole(nil, &want)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, equateFlows...); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// nested returns an attribute that holds others.
func nested(typ uint16, inner ...[]byte) []byte {
	return endNest(append(beginNest(nil, typ), bytes.Join(inner, nil)...), 0)
}

func TestDecodeFlowKeepsUnknown(t *testing.T) {
	tests := []struct {
		name string
		data []byte
		want []Attribute
	}{
		{"attribute", appendBE32(nil, 99, 7), []Attribute{{"99", []byte{0, 0, 0, 7}}}},
		{"known with another length", appendBE64(nil, ctaMark, 1), []Attribute{{"8", []byte{0, 0, 0, 0, 0, 0, 0, 1}}}},
		{"in tuple", nested(ctaTupleOrig, appendU8(nil, 9, 1)), []Attribute{{"1.9", []byte{1}}}},
		{"in address", nested(ctaTupleReply, nested(ctaTupleIP, appendU8(nil, 9, 1))), []Attribute{{"2.1.9", []byte{1}}}},
		{"in protocol", nested(ctaTupleMaster, nested(ctaTupleProto, appendU8(nil, 42, 1))), []Attribute{{"14.2.42", []byte{1}}}},
		{"in tcp", nested(ctaProtoInfo, nested(ctaProtoInfoTCP, appendU8(nil, 9, 1))), []Attribute{{"4.1.9", []byte{1}}}},
		{"protocol information", nested(ctaProtoInfo, nested(7, appendU8(nil, 1, 1))), []Attribute{{"4.7", []byte{5, 0, 1, 0, 1, 0, 0, 0}}}},
		{"helper information", nested(ctaHelp, appendName(nil, ctaHelpName, "ftp"), appendU8(nil, 2, 1)), []Attribute{{"5.2", []byte{1}}}},
		{"in counters", nested(ctaCountersOrig, appendU8(nil, 77, 1)), []Attribute{{"9.77", []byte{1}}}},
		{"longer labels", appendAttr(nil, ctaLabels, make([]byte, 20)), []Attribute{{"22", make([]byte, 20)}}},
		{"no attributes where some should be", appendAttr(nil, ctaTimestamp, []byte{1, 2, 3}), []Attribute{{"20", []byte{1, 2, 3}}}},
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes of the table are little endian")
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var (
				d decoder
				f Flow
			)
			if err := d.decodeFlow(&f, tt.data); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, f.Unknown); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDecodeFlowMalformed(t *testing.T) {
	good := appendBE32(nil, ctaMark, 7)
	for name, data := range map[string][]byte{
		"cut header":       good[:3],
		"cut value":        good[:7],
		"length below own": {3, 0, 8, 0},
		"length zero":      {0, 0, 8, 0},
		"trailing bytes":   append(append([]byte(nil), good...), 1, 2),
	} {
		t.Run(name, func(t *testing.T) {
			var (
				d decoder
				f Flow
			)
			if err := d.decodeFlow(&f, data); err == nil {
				t.Errorf("decoded %x to %+v", data, f)
			}
		})
	}
}

func TestDecodeFlowAllocatesNothing(t *testing.T) {
	f := sampleFlows()["tcp with everything"]
	data := appendWhole(nil, &f)
	var d decoder
	got := testing.AllocsPerRun(100, func() {
		if err := d.decodeFlow(&f, data); err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations a flow, want 0", got)
	}
}

func TestDecoderNamesAreBounded(t *testing.T) {
	var d decoder
	for i := range 3 * maxNames {
		d.name(binary.BigEndian.AppendUint32([]byte("x"), uint32(i)))
	}
	if len(d.names) > maxNames {
		t.Errorf("%d names kept, want at most %d", len(d.names), maxNames)
	}
}

// ofProtocol clears the fields that aren't of the tuple's protocol, which the encoder leaves out.
func ofProtocol(t *Tuple) {
	if !t.Proto.HasPorts() && t.Proto != GRE {
		t.SrcPort, t.DstPort = 0, 0
	}
	if !t.Proto.IsICMP() {
		t.ICMPType, t.ICMPCode, t.ICMPID = 0, 0, 0
	}
}

// FuzzDecodeFlow holds that no bytes make the decoder fail otherwise than by an error, and that
// what it understood of them it understands again when they are encoded from it.
func FuzzDecodeFlow(f *testing.F) {
	for _, fl := range sampleFlows() {
		f.Add(appendWhole(nil, &fl))
	}
	f.Add(nested(ctaProtoInfo, nested(ctaProtoInfoTCP, appendU8(nil, 9, 1))))
	f.Fuzz(func(t *testing.T, data []byte) {
		var (
			d             decoder
			first, second Flow
			e             Expect
		)
		_ = d.decodeExpect(&e, data)
		if err := d.decodeFlow(&first, data); err != nil {
			return
		}
		for _, tuple := range []*Tuple{&first.Orig, &first.Reply, &first.Master} {
			ofProtocol(tuple)
		}
		encoded := appendWhole(nil, &first)
		if err := d.decodeFlow(&second, encoded); err != nil {
			t.Fatalf("decode of own encoding: %v", err)
		}
		if len(second.Unknown) != 0 {
			t.Errorf("own encoding has unknown attributes: %v", second.Unknown)
		}
		if again := appendWhole(nil, &second); !bytes.Equal(encoded, again) {
			t.Errorf("encoded again:\n%x\nwant:\n%x", again, encoded)
		}
	})
}

func BenchmarkDecodeFlow(b *testing.B) {
	f := sampleFlows()["tcp with everything"]
	data := appendWhole(nil, &f)
	var d decoder
	b.ReportAllocs()
	for b.Loop() {
		if err := d.decodeFlow(&f, data); err != nil {
			b.Fatal(err)
		}
	}
}
