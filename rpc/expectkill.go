package rpc

import (
	"context"
	"errors"
	"fmt"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// expectKillResult is wire.ExpectKillResult.
type expectKillResult struct {
	killed, matched int
	expects         []conntrack.Expect
	failed          []expectFailure
}

type expectFailure struct {
	expect conntrack.Expect
	err    *wire.Error
}

func (r *expectKillResult) changes() (changed, failed int) { return r.killed, len(r.failed) }

func (r *expectKillResult) stream(_ context.Context, e encoder) error {
	e.beginObject()
	e.key("killed")
	e.int(int64(r.killed))
	e.key("matched")
	e.int(int64(r.matched))
	e.key("changed")
	e.boolean(r.killed > 0)
	e.key("expects")
	e.beginArray()
	for i := range r.expects {
		writeExpect(e, &r.expects[i])
	}
	e.endArray()
	if len(r.failed) > 0 {
		e.key("failed")
		e.beginArray()
		for i := range r.failed {
			e.beginObject()
			e.key("expect")
			writeExpect(e, &r.failed[i].expect)
			writeFailedMembers(e, r.failed[i].err)
			e.endObject()
		}
		e.endArray()
	}
	e.endObject()
	return nil
}

func (s *Service) expectKill(ctx context.Context, p *wire.ExpectKillParams) (any, error) {
	noteReason(ctx, p.Reason)
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	meant, err := readExpectSelection(p)
	if err != nil {
		return nil, err
	}
	most := defaultMax
	if p.Max != nil {
		most = *p.Max
	}
	var found []conntrack.Expect
	for x, err := range table.Expects(ctx) {
		if err != nil {
			return nil, err
		}
		if meant(&x) {
			found = append(found, x)
		}
	}
	if len(found) > most {
		return nil, &wire.Error{
			Code:    wire.LimitExceeded,
			Message: fmt.Sprintf("%d expectations match, more than max %d; nothing was killed", len(found), most),
			Hint:    "narrow the filter, or raise max if all of them are meant",
		}
	}
	result := &expectKillResult{matched: len(found)}
	if p.DryRun {
		result.expects = found
		return result, nil
	}
	if len(found) > 0 {
		if err := table.begin(ctx, len(found), firstTexts(found, func(x *conntrack.Expect) string { return x.Tuple.String() })...); err != nil {
			return nil, err
		}
	}
	for i, err := range table.KillExpects(ctx, found) {
		switch {
		case err == nil:
			result.killed++
			result.expects = append(result.expects, found[i])
		case errors.Is(err, conntrack.ErrNotFound):
			// It came or ended by itself in the meantime.
		case ctx.Err() != nil && result.killed == 0:
			return nil, ctx.Err()
		default: // with the end of ctx too: what is gone is gone
			result.failed = append(result.failed, expectFailure{found[i], ErrorOf(err)})
		}
	}
	return result, nil
}

// readExpectSelection returns what tells whether an expectation is meant.
func readExpectSelection(p *wire.ExpectKillParams) (func(x *conntrack.Expect) bool, error) {
	filter, err := readExpectFilter(p.Filter)
	switch {
	case err != nil:
		return nil, err
	case p.Max != nil && *p.Max < 0:
		return nil, invalidParams("max: %d is below 0", *p.Max)
	case p.Expects != nil && p.Filter != nil:
		return nil, invalidParams("filter and expects can't be given together")
	case p.Expects == nil && filter.IsZero() && !p.All:
		return nil, &wire.Error{
			Code: wire.InvalidParams, Message: "an empty filter means every expectation, which needs all: true",
			Hint: "give a filter, or expects, or all: true",
		}
	case p.Expects == nil:
		return func(x *conntrack.Expect) bool {
			f := asFlow(x)
			return filter.Match(&f)
		}, nil
	}
	named := make(map[uint32]expectSelector)
	for i, v := range p.Expects {
		sel, err := readExpectSelector(fmt.Sprintf("expects[%d]", i), v)
		if err != nil {
			return nil, err
		}
		named[sel.id] = sel
	}
	return func(x *conntrack.Expect) bool {
		sel, ok := named[x.ID]
		return ok && sel.fits(x)
	}, nil
}

func (s *Service) expectFlush(ctx context.Context, p *wire.ExpectFlushParams) (any, error) {
	if !p.All {
		return nil, &wire.Error{
			Code: wire.InvalidParams, Message: "a flush needs all: true", Hint: "expect.kill deletes those of a filter",
		}
	}
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	if table.isBound() {
		return nil, table.errOutside("a part of the expectations")
	}
	n := 0
	for _, err := range table.Expects(ctx) {
		if err != nil {
			return nil, err
		}
		n++
	}
	if p.DryRun {
		return wire.FlushResult{Killed: n}, nil
	}
	if err := table.begin(ctx, n); err != nil {
		return nil, err
	}
	n, err = table.FlushExpects(ctx)
	return wire.FlushResult{Killed: n}, err
}
