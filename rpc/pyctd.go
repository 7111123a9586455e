package rpc

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"strconv"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// pyctd (INL, 2006) was the daemon whose XML-RPC frontends still call login, view, kill and
// change. What they do is fixed; how the rows of view look is not, so two settings choose.

// PyctdConfig says how the rows of view look.
type PyctdConfig struct {
	// Rows is "struct" (the default: a struct of rows whose member names are the ids) or "list"
	// (a struct with a list of rows under "conntracks").
	Rows string
	// Addresses is "dotted" (the default: text) or "integer" (IPv4 addresses as numbers; IPv6
	// addresses stay text, because no number of XML-RPC holds them).
	Addresses string
}

func (s *Service) registerPyctd(r *Registry) { s.registerPyctdSessions(r, newPyctdSessions(s)) }

func (s *Service) registerPyctdSessions(r *Registry, p *pyctd) {
	s.pyctd = p
	add := func(m Method, fn func(ctx context.Context, args []any) (any, error)) {
		m.Role, m.XMLOnly, m.Secrets = wire.RoleSession, true, 1 // the session's id
		if m.Name == "login" {
			m.Secrets = math.MaxInt
		}
		r.RegisterPositional(m, fn)
	}
	add(Method{
		Name: "login", Signatures: [][]string{{"string", "string", "string"}, {"string"}},
		Summary: "pyctd: begins a session with user and password, the token being a password too, and returns its id. A caller who is known already may give any arguments. The session ends after 10 seconds without a call.",
	}, p.login)
	add(Method{
		Name: "view", Signatures: [][]string{{"struct", "string"}},
		Summary: "pyctd: returns the flows, a struct of rows by id (or with the daemon's --pyctd-rows=list, a list of them under conntracks). " +
			"An id stays valid in the session while the flow lives. The members of a row have pynetfilter_conntrack's names: " +
			"id, mark, timeout, status, use, tcp_state, username; and of each direction, beginning with orig_ or repl_: l3proto, l4proto, " +
			"ipv4_src and ipv4_dst (or ipv6_), port_src and port_dst (or icmp_type, icmp_code, icmp_id), counter_packets, counter_bytes.",
	}, p.view)
	add(Method{
		Name: "kill", Changes: true, Signatures: [][]string{{"string", "string", "array"}},
		Summary: "pyctd: deletes the flows with the given ids; those that have ended are passed over, and so is the caller's own connection.",
	}, p.kill)
	add(Method{
		Name: "change", Changes: true, Signatures: [][]string{{"string", "string", "string", "int", "int"}},
		Summary: `pyctd: changes "mark" or "timeout" of the flow with an id; a changed timeout becomes fixed.`,
	}, p.change)
}

func (p *pyctd) login(ctx context.Context, args []any) (any, error) {
	principal := PrincipalFrom(ctx)
	if principal == nil {
		user, password, err := credentials(args)
		if err != nil {
			return nil, err
		}
		changeFrom(ctx).claim(user)
		if p.service.Login == nil {
			return nil, errUnauthenticated()
		}
		if principal, err = p.service.Login(ctx, user, password); err != nil {
			return nil, err
		}
	}
	if !principal.May(wire.RoleViewer) {
		return nil, errUnauthenticated()
	}
	changeFrom(ctx).by(principal)
	if err := takeCall(principal); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire()
	if len(p.sessions) >= maxSessions || p.sessionsOf(principal.Name()) >= maxSessionsPerName {
		return nil, &wire.Error{
			Code: wire.Busy, Message: "too many sessions", Hint: "sessions end 10 seconds after their last call; try again then",
		}
	}
	sid := rand.Text()
	CallLogFrom(ctx).principal(principal)
	p.sessions[sid] = &pyctdSession{
		sid: sid, principal: principal, used: p.now(), turn: make(chan struct{}, 1),
	}
	p.schedule()
	return sid, nil
}

func credentials(args []any) (user, password string, err error) {
	if len(args) != 2 {
		return "", "", errUnauthenticated()
	}
	user, ok1 := args[0].(string)
	password, ok2 := args[1].(string)
	if !ok1 || !ok2 {
		return "", "", errUnauthenticated()
	}
	return user, password, nil
}

func (p *pyctd) view(ctx context.Context, args []any) (any, error) {
	_, s, err := p.enter(ctx, args, wire.RoleViewer)
	if err != nil {
		return nil, err
	}
	// The rows are made when the answer is written, which is a call of its own: nobody would end
	// this one if the answer were never written.
	p.leave(s)
	if len(args) != 1 {
		return nil, invalidParams("view takes a session id")
	}
	return &pyctdView{pyctd: p, sid: s.sid}, nil
}

