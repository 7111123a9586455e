package rpc

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

// toBackend is a UDP flow from a client's port to 10.0.0.53:53, which a backend answers.
func toBackend(port uint16, backend string) conntrack.Flow {
	f := conntrack.Flow{Timeout: 30 * time.Second}
	f.Orig = conntrack.Tuple{
		Src: netip.MustParseAddr("10.9.0.1"), Dst: netip.MustParseAddr("10.0.0.53"), Proto: conntrack.UDP, SrcPort: port, DstPort: 53,
	}
	f.Reply = f.Orig.Inverse()
	f.Reply.Src = netip.MustParseAddr(backend)
	return f
}

// reconcile calls conntrack.reconcile.
func (a *api) reconcile(t testing.TB, params string) wire.ReconcileResult {
	t.Helper()
	var got wire.ReconcileResult
	a.call(t, "conntrack.reconcile", params, &got)
	if got.Changed != (got.Killed > 0) {
		t.Errorf("%s: %+v", params, got)
	}
	return got
}

func TestReconcileParams(t *testing.T) {
	a := newAPI(tcpFlows(3)...)
	for params, text := range map[string]string{
		`{}`:                                                           "all: true",
		`{"filter": ""}`:                                               "all: true",
		`{"keep": {}}`:                                                 "keep: an empty filter",
		`{"filter": "proto=tcp", "keep": ""}`:                          "keep: an empty filter",
		`{"keep": {"scr": "10.0.0.1"}}`:                                "keep: filter: scr: unknown field",
		`{"filter": {"scr": "10.0.0.1"}}`:                              "src",
		`{"flows": [1]}`:                                               "flows",
		`{"filter": "proto=tcp", "passes": 0}`:                         "1 to 100",
		`{"filter": "proto=tcp", "passes": 101}`:                       "1 to 100",
		`{"filter": "proto=tcp", "max": -1}`:                           "max",
		`{"filter": "proto=tcp", "watch": "11m"}`:                      "10m",
		`{"filter": "proto=tcp", "watch": 601}`:                        "10m",
		`{"filter": "proto=tcp", "watch": 0}`:                          "10m",
		`{"filter": "proto=tcp", "watch": 0.5}`:                        "10m",
		`{"filter": "proto=tcp", "watch": -1}`:                         "watch",
		`{"filter": "proto=tcp", "watch": "-1s"}`:                      "watch",
		`{"filter": "proto=tcp", "watch": "soon"}`:                     `"30s"`,
		`{"filter": "proto=tcp", "watch": "nan"}`:                      "watch",
		`{"filter": "proto=tcp", "watch": true}`:                       "watch",
		`{"filter": "proto=tcp", "watch": ""}`:                         "watch",
		`{"filter": "proto=tcp", "wach": 1}`:                           "watch",
		`{"filter": "proto=tcp", "expect_count": 1}`:                   "expect_count",
		`{"filter": "proto=tcp", "keep": "src=10.0.0.1 src=10.0.0.2"}`: "keep",
	} {
		a.refused(t, "conntrack.reconcile", params, wire.InvalidParams, text)
	}
	for _, params := range []string{
		`{"filter": "rate=>1M"}`, `{"keep": "rate=>1M"}`, `{"filter": "user=jane"}`, `{"keep": "user=jane"}`, `{"filter": "proto=tcp", "cut": true}`,
	} {
		a.refused(t, "conntrack.reconcile", params, wire.Unsupported, "")
	}
	a.refused(t, "conntrack.reconcile", `{"filter": "proto=tcp", "max": 2}`, wire.LimitExceeded, "3 flows have to go, more than max 2; nothing was changed")
	a.refused(t, "conntrack.reconcile", `{"filter": "proto=tcp", "max": 2, "dry_run": true}`, wire.LimitExceeded, "3 flows")
	a.table.Fail(conntracktest.OpNewFlows, 0, conntrack.ErrNoEvents)
	a.refused(t, "conntrack.reconcile", `{"filter": "proto=tcp", "watch": 1}`, wire.Unsupported, "nf_conntrack_events to 1")
	if _, err := a.tryAs(t, wire.RoleViewer, "conntrack.reconcile", `{"filter": "proto=tcp"}`); err == nil || err.Code != wire.PermissionDenied {
		t.Errorf("a viewer reconciles: %v", err)
	}
}

