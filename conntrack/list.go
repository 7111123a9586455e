package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"os"
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
	within  Filter
}

// From lists another table than Main.
func From(s Source) ListOption { return func(c *listConfig) { c.source = s } }

// Zeroing resets the counters of each flow as it is listed (IPCTNL_MSG_CT_GET_CTRZERO), and every
// other reader loses these counts. With a filter each flow that matches is asked for by itself,
// because in a dump the kernel resets whatever it sends.
func Zeroing() ListOption { return func(c *listConfig) { c.zero = true } }

// CountScanned adds to *n the number of entries that the kernel sent, which are more than those
// that match where the kernel can't decide the filter by itself.
func CountScanned(n *int) ListOption { return func(c *listConfig) { c.scanned = n } }

// Within leaves out what a filter doesn't mean as if it weren't there: it is neither counted as scanned
// nor zeroed.
func Within(f Filter) ListOption { return func(c *listConfig) { c.within = f } }

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
	if cfg.zero && !(f.IsZero() && cfg.within.IsZero()) {
		return t.listZeroing(ctx, f, cfg, fn)
	}
	var (
		dec      decoder
		fl       Flow
		received int
		scanned  int
		stopped  bool
	)
	each := func(_ *message, data []byte) (bool, error) {
		received++
		if err := dec.decodeFlow(&fl, data); err != nil {
			return false, err
		}
		if !cfg.within.Match(&fl) {
			return true, nil
		}
		scanned++
		stopped = f.Match(&fl) && !fn(&fl)
		return !stopped, nil
	}
	p := f.pushdown()
	buckets := hashBuckets()
	for _, family := range p.families() {
		before := received
		err := t.dump(ctx, cfg.messageType(), family, p.append, each)
		if received == before && p.hasTuple() && (errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL)) {
			// A kernel before 5.8 has no CTA_FILTER, and one may refuse fields of it.
			plain := p
			plain.origFlags, plain.replyFlags = 0, 0
			err = t.dump(ctx, cfg.messageType(), family, plain.append, each)
		}
		if err != nil || stopped {
			cfg.addScanned(scanned)
			return err
		}
	}
	cfg.addScanned(scanned)
	if hashBuckets() != buckets {
		return ErrInterrupted
	}
	return nil
}

// hashBuckets returns the size of the kernel's hash table, which all namespaces share; empty where
// it can't be read. A dump walks the table bucket by bucket, and when it is resized meanwhile
// entries move past it, which the kernel doesn't tell.
func hashBuckets() string {
	b, _ := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_buckets")
	return string(b)
}

// listZeroing is list for Zeroing with a filter.
func (t *Table) listZeroing(ctx context.Context, f Filter, cfg listConfig, fn func(fl *Flow) bool) error {
	cfg.zero = false
	var (
		dec     decoder
		zeroed  Flow
		failure error
	)
	err := t.list(ctx, f, cfg, func(fl *Flow) bool {
		k := fl.Key()
		err := t.roundTrip(ctx, msgGetZero, 0, k.family(), k.append, func(data []byte) error {
			return dec.decodeFlow(&zeroed, data)
		})
		switch {
		case errors.Is(err, ErrNotFound):
			return true // it ended meanwhile
		case err != nil:
			failure = err
			return false
		}
		return fn(&zeroed)
	})
	return also(err, failure)
}

func (c *listConfig) messageType() uint16 {
	switch {
	case c.source == Dying:
		return msgGetDying
	case c.source == Unconfirmed:
		return msgGetUnconfirmed
	case c.zero:
		return msgGetZero
	}
	return msgGet
}

func (c *listConfig) addScanned(n int) {
	if c.scanned != nil {
		*c.scanned += n
	}
}

// families returns the families to dump one by one: CTA_FILTER compares within one.
func (p *pushdown) families() []Family {
	if p.hasTuple() && p.family == FamilyAny {
		return []Family{FamilyIPv4, FamilyIPv6}
	}
	return []Family{p.family}
}

// Count returns how many flows match. Without a filter, and without Within, it is the kernel's own
// counter, which holds flows that aren't confirmed yet or are dying as well; else it is a dump.
func (t *Table) Count(ctx context.Context, f Filter, opts ...ListOption) (int, error) {
	var cfg listConfig
	for _, opt := range opts {
		opt(&cfg)
	}
	if f.IsZero() && cfg.within.IsZero() {
		s, err := t.Stats(ctx)
		return int(s.Entries), err
	}
	n := 0
	err := t.list(ctx, f, cfg, func(*Flow) bool { n++; return true })
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
