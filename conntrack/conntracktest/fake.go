package conntracktest

import (
	"context"
	"errors"
	"iter"
	"net/netip"
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
	OpNewFlows     Op = "NewFlows"
	OpFlush        Op = "Flush"
	OpExpects      Op = "Expects"
	OpCreateExpect Op = "CreateExpect"
	OpKillExpects  Op = "KillExpects"
	OpFlushExpects Op = "FlushExpects"
	OpStats        Op = "Stats"
	OpPerCPU       Op = "PerCPU"
	OpLocalAddrs   Op = "LocalAddrs"
)

// Fake is a table in memory with the methods and errors of *conntrack.Table. Timeouts don't run
// down. The zero value is an empty table; its methods may be called from many goroutines.
type Fake struct {
	mu       sync.Mutex
	flows    []conntrack.Flow
	expects  []conntrack.Expect
	waiting  []*listener
	lastID   uint32
	failures map[Op]failure
	denied   map[uint32]error
	writes   int
	stats    conntrack.Stats
	perCPU   []conntrack.CPUStats
	addrs    []netip.Addr
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

// SetLocalAddrs sets the addresses of the machine whose table it is.
func (t *Fake) SetLocalAddrs(addrs ...netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addrs = addrs
}

// LocalAddrs returns the machine's addresses.
func (t *Fake) LocalAddrs(ctx context.Context) ([]netip.Addr, error) {
	err := t.begin(ctx, OpLocalAddrs)
	defer t.mu.Unlock()
	return slices.Clone(t.addrs), err
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

// Flows gives the flows as they were when it began, oldest first. The tables of dying and
// unconfirmed flows are empty.
func (t *Fake) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	options := conntrack.ResolveListOptions(opts...)
	list := func() []conntrack.Flow {
		if options.Source != conntrack.Main {
			return nil
		}
		flows := slices.Clone(t.flows)
		for i := range t.flows {
			if options.Zeroing && f.Match(&t.flows[i]) && options.Within.Match(&t.flows[i]) {
				t.flows[i].OrigCounter, t.flows[i].ReplyCounter = conntrack.Counter{}, conntrack.Counter{}
			}
		}
		return flows
	}
	return dump(t, ctx, OpFlows, "list flows", list, func(fl *conntrack.Flow) bool {
		if !options.Within.Match(fl) {
			return false
		}
		if options.Scanned != nil {
			*options.Scanned++
		}
		return f.Match(fl)
	})
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
				yield(zero, &conntrack.OpError{Op: what, Err: err})
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
			yield(zero, &conntrack.OpError{Op: what, Err: fail.err})
		}
	}
}

