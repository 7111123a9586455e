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

// seek asks for the flows that the kernel made of a stream's expectations, which it tells nobody of.
func (st *stream) seek() {
	if !st.expected {
		return
	}
	h := st.c.helper
	h.sought[st] = true
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
	h.sought = make(map[*stream]bool)
	masters := make(map[conntrack.Tuple]bool)
	for st := range sought {
		masters[st.c.flow.Orig] = true
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
	h.mu.Lock()
	defer h.mu.Unlock()
	for st := range sought {
		st.found(found)
	}
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

// found takes those flows that are the stream's.
func (st *stream) found(flows []conntrack.Flow) {
	h := st.c.helper
	var mine []conntrack.Flow
	for _, f := range flows {
		known := slices.ContainsFunc(st.flows, func(x conntrack.Flow) bool { return x.Orig == f.Orig })
		if !known && f.Master == st.c.flow.Orig && f.Zone == st.c.flow.Zone && f.Orig.Dst == st.c.public() &&
			slices.Contains(st.public, f.Orig.DstPort) && (h.byFlow[f.Orig] == nil || h.byFlow[f.Orig] == st) {
			mine = append(mine, f)
		}
	}
	if st.ended {
		h.killFlows(mine)
		return
	}
	for _, f := range mine {
		st.flows = append(st.flows, f)
		h.byFlow[f.Orig] = st
		st.expects = slices.DeleteFunc(st.expects, func(e conntrack.Expect) bool { return e.Tuple.DstPort == f.Orig.DstPort })
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
