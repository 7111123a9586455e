package rpc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

const (
	// defaultPasses is how many passes a reconcile makes where the caller doesn't say, and maxPasses
	// how many the caller may ask for.
	defaultPasses = 10
	maxPasses     = 100
	// firstPause is how long to wait after a pass: packets that are under way make entries anew. It
	// doubles with each pass that finds something, up to longestPause.
	firstPause   = 20 * time.Millisecond
	longestPause = 500 * time.Millisecond
)

func (s *Service) registerReconcile(r *Registry) {
	Register(r, Method{
		Name: "conntrack.reconcile", Role: wire.RoleOperator, Changes: true, Result: wire.ReconcileResult{},
		Summary: "Kills what may not remain until only the rest is there, and if asked goes on while new flows come.",
		Example: `{"filter": "proto=udp dst=10.0.0.53 dport=53", "keep": {"reply_src": "10.1.0.1,10.1.0.2"}, "watch": "30s"}`,
	}, s.reconcile)
}

func (s *Service) reconcile(ctx context.Context, p *wire.ReconcileParams) (any, error) {
	noteReason(ctx, p.Reason)
	r, watch, err := s.readReconcile(ctx, p)
	if err != nil {
		return nil, err
	}
	if p.DryRun {
		return r.try(ctx)
	}
	if watch == 0 {
		return r.done(r.settle(ctx))
	}
	giveBack, ok, _ := s.watches.take(ctx, 0)
	if !ok {
		return nil, &wire.Error{
			Code: wire.Busy, Message: fmt.Sprintf("watch: others are under way: there may be %d, and %d of one caller", maxWatches, maxWatchesEach),
			Hint: "try again when one has ended, or reconcile without watch",
		}
	}
	defer giveBack()
	return r.done(r.watch(ctx, watch, s.Stopping))
}

// reconciler removes flows until only those are there that may remain.
type reconciler struct {
	table   *guarded
	killer  *killer
	sel     *selection
	keep    *conntrack.Filter // which of the selected may remain; nil: none
	most    int               // passes
	result  *reconcileResult
	news    *newcomers
	refused map[flowKey]bool // what the kernel doesn't let go, which isn't tried again
	left    bool             // the last pass saw some of that
	plan    *cut.Plan        // of what was found last, to cut it; nil where nothing is cut
}

// readReconcile reads the parameters; the time is that of the watch.
func (s *Service) readReconcile(ctx context.Context, p *wire.ReconcileParams) (r *reconciler, watch time.Duration, err error) {
	table, err := s.table(ctx)
	if err != nil {
		return nil, 0, err
	}
	r = &reconciler{table: table, most: defaultPasses, result: newReconcileResult(), news: &newcomers{}, refused: make(map[flowKey]bool)}
	if r.killer, err = s.readKiller(ctx, table, &p.Cutting, p.Reason); err != nil {
		return nil, 0, err
	}
	if r.keep, err = readKeep(p.Keep); err != nil {
		return nil, 0, err
	}
	r.sel, err = readSelection(ctx, table, p.Filter, nil, guards{max: p.Max, all: p.All || r.keep != nil, Sparing: p.Sparing})
	if err != nil {
		return nil, 0, err
	}
	if r.keep != nil && p.Block != nil {
		return nil, 0, &wire.Error{
			Code: wire.InvalidParams, Message: "keep and block contradict each other: a block would end flows between the same addresses that may remain",
			Hint: "use cut with keep, and block in a reconcile of its own",
		}
	}
	if p.Passes != nil {
		if r.most = *p.Passes; r.most < 1 || r.most > maxPasses {
			return nil, 0, invalidParams("passes: want 1 to %d, not %d", maxPasses, r.most)
		}
	}
	if p.Watch != nil {
		watch, err = readTime("watch", p.Watch, maxWatch)
	}
	return r, watch, err
}

// readKeep reads which flows may remain; nil is none.
func readKeep(v wire.Filter) (*conntrack.Filter, error) {
	if v == nil {
		return nil, nil
	}
	f, err := readFilter(v)
	switch {
	case err != nil:
		return nil, fmt.Errorf("keep: %w", err)
	case f.IsZero():
		return nil, &wire.Error{
			Code: wire.InvalidParams, Message: "keep: an empty filter would keep every flow",
			Hint: "leave keep out where no flow of the filter may remain",
		}
	case f.Uses("rate"):
		return nil, &wire.Error{
			Code: wire.Unsupported, Message: "keep: rate: a change can't wait for samples", Hint: "keep flows by their addresses",
		}
	}
	return &f, nil
}

// without is a table in which the flows that a filter keeps aren't seen.
type without struct {
	Table
	keep conntrack.Filter
}

// Flows gives the others.
func (t without) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	return func(yield func(conntrack.Flow, error) bool) {
		for fl, err := range t.Table.Flows(ctx, f, opts...) {
			if err == nil && t.keep.Match(&fl) {
				continue
			}
			if !yield(fl, err) || err != nil {
				return
			}
		}
	}
}

