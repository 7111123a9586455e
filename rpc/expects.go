package rpc

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

func (s *Service) registerExpects(r *Registry) {
	Register(r, Method{
		Name: "expect.list", Role: wire.RoleViewer, Result: wire.ExpectListResult{},
		Summary: "Lists the expectations that match a filter.",
		Example: `{"filter": {"dst": "10.0.0.7"}}`,
	}, s.expectList)
	Register(r, Method{
		Name: "expect.get", Role: wire.RoleViewer, Result: wire.Expect{},
		Summary: "Returns one expectation.",
		Example: `{"expect": 3735928559}`,
	}, s.expectGet)
	Register(r, Method{
		Name: "expect.create", Role: wire.RoleAdmin, Changes: true, Result: wire.Expect{},
		Summary: "Makes an expectation of a flow that has a helper, and returns it as the kernel holds it.",
		Example: `{"master": 1234567890, "tuple": {"src": "192.0.2.1", "dst": "10.0.0.7", "dport": 5004, "protocol": "udp"}, "timeout": 60}`,
	}, s.expectCreate)
	Register(r, Method{
		Name: "expect.kill", Role: wire.RoleAdmin, Changes: true, Result: wire.ExpectKillResult{},
		Summary: "Deletes expectations, by filter or one by one.",
		Example: `{"expects": [3735928559]}`,
	}, s.expectKill)
	Register(r, Method{
		Name: "expect.flush", Role: wire.RoleAdmin, Changes: true, Result: wire.FlushResult{},
		Summary: "Deletes all expectations.",
		Example: `{"all": true}`,
	}, s.expectFlush)
}

// asFlow is the flow that an expectation expects, for a filter to match.
func asFlow(x *conntrack.Expect) conntrack.Flow {
	f := conntrack.Flow{
		Orig: x.Tuple, Reply: x.Tuple.Inverse(), ID: x.ID, Zone: x.Zone, Helper: x.Helper, Timeout: x.Timeout,
	}
	f.Set(conntrack.AttrID | conntrack.AttrTimeout)
	return f
}

// expectFields are the filter's fields that mean something for an expectation.
var expectFields = map[string]bool{
	"family": true, "proto": true, "src": true, "dst": true, "sport": true, "dport": true, "addr": true,
	"port": true, "net": true, "id": true, "zone": true, "helper": true, "timeout": true, "gre_key": true,
}

func readExpectFilter(v wire.Filter) (conntrack.Filter, error) {
	return readFilterOf(v, "an expectation", expectFields)
}

// expectList is wire.ExpectListResult, written as the dump goes.
type expectList struct {
	table  *guarded
	filter conntrack.Filter
	limit  int
}

func (s *Service) expectList(ctx context.Context, p *wire.ExpectListParams) (any, error) {
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	filter, err := readExpectFilter(p.Filter)
	if err != nil {
		return nil, err
	}
	if p.Limit < 0 {
		return nil, invalidParams("limit can't be negative")
	}
	return &expectList{table: table, filter: filter, limit: p.Limit}, nil
}

func (l *expectList) stream(ctx context.Context, e encoder) error {
	e.beginObject()
	e.key("expects")
	e.beginArray()
	matched := 0
	for x, err := range l.table.Expects(ctx) {
		if err != nil {
			return err
		}
		if err := e.err(); err != nil {
			return err // the caller has gone
		}
		if f := asFlow(&x); !l.filter.Match(&f) {
			continue
		}
		matched++
		if l.limit == 0 || matched <= l.limit {
			writeExpect(e, &x)
		}
	}
	e.endArray()
	e.key("matched")
	e.int(int64(matched))
	e.endObject()
	return nil
}

// expectResult is an expectation as the result of a method.
type expectResult conntrack.Expect

func (r expectResult) stream(_ context.Context, e encoder) error {
	x := conntrack.Expect(r)
	writeExpect(e, &x)
	return nil
}

