package conntracktest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"ctd/conntrack"

	"golang.org/x/sys/unix"
)

// Op names a method of the table, for Fake.Fail.
type Op string

// The methods that can be made to fail.
const (
	OpFlows        Op = "Flows"
	OpCount        Op = "Count"
	OpGet          Op = "Get"
	OpKill         Op = "Kill"
	OpModify       Op = "Modify"
	OpReplace      Op = "Replace"
	OpCreate       Op = "Create"
	OpFlush        Op = "Flush"
	OpExpects      Op = "Expects"
	OpCreateExpect Op = "CreateExpect"
	OpKillExpects  Op = "KillExpects"
	OpFlushExpects Op = "FlushExpects"
)

// Fake is a table in memory with the methods and errors of *conntrack.Table. Timeouts don't run
// down. The zero value is an empty table; its methods may be called from many goroutines.
type Fake struct {
	mu       sync.Mutex
	flows    []conntrack.Flow
	expects  []conntrack.Expect
	lastID   uint32
	failures map[Op]failure
	denied   map[uint32]error
	writes   int
}

type failure struct {
	after int
	err   error
}

// NewFake returns a table of flows, which it completes as Create does. It panics where one of
// them can't be made.
func NewFake(flows ...conntrack.Flow) *Fake {
	t := &Fake{}
	for _, f := range flows {
		if _, err := t.create(f); err != nil {
			panic(err)
		}
	}
	return t
}

// Fail makes a method fail from now on, until err is nil. Flows and Expects fail after they
// gave so many entries; the others ignore after, and do nothing.
func (t *Fake) Fail(op Op, after int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures == nil {
		t.failures = map[Op]failure{}
	}
	t.failures[op] = failure{after, err}
}

// Deny makes Kill and Modify of the flow with an id fail, e.g. with EPERM.
func (t *Fake) Deny(id uint32, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.denied == nil {
		t.denied = map[uint32]error{}
	}
	t.denied[id] = err
}

// Writes returns how many times flows or expectations were changed, made or deleted.
func (t *Fake) Writes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.writes
}

// begin locks the table for a method. The caller unlocks it, whatever the error is.
func (t *Fake) begin(ctx context.Context, op Op) error {
	t.mu.Lock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return t.failures[op].err
}

// Close does nothing.
func (t *Fake) Close() error { return nil }

// Flows gives the flows as they were when it began, oldest first. It takes no heed of options.
func (t *Fake) Flows(ctx context.Context, f conntrack.Filter, _ ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	return dump(t, ctx, OpFlows, "list flows", func() []conntrack.Flow { return t.flows },
		func(fl *conntrack.Flow) bool { return f.Match(fl) })
}

// dump gives the entries that match of a copy of a list, and breaks off as Fail says.
func dump[T any](t *Fake, ctx context.Context, op Op, what string, list func() []T, match func(*T) bool) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		t.mu.Lock()
		entries, fail := slices.Clone(list()), t.failures[op]
		t.mu.Unlock()
		var zero T
		n := 0
		for i := range entries {
			if err := ctx.Err(); err != nil {
				yield(zero, fmt.Errorf("%s: %w", what, err))
				return
			}
			if !match(&entries[i]) {
				continue
			}
			if fail.err != nil && n >= fail.after {
				break
			}
			n++
			if !yield(entries[i], nil) {
				return
			}
		}
		if fail.err != nil {
			yield(zero, fmt.Errorf("%s: %w", what, fail.err))
		}
	}
}

// Count returns how many flows match.
func (t *Fake) Count(ctx context.Context, f conntrack.Filter) (int, error) {
	err := t.begin(ctx, OpCount)
	defer t.mu.Unlock()
	if err != nil {
		return 0, fmt.Errorf("count flows: %w", err)
	}
	n := 0
	for i := range t.flows {
		if f.Match(&t.flows[i]) {
			n++
		}
	}
	return n, nil
}

// find returns the index of a flow, or -1. As in the kernel, a tuple of either direction finds
// it.
func (t *Fake) find(k conntrack.Key) int {
	tuple := k.Orig
	if tuple.IsZero() {
		tuple = k.Reply
	}
	return slices.IndexFunc(t.flows, func(f conntrack.Flow) bool {
		if k.ID != 0 && f.ID != k.ID {
			return false
		}
		return tuple.IsZero() && k.ID != 0 || f.Zone == k.Zone && (f.Orig == tuple || f.Reply == tuple)
	})
}

