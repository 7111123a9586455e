package conntracktest

import (
	"context"
	"iter"
	"slices"
	"sync"

	"ctd/conntrack"
)

// NewFlows gives each flow that Create or Replace makes from now on, until ctx ends. As the kernel
// does, it leaves counters, start and use out.
func (t *Fake) NewFlows(ctx context.Context) (iter.Seq2[conntrack.Flow, error], error) {
	err := t.begin(ctx, OpNewFlows)
	defer t.mu.Unlock()
	if err != nil {
		return nil, &conntrack.OpError{Op: "watch new flows", Err: err}
	}
	l := &listener{wake: make(chan struct{}, 1)}
	t.waiting = append(t.waiting, l)
	remove := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.waiting = slices.DeleteFunc(t.waiting, func(other *listener) bool { return other == l })
	}
	stop := context.AfterFunc(ctx, remove)
	return func(yield func(conntrack.Flow, error) bool) {
		defer func() {
			if stop() {
				remove()
			}
		}()
		for {
			select {
			case <-ctx.Done():
				yield(conntrack.Flow{}, &conntrack.OpError{Op: "watch new flows", Err: ctx.Err()})
				return
			case <-l.wake:
			}
			for _, e := range l.take() {
				if !yield(e.flow, e.err) {
					return
				}
			}
		}
	}, nil
}

// Lose makes a gap in what NewFlows gives: conntrack.ErrLost.
func (t *Fake) Lose() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell(event{err: &conntrack.OpError{Op: "watch new flows", Err: conntrack.ErrLost}})
}

// Listeners returns how many subscriptions of NewFlows there are.
func (t *Fake) Listeners() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

// event is a new flow, or why there is none.
type event struct {
	flow conntrack.Flow
	err  error
}

// listener holds what a subscription was not given yet.
type listener struct {
	mu     sync.Mutex
	events []event
	wake   chan struct{}
}

func (l *listener) take() []event {
	l.mu.Lock()
	defer l.mu.Unlock()
	events := l.events
	l.events = nil
	return events
}

// tell gives an event to all who listen; t.mu is held.
func (t *Fake) tell(e event) {
	for _, l := range t.waiting {
		l.mu.Lock()
		l.events = append(l.events, e)
		l.mu.Unlock()
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// atFirst is a flow as the kernel tells of it at its first packet.
func atFirst(f conntrack.Flow) conntrack.Flow {
	at := conntrack.Flow{
		Orig: f.Orig, Reply: f.Reply, Zone: f.Zone, ID: f.ID, Status: f.Status, Timeout: f.Timeout,
		Mark: f.Mark, Labels: f.Labels, Helper: f.Helper, Master: f.Master, State: f.State,
	}
	for _, a := range []conntrack.Attrs{conntrack.AttrID, conntrack.AttrTimeout, conntrack.AttrLabels, conntrack.AttrState} {
		if f.Has(a) {
			at.Set(a)
		}
	}
	if f.Mark != 0 {
		at.Set(conntrack.AttrMark)
	}
	return at
}
