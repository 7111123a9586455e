package rpc

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// decodeStrict reads a part of the parameters that may have several forms.
func decodeStrict(path string, tree, into any) error {
	return wire.Decoder{Strict: true, Path: path}.Decode(tree, into)
}

// selector is one flow that the caller named.
type selector struct {
	key conntrack.Key
	// reply is the tuple of the reply direction where the caller gave both, to be compared.
	reply conntrack.Tuple
	// family and proto are compared where the caller gave them; FamilyAny and nil are none.
	family conntrack.Family
	proto  *conntrack.Protocol
	zone   *uint16 // compared where the caller gave it; nil is none
	// start is when the flow began where the caller gave it, to be compared: a new flow with the
	// tuple of one that ended mostly gets its id too.
	start time.Time
}

// readSelector reads a flow that the caller names: an id as number or text, or an object with id
// or tuple. A flow as a list gives it will do: of its members only what names it is looked at.
func readSelector(path string, v any) (selector, error) {
	v = wire.Unpack(v)
	if id, ok := idOf(v); ok {
		n, ok := wire.ParseUint(id, math.MaxUint32)
		if !ok || n == 0 {
			return selector{}, invalidParams("%s: %s is no id: it is a number from 1 to 4294967295", path, quoted(id))
		}
		return selector{key: conntrack.Key{ID: uint32(n)}}, nil
	}
	var f wire.Flow
	if err := decodeStrict(path, v, &f); err != nil {
		return selector{}, err
	}
	var s selector
	s.key.ID, s.key.Zone, s.start = f.ID, f.Zone, f.Start
	if given(v, "zone") {
		s.zone = &f.Zone
	}
	if f.ID == 0 && f.Orig == nil && f.Reply == nil {
		return s, invalidParams("%s: the flow needs an id, orig or reply", path)
	}
	var ok bool
	if s.family, ok = conntrack.ParseFamily(f.Family); !ok {
		return s, invalidParams("%s.family: %s is neither ipv4 nor ipv6", path, quoted(f.Family))
	}
	if f.Orig == nil && f.Reply == nil && f.Protocol == "" && f.ProtoNum == 0 {
		return s, nil
	}
	proto, err := readProtocol(path, &f)
	if err != nil {
		return s, err
	}
	s.proto = &proto
	if f.Orig != nil {
		if s.key.Orig, err = readTuple(path+".orig", f.Orig, proto); err != nil {
			return s, err
		}
	}
	if f.Reply != nil {
		t, err := readTuple(path+".reply", f.Reply, proto)
		if err != nil {
			return s, err
		}
		if f.Orig == nil {
			s.key.Reply = t
		}
		s.reply = t
	}
	return s, nil
}

// idOf returns an id that stands alone, as text.
func idOf(v any) (string, bool) {
	switch v := v.(type) {
	case json.Number:
		return v.String(), true
	case string:
		return v, true
	}
	return "", false
}

// given tells whether an object that was decoded has a member that isn't null.
func given(v any, member string) bool {
	members, _ := v.(map[string]any)
	return members[member] != nil
}

// fits tells whether f is the flow that the caller named.
func (s *selector) fits(f *conntrack.Flow) bool {
	return (s.reply.IsZero() || s.reply == f.Reply) &&
		(s.family == conntrack.FamilyAny || s.family == f.Family()) &&
		(s.proto == nil || *s.proto == f.Proto()) &&
		(s.zone == nil || *s.zone == f.Zone) &&
		(s.start.IsZero() || s.start.Equal(f.StartTime()))
}