// pyctdView is the result of view, written as the dump goes.
type pyctdView struct {
	pyctd *pyctd
	sid   string
}

func (v *pyctdView) stream(ctx context.Context, e encoder) error {
	ctx, s, err := v.pyctd.session(ctx, []any{v.sid}, wire.RoleViewer)
	if err != nil {
		return err
	}
	defer v.pyctd.leave(s)
	if err := s.await(ctx); err != nil {
		return err
	}
	defer s.done()
	if !s.principal.Valid() { // the call before may have taken long
		return errNoSession()
	}
	first := s.next + 1
	s.view++
	err = v.rows(ctx, e, s)
	// What a whole dump did not show has ended. The ids of one that broke off nobody has seen.
	v.pyctd.forget(s, func(h *handle) bool {
		return err == nil && h.view != s.view || err != nil && h.id >= first
	})
	return err
}

func (v *pyctdView) rows(ctx context.Context, e encoder, s *pyctdSession) error {
	table, err := v.pyctd.service.table(ctx)
	if err != nil {
		return err
	}
	list := v.pyctd.service.Pyctd.Rows == "list"
	e.beginObject()
	if list {
		e.key("conntracks")
		e.beginArray()
	}
	for f, err := range table.Flows(ctx, conntrack.Filter{}) {
		if err != nil {
			return err
		}
		if err := e.err(); err != nil {
			return err
		}
		id, twice, err := v.pyctd.id(s, &f)
		if err != nil {
			return err
		}
		if twice {
			continue // a struct can't have a member twice
		}
		if !list {
			e.key(strconv.FormatUint(uint64(id), 10))
		}
		v.row(e, id, &f)
	}
	if list {
		e.endArray()
	}
	e.endObject()
	return nil
}

// row writes a flow with the attribute names of pynetfilter_conntrack.
func (v *pyctdView) row(e encoder, id uint32, f *conntrack.Flow) {
	e.beginObject()
	number := func(name string, n uint64) {
		e.key(name)
		e.uint(n)
	}
	number("id", uint64(id))
	v.direction(e, "orig_", f, &f.Orig, f.OrigCounter)
	v.direction(e, "repl_", f, &f.Reply, f.ReplyCounter)
	number("mark", uint64(f.Mark))
	if f.Has(conntrack.AttrTimeout) {
		number("timeout", uint64(f.Timeout/time.Second))
	}
	number("status", uint64(f.Status))
	if f.Has(conntrack.AttrUse) {
		number("use", uint64(f.Use))
	}
	if f.Has(conntrack.AttrState) && f.Proto() == conntrack.TCP {
		number("tcp_state", uint64(f.State))
	}
	e.key("username")
	e.str(f.User)
	e.endObject()
}

func (v *pyctdView) direction(e encoder, prefix string, f *conntrack.Flow, t *conntrack.Tuple, c conntrack.Counter) {
	number := func(name string, n uint64) {
		e.key(prefix + name)
		e.uint(n)
	}
	number("l3proto", uint64(t.Family()))
	number("l4proto", uint64(t.Proto))
	version := "ipv4"
	if t.Family() == conntrack.FamilyIPv6 {
		version = "ipv6"
	}
	v.address(e, prefix+version+"_src", t.Src)
	v.address(e, prefix+version+"_dst", t.Dst)
	switch {
	case t.Proto.HasPorts():
		number("port_src", uint64(t.SrcPort))
		number("port_dst", uint64(t.DstPort))
	case t.Proto.IsICMP():
		number("icmp_type", uint64(t.ICMPType))
		number("icmp_code", uint64(t.ICMPCode))
		number("icmp_id", uint64(t.ICMPID))
	}
	if f.Has(conntrack.AttrCounters) {
		number("counter_packets", c.Packets)
		number("counter_bytes", c.Bytes)
	}
}

func (v *pyctdView) address(e encoder, name string, a netip.Addr) {
	e.key(name)
	if v.pyctd.service.Pyctd.Addresses == "integer" && a.Is4() {
		b := a.As4()
		e.uint(uint64(binary.BigEndian.Uint32(b[:])))
		return
	}
	e.str(a.String())
}

// pyctdChanged is what kill and change return, so many flows having been changed: nothing, in the form
// of an empty text, because XML-RPC has no nil that every client reads.
type pyctdChanged int

