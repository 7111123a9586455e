package conntrack

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// ErrNotRenewed says that Replace failed when it had deleted the flow, which was put back then if the
// error says nothing else. An ErrNotFound in it is not the flow's but its master's.
var ErrNotRenewed = errors.New("the flow can't be made anew")

// replaceTries bounds how often a flow is made again because a packet came in between and made
// an entry of its own.
const replaceTries = 4

// Replace gives a flow other addresses. The kernel can't change the tuples of an entry, so the
// flow is deleted and the same flow is made anew with the translation, and put back as it was if
// that fails. What the kernel doesn't let be written is lost: counters, start, id, and the
// expectations of the flow; TCP windows aren't checked any more (TCPFlagBeLiberal).
func (t *Table) Replace(ctx context.Context, k Key, nat NAT) (Flow, error) {
	f, err := t.replace(ctx, k, nat)
	return f, opError("replace flow", err)
}

// CanReplace returns the error that Replace would give as far as it can be known beforehand, and
// changes nothing.
func (t *Table) CanReplace(ctx context.Context, k Key, nat NAT) error {
	_, _, err := t.prepareReplace(ctx, k, nat)
	return opError("replace flow", err)
}

// prepareReplace returns the flow as it is and as it shall be.
func (t *Table) prepareReplace(ctx context.Context, k Key, nat NAT) (old, next Flow, err error) {
	old, err = t.get(ctx, k)
	if err != nil {
		return old, next, err
	}
	if err := nat.check(old.Proto()); err != nil {
		return old, next, err
	}
	next = old
	next.Reply = nat.Apply(old.Reply)
	if next.Reply == old.Reply {
		return old, next, nil
	}
	if err := checkCreate(&next); err != nil {
		return old, next, err
	}
	return old, next, t.isFree(ctx, next.Reply, next.Zone, ErrNATTaken)
}

// isFree returns taken where a flow has the tuple in one of its directions.
func (t *Table) isFree(ctx context.Context, tuple Tuple, zone uint16, taken error) error {
	_, err := t.get(ctx, Key{Orig: tuple, Zone: zone})
	switch {
	case err == nil:
		return taken
	case errors.Is(err, ErrNotFound):
		return nil
	}
	return err
}

func (t *Table) replace(ctx context.Context, k Key, nat NAT) (Flow, error) {
	old, next, err := t.prepareReplace(ctx, k, nat)
	if err != nil {
		return Flow{}, err
	}
	if next.Reply == old.Reply {
		return old, nil
	}
	if err := t.Kill(ctx, []Key{old.Key()})[0]; err != nil {
		return Flow{}, err
	}
	made, err := t.insert(ctx, next)
	if err == nil {
		return made, nil
	}
	// The flow must be put back even if the caller has gone meanwhile.
	return Flow{}, fmt.Errorf("%w: %w", ErrNotRenewed, also(err, t.putBack(context.WithoutCancel(ctx), old)))
}

// putBack makes a flow again that was deleted.
func (t *Table) putBack(ctx context.Context, old Flow) error {
	_, err := t.insert(ctx, old)
	if errors.Is(err, ErrNotFound) && !old.Master.IsZero() {
		old.Master = Tuple{} // the flow outlived it
		_, err = t.insert(ctx, old)
	}
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

// insert creates a flow that the kernel meets in its middle, and deletes an entry that a packet of the
// same flow made meanwhile.
func (t *Table) insert(ctx context.Context, f Flow) (Flow, error) {
	f = f.liberal()
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
