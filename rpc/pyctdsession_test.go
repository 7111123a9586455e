package rpc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// hookTable does something before each dump and each get.
type hookTable struct {
	Table
	hook func()
}

func (t hookTable) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	t.hook()
	return t.Table.Flows(ctx, f, opts...)
}

func (t hookTable) Get(ctx context.Context, k conntrack.Key) (conntrack.Flow, error) {
	t.hook()
	return t.Table.Get(ctx, k)
}

// TestPyctdLongCall: a session doesn't end while one of its calls runs, and lives on from its end.
func TestPyctdLongCall(t *testing.T) {
	p := newPyctd(PyctdConfig{}, tcpFlows(2)...)
	sid := p.login(t)
	p.service.Table = hookTable{p.table, func() {
		p.now = p.now.Add(time.Hour)
		p.login(t) // lets go of the sessions that ended
	}}
	p.view(t, sid)
	p.do(t, "change", sid, "mark", "1", "5")
	p.do(t, "kill", sid, "2")
	p.now = p.now.Add(sessionIdle)
	p.view(t, sid)
	p.now = p.now.Add(sessionIdle + 1)
	p.fault(t, wire.Unauthenticated, "view", sid)
}

// TestPyctdSweep: sessions that ended give back their memory though nobody calls, and no timer
// runs while there are none.
func TestPyctdSweep(t *testing.T) {
	var timers []func()
	p := &pyctdAPI{api: newAPI(tcpFlows(3)...), now: time.Unix(1_000_000, 0)}
	p.service.now = func() time.Time { return p.now }
	p.service.afterFunc = func(d time.Duration, fn func()) {
		if d < sessionIdle || d > 2*sessionIdle {
			t.Errorf("a sweep in %v", d)
		}
		timers = append(timers, fn)
	}
	p.Registry = NewRegistry()
	sessions := newPyctdSessions(p.service)
	p.service.registerPyctdSessions(p.Registry, sessions)
	fire := func() {
		t.Helper()
		if len(timers) != 1 {
			t.Fatalf("%d timers run, want 1", len(timers))
		}
		fn := timers[0]
		timers = nil
		fn()
	}
	if len(timers) != 0 {
		t.Error("a timer runs without a session")
	}
	sid := p.login(t)
	p.view(t, sid)
	p.view(t, p.login(t))
	if sessions.handles != 6 {
		t.Errorf("%d ids held, want 6", sessions.handles)
	}
	p.now = p.now.Add(sessionIdle)
	p.view(t, sid)
	p.now = p.now.Add(1)
	fire()
	if len(sessions.sessions) != 1 || sessions.handles != 3 {
		t.Errorf("%d sessions and %d ids are left, want 1 and 3", len(sessions.sessions), sessions.handles)
	}
	p.now = p.now.Add(sessionIdle + 1)
	fire()
	if len(sessions.sessions) != 0 || sessions.handles != 0 || len(timers) != 0 {
		t.Errorf("%d sessions, %d ids and %d timers are left", len(sessions.sessions), sessions.handles, len(timers))
	}
	p.login(t)
	fire()
}

// TestPyctdMaxHandles: the ids of all sessions together are bounded; what a view that broke off
// took is given back.
func TestPyctdMaxHandles(t *testing.T) {
	p := newPyctd(PyctdConfig{})
	if p.service.maxHandles = 5; newPyctdSessions(&Service{}).maxHandles != maxHandles {
		t.Error("the limit is not maxHandles")
	}
	p.Registry = NewRegistry()
	p.service.Register(p.Registry)
	add := func(from, n int) {
		for i := range n {
			if _, err := p.table.Create(t.Context(), tcpFlow(from+i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(0, 2)
	one, two := p.login(t), p.login(t)
	p.view(t, one)
	p.view(t, two)
	add(2, 1)
	p.view(t, one) // five ids
	p.fault(t, wire.LimitExceeded, "view", two)
	p.do(t, "change", two, "mark", "1", "5") // the ids before are good still
	p.table.Kill(t.Context(), []conntrack.Key{{Orig: tcpFlow(0).Orig}})
	p.view(t, one) // four
	p.view(t, two) // four: one ended, one came
	if rows := p.view(t, two); len(rows) != 2 || rows["2"] == nil {
		t.Errorf("rows %v", rows)
	}
	add(3, 1)
	p.view(t, one)
	p.fault(t, wire.LimitExceeded, "view", two)
	p.table.Kill(t.Context(), []conntrack.Key{{Orig: tcpFlow(2).Orig}})
	p.view(t, one) // two
	p.now = p.now.Add(sessionIdle)
	three := p.login(t)
	p.view(t, one)
	p.fault(t, wire.LimitExceeded, "view", three)
	p.now = p.now.Add(1) // the second session ends
	p.view(t, three)
}

// TestPyctdSameID: the kernel gives a new flow with the tuple of one that ended the same id. By its
// start it is another flow, which has an id of its own and is not what an old id kills or changes.
func TestPyctdSameID(t *testing.T) {
	flow := tcpFlow(1)
	flow.ID, flow.Start = 77, 1_000
	p := newPyctd(PyctdConfig{}, flow)
	sid := p.login(t)
	p.view(t, sid)
	p.table.Kill(t.Context(), []conntrack.Key{flow.Key()})
	flow.Start = 2_000
	if _, err := p.table.Create(t.Context(), flow); err != nil {
		t.Fatal(err)
	}
	p.fault(t, wire.NotFound, "change", sid, "mark", "1", "9")
	p.do(t, "kill", sid, "1")
	if rows := p.view(t, sid); len(rows) != 1 || rows["2"] == nil || rows["2"]["mark"] != int64(1) {
		t.Errorf("rows %v, want the new flow as 2", rows)
	}
	p.fault(t, wire.NotFound, "change", sid, "mark", "1", "9")
	p.do(t, "change", sid, "mark", "2", "9")
	p.do(t, "kill", sid, "2")
	if rows := p.view(t, sid); len(rows) != 0 {
		t.Errorf("left %v", rows)
	}
}

// TestPyctdAwait: a call that waits for another one of its session ends with its own context.
func TestPyctdAwait(t *testing.T) {
	for _, method := range []string{"view", "kill", "change"} {
		p := newPyctd(PyctdConfig{}, tcpFlow(1))
		sid := p.login(t)
		p.view(t, sid)
		entered, release := make(chan struct{}), make(chan struct{})
		p.service.Table = hookTable{p.table, func() { close(entered); <-release }}
		first := make(chan struct{})
		go func() {
			defer close(first)
			p.do(t, "view", sid)
		}()
		<-entered
		values := map[string][]string{"view": {sid}, "kill": {sid, "1"}, "change": {sid, "mark", "1", "5"}}[method]
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		ctx = WithProtocol(ctx, XMLRPC)
		r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(methodCall(method, values...))).WithContext(ctx)
		r.Header.Set("Content-Type", "text/xml")
		ended := make(chan *httptest.ResponseRecorder)
		go func() {
			w := httptest.NewRecorder()
			NewHandler(p.Registry, HandlerConfig{}).ServeHTTP(w, r)
			ended <- w
		}()
		select {
		case w := <-ended:
			if want := fmt.Sprint(wire.Deadline.Number()); !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: %s, want the fault %s", method, w.Body, want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: still waits", method)
			close(release)
			<-ended
			release = nil
		}
		cancel()
		if release != nil {
			close(release)
		}
		<-first
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Error(ctx.Err())
		}
	}
}