func TestReconcile(t *testing.T) {
	for _, c := range []struct {
		name, params string
		killed       string // ids
		left         int
	}{
		{"all of a filter", `{"filter": "dst=10.0.0.53"}`, "[4 5 6]", 3},
		{"but for those to keep", `{"filter": "dst=10.0.0.53", "keep": "reply_src=10.1.0.1"}`, "[5 6]", 4},
		{"alternatives to keep", `{"filter": "dst=10.0.0.53", "keep": [{"reply_src": "10.1.0.1"}, {"reply_src": "10.1.0.2"}]}`, "[6]", 5},
		{"no filter", `{"keep": {"proto": "tcp"}}`, "[4 5 6]", 3},
		{"nothing to do", `{"filter": "dst=10.0.0.53", "keep": "proto=udp"}`, "[]", 6},
		{"everything", `{"all": true}`, "[1 2 3 4 5 6]", 0},
		{"just max", `{"filter": "dst=10.0.0.53", "max": 3}`, "[4 5 6]", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAPI(append(tcpFlows(3), toBackend(1, "10.1.0.1"), toBackend(2, "10.1.0.2"), toBackend(3, "10.1.0.3"))...)
			dry := a.reconcile(t, `{"dry_run": true, "watch": 60, `+c.params[1:])
			n := strings.Count(c.killed, " ") + 1
			if c.killed == "[]" {
				n = 0
			}
			if ids(dry.Flows) != c.killed || dry.Killed != 0 || dry.Matched != n || dry.Passes != 1 || dry.Settled != (n == 0) || dry.Watched != 0 || a.table.Writes() != 0 {
				t.Errorf("dry run: %+v", dry)
			}
			got := a.reconcile(t, c.params)
			passes := 3
			if n == 0 {
				passes = 2
			}
			if ids(got.Flows) != c.killed || got.Killed != n || got.Matched != n || got.Passes != passes || !got.Settled || got.Truncated || len(got.Failed) != 0 {
				t.Errorf("%+v", got)
			}
			if left, _ := a.table.Count(t.Context(), conntrack.Filter{}); left != c.left {
				t.Errorf("%d flows are left, want %d", left, c.left)
			}
		})
	}
}

// againTable makes the flows that are killed anew, so many times, as the next packet does.
type againTable struct {
	*conntracktest.Fake
	times int
	make  func(f conntrack.Flow) conntrack.Flow
}

func (t *againTable) Kill(ctx context.Context, keys []conntrack.Key) []error {
	flows := make([]conntrack.Flow, len(keys))
	for i, k := range keys {
		flows[i], _ = t.Get(ctx, k)
	}
	errs := t.Fake.Kill(ctx, keys)
	for i, f := range flows {
		if errs[i] == nil && t.times > 0 {
			f.ID = 0
			if _, err := t.Create(ctx, t.make(f)); err != nil {
				panic(err)
			}
		}
	}
	t.times--
	return errs
}

func TestReconcileAgain(t *testing.T) {
	same := func(f conntrack.Flow) conntrack.Flow { return f }
	moved := func(f conntrack.Flow) conntrack.Flow {
		f.Reply.Src = netip.MustParseAddr("10.1.0.2")
		return f
	}
	const rule = `"filter": "dst=10.0.0.53", "keep": "reply_src=10.1.0.2"`
	run := func(name string, f func(t *testing.T)) { t.Run(name, func(t *testing.T) { synctest.Test(t, f) }) }
	for _, c := range []struct {
		name, params string
		times        int
		make         func(f conntrack.Flow) conntrack.Flow
		killed       int
		passes       int
		settled      bool
	}{
		{"moved", `{` + rule + `}`, 1, moved, 2, 3, true},
		{"came again twice", `{` + rule + `}`, 2, same, 6, 5, true},
		{"for ever", `{` + rule + `}`, 1000, same, 20, 10, false},
		{"for ever, few passes", `{` + rule + `, "passes": 3}`, 1000, same, 6, 3, false},
		{"one pass", `{` + rule + `, "passes": 1}`, 0, same, 2, 1, false},
	} {
		run(c.name, func(t *testing.T) {
			a := newAPI(toBackend(1, "10.1.0.1"), toBackend(2, "10.1.0.1"), toBackend(3, "10.1.0.2"))
			a.service.Table = &againTable{a.table, c.times, c.make}
			began := time.Now()
			got := a.reconcile(t, c.params)
			if got.Killed != c.killed || got.Matched != c.killed || got.Passes != c.passes || got.Settled != c.settled || len(got.Failed) != 0 {
				t.Errorf("%+v", got)
			}
			if took := time.Since(began); took < time.Duration(c.passes-1)*firstPause {
				t.Errorf("%d passes in %v", c.passes, took)
			}
		})
	}
	run("above max", func(t *testing.T) {
		a := newAPI(toBackend(1, "10.1.0.1"), toBackend(2, "10.1.0.1"))
		a.service.Table = &againTable{a.table, 1000, same}
		for _, watch := range []string{"", `, "watch": 60`} {
			got := a.reconcile(t, `{`+rule+`, "max": 5`+watch+`}`)
			if got.Killed != 4 || got.Passes != 3 || got.Settled || len(got.Failed) != 1 || got.Failed[0].Code != wire.LimitExceeded ||
				!strings.Contains(got.Failed[0].Message, "2 flows have to go, with 4 killed before more than max 5; they were left") {
				t.Errorf("%+v", got)
			}
		}
	})
}

