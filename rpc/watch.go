package rpc

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

const (
	// maxWatch is how long a reconcile may watch, maxWatches how many may at a time, and maxWatchesEach how
	// many of one caller.
	maxWatch       = 10 * time.Minute
	maxWatches     = 4
	maxWatchesEach = 2
	// maxWaiting is how many new flows wait to be killed; more wait in the kernel.
	maxWaiting = 1024
	// watchPass is the time between the passes of a watch that can't judge new flows, and lostPass the
	// one between a gap and its pass, as gaps come in bursts. A pass that takes longer rests longer.
	watchPass = time.Second
	lostPass  = 100 * time.Millisecond
)

// laterFields are the fields of a filter of which a flow's first packet doesn't tell all.
var laterFields = [...]string{"mark", "state", "status", "helper", "label", "timeout", "bytes", "packets", "age"}

// watch settles, then kills for a time what begins and may not remain, and looks once more. It ends
// early when stopping is closed.
func (r *reconciler) watch(ctx context.Context, d time.Duration, stopping <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	if r.judgesNew() {
		// Before the first pass, so that nothing begins unseen between the last one and the watch.
		events, err := r.table.NewFlows(ctx)
		if err != nil {
			cancel()
			return err
		}
		r.news = watchNewcomers(ctx, events, r.violates)
		defer r.news.wait()
	}
	defer cancel()
	if err := r.settle(ctx); err != nil {
		return err
	}
	began := time.Now()
	err := r.follow(ctx, d, stopping)
	r.result.watched = time.Since(began)
	r.result.lost += r.news.gaps()
	if err != nil {
		return err
	}
	r.result.settled, err = r.passes(ctx, 1)
	return err
}

// judgesNew tells whether a flow's first packet tells if it may remain.
func (r *reconciler) judgesNew() bool {
	for _, field := range laterFields {
		if r.sel.filter.Uses(field) || r.keep != nil && r.keep.Uses(field) {
			return false
		}
	}
	return true
}

// violates tells whether a flow may not remain, before what is spared is looked at.
func (r *reconciler) violates(f *conntrack.Flow) bool {
	return r.sel.filter.Match(f) && (r.keep == nil || !r.keep.Match(f))
}

// follow is the watch itself.
func (r *reconciler) follow(ctx context.Context, d time.Duration, stopping <-chan struct{}) error {
	end := time.NewTimer(d)
	defer end.Stop()
	next := time.NewTimer(watchPass)
	defer next.Stop()
	if r.news.flows != nil {
		next.Stop() // until there is a gap
	}
	lost := r.news.lost
	var took time.Duration // by the last pass
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return nil
		case <-stopping:
			r.result.fail(nil, &wire.Error{
				Code: wire.Unavailable, Message: "the daemon is stopping: the watch ended early", Hint: "try again when it has started",
			})
			return nil
		case f := <-r.news.flows:
			if err := r.killNew(ctx, r.news.waiting(f)); err != nil {
				return err
			}
		case <-lost:
			lost = nil // one pass for all gaps until then
			next.Reset(max(lostPass, took))
		case <-next.C:
			lost = r.news.lost
			r.result.lost += r.news.gaps()
			began := time.Now()
			_, err := r.pass(ctx)
			again := errors.Is(err, conntrack.ErrInterrupted)
			if err != nil && !again {
				return err
			}
			if took = time.Since(began); again || r.news.flows == nil {
				next.Reset(max(watchPass, took))
			}
		case <-r.news.ended:
			return r.news.err
		}
	}
}

// killNew kills flows that have just begun. They go the way of those that a dump finds.
func (r *reconciler) killNew(ctx context.Context, flows []conntrack.Flow) error {
	found, held, err := r.find(ctx, justBegun{r.table, flows}, len(flows), false)
	if err != nil || found == 0 {
		return err
	}
	return r.kill(ctx, found, held)
}

// justBegun is a table that holds a few flows.
type justBegun struct {
	Table
	flows []conntrack.Flow
}

// Flows gives those that match.
func (t justBegun) Flows(_ context.Context, f conntrack.Filter, _ ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	return func(yield func(conntrack.Flow, error) bool) {
		for i := range t.flows {
			if f.Match(&t.flows[i]) && !yield(t.flows[i], nil) {
				return
			}
		}
	}
}

// newcomers are the new flows that may not remain, as they come. The zero value has none.
type newcomers struct {
	flows chan conntrack.Flow
	lost  chan struct{} // there was a gap
	count atomic.Int64  // gaps since the last call of gaps
	ended chan struct{} // closed when there will be no more, for the reason in err
	err   error
}

// watchNewcomers takes those that match from events until ctx ends.
func watchNewcomers(ctx context.Context, events iter.Seq2[conntrack.Flow, error], match func(*conntrack.Flow) bool) *newcomers {
	w := &newcomers{flows: make(chan conntrack.Flow, maxWaiting), lost: make(chan struct{}, 1), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		var f conntrack.Flow // one for all: match takes its address, so that each would go to the heap
		for next, err := range events {
			f = next
			switch {
			case errors.Is(err, conntrack.ErrLost):
				w.count.Add(1)
				select {
				case w.lost <- struct{}{}:
				default:
				}
			case err != nil:
				w.err = err
				return
			case match(&f):
				select {
				case w.flows <- f:
				case <-ctx.Done():
					w.err = ctx.Err()
					return
				}
			}
		}
	}()
	return w
}

// waiting returns a flow and those that wait behind it.
func (w *newcomers) waiting(first conntrack.Flow) []conntrack.Flow {
	flows := []conntrack.Flow{first}
	for len(flows) < maxWaiting {
		select {
		case f := <-w.flows:
			flows = append(flows, f)
		default:
			return flows
		}
	}
	return flows
}

// drop forgets what waits, because a pass that begins now finds what of it is still there.
func (w *newcomers) drop() {
	for {
		select {
		case <-w.flows:
		default:
			return
		}
	}
}

// gaps returns how many gaps there were since the last call.
func (w *newcomers) gaps() int { return int(w.count.Swap(0)) }

// wait returns when nothing is taken any more.
func (w *newcomers) wait() { <-w.ended }
