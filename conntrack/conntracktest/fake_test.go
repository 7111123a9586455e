package conntracktest

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"testing"
	"time"

	"ctd/conntrack"

	"golang.org/x/sys/unix"
)

// table is what Fake and *conntrack.Table have in common.
type table interface {
	Flows(context.Context, conntrack.Filter, ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error]
	Count(context.Context, conntrack.Filter, ...conntrack.ListOption) (int, error)
	Get(context.Context, conntrack.Key) (conntrack.Flow, error)
	Kill(context.Context, []conntrack.Key) []error
	Modify(context.Context, []conntrack.Key, conntrack.Change) []error
	Replace(context.Context, conntrack.Key, conntrack.NAT) (conntrack.Flow, error)
	Create(context.Context, conntrack.Flow) (conntrack.Flow, error)
	Flush(context.Context, conntrack.Family, *uint16) (int, error)
	NewFlows(context.Context) (iter.Seq2[conntrack.Flow, error], error)
	Expects(context.Context) iter.Seq2[conntrack.Expect, error]
	GetExpect(context.Context, uint32) (conntrack.Expect, error)
	CreateExpect(context.Context, conntrack.Expect) (conntrack.Expect, error)
	KillExpects(context.Context, []conntrack.Expect) []error
	FlushExpects(context.Context) (int, error)
	Stats(context.Context) (conntrack.Stats, error)
	PerCPU(context.Context) ([]conntrack.CPUStats, error)
	Close() error
}

var _, _ table = (*Fake)(nil), (*conntrack.Table)(nil)

func tcpFlow(port uint16) conntrack.Flow {
	return conntrack.Flow{
		Orig:    conntrack.Tuple{Src: clientIPv4, Dst: serverIPv4, Proto: conntrack.TCP, SrcPort: port, DstPort: 80},
		Timeout: 100 * time.Second,
	}
}

func TestFake(t *testing.T) {
	ctx := t.Context()
	fake := NewFake(tcpFlow(1), tcpFlow(2))
	if _, err := fake.Create(ctx, tcpFlow(1)); !errors.Is(err, unix.EEXIST) {
		t.Errorf("create twice: got %v, want EEXIST", err)
	}
	helped := tcpFlow(3)
	helped.Helper = "ftp"
	made, err := fake.Create(ctx, helped)
	if err != nil || made.ID == 0 || made.Reply != helped.Orig.Inverse() {
		t.Fatalf("create: %v %+v", err, made)
	}
	if got, err := fake.Get(ctx, conntrack.Key{Reply: made.Reply}); err != nil || got.ID != made.ID {
		t.Errorf("get by reply: %v %+v", err, got)
	}
	if got, err := fake.Get(ctx, conntrack.Key{ID: made.ID}); err != nil || got.Orig != made.Orig {
		t.Errorf("get by id: %v %+v", err, got)
	}
	if _, err := fake.Get(ctx, conntrack.Key{Orig: made.Orig, ID: made.ID + 1}); !errors.Is(err, conntrack.ErrNotFound) {
		t.Errorf("get with another id: got %v, want not found", err)
	}
	if _, err := fake.Get(ctx, conntrack.Key{Orig: made.Orig, Zone: 1}); !errors.Is(err, conntrack.ErrNotFound) {
		t.Errorf("get in another zone: got %v, want not found", err)
	}

	nat, err := fake.Replace(ctx, made.Key(), conntrack.NAT{Dst: netip.MustParseAddrPort("10.2.0.3:81")})
	if err != nil || nat.Status.NAT() != "dnat" || nat.Reply.Src.String() != "10.2.0.3" || nat.Reply.SrcPort != 81 || nat.ID == made.ID {
		t.Errorf("replace: %v %+v", err, nat)
	}

	mark, timeout := conntrack.MaskedMark{Value: 0xff, Mask: 0x0f}, 50*time.Second
	if errs := fake.Modify(ctx, []conntrack.Key{nat.Key(), {ID: 99}, made.Key()}, conntrack.Change{Mark: &mark, Timeout: &timeout, FixedTimeout: true}); errs[0] != nil ||
		!errors.Is(errs[1], conntrack.ErrNotFound) || !errors.Is(errs[2], conntrack.ErrNotFound) {
		t.Errorf("modify: %v", errs)
	}
	if got, _ := fake.Get(ctx, nat.Key()); got.Mark != 0x0f || got.Timeout != timeout || got.Status&conntrack.StatusFixedTimeout == 0 {
		t.Errorf("modified: %+v", got)
	}
	if errs := fake.Modify(ctx, []conntrack.Key{nat.Key()}, conntrack.Change{Timeout: &timeout}); !errors.Is(errs[0], conntrack.ErrFixedTimeout) {
		t.Errorf("modify a fixed timeout: got %v", errs)
	}

	e := conntrack.Expect{Tuple: tcpFlow(9).Orig, Master: nat.Orig}
	got, err := fake.CreateExpect(ctx, e)
	if err != nil || got.Helper != "ftp" {
		t.Errorf("create expectation: %v %+v", err, got)
	}
	e.Tuple.SrcPort, e.Master = 10, tcpFlow(1).Orig
	if _, err := fake.CreateExpect(ctx, e); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("expectation without a helper: got %v, want EOPNOTSUPP", err)
	}
	if errs := fake.KillExpects(ctx, []conntrack.Expect{got, got}); errs[0] != nil || !errors.Is(errs[1], conntrack.ErrNotFound) {
		t.Errorf("kill expectations: %v", errs)
	}

	fake.Deny(nat.ID, unix.EPERM)
	writes := fake.Writes()
	first := conntrack.Key{Orig: tcpFlow(1).Orig}
	if errs := fake.Kill(ctx, []conntrack.Key{nat.Key(), first, first}); !errors.Is(errs[0], unix.EPERM) || errs[1] != nil || !errors.Is(errs[2], conntrack.ErrNotFound) {
		t.Errorf("kill: %v", errs)
	}
	if fake.Writes() != writes+1 {
		t.Errorf("writes: got %d, want one more than %d", fake.Writes(), writes)
	}
	fake.SetStats(conntrack.Stats{Max: 1000}, conntrack.CPUStats{CPU: 1, Drop: 2})
	if s, err := fake.Stats(ctx); err != nil || s.Entries != 2 || s.Max != 1000 {
		t.Errorf("statistics: %v %+v", err, s)
	}
	if cpus, err := fake.PerCPU(ctx); err != nil || len(cpus) != 1 || cpus[0].Drop != 2 {
		t.Errorf("statistics per CPU: %v %+v", err, cpus)
	}
	if n, err := fake.Flush(ctx, conntrack.FamilyIPv6, nil); n != 0 || err != nil {
		t.Errorf("flush of IPv6: %d %v", n, err)
	}
	if n, err := fake.Flush(ctx, conntrack.FamilyAny, nil); n != 2 || err != nil {
		t.Errorf("flush: %d %v", n, err)
	}
}

