package rpc

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

func (s *Service) kill(ctx context.Context, p *wire.KillParams) (any, error) {
	noteReason(ctx, p.Reason)
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	k, err := s.readKiller(ctx, table, &p.Cutting, p.Reason)
	if err != nil {
		return nil, err
	}
	sel, err := readSelection(ctx, table, p.Filter, p.Flows, guards{p.Max, p.ExpectCount, p.CreatedBefore, p.All, p.Sparing})
	if err != nil {
		return nil, err
	}
	plan := k.plan()
	matched, held, err := sel.collect(ctx, table, plan)
	if err != nil {
		return nil, err
	}
	result := &changeResult{verb: "killed", matched: matched, spared: sel.spared}
	if err := k.check(matched); err != nil {
		return nil, err
	}
	if p.DryRun {
		result.show(held...)
		result.truncated = result.truncated || matched > len(held)
		return result, nil
	}
	if matched > 0 {
		if err := table.begin(ctx, matched, flowTexts(held)...); err != nil {
			return nil, err
		}
	}
	if err := k.prepare(ctx, matched, plan, sel.self, result); err != nil {
		return nil, err
	}
	// Above maxHeld the table is dumped again for the next ones, never for more than matched at
	// first, and without those that the kernel refused to let go.
	refused := make(map[flowKey]bool)
	for rest := matched; len(held) > 0; {
		if err := k.kill(ctx, held, result, refused); err != nil {
			return result.unless(err)
		}
		if rest -= len(held); rest <= 0 {
			break
		}
		if held, err = sel.next(ctx, table, min(rest, maxHeld), refused); err != nil {
			return result.unless(err)
		}
		if len(held) == 0 {
			result.gone += rest // between the first dump and this one
		}
	}
	return result, nil
}

// unless returns the error that ended a change half way, or where something was changed before, the
// result with it: what is gone is gone.
func (r *changeResult) unless(err error) (any, error) {
	if r.n == 0 {
		return nil, err
	}
	r.fail(nil, err)
	return r, nil
}

// kill kills flows, adds what became of them to r, and those that the kernel refused to let go to
// refused. The error is what kept it from going on: ctx's end, or a cut that can't be made.
func (k *killer) kill(ctx context.Context, flows []conntrack.Flow, r *changeResult, refused map[flowKey]bool) error {
	for chunk := range slices.Chunk(flows, changeChunk) {
		if err := k.killChunk(ctx, chunk, r, refused); err != nil {
			return err
		}
		r.tried += len(chunk)
		progressFrom(ctx).report(r.tried, r.matched)
	}
	return nil
}

func (k *killer) killChunk(ctx context.Context, flows []conntrack.Flow, r *changeResult, refused map[flowKey]bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if k.cutter != nil {
		if err := k.checkBlocks(flows); err != nil {
			return err
		}
		if err := k.cutter.Prepare(cut.PlanOf(flows), k.cut); err != nil {
			return err
		}
		// A caller who goes now leaves no connection that was killed and comes back.
		ctx = context.WithoutCancel(ctx)
	}
	killed, err := k.deleteEntries(ctx, flows, r, refused)
	return cmp.Or(k.end(ctx, killed, r), err)
}

// deleteEntries returns the flows that the kernel deleted.
func (k *killer) deleteEntries(ctx context.Context, flows []conntrack.Flow, r *changeResult, refused map[flowKey]bool) ([]conntrack.Flow, error) {
	killed := make([]conntrack.Flow, 0, len(flows))
	for i, err := range k.table.Kill(ctx, keysOf(flows)) {
		switch {
		case err == nil:
			r.n++
			r.show(flows[i])
			killed = append(killed, flows[i])
		case errors.Is(err, conntrack.ErrNotFound):
			r.gone++
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return killed, ctx.Err() // as are all that follow
		default:
			refused[keyOf(&flows[i])] = true
			r.fail(&flows[i], err)
		}
	}
	return killed, nil
}