// find returns how many flows of a table have to go, and the first of them, at most most; with only,
// it looks for no more than these.
func (r *reconciler) find(ctx context.Context, t Table, most int, only bool) (found int, held []conntrack.Flow, err error) {
	r.left = false
	r.plan = r.killer.plan()
	if r.keep != nil {
		t = without{t, *r.keep}
	}
	for f, err := range r.sel.flows(ctx, t) {
		switch {
		case err != nil:
			return 0, nil, err
		case r.refuses(&f):
			r.left = true
			continue
		}
		r.plan.Add(f)
		if found++; found <= most {
			held = append(held, f)
		}
		if only && found == most {
			break
		}
	}
	return found, held, nil
}

// refuses tells whether the kernel has refused to let a flow go. An event doesn't tell its start.
func (r *reconciler) refuses(f *conntrack.Flow) bool {
	if len(r.refused) == 0 {
		return false
	}
	k := keyOf(f)
	if r.refused[k] {
		return true
	}
	k.start = 0
	return r.refused[k]
}

// try is a dry run.
func (r *reconciler) try(ctx context.Context) (any, error) {
	found, held, err := r.find(ctx, r.table, maxShown, false)
	if err == nil {
		err = r.checkMax(found)
	}
	if err != nil {
		return nil, err
	}
	r.result.passes, r.result.matched, r.result.settled = 1, found, found == 0
	r.result.spared = r.sel.spared
	r.result.show(held...)
	r.result.truncated = found > len(held)
	return r.result, nil
}

// pass goes through the table once, kills what has to go and returns how many that were.
func (r *reconciler) pass(ctx context.Context) (found int, err error) {
	r.result.passes++
	r.news.drop()
	found, held, err := r.find(ctx, r.table, maxHeld, false)
	if err != nil {
		return 0, err
	}
	r.result.spared = r.sel.spared
	if err := r.kill(ctx, found, held); err != nil {
		return 0, err
	}
	// Above maxHeld the table is dumped again for the next ones, never for more than were found.
	for rest := found - len(held); rest > 0; rest -= len(held) {
		if _, held, err = r.find(ctx, r.table, min(rest, maxHeld), true); err != nil {
			return 0, err
		}
		if len(held) == 0 {
			r.result.gone += rest // between the first dump and this one
			break
		}
		if err := r.killer.kill(ctx, held, &r.result.changeResult, r.refused); err != nil {
			return 0, err
		}
	}
	return found, nil
}

// kill kills the first flows of those that were found, unless they are too many.
func (r *reconciler) kill(ctx context.Context, found int, held []conntrack.Flow) error {
	if err := r.checkMax(found); err != nil {
		return err
	}
	if found > 0 {
		if err := r.table.begin(ctx, found, flowTexts(held)...); err != nil {
			return err
		}
	}
	if found > 0 || r.result.passes == 1 { // the result says how it cuts, also where there was nothing to
		if err := r.killer.prepare(ctx, found, r.plan, r.sel.self, &r.result.changeResult); err != nil {
			return err
		}
	}
	r.result.matched += found
	return r.killer.kill(ctx, held, &r.result.changeResult, r.refused)
}

// checkMax refuses to kill so many more.
func (r *reconciler) checkMax(found int) error {
	before := r.result.n
	if found <= r.sel.max-before {
		return nil
	}
	message := fmt.Sprintf("%d flows have to go, more than max %d; nothing was changed", found, r.sel.max)
	if before > 0 {
		message = fmt.Sprintf("%d flows have to go, with %d killed before more than max %d; they were left", found, before, r.sel.max)
	}
	return &wire.Error{
		Code: wire.LimitExceeded, Message: message,
		Hint: "narrow the filter, or raise max if all of them are meant; where the same flows come again, see to what makes them first",
	}
}

// settle makes passes until two in a row find nothing, or there were as many as there may be.
func (r *reconciler) settle(ctx context.Context) error {
	clean, err := r.passes(ctx, 2)
	r.result.settled = clean && err == nil
	return err
}

// passes makes passes until so many in a row find nothing, and tells whether they did and nothing
// that the kernel refuses to let go is left. One that was interrupted may have missed something.
func (r *reconciler) passes(ctx context.Context, wanted int) (clean bool, err error) {
	pause, empty := firstPause, 0
	for i := range r.most {
		if i > 0 {
			if err := rest(ctx, pause); err != nil {
				return false, err
			}
		}
		found, err := r.pass(ctx)
		switch {
		case errors.Is(err, conntrack.ErrInterrupted) && i+1 < r.most, found > 0:
			empty, pause = 0, min(2*pause, longestPause)
		case err != nil:
			return false, err
		default:
			if empty++; empty == wanted {
				return !r.left, nil
			}
		}
	}
	return false, nil
}

// rest waits, or returns ctx's error.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// done returns the result, or the error that ended it where nothing was changed before.
func (r *reconciler) done(err error) (any, error) {
	if err == nil {
		return r.result, nil
	}
	r.result.settled = false
	if _, err := r.result.unless(err); err != nil {
		return nil, err
	}
	return r.result, nil
}

// reconcileResult is wire.ReconcileResult.
type reconcileResult struct {
	changeResult
	passes  int
	settled bool
	watched time.Duration
	lost    int
}

func newReconcileResult() *reconcileResult {
	r := &reconcileResult{}
	r.verb = "killed"
	r.more = func(e encoder) {
		e.key("passes")
		e.int(int64(r.passes))
		e.key("settled")
		e.boolean(r.settled)
		e.key("watched")
		e.float(float64(r.watched.Milliseconds()) / 1000)
		e.key("lost")
		e.int(int64(r.lost))
	}
	return r
}
