package rpc

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

// fakeCutter notes what is to be cut, and keeps blocks.
type fakeCutter struct {
	refuse   error // of Prepare
	fail     error // of Cut
	prepared int
	cut      []uint32 // ids
	options  cut.Options
	blocked  []cut.Block
}

func (c *fakeCutter) Prepare(p *cut.Plan, _ cut.Options) error {
	c.prepared++
	if c.refuse == nil && cmp.Equal(p, cut.PlanOf([]conntrack.Flow{badFlow()}), cmp.AllowUnexported(cut.Plan{})) {
		return cut.ErrFull
	}
	return c.refuse
}

// badFlow is one that the fake can't cut.
func badFlow() conntrack.Flow {
	f := tcpFlow(2)
	f.Zone = 666
	return f
}

func (c *fakeCutter) Cut(ctx context.Context, flows []conntrack.Flow, o cut.Options) (cut.Result, error) {
	if ctx.Err() != nil {
		return cut.Result{}, ctx.Err()
	}
	for i := range flows {
		c.cut = append(c.cut, flows[i].ID)
	}
	c.options = o
	return cut.Result{Blocks: 1, Sockets: 2, Probed: 3}, c.fail
}

func (c *fakeCutter) Blocks() ([]cut.Block, error) { return slices.Clone(c.blocked), nil }

func (c *fakeCutter) Unblock(blocks []cut.Block) ([]cut.Block, error) {
	return blocks[1:], nil // the first has just ended
}

func newCutAPI(flows ...conntrack.Flow) (*api, *fakeCutter) {
	a, c := newAPI(flows...), &fakeCutter{}
	a.service.Cutter = c
	return a, c
}

func TestCutParams(t *testing.T) {
	a, _ := newCutAPI(tcpFlows(1)...)
	for params, text := range map[string]string{
		`"cut": "soon"`:               "cut: want a time",
		`"cut": 0`:                    "cut: want a time",
		`"cut": "0s"`:                 "cut: want a time",
		`"cut": -1`:                   "cut: want a time",
		`"cut": 1.5`:                  "cut: want a time",
		`"cut": "31d"`:                "cut: want a time",
		`"cut": [1]`:                  "cut: want a time",
		`"block": true`:               "block: want a time",
		`"block": ""`:                 "block: want a time",
		`"cut": false, "block": "1m"`: "contradict",
		`"reject": true`:              "reject says how to cut",
	} {
		a.refused(t, "conntrack.kill", `{"all": true, `+params+`}`, wire.InvalidParams, text)
	}
	for params, want := range map[string]cut.Options{
		`"cut": true`:                  {For: 30 * time.Second},
		`"cut": 45`:                    {For: 45 * time.Second},
		`"cut": "1h30m"`:               {For: 90 * time.Minute},
		`"cut": "30d", "reject": true`: {For: 30 * 24 * time.Hour, Reject: true},
		`"block": "10m"`:               {For: 30 * time.Second, Block: 10 * time.Minute},
		`"block": 5`:                   {For: 5 * time.Second, Block: 5 * time.Second},
		`"cut": 2, "block": "10m"`:     {For: 2 * time.Second, Block: 10 * time.Minute},
	} {
		a, c := newCutAPI(tcpFlows(1)...)
		var got wire.KillResult
		a.call(t, "conntrack.kill", `{"all": true, "reason": "ticket", `+params+`}`, &got)
		want.Comment = "tester: ticket"
		if diff := cmp.Diff(want, c.options); diff != "" || c.prepared != 2 { // for the call, and for its one part
			t.Errorf("%s (-want +got):\n%s", params, diff)
		}
		if diff := cmp.Diff(&wire.CutResult{Seconds: uint32(want.For / time.Second), Blocks: 1, Sockets: 2, Probed: 3}, got.Cut); diff != "" {
			t.Errorf("%s (-want +got):\n%s", params, diff)
		}
	}
	a, c := newCutAPI(tcpFlows(1)...)
	var got wire.KillResult
	a.call(t, "conntrack.kill", `{"all": true, "cut": false}`, &got)
	if got.Killed != 1 || got.Cut != nil || c.prepared != 0 || c.cut != nil {
		t.Errorf("cut: false: %+v, %+v", got, c)
	}
	a.service.Cutter = nil
	a.refused(t, "conntrack.kill", `{"all": true, "cut": true}`, wire.Unsupported, "can't cut")
	a.refused(t, "conntrack.blocks", `{}`, wire.Unsupported, "can't cut")
}

