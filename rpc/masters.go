package rpc

import (
	"context"
	"errors"
	"fmt"

	"ctd/conntrack"
)

// A flow or an expectation tells of another flow: its master. One that is outside of the caller's networks isn't
// there: it isn't told, and nothing is related to it.

// maxSeen bounds of how many masters a list remembers whether the caller sees them.
const maxSeen = 4096

// sees tells whether the flow of which a key has the original direction is the caller's. It is looked up only
// where that direction doesn't tell, and once where seen, which may be nil, has it.
func (g *guarded) sees(ctx context.Context, k conntrack.Key, seen map[conntrack.Key]bool) bool {
	if g.has(&conntrack.Flow{Orig: k.Orig}) {
		return true
	}
	if known, ok := seen[k]; ok {
		return known
	}
	f, err := g.Table.Get(ctx, k)
	is := err == nil && g.has(&f)
	if seen != nil && len(seen) < maxSeen {
		seen[k] = is
	}
	return is
}

// hideMaster takes away a master that the caller doesn't see. seen is of one list, or nil.
func (g *guarded) hideMaster(ctx context.Context, f *conntrack.Flow, seen map[conntrack.Key]bool) {
	if g.isBound() && !f.Master.IsZero() && !g.sees(ctx, f.MasterKey(), seen) {
		f.Master = conntrack.Tuple{}
	}
}

// hideMasterOf is hideMaster of an expectation.
func (g *guarded) hideMasterOf(ctx context.Context, x *conntrack.Expect) {
	if g.isBound() && !x.Master.IsZero() && !g.sees(ctx, conntrack.Key{Orig: x.Master, Zone: x.Zone}, nil) {
		x.Master = conntrack.Tuple{}
	}
}

// mayRelate returns the error of a master that isn't there, for a flow that has one.
func (g *guarded) mayRelate(ctx context.Context, f *conntrack.Flow) error {
	if !g.isBound() || f.Master.IsZero() {
		return nil
	}
	if _, err := g.Get(ctx, f.MasterKey()); err != nil {
		return fmt.Errorf("master: %w", err)
	}
	return nil
}

// importer is Table.Import, or CanImport.
type importer func(ctx context.Context, flows []conntrack.Flow, on conntrack.OnConflict) []conntrack.Imported

// importBy imports flows without the masters that aren't there for the caller. The table isn't asked for those
// again: it would see one that begins meanwhile.
func (g *guarded) importBy(ctx context.Context, do importer, flows []conntrack.Flow, on conntrack.OnConflict) []conntrack.Imported {
	if !g.isBound() {
		return do(ctx, flows, on)
	}
	flows, orphans, err := g.orphaned(ctx, flows)
	if err != nil {
		return notImported(len(flows), err)
	}
	results := do(ctx, flows, on)
	for _, i := range orphans {
		made := results[i].Outcome == conntrack.OutcomeCreated || results[i].Outcome == conntrack.OutcomeReplaced
		results[i].Orphan = results[i].Orphan || made
	}
	return results
}

// notImported are the results of an import of which an error keeps all n flows.
func notImported(n int, err error) []conntrack.Imported {
	results := make([]conntrack.Imported, n)
	for i := range results {
		results[i].Err = err
	}
	return results
}

// orphaned returns flows without the masters that aren't there for the caller, and which of them lost one. A
// master of the list is there, unless a flow outside has its place.
func (g *guarded) orphaned(ctx context.Context, flows []conntrack.Flow) (parted []conntrack.Flow, orphans []int, err error) {
	var related []int
	var keys []conntrack.Key
	for i := range flows {
		if !flows[i].Master.IsZero() {
			related, keys = append(related, i), append(keys, flows[i].MasterKey())
		}
	}
	if len(related) == 0 {
		return flows, nil, nil
	}
	listed := make(map[conntrack.Key]bool, len(flows))
	for i := range flows {
		listed[conntrack.Key{Orig: flows[i].Orig, Zone: flows[i].Zone}] = true
	}
	parted = append([]conntrack.Flow(nil), flows...)
	masters, errs := g.Table.GetMany(ctx, keys)
	for j, i := range related {
		missing := errors.Is(errs[j], conntrack.ErrNotFound)
		switch {
		case errs[j] == nil && g.has(&masters[j]), missing && listed[keys[j]]:
		case errs[j] == nil, missing:
			parted[i].Master = conntrack.Tuple{}
			orphans = append(orphans, i)
		case !errors.Is(errs[j], conntrack.ErrNoKey): // of which the table says what it lacks
			return flows, nil, errs[j]
		}
	}
	return parted, orphans, nil
}
