package conntrack

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// OnConflict says what Import does with a flow of which one of the tuples is another's already.
type OnConflict uint8

// What to do on a conflict.
const (
	OnConflictSkip    OnConflict = iota // leave what is there
	OnConflictReplace                   // delete what is there, unless it is the same flow
	OnConflictFail                      // make no flow at all
)

// Outcome is what became of a flow of an import.
type Outcome uint8

// Outcomes.
const (
	OutcomeNone     Outcome = iota // see Imported.Err; nil: it was not tried, because of another one's conflict
	OutcomeCreated                 // it was made
	OutcomeReplaced                // it was made in place of what had its tuples
	OutcomeSkipped                 // what is there was left, or a later one of the list replaces this one
)

// Imported is what became of a flow of an import, or would.
type Imported struct {
	Outcome Outcome
	// Orphan says that the flow was made without its master, which isn't in the table.
	Orphan bool
	Err    error
}

// Import makes flows as Create does, many to a system call, and returns what became of each. A
// timeout below a second becomes one. A flow is made after its master, whatever their order; where
// the master isn't there at all, it is made without (Imported.Orphan). Packets of TCP connections
// are not compared with their windows, which the kernel couldn't know (TCPFlagBeLiberal).
//
// With OnConflictFail nothing is made where the tuples of any flow are taken, by another one of the
// list even; those flows have ErrExists. With OnConflictReplace a flow that is equal but for its
// timeout is left, and what had to go is put back where the new flow can't be made. Of flows of the
// list that have a tuple in common the first one that can be made is, with OnConflictReplace the
// last one, so that the same import again changes nothing.
func (t *Table) Import(ctx context.Context, flows []Flow, on OnConflict) []Imported {
	im := newImport(flows)
	im.in = t
	im.run(ctx, on)
	if on == OnConflictFail && len(im.failedWith(ErrExists)) > 0 {
		im.takeBack(context.WithoutCancel(ctx), t) // somebody was faster
	}
	return im.finish("import flow")
}

// CanImport returns what Import would do as far as it can be known beforehand, and changes nothing.
func (t *Table) CanImport(ctx context.Context, flows []Flow, on OnConflict) []Imported {
	im := newImport(flows)
	im.in = im.trial(ctx, t)
	im.run(ctx, on)
	return im.finish("import flow")
}

// CheckImport returns the flow that Import would ask for, or ErrIncomplete.
func CheckImport(f Flow) (Flow, error) {
	f.Timeout = max(f.Timeout, time.Second)
	return CheckCreate(f)
}

// importing is one import under way.
type importing struct {
	in      importTable
	flows   []Flow
	results []Imported
	order   []int // masters first
}

// importTable is what an import works on: the kernel's table, or a trial.
type importTable interface {
	// insertAll makes flows in their order and returns an error for each: ErrExists where another
	// flow is in the way, ErrNotFound where the master is missing.
	insertAll(ctx context.Context, flows []*Flow) []error
	getAll(ctx context.Context, keys []Key) ([]Flow, []error)
	// supplant deletes flows, makes another one in their place, and puts them back if that fails.
	supplant(ctx context.Context, old []Flow, f Flow) error
}

func newImport(flows []Flow) *importing {
	im := &importing{flows: make([]Flow, len(flows)), results: make([]Imported, len(flows))}
	for i := range flows {
		im.flows[i], im.results[i].Err = CheckImport(flows[i])
	}
	im.order = mastersFirst(im.flows)
	return im
}

// run imports. What is in the way is left and has ErrExists where on is OnConflictFail.
func (im *importing) run(ctx context.Context, on OnConflict) {
	switch {
	case on == OnConflictFail && im.refuse(ctx):
		return
	case on == OnConflictReplace:
		im.leaveLast()
	}
	im.insert(ctx, im.pending(), on)
	im.insertOrphans(ctx, on)
	if on == OnConflictSkip {
		for _, i := range im.failedWith(ErrExists) {
			im.results[i] = Imported{Outcome: OutcomeSkipped}
		}
	}
}

// pending returns the flows that nothing is known against, masters first.
func (im *importing) pending() []int {
	var at []int
	for _, i := range im.order {
		if im.results[i] == (Imported{}) {
			at = append(at, i)
		}
	}
	return at
}

// failedWith returns the flows that failed with an error, masters first.
func (im *importing) failedWith(err error) []int {
	var at []int
	for _, i := range im.order {
		if im.results[i].Err != nil && errors.Is(im.results[i].Err, err) {
			at = append(at, i)
		}
	}
	return at
}

func (im *importing) finish(op string) []Imported {
	for i := range im.results {
		im.results[i].Err = opError(op, im.results[i].Err)
	}
	return im.results
}

// refuse tells whether any flow's tuples are taken, and marks those.
func (im *importing) refuse(ctx context.Context) bool {
	pending := im.pending()
	there := im.lookUp(ctx, pending)
	seen := make(map[place]bool, 2*len(pending))
	refused := false
	for j, i := range pending {
		places := im.flows[i].places()
		switch {
		case there[j].err != nil:
			im.results[i].Err = there[j].err
		case len(there[j].flows) > 0 || seen[places[0]] || seen[places[1]]:
			im.results[i].Err = ErrExists
			refused = true
		}
		seen[places[0]], seen[places[1]] = true, true
	}
	return refused
}