// TestReconcileCut: each pass cuts what it kills, and the result is the sum.
func TestReconcileCut(t *testing.T) {
	a, c := newCutAPI(toBackend(1, "10.1.0.1"), toBackend(2, "10.1.0.1"))
	// They come again after the first deletion, and after the sweep behind the cut.
	a.service.Table = &againTable{a.table, 2, func(f conntrack.Flow) conntrack.Flow { return f }}
	got := a.reconcile(t, `{"filter": "dst=10.0.0.53", "cut": "1m", "block": "10m"}`)
	want := &wire.CutResult{Seconds: 60, Blocks: 2, Sockets: 4, Probed: 6} // of two calls
	if diff := cmp.Diff(want, got.Cut); diff != "" || got.Killed != 4 || len(c.cut) != 4 || c.options.Block != 10*time.Minute {
		t.Errorf("killed %d, cut %v with %+v (-want +got):\n%s", got.Killed, c.cut, c.options, diff)
	}
	if got := a.reconcile(t, `{"filter": "dst=10.0.0.53", "cut": true}`); got.Cut == nil || *got.Cut != (wire.CutResult{Seconds: 30}) {
		t.Errorf("nothing to cut: %+v", got.Cut)
	}
	if _, err := a.table.Create(t.Context(), toBackend(1, "10.1.0.1")); err != nil {
		t.Fatal(err)
	}
	c.refuse = cut.ErrUnsupported
	a.refused(t, "conntrack.reconcile", `{"filter": "dst=10.0.0.53", "cut": true}`, wire.Unsupported, "")
}

// TestReconcileRefused: what the kernel doesn't let go is told once and holds nothing up.
func TestReconcileRefused(t *testing.T) {
	for _, watch := range []string{"", `, "watch": 1`} {
		a := newAPI(tcpFlows(3)...)
		a.table.Deny(2, unix.EPERM)
		got := a.reconcile(t, `{"filter": "proto=tcp"`+watch+`}`)
		if ids(got.Flows) != "[1 3]" || got.Matched != 3 || got.Settled || got.Passes > 4 || len(got.Failed) != 1 || got.Failed[0].Flow.ID != 2 || got.Failed[0].Code != wire.PermissionDenied {
			t.Errorf("%s: %+v", watch, got)
		}
	}
}

// TestReconcileMany: more flows than are held at a time go in one pass.
func TestReconcileMany(t *testing.T) {
	for _, n := range []int{maxHeld, maxHeld + 1, 2*maxHeld + 1} {
		a := newAPI()
		table := newBigTable(n)
		a.service.Table = table
		got := a.reconcile(t, fmt.Sprintf(`{"all": true, "max": %d}`, n))
		if got.Killed != n || got.Matched != n || got.Passes != 3 || !got.Settled || len(got.Flows) != maxShown || !got.Truncated || len(table.left) != 0 {
			t.Errorf("%d: killed %d of %d in %d passes, settled %v, %d shown", n, got.Killed, got.Matched, got.Passes, got.Settled, len(got.Flows))
		}
	}
}

// failingTable fails each dump from the one of a number on.
type failingTable struct {
	Table
	dumps, from int
}

func (t *failingTable) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	if t.dumps++; t.dumps >= t.from {
		return func(yield func(conntrack.Flow, error) bool) { yield(conntrack.Flow{}, unix.ENOBUFS) }
	}
	return t.Table.Flows(ctx, f, opts...)
}

