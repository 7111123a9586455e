package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"syscall"
)

// Source is one of the kernel's tables of flows.
type Source uint8

// The tables.
const (
	Main        Source = iota // confirmed flows: what conntrack -L lists
	Dying                     // flows that were deleted and are still referenced
	Unconfirmed               // flows whose first packet has not left the machine yet
)

// ListOption changes what Flows does.
type ListOption func(*listConfig)

type listConfig struct {
	source  Source
	zero    bool
	scanned *int
}

// From lists another table than Main.
func From(s Source) ListOption { return func(c *listConfig) { c.source = s } }

// Zeroing resets the counters of each flow as it is listed (IPCTNL_MSG_CT_GET_CTRZERO), and every
// other reader loses these counts. The kernel resets what it sends, which is more than the filter
// matches where it can't decide the filter by itself: Flows then refuses with
// errors.ErrUnsupported.
func Zeroing() ListOption { return func(c *listConfig) { c.zero = true } }

// CountScanned adds to *n the number of entries that the kernel sent, which are more than those
// that match where the kernel can't decide the filter by itself.
func CountScanned(n *int) ListOption { return func(c *listConfig) { c.scanned = n } }

// Flows dumps the table. The sequence ends with an error where the dump did: then what came
// before is no whole list. Memory doesn't grow with the table. Cancelling ctx ends the dump with
// ctx.Err().
//
// A dump is no snapshot: the kernel walks the table while it changes. A flow that is there from
// beginning to end is listed, rarely twice (where a neighbour in its hash bucket goes meanwhile).
func (t *Table) Flows(ctx context.Context, f Filter, opts ...ListOption) iter.Seq2[Flow, error] {
	var cfg listConfig
	for _, opt := range opts {
		opt(&cfg)
	}
	return func(yield func(Flow, error) bool) {
		stopped := false
		err := t.list(ctx, f, cfg, func(fl *Flow) bool {
			stopped = !yield(*fl, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(Flow{}, opError("list flows", err))
		}
	}
}

// list gives each flow that matches to fn, which must not keep the pointer.
func (t *Table) list(ctx context.Context, f Filter, cfg listConfig, fn func(fl *Flow) bool) error {
	typ := uint16(msgGet)
	switch {
	case cfg.source == Dying:
		typ = msgGetDying
	case cfg.source == Unconfirmed:
		typ = msgGetUnconfirmed
	case cfg.zero:
		typ = msgGetZero
	}
	var (
		dec decoder
		fl  Flow
	)
	received := 0
	each := func(_ *message, data []byte) (bool, error) {
		received++
		if err := dec.decodeFlow(&fl, data); err != nil {
			return false, err
		}
		if !f.Match(&fl) {
			return true, nil
		}
		return fn(&fl), nil
	}
	p := f.pushdown()
	err := t.dump(ctx, typ, p.family, p.append, each)
	if received == 0 && p.hasTuple() && (errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL)) {
		// A kernel before 5.8 has no CTA_FILTER, and one may refuse fields of it.
		p.origFlags, p.replyFlags = 0, 0
		err = t.dump(ctx, typ, p.family, p.append, each)
	}
	if cfg.scanned != nil {
		*cfg.scanned += received
	}
	return err
}

// Count returns how many flows match. Without a filter the kernel says it at once, else it is a
// dump.
func (t *Table) Count(ctx context.Context, f Filter) (int, error) {
	if f.IsZero() {
		s, err := t.Stats(ctx)
		return int(s.Entries), err
	}
	n := 0
	err := t.list(ctx, f, listConfig{}, func(*Flow) bool { n++; return true })
	if err != nil {
		return 0, opError("count flows", err)
	}
	return n, nil
}

// hasTuple tells whether CTA_FILTER is asked for.
func (p *pushdown) hasTuple() bool { return p.origFlags|p.replyFlags != 0 }

// append appends the attributes that make the kernel filter a dump.
func (p *pushdown) append(b []byte) []byte {
	if p.zone != nil {
		b = appendBE16(b, ctaZone, *p.zone)
	}
	if p.markMask != 0 {
		b = appendBE32(b, ctaMark, p.mark)
		b = appendBE32(b, ctaMarkMask, p.markMask)
	}
	if p.statusMask != 0 {
		b = appendBE32(b, ctaStatus, uint32(p.status))
		b = appendBE32(b, ctaStatusMask, uint32(p.statusMask))
	}
	if !p.hasTuple() {
		return b
	}
	if p.origFlags != 0 {
		b = appendTuple(b, ctaTupleOrig, &p.orig)
	}
	if p.replyFlags != 0 {
		b = appendTuple(b, ctaTupleReply, &p.reply)
	}
	start := len(b)
	b = beginNest(b, ctaFilter)
	b = appendAttr(b, ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, p.origFlags))
	b = appendAttr(b, ctaFilterReplyFlags, binary.NativeEndian.AppendUint32(nil, p.replyFlags))
	return endNest(b, start)
}
