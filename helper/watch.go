package helper

import (
	"context"
	"errors"
	"time"

	"ctd/conntrack"
)

const (
	// sweepEvery is how often it is looked whether everything is still there.
	sweepEvery = 10 * time.Second
	// idleCheck is the time without packets after which a connection's entry is looked for.
	idleCheck = time.Minute
	// unknownIdle is how long a connection may be in its handshake.
	unknownIdle = 30 * time.Second
	// replyTime is how long a request awaits its reply.
	replyTime = time.Minute
	// watchAgain is how long it is waited after the kernel's events failed.
	watchAgain = 10 * time.Second
)

// sweep looks after what nobody tells of: rules that others flushed, connections that ended in
// silence, requests without a reply.
func (h *Helper) sweep(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		h.keepRules()
		h.guarded(func() { h.sweepConnections(time.Now()) })
	}
}

// keepRules makes the rules again where somebody flushed them.
func (h *Helper) keepRules() {
	intact, err := h.interception.intact()
	if err == nil && !intact {
		h.cfg.Logger.Warn("somebody changed or deleted the RTSP helper's rules; they are made again", "table", TableName)
		err = h.interception.restore()
	}
	if err != nil {
		h.cfg.Logger.Warn("the RTSP helper's rules can't be kept", "table", TableName, "error", err)
	}
}

// maxSweep bounds the entries that are looked for in one sweep, while packets wait. The order is random,
// so that all have their turn.
const maxSweep = 512

func (h *Helper) sweepConnections(now time.Time) {
	looked := 0
	for c := range h.each() {
		for dir := range c.pending {
			for cseq, q := range c.pending[dir] {
				if now.Sub(q.at) > replyTime {
					c.answered(dir, cseq, true)
				}
			}
		}
		idle := now.Sub(c.seen)
		for _, s := range c.sessions {
			if s.state == stateReady && idle < s.idle() { // no packets do it
				s.refresh()
			}
		}
		switch {
		case !c.known && idle > unknownIdle:
			h.forget(c)
		case c.known && (idle > idleCheck || h.unwatched && c.streamCount() > 0) && looked < maxSweep:
			looked++
			if err := c.lookup(); errors.Is(err, conntrack.ErrNotFound) {
				h.drop(c, "gone from the table")
			}
		}
	}
}

// watchEnds ends the sessions of connections whose entry ends. It listens only while there are
// streams: the kernel tells of every flow of the namespace.
func (h *Helper) watchEnds(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.busy:
		}
		err := h.watchWhileBusy(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		h.cfg.Logger.Warn("the kernel doesn't tell of flows that end; it is looked for them", "error", err)
		if errors.Is(err, conntrack.ErrNoEvents) {
			h.guarded(func() { h.unwatched = true })
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
			h.busy.wake()
		}
	}
}

// watchWhileBusy listens until there are no streams any more.
func (h *Helper) watchWhileBusy(ctx context.Context) error {
	if h.idle() {
		return nil
	}
	ctx, stop := context.WithCancel(ctx) // it closes the socket, also where nobody ranges over the events
	defer stop()
	events, err := h.cfg.Table.EndedFlows(ctx)
	if err != nil {
		return err
	}
	h.guarded(h.checkAll) // what ended before it was listened
	if h.idle() {
		return nil
	}
	for f, err := range events {
		switch {
		case errors.Is(err, conntrack.ErrLost):
			h.guarded(h.checkAll)
		case err != nil:
			return err
		default:
			h.guarded(func() { h.ended(&f) })
		}
		if h.idle() {
			return nil
		}
	}
	return nil
}

// ended takes note of a flow that ended. One that was made again at once has the same tuple and mostly the
// same id: it is looked whether it is there.
func (h *Helper) ended(f *conntrack.Flow) {
	if st := h.byFlow[f.Orig]; st != nil {
		for i := range st.flows {
			if st.flows[i].ID == f.ID && !h.there(f) {
				st.lostFlow(f.Orig)
				return
			}
		}
	}
	if c, ok := h.conns[f.Orig]; ok && c.known && c.flow.ID == f.ID && c.flow.Zone == f.Zone && !h.there(f) {
		h.drop(c.connection, "ended in the table")
	}
}

// there tells whether the table has a flow with the tuple of one that ended.
func (h *Helper) there(f *conntrack.Flow) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	now, err := h.cfg.Table.Get(ctx, conntrack.Key{Orig: f.Orig, Zone: f.Zone})
	return err == nil && now.Orig == f.Orig
}

// checkAll looks whether the connections are still there.
func (h *Helper) checkAll() {
	for c := range h.each() {
		if c.streamCount() > 0 && errors.Is(c.lookup(), conntrack.ErrNotFound) {
			h.drop(c, "gone from the table")
		}
	}
}

// idle tells whether there are no streams, nor any that may come about.
func (h *Helper) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.total.streams == 0
}