// TestReconcileBreaksOff: where a later pass fails, what is gone is told.
func TestReconcileBreaksOff(t *testing.T) {
	for _, watch := range []string{"", `, "watch": 60`} {
		a := newAPI(tcpFlows(5)...)
		a.service.Table = &failingTable{Table: a.table, from: 2}
		got := a.reconcile(t, `{"all": true`+watch+`}`)
		if got.Killed != 5 || got.Settled || len(got.Failed) != 1 || got.Failed[0].Code != wire.LimitExceeded {
			t.Errorf("%+v", got)
		}
		a.service.Table = &failingTable{Table: a.table, from: 1}
		a.refused(t, "conntrack.reconcile", `{"all": true`+watch+`}`, wire.LimitExceeded, "")
	}
}

// TestReconcileInterrupted: a pass that the kernel interrupted is made again, as often as there may be
// passes.
func TestReconcileInterrupted(t *testing.T) {
	for _, c := range []struct {
		failing, passes int // the number of the dump, and what comes of it
	}{{1, 4}, {2, 4}, {3, 5}} {
		a := newAPI()
		table := newBigTable(5)
		table.failing, table.once = c.failing, true
		a.service.Table = table
		if got := a.reconcile(t, `{"all": true}`); got.Killed != 5 || got.Passes != c.passes || !got.Settled || len(got.Failed) != 0 {
			t.Errorf("dump %d: %+v", c.failing, got)
		}
	}
	a := newAPI()
	table := newBigTable(5)
	table.failing = 1 // each
	a.service.Table = table
	a.refused(t, "conntrack.reconcile", `{"all": true, "passes": 3}`, wire.Busy, "")
}

// watching begins a reconcile that watches and waits until the watch is on.
func (a *api) watching(t *testing.T, ctx context.Context, params map[string]any) (done func() (wire.ReconcileResult, error)) {
	t.Helper()
	dumps := &passTable{Table: a.service.Table}
	a.service.Table = dumps
	type answer struct {
		result any
		err    error
	}
	got := make(chan answer, 1)
	go func() {
		result, err := a.Call(WithPrincipal(ctx, caller{wire.RoleOperator}), "conntrack.reconcile", Params{Named: params})
		got <- answer{result, err}
	}()
	conntracktest.Eventually(t, "two passes are over", func() bool { return dumps.ended.Load() >= 2 })
	return func() (wire.ReconcileResult, error) {
		t.Helper()
		select {
		case a := <-got:
			if a.err != nil {
				return wire.ReconcileResult{}, a.err
			}
			r := a.result.(*reconcileResult)
			return wire.ReconcileResult{
				Killed: r.n, Matched: r.matched, Gone: r.gone, Passes: r.passes, Settled: r.settled, Watched: r.watched.Seconds(), Lost: r.lost,
			}, nil
		case <-time.After(10 * time.Second):
			t.Fatal("it goes on")
			return wire.ReconcileResult{}, nil
		}
	}
}