// Get returns one flow; conntrack.ErrNotFound where there is none.
func (t *Fake) Get(ctx context.Context, k conntrack.Key) (conntrack.Flow, error) {
	err := t.begin(ctx, OpGet)
	defer t.mu.Unlock()
	if err != nil {
		return conntrack.Flow{}, fmt.Errorf("get flow: %w", err)
	}
	i := t.find(k)
	if i < 0 {
		return conntrack.Flow{}, fmt.Errorf("get flow: %w", conntrack.ErrNotFound)
	}
	return t.flows[i], nil
}

// each does something with the flow of each key that must have a tuple, as in the kernel.
func (t *Fake) each(ctx context.Context, op Op, what string, keys []conntrack.Key, fn func(i int) error) []error {
	fail := t.begin(ctx, op)
	defer t.mu.Unlock()
	errs := make([]error, len(keys))
	for n, k := range keys {
		err := fail
		if err == nil {
			i := t.find(k)
			switch {
			case k.Orig.IsZero() && k.Reply.IsZero():
				err = unix.EINVAL
			case i < 0:
				err = conntrack.ErrNotFound
			case t.denied[t.flows[i].ID] != nil:
				err = t.denied[t.flows[i].ID]
			default:
				err = fn(i)
			}
		}
		if err != nil {
			errs[n] = fmt.Errorf("%s: %w", what, err)
			continue
		}
		t.writes++
	}
	return errs
}

// Kill deletes flows, with an error for each key.
func (t *Fake) Kill(ctx context.Context, keys []conntrack.Key) []error {
	return t.each(ctx, OpKill, "kill flow", keys, func(i int) error {
		t.flows = slices.Delete(t.flows, i, i+1)
		return nil
	})
}

// settable are the status bits that the kernel lets be set on a flow that is there.
const settable = conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusFixedTimeout

// Modify changes flows, with an error for each key. It refuses what the kernel does: another
// timeout where it is fixed (EPERM), status bits that can't be set (EBUSY), a helper for a flow
// that began without one and a state for what isn't TCP (EOPNOTSUPP).
func (t *Fake) Modify(ctx context.Context, keys []conntrack.Key, c conntrack.Change) []error {
	return t.each(ctx, OpModify, "modify flow", keys, func(i int) error {
		f := t.flows[i]
		if err := change(&f, c); err != nil {
			return err
		}
		t.flows[i] = f
		return nil
	})
}

func change(f *conntrack.Flow, c conntrack.Change) error {
	fixed := f.Status&conntrack.StatusFixedTimeout != 0
	switch {
	case (c.Timeout != nil || c.FixedTimeout) && fixed:
		return unix.EPERM
	case c.Status&^f.Status&^settable != 0:
		return unix.EBUSY
	case c.Helper != nil && *c.Helper != "" && f.Helper == "":
		return unix.EOPNOTSUPP
	case c.State != nil && f.Proto() != conntrack.TCP:
		return unix.EOPNOTSUPP
	}
	if c.Timeout != nil {
		f.Timeout = c.Timeout.Truncate(time.Second)
		f.Set(conntrack.AttrTimeout)
	}
	f.Status |= c.Status
	if c.FixedTimeout {
		f.Status |= conntrack.StatusFixedTimeout
	}
	if c.Mark != nil {
		mask := c.Mark.Mask
		if mask == 0 {
			mask = 0xffffffff
		}
		f.Mark = f.Mark&^mask | c.Mark.Value&mask
		f.Set(conntrack.AttrMark)
	}
	if c.Labels != nil {
		mask := c.Labels.Mask
		if mask.IsZero() {
			for i := range mask {
				mask[i] = 0xff
			}
		}
		for i := range f.Labels {
			f.Labels[i] = f.Labels[i]&^mask[i] | c.Labels.Value[i]&mask[i]
		}
		f.Set(conntrack.AttrLabels)
	}
	if c.Helper != nil {
		f.Helper = *c.Helper
	}
	if c.State != nil {
		f.State = *c.State
		f.Set(conntrack.AttrState)
	}
	return nil
}

