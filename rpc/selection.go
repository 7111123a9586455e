package rpc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

const (
	// defaultMax is how many flows a change may take where the caller doesn't say.
	defaultMax = 1000
	// maxShown is how many flows the result of a change shows.
	maxShown = 1000
	// maxHeld is how many flows are held to be changed at a time.
	maxHeld = 16 << 10
)

// selection is what a kill or modify is about: a filter or a list of flows, and the guards.
type selection struct {
	filter conntrack.Filter
	named  []selector // instead of the filter
	max    int
	count  *int       // how many the caller expects
	before *time.Time // only flows that began before
	self   *self      // what is the caller's own, which is left out
	spared int        // how many flows the last dump left out for that
}

// guards are the parameters that keep a change from meaning more than the caller thinks.
type guards struct {
	max, expectCount *int
	createdBefore    *time.Time
	all              bool
	wire.Sparing
}

// readSelection reads the parameters that kill and modify have in common.
func readSelection(ctx context.Context, table *guarded, filter wire.Filter, flows []any, g guards) (*selection, error) {
	sel := &selection{max: defaultMax, count: g.expectCount, before: g.createdBefore}
	if g.max != nil {
		if *g.max < 0 {
			return nil, invalidParams("max: %d is below 0", *g.max)
		}
		sel.max = *g.max
	}
	if g.expectCount != nil && *g.expectCount < 0 {
		return nil, invalidParams("expect_count: %d is below 0", *g.expectCount)
	}
	var err error
	if sel.self, err = newSelf(ctx, table, g.Sparing); err != nil {
		return nil, err
	}
	if sel.filter, err = readFilter(filter); err != nil {
		return nil, err
	}
	switch {
	case flows != nil && filter != nil:
		return nil, invalidParams("filter and flows can't be given together")
	case flows != nil && g.all:
		return nil, invalidParams("all is for an empty filter; flows are given")
	case flows == nil && sel.filter.IsZero() && !g.all:
		return nil, &wire.Error{
			Code: wire.InvalidParams, Message: "an empty filter means every flow, which needs all: true",
			Hint: `give a filter such as {"src": "10.0.0.7"}, or flows, or all: true`,
		}
	case sel.filter.Uses("rate"):
		return nil, &wire.Error{
			Code: wire.Unsupported, Message: "filter: rate: a change can't wait for samples",
			Hint: "list with this filter first, and give the flows that it finds",
		}
	}
	for i, v := range flows {
		s, err := readSelector(fmt.Sprintf("flows[%d]", i), v)
		if err != nil {
			return nil, err
		}
		sel.named = append(sel.named, s)
	}
	if flows != nil && sel.named == nil {
		sel.named = []selector{}
	}
	return sel, nil
}