// readProtocol returns the protocol of a flow, which may be given by name or number.
func readProtocol(path string, f *wire.Flow) (conntrack.Protocol, error) {
	name := f.Protocol
	for _, t := range []*wire.Tuple{f.Orig, f.Reply} {
		if name == "" && t != nil {
			name = t.Protocol
		}
	}
	if name == "" && f.ProtoNum != 0 {
		return conntrack.Protocol(f.ProtoNum), nil
	}
	if name == "" {
		return 0, &wire.Error{
			Code: wire.InvalidParams, Message: path + ".protocol is missing",
			Hint: `give the protocol by name or number, e.g. "protocol": "tcp"`,
		}
	}
	p, ok := conntrack.ParseProtocol(name)
	if !ok {
		return 0, invalidParams("%s.protocol: %s is no protocol: give a name such as tcp, or a number from 0 to 255", path, quoted(name))
	}
	if f.ProtoNum != 0 && conntrack.Protocol(f.ProtoNum) != p {
		return 0, invalidParams("%s: protocol %s and protonum %d contradict each other", path, p, f.ProtoNum)
	}
	return p, nil
}

// readTuple reads one direction of a flow.
func readTuple(path string, t *wire.Tuple, proto conntrack.Protocol) (conntrack.Tuple, error) {
	r := conntrack.Tuple{Proto: proto, Zone: t.Zone}
	var err error
	if r.Src, err = readAddr(path+".src", t.Src); err != nil {
		return r, err
	}
	if r.Dst, err = readAddr(path+".dst", t.Dst); err != nil {
		return r, err
	}
	if r.Src.IsValid() && r.Dst.IsValid() && r.Src.Is4() != r.Dst.Is4() {
		return r, invalidParams("%s: %s and %s are of different families", path, r.Src, r.Dst)
	}
	ports := t.SPort != nil || t.DPort != nil
	icmp := t.Type != nil || t.Code != nil || t.ID != nil
	keys := t.Key != nil || t.SrcKey != nil
	switch {
	case ports && !proto.HasPorts():
		return r, invalidParams("%s: %s has no ports", path, proto)
	case icmp && !proto.IsICMP():
		return r, invalidParams("%s: type, code and id are ICMP's, not %s's", path, proto)
	case keys && proto != conntrack.GRE:
		return r, invalidParams("%s: key and srckey are GRE's, not %s's", path, proto)
	}
	set16(&r.SrcPort, t.SPort)
	set16(&r.DstPort, t.DPort)
	set16(&r.SrcPort, t.SrcKey)
	set16(&r.DstPort, t.Key)
	set16(&r.ICMPID, t.ID)
	if t.Type != nil {
		r.ICMPType = *t.Type
	}
	if t.Code != nil {
		r.ICMPCode = *t.Code
	}
	return r, nil
}

func set16(to *uint16, from *uint16) {
	if from != nil {
		*to = *from
	}
}

// readAddr reads an address; empty is none.
func readAddr(path, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, invalidParams("%s: %s is no IPv4 or IPv6 address", path, quoted(s))
	}
	return a.Unmap(), nil
}

// readFlow reads a flow to be created.
func readFlow(path string, w *wire.Flow) (conntrack.Flow, error) {
	var f conntrack.Flow
	if w.Orig == nil {
		return f, invalidParams("%s.orig is missing", path)
	}
	proto, err := readProtocol(path, w)
	if err != nil {
		return f, err
	}
	if f.Orig, err = readTuple(path+".orig", w.Orig, proto); err != nil {
		return f, err
	}
	if proto.HasPorts() && (w.Orig.SPort == nil || w.Orig.DPort == nil) {
		return f, invalidParams("%s.orig: a %s flow needs sport and dport", path, proto)
	}
	if w.Reply != nil {
		if f.Reply, err = readReply(path+".reply", w.Reply, f.Orig); err != nil {
			return f, err
		}
	}
	if w.Family != "" && f.Family().String() != w.Family {
		return f, invalidParams("%s: family %s and the addresses contradict each other", path, w.Family)
	}
	if w.Timeout == nil {
		return f, &wire.Error{
			Code: wire.InvalidParams, Message: path + ".timeout is missing",
			Hint: "give the seconds that the flow shall live without a packet",
		}
	}
	f.Timeout = time.Duration(*w.Timeout) * time.Second
	f.Zone, f.Helper = w.Zone, w.Helper
	if w.Mark != nil {
		f.Mark = *w.Mark
	}
	if f.Status, err = readStatus(path+".status", w.Status); err != nil {
		return f, err
	}
	for _, bit := range w.Labels {
		if err := setLabel(path+".labels", &f.Labels, bit); err != nil {
			return f, err
		}
		f.Set(conntrack.AttrLabels)
	}
	if w.Master != nil {
		master := proto
		if w.Master.Protocol != "" {
			if master, err = readProtocol(path+".master", &wire.Flow{Orig: w.Master}); err != nil {
				return f, err
			}
		}
		if f.Master, err = readTuple(path+".master", w.Master, master); err != nil {
			return f, err
		}
	}
	return f, readProtocolInfo(path, w, &f)
}

