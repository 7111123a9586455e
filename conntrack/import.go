package conntrack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
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
	OutcomeSkipped                 // what is there was left
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
// timeout is left, and what had to go is put back where the new flow can't be made.
func (t *Table) Import(ctx context.Context, flows []Flow, on OnConflict) []Imported {
	im := newImport(t, flows)
	if on == OnConflictFail && im.refuse(ctx) {
		return im.finish("import flow")
	}
	im.create(ctx)
	switch taken := im.failedWith(ErrExists); {
	case len(taken) == 0:
	case on == OnConflictSkip:
		for _, i := range taken {
			im.results[i] = Imported{Outcome: OutcomeSkipped}
		}
	case on == OnConflictReplace:
		im.replace(ctx, taken)
	case on == OnConflictFail:
		im.takeBack(context.WithoutCancel(ctx)) // somebody was faster
	}
	return im.finish("import flow")
}

// CanImport returns what Import would do as far as it can be known beforehand, and changes nothing.
func (t *Table) CanImport(ctx context.Context, flows []Flow, on OnConflict) []Imported {
	im := newImport(t, flows)
	if on == OnConflictFail {
		if !im.refuse(ctx) {
			im.mark(OutcomeCreated)
		}
		return im.finish("import flow")
	}
	there := im.lookUp(ctx, im.pending())
	seen := make(map[place]int)
	for _, i := range im.pending() {
		f, found := &im.flows[i], there[i]
		orig, reply := place{f.Orig, f.Zone}, place{f.Reply, f.Zone}
		before, twice := seen[orig]
		if !twice {
			before, twice = seen[reply]
		}
		switch {
		case found.err != nil:
			im.results[i].Err = found.err
			continue
		case twice && f.sameAs(&im.flows[before], false):
			im.results[i].Outcome = OutcomeSkipped
		case len(found.flows) == 0 && !twice:
			im.results[i].Outcome = OutcomeCreated
		case on == OnConflictSkip || !twice && f.sameAs(&found.flows[0], im.orphan(ctx, f)):
			im.results[i].Outcome = OutcomeSkipped
		default:
			im.results[i].Outcome = OutcomeReplaced
		}
		seen[orig], seen[reply] = i, i
	}
	return im.finish("import flow")
}

// place is what at most one flow can have.
type place struct {
	tuple Tuple
	zone  uint16
}

// masterPlace is where the kernel looks for a flow's master: in the flow's zone.
func (f *Flow) masterPlace() place {
	p := place{f.Master, f.Zone}
	p.tuple.Zone = f.Orig.Zone
	return p
}

// importing is one import under way.
type importing struct {
	t       *Table
	flows   []Flow
	results []Imported
	order   []int // masters first
}

func newImport(t *Table, flows []Flow) *importing {
	im := &importing{t: t, flows: make([]Flow, len(flows)), results: make([]Imported, len(flows))}
	for i := range flows {
		im.flows[i], im.results[i].Err = CheckImport(flows[i])
	}
	im.order = mastersFirst(im.flows)
	return im
}

// CheckImport returns the flow that Import would ask for, or ErrIncomplete.
func CheckImport(f Flow) (Flow, error) {
	f.Timeout = max(f.Timeout, time.Second)
	return CheckCreate(f)
}

// mastersFirst returns the indexes of flows in such an order that a master comes before the flows
// that are related to it.
func mastersFirst(flows []Flow) []int {
	var at map[place]int
	for i := range flows {
		if !flows[i].Master.IsZero() {
			at = make(map[place]int, len(flows))
			break
		}
	}
	order := make([]int, len(flows))
	for i := range flows {
		order[i] = i
		if at != nil {
			at[place{flows[i].Orig, flows[i].Zone}] = i
		}
	}
	if at == nil {
		return order
	}
	depths := make([]int, len(flows))
	for i := range flows {
		for f := &flows[i]; !f.Master.IsZero() && depths[i] < maxMasters; depths[i]++ {
			master, ok := at[f.masterPlace()]
			if !ok {
				break
			}
			f = &flows[master]
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return depths[a] - depths[b] })
	return order
}

// maxMasters bounds how far up the masters of masters are looked at. H.323 has two; a chain that
// bites its own tail has no end.
const maxMasters = 16

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

// failedWith returns the flows that failed with an error.
func (im *importing) failedWith(err error) []int {
	var at []int
	for _, i := range im.order {
		if im.results[i].Err != nil && errors.Is(im.results[i].Err, err) {
			at = append(at, i)
		}
	}
	return at
}

func (im *importing) mark(o Outcome) {
	for _, i := range im.pending() {
		im.results[i].Outcome = o
	}
}

func (im *importing) finish(op string) []Imported {
	for i := range im.results {
		im.results[i].Err = opError(op, im.results[i].Err)
	}
	return im.results
}

// create makes the flows that can be made.
func (im *importing) create(ctx context.Context) {
	im.insert(ctx, im.pending())
	// The kernel answers ENOENT where it doesn't find the master.
	var orphans []int
	for _, i := range im.failedWith(ErrNotFound) {
		if !im.flows[i].Master.IsZero() {
			im.flows[i].Master = Tuple{}
			im.results[i] = Imported{Orphan: true}
			orphans = append(orphans, i)
		}
	}
	im.insert(ctx, orphans)
}