// flows gives the flows that are meant, and counts those that are spared.
func (sel *selection) flows(ctx context.Context, t Table) iter.Seq2[conntrack.Flow, error] {
	return func(yield func(conntrack.Flow, error) bool) {
		sel.spared = 0
		for f, err := range sel.matching(ctx, t) {
			own := false
			if err == nil {
				own, err = sel.self.has(ctx, &f)
			}
			if own {
				sel.spared++
				continue
			}
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

// matching gives the flows that match, the caller's own among them.
func (sel *selection) matching(ctx context.Context, t Table) iter.Seq2[conntrack.Flow, error] {
	flows := t.Flows(ctx, sel.filter)
	if sel.named != nil {
		flows = resolved(ctx, t, sel.named)
	}
	if sel.before == nil {
		return flows
	}
	return func(yield func(conntrack.Flow, error) bool) {
		for f, err := range flows {
			if err == nil && f.Start == 0 {
				err = &wire.Error{
					Code: wire.Unsupported, Message: "created_before: a flow that matches has no start",
					Hint: "set net.netfilter.nf_conntrack_timestamp to 1; flows that began before that keep having none",
				}
			}
			if err == nil && !f.StartTime().Before(*sel.before) {
				continue
			}
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

// resolved gives what resolve finds.
func resolved(ctx context.Context, t Table, named []selector) iter.Seq2[conntrack.Flow, error] {
	return func(yield func(conntrack.Flow, error) bool) {
		found, err := resolve(ctx, t, named)
		if err != nil {
			yield(conntrack.Flow{}, err)
			return
		}
		for _, f := range found {
			if !yield(f, nil) {
				return
			}
		}
	}
}

// collect adds each flow that is meant to plan, unless that is nil, and returns how many there are, and
// the first maxHeld of them. It is an error if they are more than max, or not as many as the caller
// expects.
func (sel *selection) collect(ctx context.Context, t Table, plan *cut.Plan) (matched int, held []conntrack.Flow, err error) {
	for f, err := range sel.flows(ctx, t) {
		if err != nil {
			return 0, nil, err
		}
		matched++
		plan.Add(f)
		if sel.named != nil || matched <= min(sel.max, maxHeld) {
			held = append(held, f)
		}
	}
	if sel.count != nil && matched != *sel.count {
		return 0, nil, &wire.Error{
			Code:    wire.Conflict,
			Message: fmt.Sprintf("%d flows match, not %d as expected; nothing was changed", matched, *sel.count),
			Hint:    "list again and see what came or went",
		}
	}
	if matched > sel.max {
		return 0, nil, &wire.Error{
			Code:    wire.LimitExceeded,
			Message: fmt.Sprintf("%d flows match, more than max %d; nothing was changed", matched, sel.max),
			Hint:    "narrow the filter, or raise max if all of them are meant",
		}
	}
	return matched, held, nil
}

// next returns up to most of the flows that are meant and not in without.
func (sel *selection) next(ctx context.Context, t Table, most int, without map[flowKey]bool) ([]conntrack.Flow, error) {
	var held []conntrack.Flow
	for f, err := range sel.flows(ctx, t) {
		if err != nil {
			return nil, err
		}
		if without[keyOf(&f)] {
			continue
		}
		if held = append(held, f); len(held) == most {
			break
		}
	}
	return held, nil
}

// resolve finds the flows that the caller named; those that are gone are left out, and one that
// was named twice is there once.
func resolve(ctx context.Context, t Table, named []selector) ([]conntrack.Flow, error) {
	var found []conntrack.Flow
	byID, err := resolveIDs(ctx, t, named)
	if err != nil {
		return nil, err
	}
	seen := make(map[flowKey]bool)
	for _, s := range named {
		f, ok := byID[s.key.ID], true
		if !s.isID() {
			f, err = t.Get(ctx, s.key)
			if err != nil && !errors.Is(err, conntrack.ErrNotFound) {
				return nil, err
			}
			ok = err == nil
		}
		ok = ok && s.fits(&f)
		key := keyOf(&f)
		if ok && !f.Orig.IsZero() && !seen[key] {
			seen[key] = true
			found = append(found, f)
		}
	}
	return found, nil
}

// isID tells whether the flow is named by its id alone.
func (s *selector) isID() bool { return s.key.Orig.IsZero() && s.key.Reply.IsZero() }

// resolveIDs finds the flows that are named by their id alone, in one dump for all.
func resolveIDs(ctx context.Context, t Table, named []selector) (map[uint32]conntrack.Flow, error) {
	byID := make(map[uint32]conntrack.Flow)
	for _, s := range named {
		if s.isID() {
			byID[s.key.ID] = conntrack.Flow{}
		}
	}
	if len(byID) == 0 {
		return byID, nil
	}
	for f, err := range t.Flows(ctx, conntrack.Filter{}) {
		if err != nil {
			return nil, err
		}
		if old, ok := byID[f.ID]; ok {
			if !old.Orig.IsZero() && old.Orig != f.Orig {
				return nil, fmt.Errorf("id %d: %w", f.ID, conntrack.ErrAmbiguous)
			}
			byID[f.ID] = f
		}
	}
	return byID, nil
}

func keysOf(flows []conntrack.Flow) []conntrack.Key {
	keys := make([]conntrack.Key, len(flows))
	for i := range flows {
		keys[i] = flows[i].Key()
	}
	return keys
}

func joinSorted[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}
