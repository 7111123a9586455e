package conntracktest

import (
	"context"
	"iter"
	"slices"

	"ctd/conntrack"

	"golang.org/x/sys/unix"
)

// Expects gives the expectations as they were when it began, oldest first.
func (t *Fake) Expects(ctx context.Context) iter.Seq2[conntrack.Expect, error] {
	return dump(t, ctx, OpExpects, "list expectations", func() []conntrack.Expect { return t.expects },
		func(*conntrack.Expect) bool { return true })
}

// CreateExpect makes an expectation. It refuses one whose master isn't there (ErrNotFound) or has no
// helper (EOPNOTSUPP), and one that is there already (ErrExists).
func (t *Fake) CreateExpect(ctx context.Context, e conntrack.Expect) (conntrack.Expect, error) {
	err := t.begin(ctx, OpCreateExpect)
	defer t.mu.Unlock()
	if err == nil {
		err = t.createExpect(&e)
	}
	if err != nil {
		return conntrack.Expect{}, &conntrack.OpError{Op: "create expectation", Err: err}
	}
	t.writes++
	return e, nil
}

func (t *Fake) createExpect(e *conntrack.Expect) error {
	if e.Tuple.Family() == conntrack.FamilyAny {
		return conntrack.ErrIncomplete
	}
	master := t.find(conntrack.Key{Orig: e.Master, Zone: e.Zone})
	switch {
	case master < 0:
		return conntrack.ErrNotFound
	case t.flows[master].Helper == "":
		return unix.EOPNOTSUPP
	case t.findExpect(*e) >= 0:
		return conntrack.ErrExists
	}
	if e.Helper == "" {
		e.Helper = t.flows[master].Helper
	}
	t.lastID++
	e.ID = t.lastID
	t.expects = append(t.expects, *e)
	return nil
}

// findExpect returns the index of an expectation, or -1.
func (t *Fake) findExpect(e conntrack.Expect) int {
	return slices.IndexFunc(t.expects, func(x conntrack.Expect) bool {
		return x.Tuple == e.Tuple && x.Mask == e.Mask && x.Zone == e.Zone && (e.ID == 0 || x.ID == e.ID)
	})
}

// KillExpects deletes expectations, with an error for each.
func (t *Fake) KillExpects(ctx context.Context, es []conntrack.Expect) []error {
	fail := t.begin(ctx, OpKillExpects)
	defer t.mu.Unlock()
	errs := make([]error, len(es))
	for n, e := range es {
		err := fail
		if err == nil {
			if i := t.findExpect(e); i >= 0 {
				t.expects = slices.Delete(t.expects, i, i+1)
				t.writes++
				continue
			}
			err = conntrack.ErrNotFound
		}
		errs[n] = &conntrack.OpError{Op: "kill expectation", Err: err}
	}
	return errs
}

// FlushExpects deletes all expectations and returns how many there were.
func (t *Fake) FlushExpects(ctx context.Context) (int, error) {
	err := t.begin(ctx, OpFlushExpects)
	defer t.mu.Unlock()
	if err != nil {
		return 0, &conntrack.OpError{Op: "flush expectations", Err: err}
	}
	n := len(t.expects)
	t.expects = nil
	t.writes += n
	return n, nil
}

// GetExpect returns the expectation with an id; conntrack.ErrNotFound where there is none.
func (t *Fake) GetExpect(ctx context.Context, id uint32) (conntrack.Expect, error) {
	for e, err := range t.Expects(ctx) {
		if err != nil || e.ID == id {
			return e, err
		}
	}
	return conntrack.Expect{}, &conntrack.OpError{Op: "get expectation", Err: conntrack.ErrNotFound}
}