// TestReconcileBlock: a block would end what is to be kept.
func TestReconcileBlock(t *testing.T) {
	a, c := newCutAPI(tcpFlows(2)...)
	a.refused(t, "conntrack.reconcile", `{"filter": "proto=tcp", "keep": "src=10.0.0.1", "block": "1m"}`, wire.InvalidParams, "keep and block")
	var got wire.ReconcileResult
	a.call(t, "conntrack.reconcile", `{"filter": "proto=tcp", "keep": "src=10.0.0.1", "cut": true}`, &got)
	if got.Killed != 1 || fmt.Sprint(c.cut) != "[1]" || got.Cut == nil || got.Cut.Probed != 3 {
		t.Errorf("%+v, cut %v", got, c.cut)
	}
}

// TestCutOrder: what can't be cut isn't killed either; what was killed is cut, and nothing else.
func TestCutOrder(t *testing.T) {
	a, c := newCutAPI(tcpFlows(3)...)
	c.refuse = fmt.Errorf("declare: %w", cut.ErrUnsupported)
	a.refused(t, "conntrack.kill", `{"all": true, "cut": true}`, wire.Unsupported, "nf_tables")
	if a.table.Writes() != 0 {
		t.Errorf("%d writes", a.table.Writes())
	}
	c.refuse = nil

	var got wire.KillResult
	a.call(t, "conntrack.kill", `{"all": true, "cut": true, "dry_run": true}`, &got)
	if got.Matched != 3 || c.prepared != 1 || c.cut != nil {
		t.Errorf("dry run: %+v, %+v", got, c)
	}

	a.table.Deny(2, unix.EPERM)
	a.service.Table = goneTable{a.table} // the first is gone before it is killed
	a.call(t, "conntrack.kill", `{"all": true, "cut": true}`, &got)
	if got.Killed != 1 || got.Gone != 1 || len(got.Failed) != 1 || fmt.Sprint(c.cut) != "[3]" {
		t.Errorf("%+v, cut %v; want the third alone", got, c.cut)
	}

	a, c = newCutAPI(tcpFlows(2)...)
	c.fail = cut.ErrFull
	a.call(t, "conntrack.kill", `{"all": true, "cut": true}`, &got)
	if got.Killed != 2 || len(got.Failed) != 1 || got.Failed[0].Code != wire.LimitExceeded || !strings.Contains(got.Failed[0].Message, "the last 2 of the flows that were killed were not cut") {
		t.Errorf("%+v", got)
	}
}

// TestCutZone: a chunk that can't be cut isn't killed, and what comes before it is told.
func TestCutZone(t *testing.T) {
	a, c := newCutAPI(tcpFlow(1), badFlow())
	a.refused(t, "conntrack.kill", `{"filter": "zone=666", "cut": true}`, wire.LimitExceeded, "too much is kept out")
	var got wire.KillResult
	a.call(t, "conntrack.kill", `{"filter": "zone=0", "cut": true}`, &got)
	if got.Killed != 1 || a.table.Writes() != 1 || fmt.Sprint(c.cut) != "[1]" {
		t.Errorf("%+v, %d writes, cut %v", got, a.table.Writes(), c.cut)
	}
}

// manyTable says that there are more flows than can be cut.
type manyTable struct{ bigTable }

func TestCutLimit(t *testing.T) {
	a, c := newCutAPI()
	many := &manyTable{}
	many.Table = a.table
	for i := range cut.MaxFlows + 1 {
		many.left = append(many.left, uint32(i+1))
	}
	a.service.Table = many
	a.refused(t, "conntrack.kill", `{"all": true, "cut": true, "max": 1000000}`, wire.LimitExceeded, "65537 flows match, and at most 65536 can be cut")
	if c.prepared != 0 || len(many.left) != cut.MaxFlows+1 {
		t.Errorf("prepared %d, %d left", c.prepared, len(many.left))
	}
	many.left = many.left[1:]
	var got wire.KillResult
	a.call(t, "conntrack.kill", `{"all": true, "cut": true, "max": 1000000}`, &got)
	if got.Killed != cut.MaxFlows || len(c.cut) != cut.MaxFlows {
		t.Errorf("killed %d, cut %d", got.Killed, len(c.cut))
	}
}

// sweptTable is one where packets make entries again between the deletion and the cut.
type sweptTable struct {
	Table
	again  []conntrack.Flow
	killed [][]conntrack.Key
}

func (t *sweptTable) Kill(ctx context.Context, keys []conntrack.Key) []error {
	t.killed = append(t.killed, keys)
	errs := t.Table.Kill(ctx, keys)
	for _, f := range t.again {
		if _, err := t.Create(ctx, f); err != nil {
			panic(err)
		}
	}
	t.again = nil
	return errs
}

