package rpc

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// fullFlow has every member that a flow can have, but for those of the other protocols.
func fullFlow() conntrack.Flow {
	addr := netip.MustParseAddr
	f := conntrack.Flow{
		ID: 4294967295, Zone: 7, Status: 1<<31 | conntrack.StatusAssured | conntrack.StatusSNAT,
		Mark: 0x80000001, Use: 2, Timeout: 431999 * time.Second, State: 3, Helper: "ftp",
		SecCtx: "system_u", User: "jane", Start: 1795342330609608093, Stop: 1795342330609608094,
		OrigCounter:  conntrack.Counter{Packets: 14, Bytes: 1 << 40},
		ReplyCounter: conntrack.Counter{Packets: 25, Bytes: 1924},
		OrigRate:     1.5, ReplyRate: 3e6,
		TCP:      conntrack.TCPInfo{WScale: [2]uint8{7, 8}, Flags: [2]uint8{1, 2}},
		SCTP:     conntrack.SCTPInfo{VTag: [2]uint32{1, 1 << 31}},
		DCCP:     conntrack.DCCPInfo{Role: 1, HandshakeSeq: 1 << 40},
		SeqAdj:   [2]conntrack.SeqAdj{{CorrectionPos: 1 << 31, OffsetBefore: -1, OffsetAfter: 2}, {}},
		SynProxy: conntrack.SynProxy{ISN: 1, ITS: 2, TSOff: 3},
		Unknown:  []conntrack.Attribute{{Path: "4.1.9", Data: []byte{0xde, 0xad}}},
	}
	f.Orig = conntrack.Tuple{Src: addr("192.168.1.2"), Dst: addr("19.2.3.216"), Proto: conntrack.TCP, SrcPort: 22, DstPort: 59480, Zone: 3}
	f.Reply = conntrack.Tuple{Src: addr("19.2.3.216"), Dst: addr("192.0.2.1"), Proto: conntrack.TCP, SrcPort: 59480, DstPort: 22}
	f.Master = conntrack.Tuple{Src: addr("fd00::1"), Dst: addr("fd00::2"), Proto: conntrack.ICMPv6, ICMPType: 128, ICMPID: 9}
	f.Labels.SetBit(0)
	f.Labels.SetBit(127)
	for a := conntrack.AttrID; a <= conntrack.AttrRate; a <<= 1 {
		f.Set(a)
	}
	return f
}

func ptr[T any](v T) *T { return &v }

func fullWireFlow() wire.Flow {
	return wire.Flow{
		ID: 4294967295, Family: "ipv4", Protocol: "tcp", ProtoNum: 6, Zone: 7,
		Orig: &wire.Tuple{
			Src: "192.168.1.2", Dst: "19.2.3.216", SPort: ptr[uint16](22), DPort: ptr[uint16](59480), Zone: 3,
			Packets: ptr[uint64](14), Bytes: ptr[uint64](1 << 40), Rate: ptr(1.5),
		},
		Reply: &wire.Tuple{
			Src: "19.2.3.216", Dst: "192.0.2.1", SPort: ptr[uint16](59480), DPort: ptr[uint16](22),
			Packets: ptr[uint64](25), Bytes: ptr[uint64](1924), Rate: ptr(3e6),
		},
		State: "ESTABLISHED", Timeout: ptr[uint32](431999), Status: []string{"assured", "src_nat", "31"},
		NAT: "snat", Mark: ptr[uint32](0x80000001), Use: ptr[uint32](2), Labels: []int{0, 127}, Helper: "ftp",
		Master: &wire.Tuple{
			Src: "fd00::1", Dst: "fd00::2", Type: ptr[uint8](128), Code: ptr[uint8](0), ID: ptr[uint16](9), Protocol: "icmpv6",
		},
		SecCtx: "system_u", User: "jane",
		Start: time.Unix(0, 1795342330609608093).UTC(), Stop: time.Unix(0, 1795342330609608094).UTC(),
		TCP:      &wire.TCP{WScale: []uint16{7, 8}, Flags: []uint16{1, 2}},
		SCTP:     &wire.SCTP{VTag: []uint32{1, 1 << 31}},
		DCCP:     &wire.DCCP{Role: "server", HandshakeSeq: 1 << 40},
		SeqAdj:   &wire.SeqAdjs{Orig: wire.SeqAdj{Position: 1 << 31, Before: -1, After: 2}},
		SynProxy: &wire.SynProxy{ISN: 1, ITS: 2, TSOff: 3},
		Unknown:  map[string]string{"4.1.9": "dead"},
	}
}