func TestFakeFails(t *testing.T) {
	fake := NewFake(tcpFlow(1), tcpFlow(2), tcpFlow(3))
	fake.Fail(OpFlows, 2, unix.ENOBUFS)
	n := 0
	var last error
	for _, err := range fake.Flows(t.Context(), conntrack.Filter{}) {
		if last = err; err == nil {
			n++
		}
	}
	if n != 2 || !errors.Is(last, unix.ENOBUFS) {
		t.Errorf("dump: got %d flows and %v, want 2 and ENOBUFS", n, last)
	}
	fake.Fail(OpFlows, 0, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n = 0
	for _, err := range fake.Flows(ctx, conntrack.Filter{}) {
		if last = err; err == nil {
			n++
		}
		cancel()
	}
	if n != 1 || !errors.Is(last, context.Canceled) {
		t.Errorf("cancelled dump: got %d flows and %v", n, last)
	}
	if _, err := fake.Count(ctx, conntrack.Filter{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled count: got %v", err)
	}
}

func TestFakeNewFlows(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fake := NewFake(tcpFlow(1))
	events, err := fake.NewFlows(ctx)
	if err != nil {
		t.Fatal(err)
	}
	counted := tcpFlow(2)
	counted.Start, counted.Mark = 7, 9
	counted.Set(conntrack.AttrCounters)
	made, err := fake.Create(ctx, counted)
	if err != nil {
		t.Fatal(err)
	}
	fake.Lose()
	var got []conntrack.Flow
	var errs []error
	for f, err := range events {
		if err != nil {
			errs = append(errs, err)
			cancel()
			continue
		}
		got = append(got, f)
	}
	if len(got) != 1 || got[0].ID != made.ID || got[0].Mark != 9 || got[0].Start != 0 || got[0].Has(conntrack.AttrCounters) {
		t.Errorf("told %+v", got)
	}
	if len(errs) != 2 || !errors.Is(errs[0], conntrack.ErrLost) || !errors.Is(errs[1], context.Canceled) {
		t.Errorf("errors %v", errs)
	}
	Eventually(t, "nobody listens", func() bool { return fake.Listeners() == 0 })
	fake.Fail(OpNewFlows, 0, conntrack.ErrNoEvents)
	if _, err := fake.NewFlows(t.Context()); !errors.Is(err, conntrack.ErrNoEvents) {
		t.Errorf("told to fail: %v", err)
	}
}