// readReply reads a reply direction of which a part may be left out: that is as without NAT.
func readReply(path string, w *wire.Tuple, orig conntrack.Tuple) (conntrack.Tuple, error) {
	r, err := readTuple(path, w, orig.Proto)
	if err != nil {
		return r, err
	}
	inverse := orig.Inverse()
	if !r.Src.IsValid() {
		r.Src = inverse.Src
	}
	if !r.Dst.IsValid() {
		r.Dst = inverse.Dst
	}
	if w.SPort == nil && w.SrcKey == nil {
		r.SrcPort = inverse.SrcPort
	}
	if w.DPort == nil && w.Key == nil {
		r.DstPort = inverse.DstPort
	}
	if w.ID == nil {
		r.ICMPID = inverse.ICMPID
	}
	if w.Type == nil {
		r.ICMPType = inverse.ICMPType
	}
	if w.Code == nil {
		r.ICMPCode = inverse.ICMPCode
	}
	return r, nil
}

func readProtocolInfo(path string, w *wire.Flow, f *conntrack.Flow) error {
	if w.State != "" {
		state, err := readState(path+".state", f.Orig.Proto, w.State)
		if err != nil {
			return err
		}
		f.State = state
		f.Set(conntrack.AttrState)
	}
	var ok bool
	if w.TCP != nil {
		if f.TCP.WScale, ok = pairOfBytes(w.TCP.WScale); !ok {
			return invalidParams("%s.tcp.wscale: want two numbers: original, reply", path)
		}
		if f.TCP.Flags, ok = pairOfBytes(w.TCP.Flags); !ok {
			return invalidParams("%s.tcp.flags: want two numbers: original, reply", path)
		}
		f.Set(conntrack.AttrTCP)
	}
	if w.SCTP != nil {
		if f.SCTP.VTag, ok = pair(w.SCTP.VTag); !ok {
			return invalidParams("%s.sctp.vtag: want two numbers: original, reply", path)
		}
		f.Set(conntrack.AttrSCTP)
	}
	if w.DCCP != nil {
		if w.DCCP.Role == "server" {
			f.DCCP.Role = 1
		}
		f.DCCP.HandshakeSeq = w.DCCP.HandshakeSeq
		f.Set(conntrack.AttrDCCP)
	}
	if w.SeqAdj != nil {
		f.SeqAdj = [2]conntrack.SeqAdj{readSeqAdj(w.SeqAdj.Orig), readSeqAdj(w.SeqAdj.Reply)}
		f.Set(conntrack.AttrSeqAdj)
	}
	if w.SynProxy != nil {
		f.SynProxy = conntrack.SynProxy{ISN: w.SynProxy.ISN, ITS: w.SynProxy.ITS, TSOff: w.SynProxy.TSOff}
		f.Set(conntrack.AttrSynProxy)
	}
	return nil
}

func pair[T any](s []T) (p [2]T, ok bool) {
	switch len(s) {
	case 0:
		return p, true
	case 2:
		return [2]T(s), true
	}
	return p, false
}

