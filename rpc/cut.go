package rpc

import (
	"context"
	"fmt"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

const (
	// defaultCut is how long connections are kept out that are cut.
	defaultCut = 30 * time.Second
	// maxCut is how long they may be kept out, and addresses be kept apart.
	maxCut = 30 * 24 * time.Hour
)

// killer is how flows are killed.
type killer struct {
	table  *guarded
	cutter Cutter // nil: their entries are deleted, and no more
	cut    cut.Options

	spared bool // k.cut.Spare is known
}

// readKiller reads how flows are to be killed.
func (s *Service) readKiller(ctx context.Context, table *guarded, c *wire.Cutting, reason string) (*killer, error) {
	k := &killer{table: table}
	var err error
	switch v := c.Cut.(type) {
	case nil:
	case bool:
		if v {
			k.cut.For = defaultCut
		} else if c.Block != nil {
			return nil, invalidParams("cut and block contradict each other")
		}
	default:
		if k.cut.For, err = readTime("cut", v, maxCut); err != nil {
			return nil, err
		}
	}
	if c.Block != nil {
		if k.cut.Block, err = readTime("block", c.Block, maxCut); err != nil {
			return nil, err
		}
		if k.cut.For == 0 { // a block without a cut would leave the connections that there are
			k.cut.For = min(defaultCut, k.cut.Block)
		}
	}
	k.cut.Reject = c.Reject
	if k.cut.For == 0 {
		if c.Reject {
			return nil, invalidParams("reject says how to cut: give cut or block with it")
		}
		return k, nil
	}
	if k.cutter = s.cutter(table); k.cutter == nil {
		return nil, errNoCutter()
	}
	if table.isBound() {
		k.cut.Most = table.mostCut
	}
	k.cut.Comment = reason
	if p := PrincipalFrom(ctx); p != nil {
		k.cut.Comment = p.Name()
		if reason != "" {
			k.cut.Comment += ": " + reason
		}
	}
	return k, nil
}

func errNoCutter() error {
	return &wire.Error{Code: wire.Unsupported, Message: "this daemon can't cut connections", Hint: "kill without cut and block"}
}

// plan returns where to note what is going to be cut; nil where nothing is.
func (k *killer) plan() *cut.Plan {
	if k.cutter == nil {
		return nil
	}
	return &cut.Plan{}
}

// check refuses to cut so many flows.
func (k *killer) check(n int) error {
	if k.cutter == nil || n <= cut.MaxFlows {
		return nil
	}
	return &wire.Error{
		Code: wire.LimitExceeded, Message: fmt.Sprintf("%d flows match, and at most %d can be cut at a time; nothing was changed", n, cut.MaxFlows),
		Hint: "narrow the filter, and cut in several calls, or kill without cut",
	}
}

// checkBlocks refuses a caller who is bound to networks to keep apart addresses that are both outside of
// them: where a flow's own address is behind one that is shared, the block would be for all that share it.
func (k *killer) checkBlocks(flows []conntrack.Flow) error {
	if k.cut.Block == 0 {
		return nil
	}
	for i := range flows {
		if f := &flows[i]; !k.table.hasTuples(&f.Orig) {
			return k.table.errOutside("the block of " + f.Orig.Src.String() + " and " + f.Orig.Dst.String())
		}
	}
	return nil
}

// mostCut is the longest that a caller who is bound to networks may keep out one direction of a flow. Without ports
// those are all packets of its protocol between two addresses; where both are outside, they are others' too. As
// nothing else ends such a flow, they are kept out for as long as a cut takes, and no longer.
func (g *guarded) mostCut(t *conntrack.Tuple) time.Duration {
	if t.Proto.HasPorts() || g.hasTuples(t) {
		return maxCut
	}
	return defaultCut
}

// prepare sees to it, before anything is deleted, that n flows can be cut as planned, and that
// addresses are not kept apart between which the caller's own connections are.
func (k *killer) prepare(ctx context.Context, n int, plan *cut.Plan, me *self, r *changeResult) error {
	if k.cutter == nil {
		return nil
	}
	if r.cut == nil {
		r.cut = &wire.CutResult{Seconds: uint32(k.cut.For / time.Second)}
	}
	if n == 0 {
		return nil
	}
	if err := k.check(n); err != nil {
		return err
	}
	if err := k.cutter.Prepare(plan, k.cut); err != nil {
		return err
	}
	if k.cut.Block == 0 || k.spared {
		return nil
	}
	var err error
	if k.cut.Spare, err = me.pairs(ctx); err != nil {
		return err
	}
	k.spared = true
	return nil
}

// end cuts flows whose entries were deleted.
func (k *killer) end(ctx context.Context, killed []conntrack.Flow, r *changeResult) error {
	if k.cutter == nil || len(killed) == 0 {
		return nil
	}
	done, err := k.cutter.Cut(ctx, killed, k.cut)
	if err != nil {
		return fmt.Errorf("the last %d of the flows that were killed were not cut: %w", len(killed), err)
	}
	r.cut.Blocks += done.Blocks
	r.cut.Sockets += done.Sockets
	r.cut.Probed += done.Probed
	r.cut.Untold += done.Untold
	k.sweep(ctx, killed)
	return nil
}

// sweep deletes the entries that packets made of the same connections between the deletion and the
// cut. They are told by what their first packet had, which others can't have: it is kept out. The
// translated address and port, in the answers, may be another's by now.
func (k *killer) sweep(ctx context.Context, killed []conntrack.Flow) {
	keys := make([]conntrack.Key, 0, 2*len(killed))
	for i := range killed {
		f := &killed[i]
		keys = append(keys, conntrack.Key{Orig: f.Orig, Zone: f.Zone})
		if f.Reply != f.Orig.Inverse() { // the answers of a translated flow make one of their own
			keys = append(keys, conntrack.Key{Orig: f.Reply, Zone: f.Zone})
		}
	}
	var made []conntrack.Key
	table := k.table.whole() // its answers alone may be outside of the caller's networks
	flows, errs := table.GetMany(ctx, keys)
	for i := range flows { // mostly there is none
		if errs[i] == nil && flows[i].Orig == keys[i].Orig {
			made = append(made, flows[i].Key())
		}
	}
	if len(made) > 0 {
		table.Kill(ctx, made)
	}
}