// TestCutSweeps deletes what packets of the same connection made anew, and not the flow of another
// that has got its translated address and port.
func TestCutSweeps(t *testing.T) {
	f := tcpFlow(1)
	f.Reply = f.Orig.Inverse()
	f.Reply.Dst = netip.MustParseAddr("198.51.100.1")
	other := tcpFlow(2)
	other.Reply = f.Reply
	answers := f
	answers.Orig, answers.Reply = f.Reply, f.Reply.Inverse()
	for name, c := range map[string]struct {
		again []conntrack.Flow
		left  int
	}{
		"nothing":      {nil, 0},
		"by a packet":  {[]conntrack.Flow{f}, 0},
		"by an answer": {[]conntrack.Flow{answers}, 0},
		"of another":   {[]conntrack.Flow{other}, 1},
	} {
		a, _ := newCutAPI(f)
		swept := &sweptTable{Table: a.table, again: c.again}
		a.service.Table = swept
		var got wire.KillResult
		a.call(t, "conntrack.kill", `{"all": true, "cut": true}`, &got)
		if n, err := a.table.Count(t.Context(), conntrack.Filter{}); err != nil || n != c.left {
			t.Errorf("%s: %d flows are left, %v, want %d; killed %+v", name, n, err, c.left, swept.killed)
		}
		if got.Killed != 1 || len(got.Failed) != 0 || got.Gone != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestBlocks(t *testing.T) {
	a, c := newCutAPI()
	ip := netip.MustParseAddr
	c.blocked = []cut.Block{
		{Src: ip("10.0.0.1"), Dst: ip("192.0.2.1"), Left: 90 * time.Second, Comment: "root"},
		{Src: ip("10.0.0.2"), Dst: ip("192.0.2.1"), Left: time.Millisecond},
		{Src: ip("fd00::1"), Dst: ip("fd00::2"), Left: time.Hour, Zone: 7},
	}
	blocks := []wire.Block{
		{Family: "ipv4", Src: "10.0.0.2", Dst: "192.0.2.1", Left: 1},
		{Family: "ipv4", Src: "10.0.0.1", Dst: "192.0.2.1", Left: 90, Comment: "root"},
		{Family: "ipv6", Src: "fd00::1", Dst: "fd00::2", Left: 3600, Zone: 7},
	}
	for filter, want := range map[string][]wire.Block{
		`""`: blocks, `"addr=10.0.0.1"`: blocks[1:2], `"net=192.0.2.0/24"`: blocks[:2], `"zone=7"`: blocks[2:],
		`"family=ipv6"`: blocks[2:], `{"src": "fd00::/8"}`: blocks[2:], `"dst=10.0.0.1"`: {},
	} {
		var got wire.BlocksResult
		a.call(t, "conntrack.blocks", `{"filter": `+filter+`}`, &got)
		if diff := cmp.Diff(want, got.Blocks); diff != "" {
			t.Errorf("%s (-want +got):\n%s", filter, diff)
		}
	}
	for filter, text := range map[string]string{`"dport=80"`: "a block has no dport", `"scr=10.0.0.1"`: "src"} {
		a.refused(t, "conntrack.blocks", `{"filter": `+filter+`}`, wire.InvalidParams, text)
		a.refused(t, "conntrack.unblock", `{"filter": `+filter+`}`, wire.InvalidParams, text)
	}
	a.refused(t, "conntrack.unblock", `{}`, wire.InvalidParams, "all: true")
	if _, err := a.tryAs(t, wire.RoleViewer, "conntrack.unblock", `{"all": true}`); err == nil || err.Code != wire.PermissionDenied {
		t.Errorf("a viewer lifts: %v", err)
	}
	for params, want := range map[string]wire.UnblockResult{
		`{"all": true, "dry_run": true}`: {Matched: 3, Blocks: blocks},
		`{"all": true}`:                  {Matched: 3, Unblocked: 2, Changed: true, Blocks: blocks[1:]},
		`{"filter": "addr=10.0.0.1"}`:    {Matched: 1, Blocks: []wire.Block{}},
	} {
		var got wire.UnblockResult
		a.call(t, "conntrack.unblock", params, &got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", params, diff)
		}
	}
	a.refused(t, "conntrack.unblock", `{"filter": "user=x"}`, wire.InvalidParams, "user")
}

// TestBlockSpares: the addresses of the caller's own connections are not kept apart.
func TestBlockSpares(t *testing.T) {
	session := tcpFlow(9)
	session.Orig = conntrack.Tuple{
		Proto: conntrack.TCP, Src: netip.MustParseAddr("10.0.0.5"), Dst: netip.MustParseAddr("10.0.0.254"), SrcPort: 5555, DstPort: sshPort,
	}
	session.Reply = session.Orig.Inverse()
	// The caller's connection came to another address, which the router translated.
	forwarded := tcpFlow(8)
	forwarded.Orig = conntrack.Tuple{
		Proto: conntrack.TCP, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("198.51.100.1"), SrcPort: 4000, DstPort: 9420,
	}
	forwarded.Reply = conntrack.Tuple{
		Proto: conntrack.TCP, Src: session.Orig.Dst, Dst: forwarded.Orig.Src, SrcPort: 8420, DstPort: 4000,
	}
	a, c := newCutAPI(append(tcpFlows(2), session, forwarded)...)
	a.table.SetLocalAddrs(session.Orig.Dst)
	me := Caller{Remote: netip.MustParseAddrPort("10.0.0.1:4000"), Local: netip.MustParseAddrPort("10.0.0.254:8420")}
	for i, here := range []bool{false, true} {
		me.Here = here
		ctx := WithCaller(WithPrincipal(t.Context(), caller{wire.RoleOperator}), me)
		want := []cut.Pair{
			{Src: me.Remote.Addr(), Dst: me.Local.Addr()},
			{Src: forwarded.Orig.Src, Dst: forwarded.Orig.Dst},
		}
		if here {
			want = append(want, cut.Pair{Src: session.Orig.Src, Dst: session.Orig.Dst})
		}
		if _, err := a.Call(ctx, "conntrack.kill", Params{Named: map[string]any{"filter": fmt.Sprintf("id=%d", i+1), "block": "1m"}}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, c.options.Spare, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("here %v (-want +got):\n%s", here, diff)
		}
	}
}

// TestCutBound: a direction without ports of which both ends are outside is others' too, and isn't kept out for longer
// than a cut lasts by itself.
func TestCutBound(t *testing.T) {
	ip := netip.MustParseAddr
	translated := func(proto conntrack.Protocol, src, replySrc, replyDst string, dst ...string) conntrack.Flow {
		f := conntrack.Flow{Timeout: time.Minute}
		f.Orig = conntrack.Tuple{Proto: proto, Src: ip(src), Dst: ip(dst[0])}
		switch {
		case proto.HasPorts():
			f.Orig.SrcPort, f.Orig.DstPort = 4000, 500
		case proto == conntrack.ICMP:
			f.Orig.ICMPType, f.Orig.ICMPID = 8, 7
		case proto == conntrack.GRE:
			f.Orig.SrcPort, f.Orig.DstPort = 1, 2
		}
		f.Reply = f.Orig.Inverse()
		f.Reply.Src, f.Reply.Dst = ip(replySrc), ip(replyDst)
		return f
	}
	const esp = conntrack.Protocol(50)
	const peer, wan, own = "192.168.9.6", "203.0.113.1", "10.3.0.8"
	operator := boundTo(wire.RoleOperator, "10.3.0.0/16")
	for name, c := range map[string]struct {
		flow        conntrack.Flow
		orig, reply time.Duration
	}{
		"ESP to behind a shared address":   {translated(esp, peer, own, peer, wan), defaultCut, time.Hour},
		"GRE to behind a shared address":   {translated(conntrack.GRE, peer, own, peer, wan), defaultCut, time.Hour},
		"ICMP to behind a shared address":  {translated(conntrack.ICMP, peer, own, peer, wan), defaultCut, time.Hour},
		"ICMP from behind a shared one":    {translated(conntrack.ICMP, own, peer, wan, peer), time.Hour, defaultCut},
		"UDP to behind a shared address":   {translated(conntrack.UDP, peer, own, peer, wan), time.Hour, time.Hour},
		"UDP from behind a shared address": {translated(conntrack.UDP, own, peer, wan, peer), time.Hour, time.Hour},
		"ESP that isn't translated":        {translated(esp, own, peer, own, peer), time.Hour, time.Hour},
	} {
		a, cutter := newCutAPI(c.flow)
		if _, err := a.as(t, operator, "conntrack.kill", `{"all": true, "cut": "1h"}`); err != nil {
			t.Fatal(name, err)
		}
		if orig, reply := cutter.options.Lasts(&c.flow.Orig), cutter.options.Lasts(&c.flow.Reply); orig != c.orig || reply != c.reply {
			t.Errorf("%s: kept out for %v and %v, want %v and %v", name, orig, reply, c.orig, c.reply)
		}
		if _, err := a.service.Table.Create(t.Context(), c.flow); err != nil {
			t.Fatal(name, err)
		}
		if _, err := a.as(t, operator, "conntrack.kill", `{"all": true, "cut": 5}`); err != nil || cutter.options.Lasts(&c.flow.Orig) > 5*time.Second {
			t.Errorf("%s: %v, a cut of 5 s lasts %v", name, err, cutter.options.Lasts(&c.flow.Orig))
		}
		// Who isn't bound cuts both.
		a, cutter = newCutAPI(c.flow)
		a.call(t, "conntrack.kill", `{"all": true, "cut": "1h"}`, &wire.KillResult{})
		if cutter.options.Lasts(&c.flow.Orig) != time.Hour || cutter.options.Lasts(&c.flow.Reply) != time.Hour {
			t.Errorf("%s: not bound: %+v", name, cutter.options)
		}
	}
}