// Replace makes the same flow anew with other NAT.
func (t *Fake) Replace(ctx context.Context, k conntrack.Key, nat conntrack.NAT) (conntrack.Flow, error) {
	err := t.begin(ctx, OpReplace)
	defer t.mu.Unlock()
	i := t.find(k)
	if err == nil && i < 0 {
		err = conntrack.ErrNotFound
	}
	if err != nil {
		return conntrack.Flow{}, fmt.Errorf("replace flow: %w", err)
	}
	old := t.flows[i]
	f := old
	f.ID = 0
	f.Status &^= conntrack.StatusSNAT | conntrack.StatusDNAT | conntrack.StatusSNATDone | conntrack.StatusDNATDone
	f.Reply = old.Orig.Inverse()
	f.Reply.Zone = old.Reply.Zone
	if nat.Src.Addr().IsValid() {
		f.Reply.Dst = nat.Src.Addr()
	}
	if nat.Src.Port() != 0 {
		f.Reply.DstPort = nat.Src.Port()
	}
	if nat.Dst.Addr().IsValid() {
		f.Reply.Src = nat.Dst.Addr()
	}
	if nat.Dst.Port() != 0 {
		f.Reply.SrcPort = nat.Dst.Port()
	}
	t.flows = slices.Delete(t.flows, i, i+1)
	made, err := t.create(f)
	if err != nil {
		t.flows = slices.Insert(t.flows, i, old)
		return conntrack.Flow{}, fmt.Errorf("replace flow: %w", err)
	}
	t.writes++
	return made, nil
}

// Create makes a flow and returns it with the id and the status that it got. It refuses a flow
// without addresses or timeout (EINVAL) and one whose tuples another one has (EEXIST).
func (t *Fake) Create(ctx context.Context, f conntrack.Flow) (conntrack.Flow, error) {
	err := t.begin(ctx, OpCreate)
	defer t.mu.Unlock()
	if err == nil {
		f, err = t.create(f)
	}
	if err != nil {
		return conntrack.Flow{}, fmt.Errorf("create flow: %w", err)
	}
	t.writes++
	return f, nil
}

func (t *Fake) create(f conntrack.Flow) (conntrack.Flow, error) {
	if f.Orig.Family() == conntrack.FamilyAny || f.Orig.Proto == 0 || f.Timeout <= 0 {
		return f, unix.EINVAL
	}
	inverse := f.Orig.Inverse()
	if f.Reply.IsZero() {
		f.Reply = inverse
	}
	for _, tuple := range []conntrack.Tuple{f.Orig, f.Reply} {
		if t.find(conntrack.Key{Orig: tuple, Zone: f.Zone}) >= 0 {
			return f, unix.EEXIST
		}
	}
	f.Status |= conntrack.StatusConfirmed
	if f.Reply.Dst != inverse.Dst || f.Reply.DstPort != inverse.DstPort {
		f.Status |= conntrack.StatusSNAT | conntrack.StatusSNATDone
	}
	if f.Reply.Src != inverse.Src || f.Reply.SrcPort != inverse.SrcPort {
		f.Status |= conntrack.StatusDNAT | conntrack.StatusDNATDone
	}
	if f.ID == 0 {
		t.lastID++
		f.ID = t.lastID
	}
	if f.Use == 0 {
		f.Use = 1
	}
	f.Set(conntrack.AttrID | conntrack.AttrTimeout | conntrack.AttrMark | conntrack.AttrUse)
	t.flows = append(t.flows, f)
	return f, nil
}

// Flush deletes all flows of a family and zone and returns how many.
func (t *Fake) Flush(ctx context.Context, family conntrack.Family, zone *uint16) (int, error) {
	err := t.begin(ctx, OpFlush)
	defer t.mu.Unlock()
	if err != nil {
		return 0, fmt.Errorf("flush flows: %w", err)
	}
	before := len(t.flows)
	t.flows = slices.DeleteFunc(t.flows, func(f conntrack.Flow) bool {
		return (family == conntrack.FamilyAny || f.Family() == family) && (zone == nil || f.Zone == *zone)
	})
	t.writes += before - len(t.flows)
	return before - len(t.flows), nil
}
