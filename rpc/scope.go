package rpc

import (
	"context"
	"iter"
	"net/netip"
	"strings"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

// The addresses by which a flow is inside a caller's networks, Service.Scope.
const (
	ScopeEither = "either" // any of the four
	ScopeOrig   = "orig"   // source or destination of the original direction
	ScopeReply  = "reply"  // source or destination of the reply direction
)

// scopeFilter returns what is inside networks; the zero Filter where there are none.
func scopeFilter(side string, networks []netip.Prefix) (conntrack.Filter, error) {
	if len(networks) == 0 {
		return conntrack.Filter{}, nil
	}
	texts := make([]string, len(networks))
	for i, n := range networks {
		texts[i] = n.String()
	}
	list := strings.Join(texts, ",")
	switch side {
	case ScopeOrig:
		return conntrack.ParseFilter("src=" + list + " or dst=" + list)
	case ScopeReply:
		return conntrack.ParseFilter("reply_src=" + list + " or reply_dst=" + list)
	}
	return conntrack.ParseFilter("addr=" + list)
}

// scope returns by which addresses a flow is inside networks.
func (s *Service) scope(ctx context.Context) string {
	if s.Scope == nil {
		return ScopeEither
	}
	return s.Scope(ctx)
}

// guarded is the table as the caller of one call has it: what is outside of the caller's networks isn't
// there, and nothing is changed that was not recorded before. Methods reach the table only through it.
type guarded struct {
	Table
	scope conntrack.Filter // the zero Filter: everything
	bound []netip.Prefix
	*change
}

// table returns the table of a call.
func (s *Service) table(ctx context.Context) (*guarded, error) {
	g := &guarded{Table: s.Table, change: changeFrom(ctx)}
	p := PrincipalFrom(ctx)
	if p == nil {
		return nil, errUnauthenticated() // a method that was reached without a caller is a mistake
	}
	g.bound = p.Networks()
	var err error
	g.scope, err = scopeFilter(s.scope(ctx), g.bound)
	return g, err
}

// whole is the same table without bounds, for what isn't shown to the caller.
func (g *guarded) whole() *guarded { return &guarded{Table: g.Table, change: g.change} }

// isBound tells whether there is anything that the caller doesn't see.
func (g *guarded) isBound() bool { return !g.scope.IsZero() }

func (g *guarded) has(f *conntrack.Flow) bool { return g.scope.Match(f) }

// hasTuples tells whether one of the addresses of tuples, each for itself, is the caller's.
func (g *guarded) hasTuples(tuples ...*conntrack.Tuple) bool {
	if !g.isBound() {
		return true
	}
	for _, t := range tuples {
		for _, n := range g.bound {
			if n.Contains(t.Src) || n.Contains(t.Dst) {
				return true
			}
		}
	}
	return false
}

// errOutside refuses to make what is outside of the caller's networks.
func (g *guarded) errOutside(what string) error {
	names := make([]string, len(g.bound))
	for i, n := range g.bound {
		names[i] = n.String()
	}
	return &wire.Error{
		Code: wire.PermissionDenied, Message: what + " is outside of your networks",
		Hint: "yours are " + strings.Join(names, ", "),
	}
}

// mayMake returns an error for a flow of which a direction is outside of the caller's networks: one whose
// packets, or answers, would be others'.
func (g *guarded) mayMake(what string, f *conntrack.Flow) error {
	reply := f.Reply
	if reply.IsZero() {
		reply = f.Orig.Inverse()
	}
	switch {
	case !g.hasTuples(&f.Orig):
		return g.errOutside(what)
	case !g.hasTuples(&reply):
		return g.errOutside("the reply direction of " + what)
	}
	return nil
}

// mayTranslate returns an error for a caller who is bound to networks and gave a parameter that translates: other
// addresses and ports are, or may become, others', and whether they are free would tell of flows outside.
func (g *guarded) mayTranslate(param string) error {
	if !g.isBound() {
		return nil
	}
	return &wire.Error{
		Code: wire.PermissionDenied, Message: param + ": callers who are bound to networks can't translate addresses",
		Hint: "leave it out, or kill the flow instead; ask somebody who isn't bound where it has to be translated otherwise",
	}
}

// Flows is Table's.
func (g *guarded) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	return g.seen(ctx, g.Table.Flows(ctx, f, g.within(opts)...))
}

// seen gives flows of the caller's as the caller sees them.
func (g *guarded) seen(ctx context.Context, flows iter.Seq2[conntrack.Flow, error]) iter.Seq2[conntrack.Flow, error] {
	if !g.isBound() {
		return flows
	}
	return func(yield func(conntrack.Flow, error) bool) {
		var f conntrack.Flow // one for all: its address is taken, so that each would go to the heap
		masters := make(map[conntrack.Key]bool)
		for next, err := range flows {
			if f = next; err == nil {
				g.hideMaster(ctx, &f, masters)
			}
			if !yield(f, err) {
				return
			}
		}
	}
}

func (g *guarded) within(opts []conntrack.ListOption) []conntrack.ListOption {
	if !g.isBound() {
		return opts
	}
	return append(opts[:len(opts):len(opts)], conntrack.Within(g.scope))
}

// Count is Table's.
func (g *guarded) Count(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) (int, error) {
	return g.Table.Count(ctx, f, g.within(opts)...)
}

