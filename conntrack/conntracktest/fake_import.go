package conntracktest

import (
	"context"
	"errors"
	"slices"

	"ctd/conntrack"
)

// OpImport makes Import fail, flow by flow.
const OpImport Op = "Import"

// Import makes flows as the kernel's table does, but compares no more than tuples, mark and status
// of one that is there with what it would be replaced by.
func (t *Fake) Import(ctx context.Context, flows []conntrack.Flow, on conntrack.OnConflict) []conntrack.Imported {
	return t.importInto(ctx, t, flows, on)
}

// CanImport returns what Import would do.
func (t *Fake) CanImport(ctx context.Context, flows []conntrack.Flow, on conntrack.OnConflict) []conntrack.Imported {
	t.mu.Lock()
	trial := &Fake{flows: slices.Clone(t.flows), lastID: t.lastID}
	t.mu.Unlock()
	return t.importInto(ctx, trial, flows, on)
}

func (t *Fake) importInto(ctx context.Context, into *Fake, flows []conntrack.Flow, on conntrack.OnConflict) []conntrack.Imported {
	fail := t.begin(ctx, OpImport)
	defer t.mu.Unlock()
	results := make([]conntrack.Imported, len(flows))
	if on == conntrack.OnConflictFail && into.refuse(flows, results) {
		return results
	}
	if on == conntrack.OnConflictReplace {
		leaveLast(flows, results)
	}
	for _, related := range []bool{false, true} { // masters come first
		for i := range flows {
			if flows[i].Master.IsZero() == related || results[i].Outcome == conntrack.OutcomeSkipped {
				continue
			}
			r := &results[i]
			if r.Err = fail; fail == nil {
				*r = into.importOne(flows[i], on)
			}
			if r.Err != nil {
				r.Err = &conntrack.OpError{Op: "import flow", Err: r.Err}
			}
		}
	}
	return results
}

// leaveLast skips the flows that a later one replaces.
func leaveLast(flows []conntrack.Flow, results []conntrack.Imported) {
	last := &Fake{}
	for i, f := range slices.Backward(flows) {
		if _, err := last.create(f); errors.Is(err, conntrack.ErrExists) {
			results[i].Outcome = conntrack.OutcomeSkipped
		}
	}
}

// refuse marks the flows whose tuples are taken, and tells whether there are any.
func (t *Fake) refuse(flows []conntrack.Flow, results []conntrack.Imported) bool {
	trial := &Fake{flows: slices.Clone(t.flows)}
	refused := false
	for i, f := range flows {
		if _, err := trial.create(f); errors.Is(err, conntrack.ErrExists) {
			results[i].Err = &conntrack.OpError{Op: "import flow", Err: err}
			refused = true
		}
	}
	return refused
}

func (t *Fake) importOne(f conntrack.Flow, on conntrack.OnConflict) conntrack.Imported {
	f, err := conntrack.CheckImport(f)
	if err != nil {
		return conntrack.Imported{Err: err}
	}
	var r conntrack.Imported
	if !f.Master.IsZero() && t.find(conntrack.Key{Orig: f.Master, Zone: f.Zone}) < 0 {
		f.Master, r.Orphan = conntrack.Tuple{}, true
	}
	r.Outcome = conntrack.OutcomeCreated
	for _, tuple := range []conntrack.Tuple{f.Orig, f.Reply} {
		at := t.find(conntrack.Key{Orig: tuple, Zone: f.Zone})
		if at < 0 {
			continue
		}
		have := t.flows[at]
		same := have.Orig == f.Orig && have.Reply == f.Reply && have.Mark == f.Mark && have.Status&settable == f.Status&settable
		if on == conntrack.OnConflictSkip || same {
			return conntrack.Imported{Outcome: conntrack.OutcomeSkipped}
		}
		t.flows = slices.Delete(t.flows, at, at+1)
		r.Outcome = conntrack.OutcomeReplaced
	}
	if _, err := t.create(f); err != nil {
		return conntrack.Imported{Err: err}
	}
	t.writes++
	return r
}