// leaveLast skips the flows that a later one of the list replaces. None of the others is then in
// another's way, so that an import never deletes what it has made.
func (im *importing) leaveLast() {
	seen := make(map[place]bool, 2*len(im.flows))
	for i := len(im.flows) - 1; i >= 0; i-- {
		if im.results[i] != (Imported{}) {
			continue
		}
		places := im.flows[i].places()
		if seen[places[0]] || seen[places[1]] {
			im.results[i].Outcome = OutcomeSkipped
			continue
		}
		seen[places[0]], seen[places[1]] = true, true
	}
}

// insert makes the flows that can be made, and replaces what is in their way if that is asked for.
func (im *importing) insert(ctx context.Context, at []int, on OnConflict) {
	flows := make([]*Flow, len(at))
	for j, i := range at {
		flows[j] = &im.flows[i]
	}
	var taken []int
	for j, err := range im.in.insertAll(ctx, flows) {
		r := &im.results[at[j]]
		if r.Err = err; err == nil {
			r.Outcome = OutcomeCreated
		} else if errors.Is(err, ErrExists) {
			taken = append(taken, at[j])
		}
	}
	if on == OnConflictReplace {
		im.replace(ctx, taken)
	}
}

// insertOrphans makes the flows whose master wasn't found.
func (im *importing) insertOrphans(ctx context.Context, on OnConflict) {
	if on == OnConflictReplace {
		im.insert(ctx, im.orphans(), on) // the master may have replaced another since
	}
	orphans := im.orphans()
	for _, i := range orphans {
		im.flows[i].Master = Tuple{}
		im.results[i] = Imported{Orphan: true}
	}
	im.insert(ctx, orphans, on)
}

// orphans returns the flows that failed because the kernel didn't find their master.
func (im *importing) orphans() []int {
	var at []int
	for _, i := range im.failedWith(ErrNotFound) {
		if !im.flows[i].Master.IsZero() {
			at = append(at, i)
		}
	}
	return at
}

// found are the flows that have the tuples of one that is to be imported: first the one with the
// original tuple.
type found struct {
	flows []Flow
	err   error
}

// lookUp finds what is in the way of each of flows.
func (im *importing) lookUp(ctx context.Context, at []int) []found {
	keys := make([]Key, 0, 2*len(at))
	for _, i := range at {
		f := &im.flows[i]
		keys = append(keys, Key{Orig: f.Orig, Zone: f.Zone}, Key{Reply: f.Reply, Zone: f.Zone})
	}
	flows, errs := im.in.getAll(ctx, keys)
	there := make([]found, len(at))
	for n := range keys {
		w := &there[n/2]
		switch {
		case errs[n] == nil:
			if len(w.flows) == 0 || w.flows[0].Key() != flows[n].Key() {
				w.flows = append(w.flows, flows[n])
			}
		case !errors.Is(errs[n], ErrNotFound):
			w.err = errs[n]
		}
	}
	return there
}

// replace makes flows in place of those that have their tuples, masters first.
func (im *importing) replace(ctx context.Context, taken []int) {
	for j, w := range im.lookUp(ctx, taken) {
		i := taken[j]
		r, f := &im.results[i], &im.flows[i]
		if im.skipSame(ctx, i, &w) {
			continue
		}
		// Looked up again: an earlier one of the list may have replaced what was in the way, and
		// have the tuple now that names it.
		w = im.lookUp(ctx, []int{i})[0]
		if err := cmp.Or(ctx.Err(), w.err); err != nil {
			*r = Imported{Err: err}
			continue
		}
		orphan := r.Orphan || im.orphan(ctx, f, &w)
		if orphan {
			f.Master = Tuple{}
		}
		*r = Imported{Outcome: OutcomeReplaced, Orphan: orphan}
		if err := im.in.supplant(ctx, w.flows, *f); err != nil {
			*r = Imported{Err: err}
		}
	}
}

// skipSame tells whether the flow is there as it shall be, which is its outcome then.
func (im *importing) skipSame(ctx context.Context, i int, w *found) bool {
	f := &im.flows[i]
	if w.err != nil || len(w.flows) == 0 || !f.sameAs(&w.flows[0], im.orphan(ctx, f, w)) {
		return false
	}
	im.results[i] = Imported{Outcome: OutcomeSkipped}
	return true
}

// orphan tells whether a flow's master isn't there, or has to make way for it.
func (im *importing) orphan(ctx context.Context, f *Flow, w *found) bool {
	if f.Master.IsZero() {
		return false
	}
	master, errs := im.in.getAll(ctx, []Key{f.MasterKey()})
	if errs[0] != nil {
		return errors.Is(errs[0], ErrNotFound)
	}
	for i := range w.flows {
		if w.flows[i].Key() == master[0].Key() {
			return true
		}
	}
	return false
}

// takeBack deletes what was made.
func (im *importing) takeBack(ctx context.Context, t *Table) {
	var made []int
	var keys []Key
	for i := range im.results {
		if im.results[i].Outcome == OutcomeCreated {
			made, keys = append(made, i), append(keys, im.flows[i].Key())
		}
	}
	for j, err := range t.Kill(ctx, keys) {
		if err != nil && !errors.Is(err, ErrNotFound) {
			continue // it stays created
		}
		im.results[made[j]] = Imported{}
	}
}