// Count returns how many flows match.
func (t *Fake) Count(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) (int, error) {
	within := conntrack.ResolveListOptions(opts...).Within
	err := t.begin(ctx, OpCount)
	defer t.mu.Unlock()
	if err != nil {
		return 0, &conntrack.OpError{Op: "count flows", Err: err}
	}
	n := 0
	for i := range t.flows {
		if within.Match(&t.flows[i]) && f.Match(&t.flows[i]) {
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
	byID := tuple.IsZero() && k.ID != 0
	for i := range t.flows {
		f := &t.flows[i] // a flow is large, and tables of tests have thousands
		if k.ID != 0 && f.ID != k.ID {
			continue
		}
		if byID || f.Zone == k.Zone && (same(&f.Orig, &tuple) || same(&f.Reply, &tuple)) {
			return i
		}
	}
	return -1
}

// same tells whether two tuples are the same, by what mostly differs first.
func same(a, b *conntrack.Tuple) bool { return a.SrcPort == b.SrcPort && a.Src == b.Src && *a == *b }

// GetMany is Table.GetMany.
func (t *Fake) GetMany(ctx context.Context, keys []conntrack.Key) ([]conntrack.Flow, []error) {
	flows, errs := make([]conntrack.Flow, len(keys)), make([]error, len(keys))
	for i, k := range keys {
		k.ID = 0
		flows[i], errs[i] = t.Get(ctx, k)
	}
	return flows, errs
}

// Get returns one flow; conntrack.ErrNotFound where there is none.
func (t *Fake) Get(ctx context.Context, k conntrack.Key) (conntrack.Flow, error) {
	err := t.begin(ctx, OpGet)
	defer t.mu.Unlock()
	if err != nil {
		return conntrack.Flow{}, &conntrack.OpError{Op: "get flow", Err: err}
	}
	i := t.find(k)
	if i < 0 {
		return conntrack.Flow{}, &conntrack.OpError{Op: "get flow", Err: conntrack.ErrNotFound}
	}
	return t.flows[i], nil
}

// each does something with the flow of each key. Kill needs a tuple in it, as in the kernel.
func (t *Fake) each(ctx context.Context, op Op, what string, keys []conntrack.Key, fn func(i int) error) []error {
	fail := t.begin(ctx, op)
	defer t.mu.Unlock()
	errs := make([]error, len(keys))
	for n, k := range keys {
		err := fail
		if err == nil {
			i := t.find(k)
			switch {
			case k.Orig.IsZero() && k.Reply.IsZero() && (op == OpKill || k.ID == 0):
				err = conntrack.ErrNoKey
			case i < 0:
				err = conntrack.ErrNotFound
			case t.denied[t.flows[i].ID] != nil:
				err = t.denied[t.flows[i].ID]
			default:
				err = fn(i)
			}
		}
		if err != nil {
			errs[n] = &conntrack.OpError{Op: what, Err: err}
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

// Modify changes flows, with an error for each key. It refuses another timeout where it is fixed
// (ErrFixedTimeout), status bits that can't be set (EBUSY), a helper for a flow that began without
// one (EOPNOTSUPP) and a state for what isn't TCP (ErrNotTCP).
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

// CanModify returns the errors that Modify would give.
func (t *Fake) CanModify(ctx context.Context, keys []conntrack.Key, c conntrack.Change) []error {
	errs := make([]error, len(keys))
	for i, k := range keys {
		f, err := t.Get(ctx, k)
		if err == nil {
			err = change(&f, c)
		}
		errs[i] = err
	}
	return errs
}

func change(f *conntrack.Flow, c conntrack.Change) error {
	fixed := f.Status&conntrack.StatusFixedTimeout != 0
	switch {
	case c.Timeout != nil && fixed:
		return conntrack.ErrFixedTimeout
	case c.Status&^f.Status&^settable != 0:
		return unix.EBUSY
	case c.Helper != nil && *c.Helper != "" && f.Helper == "":
		return unix.EOPNOTSUPP
	case c.State != nil && f.Proto() != conntrack.TCP:
		return conntrack.ErrNotTCP
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
		f.Mark = f.Mark&^c.Mark.Mask | c.Mark.Value&c.Mark.Mask
		f.Set(conntrack.AttrMark)
	}
	if c.Labels != nil {
		for i, mask := range c.Labels.Mask {
			f.Labels[i] = f.Labels[i]&^mask | c.Labels.Value[i]&mask
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

// Replace makes the same flow anew with other NAT; ErrNATTaken where another flow has the new
// reply tuple.
func (t *Fake) Replace(ctx context.Context, k conntrack.Key, nat conntrack.NAT) (conntrack.Flow, error) {
	err := t.begin(ctx, OpReplace)
	defer t.mu.Unlock()
	i := t.find(k)
	if err == nil && i < 0 {
		err = conntrack.ErrNotFound
	}
	if err != nil {
		return conntrack.Flow{}, &conntrack.OpError{Op: "replace flow", Err: err}
	}
	old := t.flows[i]
	f := old
	f.ID = 0
	f.Status &^= conntrack.StatusSNAT | conntrack.StatusDNAT | conntrack.StatusSNATDone | conntrack.StatusDNATDone
	f.Reply = nat.Apply(old.Reply)
	t.flows = slices.Delete(t.flows, i, i+1)
	made, err := t.create(f)
	if err != nil {
		t.flows = slices.Insert(t.flows, i, old)
		if errors.Is(err, conntrack.ErrExists) {
			err = conntrack.ErrNATTaken
		}
		return conntrack.Flow{}, &conntrack.OpError{Op: "replace flow", Err: err}
	}
	t.writes++
	return made, nil
}

// CanReplace returns ErrNATTaken where Replace would.
func (t *Fake) CanReplace(ctx context.Context, k conntrack.Key, nat conntrack.NAT) error {
	f, err := t.Get(ctx, k)
	if err != nil {
		return err
	}
	if _, err := t.Get(ctx, conntrack.Key{Orig: nat.Apply(f.Reply), Zone: f.Zone}); err == nil {
		return conntrack.ErrNATTaken
	}
	return nil
}

// CanCreate returns the flow that Create would make, or its error.
func (t *Fake) CanCreate(ctx context.Context, f conntrack.Flow) (conntrack.Flow, error) {
	f, err := conntrack.CheckCreate(f)
	if err != nil {
		return f, err
	}
	for _, tuple := range []conntrack.Tuple{f.Orig, f.Reply} {
		if _, err := t.Get(ctx, conntrack.Key{Orig: tuple, Zone: f.Zone}); err == nil {
			return f, conntrack.ErrExists
		}
	}
	return f, nil
}

// Create makes a flow and returns it with the id and the status that it got. It refuses a flow
// without addresses or timeout (ErrIncomplete) and one whose tuples another one has (ErrExists).
func (t *Fake) Create(ctx context.Context, f conntrack.Flow) (conntrack.Flow, error) {
	err := t.begin(ctx, OpCreate)
	defer t.mu.Unlock()
	if err == nil {
		_, err = conntrack.CheckCreate(f)
	}
	if err == nil {
		f, err = t.create(f)
	}
	if err != nil {
		return conntrack.Flow{}, &conntrack.OpError{Op: "create flow", Err: err}
	}
	t.writes++
	return f, nil
}

func (t *Fake) create(f conntrack.Flow) (conntrack.Flow, error) {
	if f.Orig.Family() == conntrack.FamilyAny || f.Orig.Proto == 0 || f.Timeout < time.Second {
		return f, conntrack.ErrIncomplete
	}
	inverse := f.Orig.Inverse()
	if f.Reply.IsZero() {
		f.Reply = inverse
	}
	for _, tuple := range []conntrack.Tuple{f.Orig, f.Reply} {
		if t.find(conntrack.Key{Orig: tuple, Zone: f.Zone}) >= 0 {
			return f, conntrack.ErrExists
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
	t.tell(event{flow: atFirst(f)})
	return f, nil
}

// Flush deletes all flows of a family and zone and returns how many.
func (t *Fake) Flush(ctx context.Context, family conntrack.Family, zone *uint16) (int, error) {
	err := t.begin(ctx, OpFlush)
	defer t.mu.Unlock()
	if err != nil {
		return 0, &conntrack.OpError{Op: "flush flows", Err: err}
	}
	before := len(t.flows)
	t.flows = slices.DeleteFunc(t.flows, func(f conntrack.Flow) bool {
		return (family == conntrack.FamilyAny || f.Family() == family) && (zone == nil || f.Zone == *zone)
	})
	t.writes += before - len(t.flows)
	return before - len(t.flows), nil
}
