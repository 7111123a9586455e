package rpc

import (
	"context"
	"errors"

	"ctd/conntrack"
)

// errNotBegun is a mistake in a method: it changes something without change.begin before.
var errNotBegun = errors.New("a change was not begun, so nothing is changed")

// begun returns an error unless the call may change something: begin recorded it.
func (g *guarded) begun() error {
	if g.change == nil || !g.change.open {
		return errNotBegun
	}
	return nil
}

// each gives every one of n keys the same error.
func each(n int, err error) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// Kill is Table's.
func (g *guarded) Kill(ctx context.Context, keys []conntrack.Key) []error {
	if err := g.begun(); err != nil {
		return each(len(keys), err)
	}
	return g.Table.Kill(ctx, keys)
}

// Modify is Table's.
func (g *guarded) Modify(ctx context.Context, keys []conntrack.Key, c conntrack.Change) []error {
	if err := g.begun(); err != nil {
		return each(len(keys), err)
	}
	return g.Table.Modify(ctx, keys, c)
}

// Replace is Table's.
func (g *guarded) Replace(ctx context.Context, k conntrack.Key, nat conntrack.NAT) (conntrack.Flow, error) {
	if err := g.begun(); err != nil {
		return conntrack.Flow{}, err
	}
	if err := g.mayTranslate("set.nat"); err != nil {
		return conntrack.Flow{}, err
	}
	return g.Table.Replace(ctx, k, nat)
}

// Create is Table's.
func (g *guarded) Create(ctx context.Context, f conntrack.Flow) (conntrack.Flow, error) {
	if err := g.begun(); err != nil {
		return conntrack.Flow{}, err
	}
	if err := g.mayRelate(ctx, &f); err != nil {
		return conntrack.Flow{}, err
	}
	return g.Table.Create(ctx, f)
}

// CanCreate is Table's.
func (g *guarded) CanCreate(ctx context.Context, f conntrack.Flow) (conntrack.Flow, error) {
	if err := g.mayRelate(ctx, &f); err != nil {
		return conntrack.Flow{}, err
	}
	return g.Table.CanCreate(ctx, f)
}

// Import is Table's.
func (g *guarded) Import(ctx context.Context, flows []conntrack.Flow, on conntrack.OnConflict) []conntrack.Imported {
	if err := g.begun(); err != nil {
		return notImported(len(flows), err)
	}
	return g.importBy(ctx, g.Table.Import, flows, on)
}

// CanImport is Table's.
func (g *guarded) CanImport(ctx context.Context, flows []conntrack.Flow, on conntrack.OnConflict) []conntrack.Imported {
	return g.importBy(ctx, g.Table.CanImport, flows, on)
}

// Flush is Table's.
func (g *guarded) Flush(ctx context.Context, family conntrack.Family, zone *uint16) (int, error) {
	if err := g.begun(); err != nil {
		return 0, err
	}
	if g.isBound() {
		return 0, g.errOutside("a part of the table")
	}
	return g.Table.Flush(ctx, family, zone)
}

// CreateExpect is Table's.
func (g *guarded) CreateExpect(ctx context.Context, e conntrack.Expect) (conntrack.Expect, error) {
	if err := g.begun(); err != nil {
		return conntrack.Expect{}, err
	}
	if err := g.mayExpect(&e); err != nil {
		return conntrack.Expect{}, err
	}
	return g.Table.CreateExpect(ctx, e)
}

// KillExpects is Table's.
func (g *guarded) KillExpects(ctx context.Context, es []conntrack.Expect) []error {
	if err := g.begun(); err != nil {
		return each(len(es), err)
	}
	return g.Table.KillExpects(ctx, es)
}

// FlushExpects is Table's.
func (g *guarded) FlushExpects(ctx context.Context) (int, error) {
	if err := g.begun(); err != nil {
		return 0, err
	}
	if g.isBound() {
		return 0, g.errOutside("a part of the expectations")
	}
	return g.Table.FlushExpects(ctx)
}
