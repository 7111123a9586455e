package conntrack

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// replaceTries bounds how often a flow is made again because a packet came in between and made
// an entry of its own.
const replaceTries = 4

// Replace gives a flow other addresses. The kernel can't change the tuples of an entry, so the
// flow is deleted and the same flow is made anew with the translation, and put back as it was if
// that fails. What the kernel doesn't let be written is lost: counters, start, id, and the
// expectations of the flow.
func (t *Table) Replace(ctx context.Context, k Key, nat NAT) (Flow, error) {
	f, err := t.replace(ctx, k, nat)
	return f, opError("replace flow", err)
}

func (t *Table) replace(ctx context.Context, k Key, nat NAT) (Flow, error) {
	old, err := t.get(ctx, k)
	if err != nil {
		return Flow{}, err
	}
	if err := nat.check(old.Proto()); err != nil {
		return Flow{}, err
	}
	next := old
	next.Reply = nat.apply(old.Reply)
	if next.Reply == old.Reply {
		return old, nil
	}
	if err := checkCreate(&next); err != nil {
		return Flow{}, err
	}
	// See whether the new reply tuple is free before anything is touched.
	_, err = t.get(ctx, Key{Reply: next.Reply, Zone: next.Zone})
	switch {
	case err == nil:
		return Flow{}, ErrNATTaken
	case !errors.Is(err, ErrNotFound):
		return Flow{}, err
	}
	if err := t.Kill(ctx, []Key{old.Key()})[0]; err != nil {
		return Flow{}, err
	}
	made, err := t.insert(ctx, next)
	if err == nil {
		return made, nil
	}
	// The flow must be put back even if the caller has gone meanwhile.
	return Flow{}, also(err, t.putBack(context.WithoutCancel(ctx), old))
}

// putBack makes a flow again that was deleted.
func (t *Table) putBack(ctx context.Context, old Flow) error {
	_, err := t.insert(ctx, old)
	if errors.Is(err, syscall.ENOSPC) {
		// The last rule with labels has gone since the flow began. Better without them than gone.
		old.Labels = Labels{}
		if _, err = t.insert(ctx, old); err == nil {
			return errors.New("the flow was put back without its labels")
		}
	}
	if err != nil {
		return fmt.Errorf("the flow could not be put back: %w", err)
	}
	return nil
}

// insert creates a flow, and deletes an entry that a packet of the same flow made meanwhile.
func (t *Table) insert(ctx context.Context, f Flow) (Flow, error) {
	for try := 1; ; try++ {
		made, err := t.create(ctx, f)
		if !errors.Is(err, ErrExists) || try == replaceTries {
			return made, err
		}
		intruder, getErr := t.get(ctx, f.Key().withoutID())
		switch {
		case errors.Is(getErr, ErrNotFound):
			// Gone already, or it is the reply tuple that is taken: the next try tells.
		case getErr != nil:
			return Flow{}, getErr
		case intruder.Orig != f.Orig:
			return Flow{}, ErrNATTaken // another flow's reply direction
		default:
			_ = t.Kill(ctx, []Key{intruder.Key()})
		}
	}
}