func TestWatch(t *testing.T) {
	// The time is the test's own: how long something takes doesn't depend on the machine.
	run := func(name string, f func(t *testing.T)) { t.Run(name, func(t *testing.T) { synctest.Test(t, f) }) }
	const rule, keep = "dst=10.0.0.53", "reply_src=10.1.0.2"
	create := func(t *testing.T, a *api, flows ...conntrack.Flow) {
		t.Helper()
		for _, f := range flows {
			if _, err := a.table.Create(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := func(t *testing.T, a *api) int {
		n, _ := a.table.Count(t.Context(), conntrack.Filter{})
		return n
	}
	run("new flows", func(t *testing.T) {
		a := newAPI(toBackend(9, "10.1.0.2"))
		done := a.watching(t, t.Context(), map[string]any{"filter": rule, "keep": keep, "watch": "1s"})
		create(t, a, tcpFlow(1), toBackend(1, "10.1.0.1"), toBackend(2, "10.1.0.2"), toBackend(3, "10.1.0.3"))
		began := time.Now()
		conntracktest.Eventually(t, "two are killed", func() bool { return count(t, a) == 3 })
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("they lived for %v", took)
		}
		got, err := done()
		if err != nil || got.Killed != 2 || got.Matched != 2 || got.Gone != 0 || got.Passes != 3 || !got.Settled || got.Watched < 1 || got.Watched > 2 || got.Lost != 0 {
			t.Errorf("%+v, %v", got, err)
		}
		conntracktest.Eventually(t, "nobody listens", func() bool { return a.table.Listeners() == 0 })
	})
	run("a gap", func(t *testing.T) {
		a := newAPI()
		silent := &silentTable{Fake: a.table}
		a.service.Table = silent
		done := a.watching(t, t.Context(), map[string]any{"filter": rule, "keep": keep, "watch": "2s"})
		create(t, a, toBackend(1, "10.1.0.1"))
		a.table.Lose()
		conntracktest.Eventually(t, "a pass kills it", func() bool { return count(t, a) == 0 })
		got, err := done()
		if err != nil || got.Killed != 1 || got.Passes != 4 || !got.Settled || got.Lost != 1 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	for name, params := range map[string]map[string]any{
		"a filter by what changes later": {"filter": rule + " mark=0", "watch": "2s"},
		"keeping what changes later":     {"filter": rule, "keep": "mark=!0", "watch": "2s"},
	} {
		run(name, func(t *testing.T) {
			a := newAPI()
			a.table.Fail(conntracktest.OpNewFlows, 0, conntrack.ErrNoEvents) // nobody asks
			done := a.watching(t, t.Context(), params)
			marked := toBackend(2, "10.1.0.1")
			marked.Mark = 5
			create(t, a, toBackend(1, "10.1.0.1"), marked)
			began := time.Now()
			conntracktest.Eventually(t, "a pass kills it", func() bool { return count(t, a) == 1 })
			if took := time.Since(began); took > watchPass+400*time.Millisecond {
				t.Errorf("it lived for %v", took)
			}
			if got, err := done(); err != nil || got.Killed != 1 || got.Passes < 4 || got.Passes > 5 || !got.Settled {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	run("too many", func(t *testing.T) {
		a := newAPI(toBackend(9, "10.1.0.1"))
		done := a.watching(t, t.Context(), map[string]any{"filter": rule, "max": 2, "watch": 60})
		conntracktest.Eventually(t, "the watch is on", func() bool { return count(t, a) == 0 })
		time.Sleep(100 * time.Millisecond)
		for i := range uint16(3) {
			create(t, a, toBackend(i, "10.1.0.1"))
		}
		got, err := done()
		if err != nil || got.Killed < 1 || got.Killed > 2 || got.Settled || count(t, a) != 4-got.Killed {
			t.Errorf("%+v, %v, %d left", got, err, count(t, a))
		}
	})
	run("the caller leaves", func(t *testing.T) {
		a := newAPI()
		ctx, cancel := context.WithCancel(t.Context())
		done := a.watching(t, ctx, map[string]any{"filter": rule, "watch": 600})
		cancel()
		if _, err := done(); ErrorOf(err).Code != wire.Unavailable {
			t.Errorf("it ended with %v", err)
		}
		conntracktest.Eventually(t, "nobody listens", func() bool { return a.table.Listeners() == 0 })
	})
	run("the daemon stops", func(t *testing.T) {
		a := newAPI()
		stopping := make(chan struct{})
		a.service.Stopping = stopping
		done := a.watching(t, t.Context(), map[string]any{"filter": rule, "watch": 600})
		close(stopping)
		if got, err := done(); err != nil || !got.Settled || got.Watched > 5 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	run("many at once", func(t *testing.T) {
		a := newAPI()
		stopping := make(chan struct{})
		a.service.Stopping = stopping
		var all []func() (wire.ReconcileResult, error)
		for range maxWatchesEach {
			all = append(all, a.watching(t, t.Context(), map[string]any{"filter": rule, "watch": 600}))
		}
		a.refused(t, "conntrack.reconcile", `{"filter": "dst=10.0.0.53", "watch": 1}`, wire.Busy, "without watch")
		a.reconcile(t, `{"filter": "dst=10.0.0.53"}`)
		close(stopping)
		for _, done := range all {
			if _, err := done(); err != nil {
				t.Error(err)
			}
		}
		a.reconcile(t, `{"filter": "dst=10.0.0.53", "watch": 1}`)
	})
}

// passTable counts the dumps that came to their end.
type passTable struct {
	Table
	ended atomic.Int64
}

func (t *passTable) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	return func(yield func(conntrack.Flow, error) bool) {
		t.Table.Flows(ctx, f, opts...)(yield)
		t.ended.Add(1)
	}
}

// silentTable tells of gaps alone.
type silentTable struct{ *conntracktest.Fake }

func (t *silentTable) NewFlows(ctx context.Context) (iter.Seq2[conntrack.Flow, error], error) {
	events, err := t.Fake.NewFlows(ctx)
	return func(yield func(conntrack.Flow, error) bool) {
		for f, err := range events {
			if err != nil && !yield(f, err) {
				return
			}
		}
	}, err
}
