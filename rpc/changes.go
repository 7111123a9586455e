package rpc

import (
	"context"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

func (s *Service) registerChanges(r *Registry) {
	Register(r, Method{
		Name: "conntrack.kill", Role: wire.RoleOperator, Changes: true, Result: wire.KillResult{},
		Summary: "Deletes the entries of flows, by filter or one by one.",
		Example: `{"filter": {"addr": "10.3.0.7"}, "dry_run": true}`,
	}, s.kill)
	Register(r, Method{
		Name: "conntrack.modify", Role: wire.RoleOperator, Changes: true, Result: wire.ModifyResult{},
		Summary: "Changes timeout, mark, status, labels, helper, TCP state or addresses of flows.",
		Example: `{"filter": {"src": "10.3.0.7"}, "set": {"mark": "0x10/0xff", "timeout": 600}}`,
	}, s.modify)
	Register(r, Method{
		Name: "conntrack.create", Role: wire.RoleAdmin, Changes: true, Result: wire.Flow{},
		Summary: "Makes a flow and returns it as the kernel holds it.",
		Example: `{"flow": {"protocol": "udp", "orig": {"src": "10.0.0.7", "dst": "192.0.2.1", "sport": 5060, "dport": 5060}, "timeout": 120}}`,
	}, s.create)
	Register(r, Method{
		Name: "conntrack.flush", Role: wire.RoleAdmin, Changes: true, Result: wire.FlushResult{},
		Summary: "Deletes all flows, of a family or zone if given.",
		Example: `{"zone": 7, "all": true}`,
	}, s.flush)
}

func (s *Service) modify(ctx context.Context, p *wire.ModifyParams) (any, error) {
	noteReason(ctx, p.Reason)
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	change, nat, err := readSet(&p.Set)
	if err != nil {
		return nil, err
	}
	if nat != nil {
		if err := table.mayTranslate("set.nat"); err != nil {
			return nil, err
		}
	}
	sel, err := readSelection(ctx, table, p.Filter, p.Flows, guards{p.Max, p.ExpectCount, p.CreatedBefore, p.All, p.Sparing})
	if err != nil {
		return nil, err
	}
	if sel.max > maxHeld {
		err := invalidParams("max: a modify takes at most %d flows at a time", maxHeld)
		err.Hint = "narrow the filter, and modify in several calls"
		return nil, err
	}
	matched, flows, err := sel.collect(ctx, table, nil)
	if err != nil {
		return nil, err
	}
	result := &changeResult{verb: "modified", matched: matched, spared: sel.spared}
	m := modification{change: change, nat: nat}
	if p.DryRun {
		m.try(ctx, table, flows, result)
		return result, ctx.Err()
	}
	if len(flows) > 0 {
		if err := table.begin(ctx, matched, flowTexts(flows)...); err != nil {
			return nil, err
		}
	}
	done := 0
	for chunk := range slices.Chunk(flows, changeChunk) {
		items := m.apply(ctx, table, chunk)
		for i := range items {
			items[i].report(ctx, table, result)
		}
		if done += len(chunk); ctx.Err() != nil {
			break
		}
		progressFrom(ctx).report(done, matched)
	}
	if err := ctx.Err(); err != nil {
		if result.n == 0 {
			return nil, err
		}
		if done < matched {
			result.fail(nil, err) // the rest was not tried
		}
	}
	return result, nil
}

func readSet(set *wire.Set) (conntrack.Change, *conntrack.NAT, error) {
	var c conntrack.Change
	var err error
	if set.Timeout != nil {
		d := time.Duration(*set.Timeout) * time.Second
		c.Timeout = &d
	}
	if set.FixedTimeout {
		c.Status |= conntrack.StatusFixedTimeout
	}
	if c.Mark, err = readMark(set.Mark); err != nil {
		return c, nil, err
	}
	names, err := texts("set.status", set.Status)
	if err != nil {
		return c, nil, err
	}
	status, err := readStatus("set.status", names)
	if err != nil {
		return c, nil, err
	}
	const settable = conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusFixedTimeout
	if status&^settable != 0 {
		return c, nil, &wire.Error{
			Code: wire.InvalidParams, Message: "set.status: the kernel doesn't let " + (status &^ settable).String() + " be set",
			Hint: "bits that can be set: " + settable.String(),
		}
	}
	c.Status |= status
	if c.Labels, err = readLabels(set.Labels); err != nil {
		return c, nil, err
	}
	c.Helper = set.Helper
	if set.State != "" {
		state, err := readState("set.state", conntrack.TCP, set.State)
		if err != nil {
			return c, nil, err
		}
		c.State = &state
	}
	nat, err := readNAT(set.NAT)
	if err != nil {
		return c, nil, err
	}
	if nat == nil && c.IsZero() {
		return c, nil, &wire.Error{
			Code: wire.InvalidParams, Message: "set is empty: nothing to change",
			Hint: "give timeout, fixed_timeout, mark, status, labels, helper, state or nat",
		}
	}
	return c, nat, nil
}

// readMark reads a number, or value/mask as text.
func readMark(v any) (*conntrack.MaskedMark, error) {
	if v == nil {
		return nil, nil
	}
	s, ok := idOf(v)
	value, mask, masked := strings.Cut(s, "/")
	m := &conntrack.MaskedMark{Mask: ^uint32(0)}
	n, valid := wire.ParseUint(value, math.MaxUint32)
	m.Value = uint32(n)
	if valid && masked {
		n, valid = wire.ParseUint(mask, math.MaxUint32)
		m.Mask = uint32(n)
	}
	if !ok || !valid {
		return nil, invalidParams(`set.mark: want a number from 0 to 4294967295, or "value/mask"`)
	}
	if m.Value&^m.Mask != 0 {
		return nil, invalidParams("set.mark: the value %#x has bits outside the mask %#x", m.Value, m.Mask)
	}
	return m, nil
}

// readLabels reads a list of labels, which replace all; or of +label and -label, which set and
// clear one each.
func readLabels(v any) (*conntrack.MaskedLabels, error) {
	if v == nil {
		return nil, nil
	}
	items, err := texts("set.labels", v)
	if err != nil {
		return nil, err
	}
	var l conntrack.MaskedLabels
	relative := 0
	for _, item := range items {
		number := strings.TrimLeft(item, "+-")
		bit, err := strconv.Atoi(number)
		if err != nil || len(item)-len(number) > 1 {
			return nil, invalidParams("set.labels: %s is no label: want 3, +3 or -3", quoted(item))
		}
		if !strings.HasPrefix(item, "-") {
			if err := setLabel("set.labels", &l.Value, bit); err != nil {
				return nil, err
			}
		}
		if err := setLabel("set.labels", &l.Mask, bit); err != nil {
			return nil, err
		}
		if number != item {
			relative++
		}
	}
	switch relative {
	case 0:
		for i := range l.Mask {
			l.Mask[i] = 0xff
		}
	case len(items):
	default:
		return nil, invalidParams("set.labels: either all labels have + or -, or none")
	}
	return &l, nil
}

func readNAT(w *wire.NAT) (*conntrack.NAT, error) {
	if w == nil {
		return nil, nil
	}
	var n conntrack.NAT
	var err error
	if n.Src, err = readAddrPort("set.nat.src", w.Src); err != nil {
		return nil, err
	}
	if n.Dst, err = readAddrPort("set.nat.dst", w.Dst); err != nil {
		return nil, err
	}
	if n == (conntrack.NAT{}) {
		return nil, invalidParams("set.nat: give src or dst")
	}
	return &n, nil
}

// readAddrPort reads address, address:port, [address]:port or :port.
func readAddrPort(path, s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	if port, ok := strings.CutPrefix(s, ":"); ok {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
			return netip.AddrPortFrom(netip.Addr{}, uint16(n)), nil
		}
	} else if ap, err := netip.ParseAddrPort(s); err == nil && ap.Addr().Zone() == "" {
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
	} else if a, err := netip.ParseAddr(unbracketed(s)); err == nil && a.Zone() == "" {
		return netip.AddrPortFrom(a.Unmap(), 0), nil
	}
	return netip.AddrPort{}, invalidParams("%s: %s is none of address, address:port and :port", path, quoted(s))
}