func pairOfBytes(s []uint16) (p [2]uint8, ok bool) {
	wide, ok := pair(s)
	return [2]uint8{uint8(wide[0]), uint8(wide[1])}, ok && max(wide[0], wide[1]) <= math.MaxUint8
}

func readSeqAdj(w wire.SeqAdj) conntrack.SeqAdj {
	return conntrack.SeqAdj{CorrectionPos: w.Position, OffsetBefore: w.Before, OffsetAfter: w.After}
}

func readState(path string, proto conntrack.Protocol, s string) (uint8, error) {
	if !proto.HasState() {
		return 0, invalidParams("%s: a %s flow has no state", path, proto)
	}
	state, ok := conntrack.ParseState(proto, s)
	if !ok {
		return 0, invalidParams("%s: %s is no state of %s", path, quoted(s), proto)
	}
	return state, nil
}

// readStatus reads status bits by name or number.
func readStatus(path string, names []string) (conntrack.Status, error) {
	var status conntrack.Status
	for _, name := range names {
		bit, ok := conntrack.ParseStatusBit(name)
		if !ok {
			err := invalidParams("%s: %s is no status bit", path, quoted(name))
			err.Hint = "bits: " + strings.Join(conntrack.Status(1<<16-1).Names(), ", ")
			return 0, err
		}
		status |= bit
	}
	return status, nil
}

func setLabel(path string, l *conntrack.Labels, bit int) error {
	if bit < 0 || bit > 127 {
		return invalidParams("%s: %d is no label: they are 0 to 127", path, bit)
	}
	l.SetBit(bit)
	return nil
}

// readFilter reads a filter in any of its forms.
func readFilter(v wire.Filter) (conntrack.Filter, error) {
	f, err := conntrack.FilterFromValue(v)
	if err != nil {
		return f, err
	}
	if f.Uses("user") {
		return f, &wire.Error{
			Code: wire.Unsupported, Message: "filter: user: no users are known to this daemon",
			Hint: "filter by src instead",
		}
	}
	return f, nil
}

// readFilterOf reads a filter for what has only some of the fields of a flow.
func readFilterOf(v wire.Filter, what string, fields map[string]bool) (conntrack.Filter, error) {
	f, err := conntrack.FilterFromValue(v)
	if err != nil {
		return f, err
	}
	for _, field := range conntrack.FilterFields() {
		if f.Uses(field.Name) && !fields[field.Name] {
			err := invalidParams("filter: %s has no %s", what, field.Name)
			err.Hint = "filter by " + joinSorted(fields)
			return f, err
		}
	}
	return f, nil
}

// readTime reads a time: seconds, or a text such as "30s", "10m" or "1h30m". It is from a second on.
func readTime(path string, v any, most time.Duration) (time.Duration, error) {
	text, ok := idOf(v)
	d, valid := conntrack.ParseSeconds(text)
	if !ok || !valid || d < time.Second || d > most {
		err := invalidParams("%s: want a time from a second to %s", path, most)
		err.Hint = `give seconds, or a text such as "30s", "10m" or "1h30m"`
		return 0, err
	}
	return d, nil
}

// texts returns the items of a parameter that may be one text, with items separated by commas,
// or a list of texts and numbers.
func texts(path string, v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		if v == "" {
			return []string{}, nil
		}
		return strings.Split(v, ","), nil
	case json.Number:
		return []string{v.String()}, nil
	case []any:
		items := []string{}
		for _, item := range v {
			switch item := item.(type) {
			case string:
				items = append(items, item)
			case json.Number:
				items = append(items, item.String())
			default:
				return nil, invalidParams("%s: want texts or numbers in the list", path)
			}
		}
		return items, nil
	}
	return nil, invalidParams("%s: want a text, a number or a list of them, not %s", path, fmt.Sprintf("%T", v))
}
