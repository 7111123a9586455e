package conntracktest

import (
	"context"
	"fmt"
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

// CreateExpect makes an expectation. It refuses one whose master isn't there (ENOENT) or has no
// helper (EOPNOTSUPP), and one that is there already (EEXIST).
func (t *Fake) CreateExpect(ctx context.Context, e conntrack.Expect) (conntrack.Expect, error) {
	err := t.begin(ctx, OpCreateExpect)
	defer t.mu.Unlock()
	if err == nil {
		err = t.createExpect(&e)
	}
	if err != nil {
		return conntrack.Expect{}, fmt.Errorf("create expectation: %w", err)
	}
	t.writes++
	return e, nil
}

func (t *Fake) createExpect(e *conntrack.Expect) error {
	if e.Tuple.Family() == conntrack.FamilyAny {
		return unix.EINVAL
	}
	master := t.find(conntrack.Key{Orig: e.Master, Zone: e.Zone})
	switch {
	case master < 0:
		return conntrack.ErrNotFound
	case t.flows[master].Helper == "":
		return unix.EOPNOTSUPP
	case t.findExpect(*e) >= 0:
		return unix.EEXIST
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
		errs[n] = fmt.Errorf("kill expectation: %w", err)
	}
	return errs
}

// FlushExpects deletes all expectations and returns how many there were.
func (t *Fake) FlushExpects(ctx context.Context) (int, error) {
	err := t.begin(ctx, OpFlushExpects)
	defer t.mu.Unlock()
	if err != nil {
		return 0, fmt.Errorf("flush expectations: %w", err)
	}
	n := len(t.expects)
	t.expects = nil
	t.writes += n
	return n, nil
}
