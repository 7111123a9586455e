package conntrack

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// insertAll makes flows and looks whether they became what was asked for.
func (t *Table) insertAll(ctx context.Context, flows []*Flow) []error {
	errs := t.batch(ctx, len(flows), msgNew, flagCreate|flagExcl, func(b []byte, i int) ([]byte, Family, error) {
		f := flows[i].liberal()
		return f.append(b), f.Family(), nil
	})
	var verify []int
	for i, f := range flows {
		if errs[i] == nil && (f.translated() || !f.Labels.IsZero()) {
			verify = append(verify, i)
		}
	}
	t.verify(ctx, flows, verify, errs)
	return errs
}

// verify reads flows back that were made and deletes those that became others, see Create.
func (t *Table) verify(ctx context.Context, flows []*Flow, at []int, errs []error) {
	ctx = context.WithoutCancel(ctx) // what is wrong must go
	keys := make([]Key, len(at))
	for j, i := range at {
		keys[j] = flows[i].Key()
	}
	var wrong []int
	var gone []Key
	made, got := t.getAll(ctx, keys)
	for j, i := range at {
		switch {
		case got[j] != nil:
			errs[i] = fmt.Errorf("read it back: %w", got[j])
		default:
			errs[i] = flows[i].missed(&made[j])
		}
		if errs[i] != nil {
			wrong, gone = append(wrong, i), append(gone, keys[j])
		}
	}
	killed := t.Kill(ctx, gone)
	for j, i := range wrong {
		if killed[j] != nil && !errors.Is(killed[j], ErrNotFound) {
			errs[i] = also(errs[i], killed[j])
		}
		if errors.Is(errs[i], ErrNATTaken) {
			// The kernel chooses another port rather than to say that this one is taken.
			f := flows[i]
			if _, err := t.get(ctx, Key{Reply: f.Reply, Zone: f.Zone}); err == nil {
				errs[i] = ErrExists
			}
		}
	}
}

// translated tells whether the reply direction is another than the original's inverse.
func (f *Flow) translated() bool {
	inverse := f.Orig.Inverse()
	inverse.Zone = f.Reply.Zone
	return f.Reply != inverse
}

// missed returns what the kernel made otherwise than asked for, without saying so.
func (f *Flow) missed(made *Flow) error {
	switch {
	case made.Reply != f.Reply:
		return ErrNATTaken
	case made.Labels != f.Labels:
		return fmt.Errorf("the namespace has no rule with labels: %w", syscall.ENOSPC)
	}
	return nil
}

// supplant deletes flows, makes another one in their place, and puts them back if that fails.
func (t *Table) supplant(ctx context.Context, old []Flow, f Flow) error {
	var gone []Flow
	var failure error
	for i := range old {
		err := t.Kill(ctx, []Key{old[i].Key()})[0]
		switch {
		case err == nil:
			gone = append(gone, old[i])
		case !errors.Is(err, ErrNotFound):
			failure = err
		}
	}
	if failure == nil {
		_, failure = t.insert(ctx, f)
	}
	if failure == nil {
		return nil
	}
	for i := range gone {
		// What was there must come back even if the caller has gone meanwhile.
		back := gone[i]
		back.Timeout = max(back.Timeout, time.Second)
		failure = also(failure, t.putBack(context.WithoutCancel(ctx), back))
	}
	return failure
}
