package conntrack

import (
	"context"
	"iter"
)

// NewFlowsWithin is NewFlows with a small buffer in the kernel, which overflows soon.
func (t *Table) NewFlowsWithin(ctx context.Context, buffer int) (iter.Seq2[Flow, error], error) {
	return t.newFlows(ctx, buffer)
}