// Get is Table's. A flow outside isn't there, and isn't in the way of one inside that has the same id.
func (g *guarded) Get(ctx context.Context, k conntrack.Key) (conntrack.Flow, error) {
	if !g.isBound() {
		return g.Table.Get(ctx, k)
	}
	if k.Orig.IsZero() && k.Reply.IsZero() {
		byID, err := resolveIDs(ctx, g, []selector{{key: k}})
		if f := byID[k.ID]; err != nil || !f.Orig.IsZero() {
			return f, err
		}
		return conntrack.Flow{}, errNoFlow()
	}
	f, err := g.Table.Get(ctx, k)
	if err == nil && !g.has(&f) {
		return conntrack.Flow{}, errNoFlow()
	}
	g.hideMaster(ctx, &f, nil)
	return f, err
}

// errNoFlow is the table's own error, so that nobody can tell one outside from one that isn't there.
func errNoFlow() error { return &conntrack.OpError{Op: "get flow", Err: conntrack.ErrNotFound} }

// GetMany is Table's.
func (g *guarded) GetMany(ctx context.Context, keys []conntrack.Key) ([]conntrack.Flow, []error) {
	flows, errs := g.Table.GetMany(ctx, keys)
	for i := range flows {
		if errs[i] == nil && !g.has(&flows[i]) {
			flows[i], errs[i] = conntrack.Flow{}, errNoFlow()
		}
		g.hideMaster(ctx, &flows[i], nil)
	}
	return flows, errs
}

// NewFlows is Table's.
func (g *guarded) NewFlows(ctx context.Context) (iter.Seq2[conntrack.Flow, error], error) {
	flows, err := g.Table.NewFlows(ctx)
	if err != nil || !g.isBound() {
		return flows, err
	}
	return g.seen(ctx, func(yield func(conntrack.Flow, error) bool) {
		for f, err := range flows {
			if err == nil && !g.has(&f) {
				continue
			}
			if !yield(f, err) {
				return
			}
		}
	}), nil
}

// hasExpect tells whether an expectation is the caller's: what is expected, or its master.
func (g *guarded) hasExpect(x *conntrack.Expect) bool { return g.expects(x) || g.hasTuples(&x.Master) }

// expects tells whether whatever an expectation takes has an address of the caller's: its destination, which is
// compared whole, or its source with all that the mask leaves open.
func (g *guarded) expects(x *conntrack.Expect) bool {
	if !g.isBound() {
		return true
	}
	for _, n := range g.bound {
		if n.Contains(x.Tuple.Dst) || n.Contains(x.Tuple.Src) && compares(x.Mask.Src, n) {
			return true
		}
	}
	return false
}

// compares tells whether a mask of addresses has all bits by which an address is in a network.
func compares(mask netip.Addr, n netip.Prefix) bool {
	if mask.BitLen() != n.Addr().BitLen() {
		return false
	}
	bits := mask.AsSlice()
	for i := range n.Bits() {
		if bits[i/8]&(0x80>>(i%8)) == 0 {
			return false
		}
	}
	return true
}

// mayExpect returns an error for an expectation that would take others' flows, or translate its own.
func (g *guarded) mayExpect(x *conntrack.Expect) error {
	switch {
	case !g.isBound():
		return nil
	case x.NAT != nil:
		return g.mayTranslate("nat")
	case x.Function != "": // the kernel's functions are all of NAT
		return g.mayTranslate("function")
	case !g.expects(x) && g.hasTuples(&x.Tuple):
		return g.errOutside("what is expected from other sources, which mask.src lets in,")
	case !g.expects(x):
		return g.errOutside("what is expected")
	}
	return nil
}

// Expects is Table's.
func (g *guarded) Expects(ctx context.Context) iter.Seq2[conntrack.Expect, error] {
	if !g.isBound() {
		return g.Table.Expects(ctx)
	}
	return func(yield func(conntrack.Expect, error) bool) {
		for x, err := range g.Table.Expects(ctx) {
			if err == nil {
				if !g.hasExpect(&x) {
					continue
				}
				g.hideMasterOf(ctx, &x)
			}
			if !yield(x, err) {
				return
			}
		}
	}
}

// GetExpect is Table's.
func (g *guarded) GetExpect(ctx context.Context, id uint32) (conntrack.Expect, error) {
	x, err := g.Table.GetExpect(ctx, id)
	if err == nil && !g.hasExpect(&x) {
		return conntrack.Expect{}, &conntrack.OpError{Op: "get expectation", Err: conntrack.ErrNotFound}
	}
	g.hideMasterOf(ctx, &x)
	return x, err
}

// cutter returns the cutter of a call; nil where nothing can be cut.
func (s *Service) cutter(g *guarded) Cutter {
	if s.Cutter == nil {
		return nil
	}
	return &guardedCutter{s.Cutter, g}
}

// guardedCutter is the cutter as the caller of one call has it.
type guardedCutter struct {
	Cutter
	table *guarded
}

// Cut is Cutter's.
func (c *guardedCutter) Cut(ctx context.Context, flows []conntrack.Flow, o cut.Options) (cut.Result, error) {
	if err := c.table.begun(); err != nil {
		return cut.Result{}, err
	}
	return c.Cutter.Cut(ctx, flows, o)
}

// Blocks is Cutter's.
func (c *guardedCutter) Blocks() ([]cut.Block, error) {
	all, err := c.Cutter.Blocks()
	if err != nil || !c.table.isBound() {
		return all, err
	}
	var own []cut.Block
	for _, b := range all {
		if c.table.hasTuples(&conntrack.Tuple{Src: b.Src, Dst: b.Dst}) {
			own = append(own, b)
		}
	}
	return own, nil
}

// Unblock is Cutter's.
func (c *guardedCutter) Unblock(blocks []cut.Block) ([]cut.Block, error) {
	if err := c.table.begun(); err != nil {
		return nil, err
	}
	return c.Cutter.Unblock(blocks)
}
