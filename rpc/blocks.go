package rpc

import (
	"cmp"
	"context"
	"slices"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

func (s *Service) registerBlocks(r *Registry) {
	Register(r, Method{
		Name: "conntrack.blocks", Role: wire.RoleViewer, Result: wire.BlocksResult{},
		Summary: "Lists the addresses that a kill with block keeps apart.",
		Example: `{"filter": {"addr": "10.3.0.7"}}`,
	}, s.blocks)
	Register(r, Method{
		Name: "conntrack.unblock", Role: wire.RoleOperator, Changes: true, Result: wire.UnblockResult{},
		Summary: "Lifts blocks before their time is over. Connections that were cut stay so for the time of the cut.",
		Example: `{"filter": {"addr": "10.3.0.7"}}`,
	}, s.unblock)
}

// blockFields are the filter's fields that mean something for a block.
var blockFields = map[string]bool{"family": true, "src": true, "dst": true, "addr": true, "net": true, "zone": true}

func (s *Service) blocks(ctx context.Context, p *wire.BlocksParams) (any, error) {
	filter, err := readFilterOf(p.Filter, "a block", blockFields)
	if err != nil {
		return nil, err
	}
	found, _, err := s.findBlocks(ctx, filter)
	return wire.BlocksResult{Blocks: blocksResult(found)}, err
}

func (s *Service) unblock(ctx context.Context, p *wire.UnblockParams) (any, error) {
	noteReason(ctx, p.Reason)
	filter, err := readFilterOf(p.Filter, "a block", blockFields)
	if err != nil {
		return nil, err
	}
	if filter.IsZero() && !p.All {
		return nil, &wire.Error{
			Code: wire.InvalidParams, Message: "an empty filter means every block, which needs all: true",
			Hint: `give a filter such as {"addr": "10.0.0.7"}, or all: true`,
		}
	}
	found, cutter, err := s.findBlocks(ctx, filter)
	if err != nil {
		return nil, err
	}
	result := wire.UnblockResult{Matched: len(found)}
	if !p.DryRun && len(found) > 0 {
		if err := changeFrom(ctx).begin(ctx, len(found), firstTexts(found, func(b *cut.Block) string { return b.Src.String() + " - " + b.Dst.String() })...); err != nil {
			return nil, err
		}
		if found, err = cutter.Unblock(found); err != nil {
			return nil, err
		}
		result.Unblocked, result.Changed = len(found), len(found) > 0
	}
	result.Blocks = blocksResult(found)
	return result, nil
}

// findBlocks returns the blocks that a filter means, those that end first in front, and what lifts them.
func (s *Service) findBlocks(ctx context.Context, filter conntrack.Filter) ([]cut.Block, Cutter, error) {
	table, err := s.table(ctx)
	if err != nil {
		return nil, nil, err
	}
	cutter := s.cutter(table)
	if cutter == nil {
		return nil, nil, errNoCutter()
	}
	all, err := cutter.Blocks()
	if err != nil {
		return nil, nil, err
	}
	all = slices.DeleteFunc(all, func(b cut.Block) bool {
		t := conntrack.Tuple{Src: b.Src, Dst: b.Dst}
		return !filter.Match(&conntrack.Flow{Orig: t, Reply: t.Inverse(), Zone: b.Zone})
	})
	slices.SortFunc(all, func(a, b cut.Block) int { return cmp.Compare(a.Left, b.Left) })
	return all, cutter, nil
}

func blocksResult(blocks []cut.Block) []wire.Block {
	result := make([]wire.Block, len(blocks))
	for i, b := range blocks {
		family := conntrack.Tuple{Src: b.Src}.Family()
		// Rounded up: what is still there has a second left.
		left := (b.Left + time.Second - 1) / time.Second
		result[i] = wire.Block{
			Family: family.String(), Src: b.Src.String(), Dst: b.Dst.String(), Zone: b.Zone,
			Left: uint32(left), Comment: b.Comment,
		}
	}
	return result
}
