package rpc

import (
	"encoding/hex"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// flowWriter writes flows as wire.Flow says. It is that struct's twin for the hot path: a list of
// all flows goes through it without a wire.Flow being made; a test holds the two equal.
type flowWriter struct {
	e      encoder
	fields *fieldSet // nil: all
}

// fieldSet says which members of a flow are written.
type fieldSet struct {
	whole map[string]bool            // members with all that is in them
	parts map[string]map[string]bool // members of which only some members are written
}

// newFieldSet reads names such as "id" and "orig.src"; nil where there are none.
func newFieldSet(names []string) (*fieldSet, error) {
	if len(names) == 0 {
		return nil, nil
	}
	fs := &fieldSet{whole: make(map[string]bool), parts: make(map[string]map[string]bool)}
	known := flowMembers()
	for _, name := range names {
		if !slices.Contains(known, name) {
			err := invalidParams("fields: unknown field %s", quoted(name))
			if near := wire.Nearest(name, known); near != "" {
				err.Hint = "did you mean " + strconv.Quote(near) + "?"
			} else {
				err.Hint = "known here: " + strings.Join(known, ", ")
			}
			return nil, err
		}
		member, part, ok := strings.Cut(name, ".")
		if !ok {
			fs.whole[member] = true
			continue
		}
		if fs.parts[member] == nil {
			fs.parts[member] = make(map[string]bool)
		}
		fs.parts[member][part] = true
	}
	return fs, nil
}

// flowMembers returns the names that newFieldSet knows: the members of a flow and of its tuples.
func flowMembers() []string {
	var names []string
	for _, f := range wire.Fields(reflect.TypeFor[wire.Flow]()) {
		names = append(names, f.Name)
		if f.Name == "orig" || f.Name == "reply" || f.Name == "master" {
			for _, part := range wire.Fields(reflect.TypeFor[wire.Tuple]()) {
				names = append(names, f.Name+"."+part.Name)
			}
		}
	}
	return names
}

// has tells whether any of a member is written.
func (fs *fieldSet) has(member string) bool {
	return fs == nil || fs.whole[member] || fs.parts[member] != nil
}

// hasPart tells whether a member of a member is written.
func (fs *fieldSet) hasPart(member, part string) bool {
	return fs == nil || fs.whole[member] || fs.parts[member][part]
}

// write writes one flow.
func (w *flowWriter) write(f *conntrack.Flow) {
	e, fs := w.e, w.fields
	proto := f.Orig.Proto
	e.beginObject()
	if fs.has("id") && f.Has(conntrack.AttrID) {
		e.key("id")
		e.uint(uint64(f.ID))
	}
	if fs.has("family") {
		e.key("family")
		e.str(f.Family().String())
	}
	if fs.has("protocol") {
		e.key("protocol")
		e.str(proto.String())
	}
	if fs.has("protonum") {
		e.key("protonum")
		e.uint(uint64(proto))
	}
	if fs.has("zone") {
		e.key("zone")
		e.uint(uint64(f.Zone))
	}
	if fs.has("orig") {
		w.direction("orig", f, &f.Orig, f.OrigCounter, f.OrigRate)
	}
	if fs.has("reply") {
		w.direction("reply", f, &f.Reply, f.ReplyCounter, f.ReplyRate)
	}
	if fs.has("state") && f.Has(conntrack.AttrState) {
		e.key("state")
		e.str(conntrack.StateName(proto, f.State))
	}
	if fs.has("timeout") && f.Has(conntrack.AttrTimeout) {
		e.key("timeout")
		e.uint(uint64(f.Timeout / time.Second))
	}
	if fs.has("status") {
		e.key("status")
		e.beginArray()
		for i, bits := 0, f.Status; bits != 0; i, bits = i+1, bits>>1 {
			if bits&1 != 0 {
				e.str(conntrack.StatusBitName(i))
			}
		}
		e.endArray()
	}
	if fs.has("nat") {
		e.key("nat")
		e.str(f.Status.NAT())
	}
	if fs.has("mark") && f.Has(conntrack.AttrMark) {
		e.key("mark")
		e.uint(uint64(f.Mark))
	}
	if fs.has("use") && f.Has(conntrack.AttrUse) {
		e.key("use")
		e.uint(uint64(f.Use))
	}
	w.rest(f)
	e.endObject()
}

// rest writes the members that few flows have.
func (w *flowWriter) rest(f *conntrack.Flow) {
	e, fs := w.e, w.fields
	if fs.has("labels") {
		e.key("labels")
		e.beginArray()
		if !f.Labels.IsZero() {
			for _, bit := range f.Labels.Bits() {
				e.int(int64(bit))
			}
		}
		e.endArray()
	}
	if fs.has("helper") {
		e.key("helper")
		e.str(f.Helper)
	}
	if fs.has("master") {
		switch {
		case !f.Master.IsZero():
			e.key("master")
			e.beginObject()
			w.tuple("master", &f.Master)
			if fs.hasPart("master", "protocol") {
				e.key("protocol")
				e.str(f.Master.Proto.String())
			}
			e.endObject()
		case !e.omitsNull():
			e.key("master")
			e.null()
		}
	}
	if fs.has("secctx") && f.SecCtx != "" {
		e.key("secctx")
		e.str(f.SecCtx)
	}
	if fs.has("start") && f.Start != 0 {
		e.key("start")
		e.time(f.StartTime())
	}
	if fs.has("stop") && f.Stop != 0 {
		e.key("stop")
		e.time(f.StopTime())
	}
	if fs.has("user") {
		e.key("user")
		e.str(f.User)
	}
	w.protocolInfo(f)
	if fs.has("unknown") && len(f.Unknown) != 0 {
		e.key("unknown")
		writeUnknown(e, f.Unknown)
	}
}

func writeUnknown(e encoder, unknown []conntrack.Attribute) {
	e.beginObject()
	for _, a := range unknown {
		e.keyText(a.Path)
		e.str(hex.EncodeToString(a.Data))
	}
	e.endObject()
}

func (w *flowWriter) protocolInfo(f *conntrack.Flow) {
	e, fs := w.e, w.fields
	if fs.has("tcp") && f.Has(conntrack.AttrTCP) {
		e.key("tcp")
		e.beginObject()
		writePair(e, "wscale", uint64(f.TCP.WScale[0]), uint64(f.TCP.WScale[1]))
		writePair(e, "flags", uint64(f.TCP.Flags[0]), uint64(f.TCP.Flags[1]))
		e.endObject()
	}
	if fs.has("sctp") && f.Has(conntrack.AttrSCTP) {
		e.key("sctp")
		e.beginObject()
		writePair(e, "vtag", uint64(f.SCTP.VTag[0]), uint64(f.SCTP.VTag[1]))
		e.endObject()
	}
	if fs.has("dccp") && f.Has(conntrack.AttrDCCP) {
		e.key("dccp")
		e.beginObject()
		e.key("role")
		e.str(dccpRole(f.DCCP.Role))
		e.key("handshake_seq")
		e.uint(f.DCCP.HandshakeSeq)
		e.endObject()
	}
	if fs.has("seqadj") && f.Has(conntrack.AttrSeqAdj) {
		e.key("seqadj")
		e.beginObject()
		for i, name := range [...]string{"orig", "reply"} {
			e.key(name)
			e.beginObject()
			e.key("position")
			e.uint(uint64(f.SeqAdj[i].CorrectionPos))
			e.key("before")
			e.int(int64(f.SeqAdj[i].OffsetBefore))
			e.key("after")
			e.int(int64(f.SeqAdj[i].OffsetAfter))
			e.endObject()
		}
		e.endObject()
	}
	if fs.has("synproxy") && f.Has(conntrack.AttrSynProxy) {
		e.key("synproxy")
		e.beginObject()
		e.key("isn")
		e.uint(uint64(f.SynProxy.ISN))
		e.key("its")
		e.uint(uint64(f.SynProxy.ITS))
		e.key("tsoff")
		e.uint(uint64(f.SynProxy.TSOff))
		e.endObject()
	}
}

func writePair(e encoder, name string, orig, reply uint64) {
	e.key(name)
	e.beginArray()
	e.uint(orig)
	e.uint(reply)
	e.endArray()
}

func dccpRole(role uint8) string {
	switch role {
	case 0:
		return "client"
	case 1:
		return "server"
	}
	return strconv.Itoa(int(role))
}

// direction writes one direction of a flow.
func (w *flowWriter) direction(member string, f *conntrack.Flow, t *conntrack.Tuple, c conntrack.Counter, rate float64) {
	e, fs := w.e, w.fields
	e.key(member)
	e.beginObject()
	w.tuple(member, t)
	if f.Has(conntrack.AttrCounters) {
		if fs.hasPart(member, "packets") {
			e.key("packets")
			e.uint(c.Packets)
		}
		if fs.hasPart(member, "bytes") {
			e.key("bytes")
			e.uint(c.Bytes)
		}
	}
	if f.Has(conntrack.AttrRate) && fs.hasPart(member, "rate") {
		e.key("rate")
		e.float(rate)
	}
	e.endObject()
}

// tuple writes the members of a tuple into an object that is begun.
func (w *flowWriter) tuple(member string, t *conntrack.Tuple) {
	w.addr(member, "src", t.Src)
	w.addr(member, "dst", t.Dst)
	switch {
	case t.Proto.HasPorts():
		w.number(member, "sport", uint64(t.SrcPort))
		w.number(member, "dport", uint64(t.DstPort))
	case t.Proto.IsICMP():
		w.number(member, "type", uint64(t.ICMPType))
		w.number(member, "code", uint64(t.ICMPCode))
		w.number(member, "id", uint64(t.ICMPID))
	case t.Proto == conntrack.GRE:
		w.number(member, "key", uint64(t.DstPort))
		w.number(member, "srckey", uint64(t.SrcPort))
	}
	if t.Zone != 0 {
		w.number(member, "zone", uint64(t.Zone))
	}
}

func (w *flowWriter) addr(member, part string, a netip.Addr) {
	if w.fields.hasPart(member, part) {
		w.e.key(part)
		w.e.addr(a)
	}
}

func (w *flowWriter) number(member, part string, v uint64) {
	if w.fields.hasPart(member, part) {
		w.e.key(part)
		w.e.uint(v)
	}
}