// writeExpect writes an expectation as wire.Expect says.
func writeExpect(e encoder, x *conntrack.Expect) {
	w := flowWriter{e: e}
	tuple := func(name string, t *conntrack.Tuple, protocol bool) {
		e.key(name)
		e.beginObject()
		w.tuple(name, t)
		if protocol {
			e.key("protocol")
			e.str(t.Proto.String())
		}
		e.endObject()
	}
	e.beginObject()
	if x.ID != 0 { // of a dry run it has none
		e.key("id")
		e.uint(uint64(x.ID))
	}
	e.key("family")
	e.str(x.Tuple.Family().String())
	e.key("protocol")
	e.str(x.Tuple.Proto.String())
	e.key("protonum")
	e.uint(uint64(x.Tuple.Proto))
	e.key("zone")
	e.uint(uint64(x.Zone))
	tuple("tuple", &x.Tuple, false)
	tuple("mask", &x.Mask, false)
	if !x.Master.IsZero() { // of one outside it isn't told
		tuple("master", &x.Master, true)
	}
	if x.Timeout != 0 || x.Flags&conntrack.ExpectPermanent == 0 {
		e.key("timeout")
		e.uint(uint64(x.Timeout / time.Second))
	}
	e.key("helper")
	e.str(x.Helper)
	e.key("function")
	e.str(x.Function)
	e.key("class")
	e.uint(uint64(x.Class))
	e.key("flags")
	e.beginArray()
	for _, name := range x.Flags.Names() {
		e.str(name)
	}
	e.endArray()
	if x.NAT != nil {
		e.key("nat")
		e.beginObject()
		e.key("direction")
		if x.NAT.Reply {
			e.str("reply")
		} else {
			e.str("orig")
		}
		tuple("tuple", &x.NAT.Tuple, false)
		e.endObject()
	}
	if len(x.Unknown) != 0 {
		e.key("unknown")
		writeUnknown(e, x.Unknown)
	}
	e.endObject()
}

// expectSelector is one expectation that the caller named.
type expectSelector struct {
	id uint32
	// The others are compared where the caller gave them too.
	tuple, master conntrack.Tuple
	family        conntrack.Family
	proto         *conntrack.Protocol
	zone          *uint16
	helper        string
}

// readExpectSelector reads an expectation that the caller names: an id as number or text, or an
// expectation as a list gives it.
func readExpectSelector(path string, v any) (s expectSelector, err error) {
	v = wire.Unpack(v)
	id, ok := idOf(v)
	if !ok {
		var w wire.Expect
		if err := decodeStrict(path, v, &w); err != nil {
			return s, err
		}
		id = strconv.FormatUint(uint64(w.ID), 10)
		if err := s.read(path, v, &w); err != nil {
			return s, err
		}
	}
	n, ok := wire.ParseUint(id, math.MaxUint32)
	if !ok || n == 0 {
		return s, invalidParams("%s: an expectation is named by its id, a number from 1 to 4294967295; list to find it", path)
	}
	s.id = uint32(n)
	return s, nil
}

// read reads what the caller gave beside the id.
func (s *expectSelector) read(path string, v any, w *wire.Expect) (err error) {
	var ok bool
	if s.family, ok = conntrack.ParseFamily(w.Family); !ok {
		return invalidParams("%s.family: %s is neither ipv4 nor ipv6", path, quoted(w.Family))
	}
	s.helper = w.Helper
	if given(v, "zone") {
		s.zone = &w.Zone
	}
	if w.Tuple != nil || w.Protocol != "" || w.ProtoNum != 0 {
		proto, err := readProtocol(path, &wire.Flow{Protocol: w.Protocol, ProtoNum: w.ProtoNum, Orig: w.Tuple})
		if err != nil {
			return err
		}
		s.proto = &proto
	}
	if w.Tuple != nil {
		if s.tuple, err = readTuple(path+".tuple", w.Tuple, *s.proto); err != nil {
			return err
		}
	}
	if w.Master != nil {
		proto, err := readProtocol(path+".master", &wire.Flow{Orig: w.Master})
		if err != nil {
			return err
		}
		if s.master, err = readTuple(path+".master", w.Master, proto); err != nil {
			return err
		}
	}
	return nil
}

