package conntrack

import (
	"context"
	"errors"
	"fmt"
)

// Kill deletes flows and returns an error for each key: nil for a flow that was deleted,
// ErrNotFound for one that was gone already or whose tuple meanwhile belongs to a flow with
// another id (see Key.ID). A key without a tuple is ErrNoKey: Get finds the tuple of an id.
//
// The kernel works off the keys in their order, many to a system call. Cancelling ctx ends it in
// between; keys that were not tried bear ctx.Err().
func (t *Table) Kill(ctx context.Context, keys []Key) []error {
	errs := t.batch(ctx, len(keys), msgDelete, 0, func(b []byte, i int) ([]byte, Family, error) {
		k := &keys[i]
		if err := k.check(); err != nil {
			return b, 0, err
		}
		b = k.append(b)
		if k.ID != 0 {
			b = appendBE32(b, ctaID, k.ID)
		}
		return b, k.family(), nil
	})
	return wrapAll("kill flow", errs)
}

// Flush deletes all flows of a family (FamilyAny: both) and zone (nil: every zone) and returns
// how many there were.
//
// Only a flush of everything is left to the kernel. Whether it heeds a family or a zone depends
// on its version, and one that doesn't would delete all, so the others are a dump and a kill.
func (t *Table) Flush(ctx context.Context, family Family, zone *uint16) (int, error) {
	if family == FamilyAny && zone == nil {
		n, err := t.Count(ctx, Filter{})
		if err != nil {
			return 0, opError("flush flows", err)
		}
		err = t.roundTrip(ctx, msgDelete, flagAck, FamilyAny, noAttributes, nil)
		if err != nil {
			return 0, opError("flush flows", err)
		}
		return n, nil
	}
	return t.flushMatching(ctx, func(f *Flow) bool {
		return (family == FamilyAny || f.Family() == family) && (zone == nil || f.Zone == *zone)
	})
}

// flushChunk bounds how many keys are held at a time, so that a flush of a large table needs
// little memory.
const flushChunk = 4096

func (t *Table) flushMatching(ctx context.Context, match func(f *Flow) bool) (int, error) {
	var (
		killed  int
		pending []Key
		failure error
	)
	kill := func() {
		for _, err := range t.Kill(ctx, pending) {
			switch {
			case err == nil:
				killed++
			case !errors.Is(err, ErrNotFound) && failure == nil:
				failure = err
			}
		}
		pending = pending[:0]
	}
	err := t.list(ctx, Filter{}, listConfig{}, func(f *Flow) bool {
		if match(f) {
			pending = append(pending, f.Key())
		}
		if len(pending) == flushChunk {
			kill()
		}
		return failure == nil
	})
	kill()
	err = also(err, failure)
	if err != nil && killed > 0 {
		err = fmt.Errorf("after %d were deleted: %w", killed, err)
	}
	return killed, opError("flush flows", err)
}