func (pyctdChanged) stream(_ context.Context, e encoder) error {
	e.str("")
	return nil
}

func (n pyctdChanged) changes() (changed, failed int) { return int(n), 0 }

func (p *pyctd) kill(ctx context.Context, args []any) (any, error) {
	ctx, s, err := p.enter(ctx, args, wire.RoleOperator)
	if err != nil {
		return nil, err
	}
	defer p.leave(s)
	if len(args) != 2 {
		return nil, invalidParams("kill takes a session id and a list of ids")
	}
	ids, err := pyctdIDs(args[1])
	if err != nil {
		return nil, err
	}
	if err := s.await(ctx); err != nil {
		return nil, err
	}
	defer s.done()
	table, err := p.service.table(ctx)
	if err != nil {
		return nil, err
	}
	var meant []conntrack.Flow
	var failures []error
	me := selfOf(CallerFrom(ctx), table)
	me.guess = false // a page comes by no SSH session
	for _, id := range ids {
		f, err := p.find(ctx, table, s, id)
		own := false
		if err == nil {
			own, err = me.has(ctx, &f)
		}
		switch {
		case own: // the page would not get its answer
		case err == nil:
			meant = append(meant, f)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !errors.Is(err, conntrack.ErrNotFound):
			failures = append(failures, err)
		}
	}
	if len(meant) > 0 {
		if err := table.begin(ctx, len(meant), flowTexts(meant)...); err != nil {
			return nil, err
		}
	}
	killed := 0
	for _, err := range table.Kill(ctx, keysOf(meant)) {
		if err == nil {
			killed++
		}
		if err != nil && !errors.Is(err, conntrack.ErrNotFound) {
			failures = append(failures, err)
		}
	}
	return pyctdChanged(killed), errors.Join(failures...)
}

// pyctdIDs reads a list of ids; a single one will do, and so will a struct of them, which is
// what PHP makes of an array with gaps.
func pyctdIDs(v any) ([]uint32, error) {
	var items []any
	switch v := v.(type) {
	case []any:
		items = v
	case map[string]any:
		for _, item := range v {
			items = append(items, item)
		}
	default:
		items = []any{v}
	}
	ids := make([]uint32, len(items))
	for i, item := range items {
		n, err := pyctdNumber("id", item, math.MaxInt32)
		if err != nil {
			return nil, err
		}
		ids[i] = n
	}
	return ids, nil
}

// pyctdNumber reads a number from 0 to most in any of the forms that clients send.
func pyctdNumber(name string, v any, most uint32) (uint32, error) {
	var n uint32
	if err := decodeStrict(name, v, &n); err != nil {
		return 0, err
	}
	if n > most {
		return 0, invalidParams("%s: %d is above %d", name, n, most)
	}
	return n, nil
}

func (p *pyctd) change(ctx context.Context, args []any) (any, error) {
	ctx, s, err := p.enter(ctx, args, wire.RoleOperator)
	if err != nil {
		return nil, err
	}
	defer p.leave(s)
	if len(args) != 4 {
		return nil, invalidParams(`change takes a session id, "mark" or "timeout", an id and a value`)
	}
	id, err := pyctdNumber("id", args[2], math.MaxInt32)
	if err != nil {
		return nil, err
	}
	value, err := pyctdNumber("value", args[3], math.MaxUint32)
	if err != nil {
		return nil, err
	}
	var change conntrack.Change
	switch args[1] {
	case "mark":
		change.Mark = &conntrack.MaskedMark{Value: value, Mask: math.MaxUint32}
	case "timeout":
		d := time.Duration(value) * time.Second
		change.Timeout, change.FixedTimeout = &d, true
	default:
		return nil, invalidParams(`change: want "mark" or "timeout"`)
	}
	if err := s.await(ctx); err != nil {
		return nil, err
	}
	defer s.done()
	table, err := p.service.table(ctx)
	if err != nil {
		return nil, err
	}
	f, err := p.find(ctx, table, s, id)
	if errors.Is(err, conntrack.ErrNotFound) {
		return nil, &wire.Error{
			Code: wire.NotFound, Message: "no flow has the id " + strconv.FormatUint(uint64(id), 10) + " in this session",
			Hint: "it has ended, or view was not called yet",
		}
	}
	if err != nil {
		return nil, err
	}
	if err := table.begin(ctx, 1, flowText(&f)); err != nil {
		return nil, err
	}
	return pyctdChanged(1), table.Modify(ctx, []conntrack.Key{f.Key()}, change)[0]
}