// insert makes flows and looks whether they became what was asked for.
func (im *importing) insert(ctx context.Context, at []int) {
	errs := im.t.batch(ctx, len(at), msgNew, flagCreate|flagExcl, func(b []byte, j int) ([]byte, Family, error) {
		f := im.flows[at[j]].liberal()
		return f.append(b), f.Family(), nil
	})
	var verify []int
	for j, i := range at {
		r, f := &im.results[i], &im.flows[i]
		if r.Err = errs[j]; r.Err != nil {
			continue
		}
		r.Outcome = OutcomeCreated
		if f.translated() || !f.Labels.IsZero() {
			verify = append(verify, i)
		}
	}
	im.verify(ctx, verify)
}

// translated tells whether the reply direction is another than the original's inverse.
func (f *Flow) translated() bool {
	inverse := f.Orig.Inverse()
	inverse.Zone = f.Reply.Zone
	return f.Reply != inverse
}

// verify reads flows back that were made and deletes those that became others, see Create.
func (im *importing) verify(ctx context.Context, at []int) {
	ctx = context.WithoutCancel(ctx) // what is wrong must go
	keys := make([]Key, len(at))
	for j, i := range at {
		keys[j] = im.flows[i].Key()
	}
	var wrong []int
	var gone []Key
	made, errs := im.t.getAll(ctx, keys)
	for j, i := range at {
		err := errs[j]
		if err == nil {
			err = im.flows[i].missed(&made[j])
		} else {
			err = fmt.Errorf("read it back: %w", err)
		}
		if err == nil {
			continue
		}
		im.results[i] = Imported{Err: err}
		wrong, gone = append(wrong, i), append(gone, keys[j])
	}
	killed := im.t.Kill(ctx, gone)
	for j, i := range wrong {
		r := &im.results[i]
		if killed[j] != nil && !errors.Is(killed[j], ErrNotFound) {
			r.Err = also(r.Err, killed[j])
		}
		if errors.Is(r.Err, ErrNATTaken) {
			// The kernel chooses another port rather than to say that this one is taken.
			f := &im.flows[i]
			if _, err := im.t.get(ctx, Key{Reply: f.Reply, Zone: f.Zone}); err == nil {
				r.Err = ErrExists
			}
		}
	}
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

// found are the flows that have the tuples of one that is to be imported: first the one with the
// original tuple.
type found struct {
	flows []Flow
	err   error
}

// lookUp finds what is in the way of flows.
func (im *importing) lookUp(ctx context.Context, at []int) map[int]found {
	keys := make([]Key, 0, 2*len(at))
	for _, i := range at {
		f := &im.flows[i]
		keys = append(keys, Key{Orig: f.Orig, Zone: f.Zone}, Key{Reply: f.Reply, Zone: f.Zone})
	}
	flows, errs := im.t.getAll(ctx, keys)
	there := make(map[int]found, len(at))
	for j, i := range at {
		var w found
		for n := 2 * j; n < 2*j+2; n++ {
			switch {
			case errs[n] == nil:
				if len(w.flows) == 0 || w.flows[0].Key() != flows[n].Key() {
					w.flows = append(w.flows, flows[n])
				}
			case !errors.Is(errs[n], ErrNotFound):
				w.err = errs[n]
			}
		}
		there[i] = w
	}
	return there
}

// refuse tells whether any flow's tuples are taken, and marks those.
func (im *importing) refuse(ctx context.Context) bool {
	pending := im.pending()
	there := im.lookUp(ctx, pending)
	seen := make(map[place]bool, 2*len(pending))
	refused := false
	for _, i := range pending {
		f := &im.flows[i]
		places := [2]place{{f.Orig, f.Zone}, {f.Reply, f.Zone}}
		switch {
		case there[i].err != nil:
			im.results[i].Err = there[i].err
		case len(there[i].flows) > 0 || seen[places[0]] || seen[places[1]]:
			im.results[i].Err = ErrExists
			refused = true
		}
		seen[places[0]], seen[places[1]] = true, true
	}
	return refused
}

// takeBack deletes what was made.
func (im *importing) takeBack(ctx context.Context) {
	var made []int
	var keys []Key
	for i := range im.results {
		if im.results[i].Outcome == OutcomeCreated {
			made, keys = append(made, i), append(keys, im.flows[i].Key())
		}
	}
	for j, err := range im.t.Kill(ctx, keys) {
		if err != nil && !errors.Is(err, ErrNotFound) {
			continue // it stays created
		}
		im.results[made[j]] = Imported{}
	}
}

// orphan tells whether a flow's master isn't there.
func (im *importing) orphan(ctx context.Context, f *Flow) bool {
	if f.Master.IsZero() {
		return false
	}
	p := f.masterPlace()
	_, err := im.t.get(ctx, Key{Orig: p.tuple, Zone: p.zone})
	return errors.Is(err, ErrNotFound)
}

// replace makes flows in place of those that have their tuples.
func (im *importing) replace(ctx context.Context, taken []int) {
	there := im.lookUp(ctx, taken)
	for _, i := range taken {
		f, w := &im.flows[i], there[i]
		if err := cmp.Or(ctx.Err(), w.err); err != nil {
			im.results[i].Err = err
			continue
		}
		// What an earlier one of the list has changed isn't looked up anew where it can't matter:
		// a flow that is gone or new is noticed when it is killed, or in the way again.
		orphan := im.results[i].Orphan || len(w.flows) > 0 && im.orphan(ctx, f)
		if len(w.flows) > 0 && f.sameAs(&w.flows[0], orphan) {
			im.results[i] = Imported{Outcome: OutcomeSkipped}
			continue
		}
		if orphan {
			f.Master = Tuple{}
		}
		im.results[i] = Imported{Outcome: OutcomeReplaced, Orphan: orphan}
		if err := im.t.supplant(ctx, w.flows, *f); err != nil {
			im.results[i] = Imported{Err: err}
		}
	}
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
