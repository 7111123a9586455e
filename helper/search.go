package helper

import (
	"context"
	"slices"
	"time"

	"ctd/conntrack"
)

const (
	// searchPause and searchShare keep a search from being more than a part of a processor's work: it reads
	// the whole table.
	searchPause = time.Second
	searchShare = 10
	// searchTime bounds one search.
	searchTime = time.Minute
	// zonesEvery is how often it is looked which zones there are.
	zonesEvery = time.Minute
)

// seek asks for the flows that the kernel made of an alternative's expectations, which it tells nobody of.
// They become the stream's; without one, or when it has ended, they are deleted.
func (a *alternative) seek(st *stream) {
	h := a.c.helper
	h.sought[a] = st
	h.search.wake()
}

// bell wakes a task.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) wake() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// searches reads the table for those who seek something in it, one dump for all of them. Packets don't
// wait for it.
func (h *Helper) searches(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.search:
		}
		begin := time.Now()
		h.findExpected(ctx)
		h.findZones(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(searchPause, searchShare*time.Since(begin))):
		}
	}
}

// findExpected finds what the streams seek. The flows of one that still runs are given its time; those of
// one that has ended are deleted.
func (h *Helper) findExpected(ctx context.Context) {
	h.mu.Lock()
	sought := h.sought
	h.sought = make(map[*alternative]*stream)
	masters := make(map[conntrack.Tuple]bool)
	for a := range sought {
		masters[a.c.flow.Orig] = true
	}
	h.mu.Unlock()
	if len(sought) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	var found []conntrack.Flow
	for f, err := range h.cfg.Table.Flows(ctx, expectedFlows) {
		if err != nil {
			if ctx.Err() == nil {
				h.cfg.Logger.Warn("the flows of expectations can't be looked for", "error", err)
			}
			break
		}
		if masters[f.Master] {
			found = append(found, f)
		}
	}
	h.guarded(func() {
		for a, st := range sought {
			a.found(st, found)
		}
	})
}

// expectedFlows are the flows that came by expectations, or were made as if they had.
var expectedFlows = mustFilter("proto=udp status=expected")

func mustFilter(text string) conntrack.Filter {
	f, err := conntrack.ParseFilter(text)
	if err != nil {
		panic(err)
	}
	return f
}

// found takes those flows that are the alternative's.
func (a *alternative) found(st *stream, flows []conntrack.Flow) {
	h := a.c.helper
	var mine []conntrack.Flow
	for _, f := range flows {
		if h.byFlow[f.Orig] == nil && f.Master == a.c.flow.Orig && f.Zone == a.c.flow.Zone && f.Orig.Dst == a.c.public() &&
			slices.Contains(a.public, f.Orig.DstPort) {
			mine = append(mine, f)
		}
	}
	if st == nil || st.ended {
		h.killFlows(mine)
		return
	}
	for _, f := range mine {
		st.flows = append(st.flows, f)
		h.byFlow[f.Orig] = st
		a.hold(slices.DeleteFunc(slices.Clone(a.expects), func(e conntrack.Expect) bool { return e.Tuple.DstPort == f.Orig.DstPort }))
	}
	if len(mine) > 0 {
		st.touch()
	}
}

// findZones notes the zones that the table's connections are in, for those who came in one that
// wasn't known. Without a queue that says it, a packet doesn't tell its zone.
func (h *Helper) findZones(ctx context.Context) {
	h.mu.Lock()
	due := h.zoneless && time.Since(h.zonesRead) >= zonesEvery
	h.zoneless = false
	h.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	var zones []uint16
	for f, err := range h.cfg.Table.Flows(ctx, zonedFlows) {
		if err != nil {
			break
		}
		if !slices.Contains(zones, f.Zone) && len(zones) < maxZones {
			zones = append(zones, f.Zone)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.zones, h.zonesRead = zones, time.Now()
}

var zonedFlows = mustFilter("proto=tcp zone=!0")

// maxZones bounds the zones that are tried for a packet.
const maxZones = 64