// unbracketed returns the IPv6 address between a pair of brackets; every other text as it is.
func unbracketed(s string) string {
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.Contains(s, ":") {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			return inner
		}
	}
	return s
}

func (s *Service) create(ctx context.Context, p *wire.CreateParams) (any, error) {
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	f, err := readFlow("flow", &p.Flow)
	if err != nil {
		return nil, err
	}
	if err := table.mayMake("the flow", &f); err != nil {
		return nil, err
	}
	if p.DryRun {
		f, err = table.CanCreate(ctx, f)
		return flowResult(f), err
	}
	if err := table.begin(ctx, 1, flowText(&f)); err != nil {
		return nil, err
	}
	f, err = table.Create(ctx, f)
	return flowResult(f), err
}

func (s *Service) flush(ctx context.Context, p *wire.FlushParams) (any, error) {
	if !p.All {
		return nil, &wire.Error{
			Code: wire.InvalidParams, Message: "a flush needs all: true", Hint: "conntrack.kill deletes the flows of a filter",
		}
	}
	family, ok := conntrack.ParseFamily(p.Family)
	if !ok {
		return nil, invalidParams("family: %s is neither ipv4 nor ipv6", quoted(p.Family))
	}
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	if table.isBound() {
		return nil, table.errOutside("a part of the table")
	}
	text := ""
	if family != conntrack.FamilyAny {
		text = "family=" + family.String()
	}
	if p.Zone != nil {
		text += " zone=" + strconv.Itoa(int(*p.Zone))
	}
	filter, err := conntrack.ParseFilter(text)
	if err != nil {
		return nil, err
	}
	n, err := table.Count(ctx, filter)
	if err != nil || p.DryRun {
		return wire.FlushResult{Killed: n}, err
	}
	if err := table.begin(ctx, n); err != nil {
		return nil, err
	}
	n, err = table.Flush(ctx, family, p.Zone)
	return wire.FlushResult{Killed: n}, err
}