// fits tells whether x is the expectation that the caller named.
func (s *expectSelector) fits(x *conntrack.Expect) bool {
	return s.id == x.ID &&
		(s.family == conntrack.FamilyAny || s.family == x.Tuple.Family()) &&
		(s.proto == nil || *s.proto == x.Tuple.Proto) &&
		(s.zone == nil || *s.zone == x.Zone) &&
		(s.helper == "" || s.helper == x.Helper) &&
		(s.tuple.IsZero() || s.tuple == x.Tuple) &&
		(s.master.IsZero() || s.master == x.Master)
}

func (s *Service) expectGet(ctx context.Context, p *wire.ExpectGetParams) (any, error) {
	sel, err := readExpectSelector("expect", p.Expect)
	if err != nil {
		return nil, err
	}
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	x, err := table.GetExpect(ctx, sel.id)
	if err == nil && !sel.fits(&x) {
		err = conntrack.ErrNotFound
	}
	return expectResult(x), err
}

func (s *Service) expectCreate(ctx context.Context, p *wire.ExpectCreateParams) (any, error) {
	sel, err := readSelector("master", p.Master)
	if err != nil {
		return nil, err
	}
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	master, err := table.Get(ctx, sel.key)
	switch {
	case err != nil:
		return nil, fmt.Errorf("master: %w", err)
	case !sel.fits(&master):
		return nil, fmt.Errorf("master: %w", conntrack.ErrNotFound)
	case master.Helper == "":
		return nil, &wire.Error{
			Code: wire.Unsupported, Message: "the master has no helper, and the kernel lets only a flow with one expect others",
			Hint: `give it one at its first packet, e.g. nft "ct helper set", or iptables -t raw -j CT --helper`,
		}
	}
	x, err := readExpect(p, &master)
	if err != nil {
		return nil, err
	}
	if x, err = conntrack.CheckCreateExpect(x); err != nil { // which completes the mask
		return nil, err
	}
	if err := table.mayExpect(&x); err != nil {
		return nil, err
	}
	if p.DryRun {
		x.Helper = master.Helper
		return expectResult(x), nil
	}
	if err := table.begin(ctx, 1, x.Tuple.String()); err != nil {
		return nil, err
	}
	x, err = table.CreateExpect(ctx, x)
	return expectResult(x), err
}

func readExpect(p *wire.ExpectCreateParams, master *conntrack.Flow) (conntrack.Expect, error) {
	x := conntrack.Expect{
		Master: master.Orig, Zone: master.Zone, Class: p.Class, Function: p.Function,
		Helper: p.Helper, Timeout: time.Duration(p.Timeout) * time.Second,
	}
	if p.Helper != "" && p.Helper != master.Helper {
		return x, invalidParams("helper: the master's is %s, not %s", master.Helper, quoted(p.Helper))
	}
	proto := master.Proto()
	var err error
	if p.Tuple.Protocol != "" {
		if proto, err = readProtocol("tuple", &wire.Flow{Orig: &p.Tuple}); err != nil {
			return x, err
		}
	}
	if x.Tuple, err = readTuple("tuple", &p.Tuple, proto); err != nil {
		return x, err
	}
	if p.Mask != nil {
		if p.Mask.DPort != nil && *p.Mask.DPort != math.MaxUint16 {
			return x, invalidParams("mask.dport: the destination port is always compared, whole")
		}
		if x.Mask, err = readTuple("mask", p.Mask, proto); err != nil {
			return x, err
		}
	}
	for _, name := range p.Flags {
		flag, ok := conntrack.ParseExpectFlag(name)
		if !ok {
			return x, invalidParams("flags: %s is none of permanent, inactive, userspace", quoted(name))
		}
		x.Flags |= flag
	}
	if p.NAT != nil {
		if p.NAT.Tuple == nil {
			return x, invalidParams("nat.tuple is missing")
		}
		x.NAT = &conntrack.ExpectNAT{Reply: p.NAT.Direction == "reply"}
		x.NAT.Tuple, err = readTuple("nat.tuple", p.NAT.Tuple, proto)
	}
	return x, err
}