func writeJSON(t *testing.T, f conntrack.Flow, fields ...string) []byte {
	t.Helper()
	fs, err := newFieldSet(fields)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	e := &jsonEncoder{sink: sink{w: &out}}
	w := flowWriter{e: e, fields: fs}
	w.write(&f)
	e.flush()
	return out.Bytes()
}

func TestFlowWriterIsTheContract(t *testing.T) {
	var got wire.Flow
	decodeJSON(t, writeJSON(t, fullFlow()), &got)
	if diff := cmp.Diff(fullWireFlow(), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// decodeJSON decodes strictly, so that a member that isn't in the contract fails.
func decodeJSON(t *testing.T, data []byte, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
}

func TestFlowWriterLeavesOutWhatIsNotThere(t *testing.T) {
	var f conntrack.Flow
	f.Orig = conntrack.Tuple{Src: netip.MustParseAddr("fd00::1"), Dst: netip.MustParseAddr("fd00::2"), Proto: 253}
	f.Reply = f.Orig.Inverse()
	want := `{"family":"ipv6","protocol":"253","protonum":253,"zone":0,` +
		`"orig":{"src":"fd00::1","dst":"fd00::2"},"reply":{"src":"fd00::2","dst":"fd00::1"},` +
		`"status":[],"nat":"","labels":[],"helper":"","master":null,"user":""}`
	if diff := cmp.Diff(want, string(writeJSON(t, f))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFieldSet(t *testing.T) {
	tests := []struct {
		name   string
		fields []string
		want   string
	}{
		{"one", []string{"id"}, `{"id":4294967295}`},
		{"parts", []string{"orig.src", "reply.bytes", "state"}, `{"orig":{"src":"192.168.1.2"},"reply":{"bytes":1924},"state":"ESTABLISHED"}`},
		{"whole wins over part", []string{"sctp", "tcp"}, `{"tcp":{"wscale":[7,8],"flags":[1,2]},"sctp":{"vtag":[1,2147483648]}}`},
		{"master", []string{"master.src", "master.protocol"}, `{"master":{"src":"fd00::1","protocol":"icmpv6"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, string(writeJSON(t, fullFlow(), tt.fields...))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	if _, err := newFieldSet([]string{"orig.scr"}); err == nil {
		t.Error("orig.scr was taken for a field")
	}
}

func TestFlowWriterAllocatesNothing(t *testing.T) {
	f := fullFlow()
	f.Unknown, f.Labels = nil, conntrack.Labels{}
	for name, e := range map[string]encoder{
		"json": &jsonEncoder{sink: sink{w: discard{}, buf: make([]byte, 0, bufferSize)}},
		"xml":  &xmlEncoder{sink: sink{w: discard{}, buf: make([]byte, 0, bufferSize)}},
	} {
		w := flowWriter{e: e}
		w.write(&f) // the first makes what is kept
		if got := testing.AllocsPerRun(100, func() { w.write(&f) }); got != 0 {
			t.Errorf("%s: %v allocations a flow, want 0", name, got)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkFlowWriter(b *testing.B) {
	f := fullFlow()
	f.Unknown, f.Labels, f.Master = nil, conntrack.Labels{}, conntrack.Tuple{}
	for name, e := range map[string]encoder{
		"json": &jsonEncoder{sink: sink{w: discard{}}},
		"xml":  &xmlEncoder{sink: sink{w: discard{}}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			w := flowWriter{e: e}
			for b.Loop() {
				w.write(&f)
			}
		})
	}
}
