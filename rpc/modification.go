package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"ctd/conntrack"
)

// modification is what flows shall become.
type modification struct {
	change conntrack.Change
	nat    *conntrack.NAT
}

// modified is one flow on its way through a modification.
type modified struct {
	was     conntrack.Flow // before
	now     conntrack.Flow // with other addresses where it was made anew, else was
	renewed bool           // made anew with other addresses
	changed bool           // by the change
	err     error
}

// apply changes the flows, which are looked at in order. The addresses come first: a flow is made
// anew for them, with all that is to be changed, and can be given the old ones back if the change
// fails, while not every change can be taken back.
func (m *modification) apply(ctx context.Context, t Table, flows []conntrack.Flow) []modified {
	items := make([]modified, len(flows))
	var keys []conntrack.Key
	var at []int
	for i := range flows {
		item := &items[i]
		item.was, item.now = flows[i], flows[i]
		if m.translates(&item.was) {
			m.renew(ctx, t, item)
		}
		if item.err == nil && m.alters(&item.now) {
			keys, at = append(keys, item.now.Key()), append(at, i)
		}
	}
	if len(keys) == 0 {
		return items
	}
	for j, err := range t.Modify(ctx, keys, m.change) {
		item := &items[at[j]]
		item.changed, item.err = err == nil, err
		if err != nil && item.renewed {
			item.restore(ctx, t)
		}
	}
	return items
}

// try looks, without changing anything, at what the flows would become, and reports those that can't.
func (m *modification) try(ctx context.Context, t Table, flows []conntrack.Flow, r *changeResult) {
	errs := t.CanModify(ctx, keysOf(flows), m.change)
	for i := range flows {
		err := errs[i]
		if err == nil && m.translates(&flows[i]) {
			err = t.CanReplace(ctx, flows[i].Key(), *m.nat)
		}
		switch {
		case errors.Is(err, conntrack.ErrNotFound):
			r.gone++
		case err != nil:
			r.fail(&flows[i], err)
		default:
			r.show(flows[i])
		}
	}
}

// alters tells whether the change would make anything other than it is. A timeout always is: it runs
// down.
func (m *modification) alters(f *conntrack.Flow) bool {
	c := &m.change
	return c.Timeout != nil ||
		c.Status&^f.Status != 0 ||
		c.Mark != nil && f.Mark&c.Mark.Mask != c.Mark.Value&c.Mark.Mask ||
		c.Labels != nil && !labelsEqual(&f.Labels, c.Labels) ||
		c.Helper != nil && f.Helper != *c.Helper ||
		c.State != nil && (f.State != *c.State || f.Proto() != conntrack.TCP)
}

func labelsEqual(have *conntrack.Labels, want *conntrack.MaskedLabels) bool {
	for i := range have {
		if have[i]&want.Mask[i] != want.Value[i]&want.Mask[i] {
			return false
		}
	}
	return true
}

// translates tells whether the flow is to have other addresses than it has.
func (m *modification) translates(f *conntrack.Flow) bool {
	if m.nat == nil {
		return false
	}
	differs := func(want, is netip.AddrPort) bool {
		return want.Addr().IsValid() && want.Addr() != is.Addr() || want.Port() != 0 && want.Port() != is.Port()
	}
	is := natOf(&f.Reply)
	return differs(m.nat.Src, is.Src) || differs(m.nat.Dst, is.Dst)
}

// natOf returns what gives a flow the reply direction r. Ports are 0 where none are translated.
func natOf(r *conntrack.Tuple) conntrack.NAT {
	var srcPort, dstPort uint16
	switch {
	case r.Proto.IsICMP():
		srcPort = r.ICMPID
	case r.Proto.HasPorts():
		srcPort, dstPort = r.DstPort, r.SrcPort
	}
	return conntrack.NAT{Src: netip.AddrPortFrom(r.Dst, srcPort), Dst: netip.AddrPortFrom(r.Src, dstPort)}
}

// renew gives the flow its other addresses, unless it is known already that the change will fail.
func (m *modification) renew(ctx context.Context, t Table, item *modified) {
	if item.err = t.CanModify(ctx, []conntrack.Key{item.was.Key()}, m.change)[0]; item.err != nil {
		return
	}
	made, err := t.Replace(ctx, item.was.Key(), *m.nat)
	if err != nil {
		item.err = err
		return
	}
	item.now, item.renewed = made, true
}

// restore gives the flow its old addresses back after the change failed, even if the caller has
// gone meanwhile.
func (item *modified) restore(ctx context.Context, t Table) {
	old, err := t.Replace(context.WithoutCancel(ctx), item.now.Key(), natOf(&item.was.Reply))
	if err != nil {
		item.err = fmt.Errorf("%w; and the old addresses could not be given back: %w", item.err, err)
		return
	}
	item.now = old
}

// report adds the flow to a result, read again as far as the result shows it.
func (item *modified) report(ctx context.Context, t Table, r *changeResult) {
	switch {
	case errors.Is(item.err, conntrack.ErrNotFound) && !errors.Is(item.err, conntrack.ErrNotRenewed):
		r.gone++
	case item.err != nil:
		f := item.now
		if len(r.failed) < maxShown {
			if read, err := t.Get(ctx, f.Key()); err == nil {
				f = read
			}
		}
		r.fail(&f, item.err)
	case !item.renewed && !item.changed:
		r.show(item.was)
	default:
		r.n++
		if r.full() {
			r.truncated = true
			return
		}
		f, err := t.Get(ctx, item.now.Key())
		switch {
		case err == nil:
			r.show(f)
		case !errors.Is(err, conntrack.ErrNotFound): // it may have ended, by its new timeout even
			r.truncated = true
		}
	}
}
