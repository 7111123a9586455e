package conntracktest

import (
	"context"
	"slices"

	"ctd/conntrack"
)

// SetStats sets what Stats and PerCPU return.
func (t *Fake) SetStats(s conntrack.Stats, perCPU ...conntrack.CPUStats) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats, t.perCPU = s, perCPU
}

// Stats returns what SetStats gave, and as Entries how many flows there are.
func (t *Fake) Stats(ctx context.Context) (conntrack.Stats, error) {
	err := t.begin(ctx, OpStats)
	defer t.mu.Unlock()
	if err != nil {
		return conntrack.Stats{}, &conntrack.OpError{Op: "get statistics", Err: err}
	}
	s := t.stats
	s.Entries = uint32(len(t.flows))
	return s, nil
}

// PerCPU returns what SetStats gave.
func (t *Fake) PerCPU(ctx context.Context) ([]conntrack.CPUStats, error) {
	err := t.begin(ctx, OpPerCPU)
	defer t.mu.Unlock()
	if err != nil {
		return nil, &conntrack.OpError{Op: "get statistics", Err: err}
	}
	return slices.Clone(t.perCPU), nil
}
