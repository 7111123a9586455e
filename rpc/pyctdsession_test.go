package rpc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
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

// TestPyctdMaxHandles: the ids of all sessions of a name are bounded: those of sessions that rest give way, the one that
// rests for the longest time first; what a view that broke off took is given back.
func TestPyctdMaxHandles(t *testing.T) {
	p := newPyctd(PyctdConfig{})
	if p.service.maxHandles = 10; newPyctdSessions(&Service{}).maxHandles != maxHandles {
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
	first, second := p.login(t), p.login(t)
	p.view(t, first)
	p.now = p.now.Add(1)
	p.view(t, second)
	p.now = p.now.Add(1)
	p.view(t, first)
	third := p.login(t)
	p.view(t, third) // two of each are six, and five is the most
	p.fault(t, wire.Unauthenticated, "view", second)
	p.do(t, "change", first, "mark", "1", "5")
	add(2, 3)
	p.view(t, third) // five
	p.fault(t, wire.Unauthenticated, "view", first)
	add(5, 1)
	p.fault(t, wire.LimitExceeded, "view", third)
	p.do(t, "change", third, "mark", "5", "5") // the ids before are good still
	p.table.Kill(t.Context(), []conntrack.Key{{Orig: tcpFlow(5).Orig}})
	p.view(t, third)
	p.now = p.now.Add(sessionIdle + 1)
	fourth := p.login(t)
	p.view(t, fourth)
	// While a view is sent, its session doesn't give way.
	fifth := p.login(t)
	p.service.Table = hookTable{p.table, func() {
		p.service.Table = p.table
		p.fault(t, wire.LimitExceeded, "view", fifth)
	}}
	p.view(t, fourth)
}

// TestPyctdRevoked: a view that has waited for another one of its session shows nothing to somebody who isn't let in
// any more, and the session ends.
func TestPyctdRevoked(t *testing.T) {
	p := newPyctd(PyctdConfig{}, tcpFlows(2)...)
	var revoked atomic.Bool
	p.service.Login = func(context.Context, string, string) (Principal, error) {
		return revocable{caller{wire.RoleViewer}, &revoked}, nil
	}
	sid := p.login(t)
	entered, release := make(chan struct{}), make(chan struct{})
	dumps := 0
	p.service.Table = hookTable{p.table, func() {
		if dumps++; dumps == 1 {
			close(entered)
			<-release
		}
	}}
	first := make(chan struct{})
	go func() {
		defer close(first)
		p.do(t, "view", sid)
	}()
	<-entered
	second := make(chan struct{})
	go func() {
		defer close(second)
		p.fault(t, wire.Unauthenticated, "view", sid)
	}()
	conntracktest.Eventually(t, "the second view waits", func() bool {
		sessions := p.service.pyctd
		sessions.mu.Lock()
		defer sessions.mu.Unlock()
		return sessions.sessions[sid].active == 2
	})
	revoked.Store(true)
	close(release)
	<-first
	<-second
	if dumps != 1 {
		t.Errorf("the table was dumped %d times", dumps)
	}
	if head := []byte(methodCall("view", sid)); p.service.SessionOf(head) != nil {
		t.Error("the session is its owner's still")
	}
	if n := len(p.service.pyctd.sessions); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

type revocable struct {
	caller
	revoked *atomic.Bool
}

func (r revocable) Valid() bool { return !r.revoked.Load() }

type namedCaller struct {
	caller
	name string
}

func (c namedCaller) Name() string { return c.name }

// TestPyctdHandlesTogether: so are those of all names, of which one takes no more than half.
func TestPyctdHandlesTogether(t *testing.T) {
	p := newPyctdSessions(&Service{maxHandles: 9})
	reserve := func(name string, want int) {
		t.Helper()
		s, got := &pyctdSession{principal: namedCaller{name: name}}, 0
		for p.reserve(s) == nil {
			got++
		}
		if got != want {
			t.Errorf("%s got %d ids, want %d", name, got, want)
		}
		if err := p.reserve(s); ErrorOf(err).Code != wire.LimitExceeded {
			t.Errorf("%s: %v", name, err)
		}
	}
	reserve("one", 4)
	reserve("one", 0)
	reserve("two", 4)
	reserve("three", 1)
}

// TestHandles: a flow has its handle until that is dropped, and no id is another's.
func TestHandles(t *testing.T) {
	var h handles
	key := func(i int) flowKey { return flowKey{id: uint32(i), start: int64(i) * 7} }
	if k := key(1); h.of(&k) != nil {
		t.Error("there is a handle in none")
	}
	const n = 3*handlesPiece + 10
	live := map[int]uint32{} // ids by flow
	next := uint32(0)
	check := func(count int) {
		t.Helper()
		if h.count() != count || len(live) != count {
			t.Fatalf("%d handles, want %d", h.count(), count)
		}
		for i := range n {
			k := key(i)
			id, want := live[i]
			have := h.of(&k)
			if (have != nil) != want || want && have.id != id {
				t.Fatalf("flow %d: %+v, want id %d", i, have, id)
			}
			if flow, ok := h.flow(id); want && (!ok || flow != k) {
				t.Fatalf("id %d is of %+v, %v; want flow %d", id, flow, ok, i)
			}
		}
	}
	add := func(i int) {
		next++
		live[i] = next
		h.add(handle{key(i), next, 0})
	}
	for i := range n {
		add(i)
	}
	check(n)
	for _, left := range []func(i int) bool{
		func(i int) bool { return i%3 != 0 },
		func(i int) bool { return i < 2*handlesPiece },
		func(i int) bool { return i < handlesPiece },
		func(int) bool { return true },
		func(int) bool { return false },
	} {
		dropped := map[uint32]bool{}
		for i, id := range live {
			if !left(i) {
				dropped[id] = true
				delete(live, i)
			}
		}
		h.drop(func(n *handle) bool { return dropped[n.id] })
		check(len(live))
		for id := range dropped {
			if _, ok := h.flow(id); ok {
				t.Fatalf("id %d is there still", id)
			}
		}
		for i := range 20 { // some of them come back, with other ids
			if _, ok := live[i]; !ok {
				add(i)
			}
		}
		check(len(live))
	}
}

// TestHandlesSize: hundreds of thousands may be held.
func TestHandlesSize(t *testing.T) {
	const n = 300_000
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	var h handles
	for i := range n {
		h.add(handle{flowKey{id: uint32(i)}, uint32(i) + 1, 1})
	}
	after := used()
	if each := float64(after-before) / n; each > 90 {
		t.Errorf("a handle takes %.0f bytes", each)
	} else {
		t.Logf("a handle takes %.0f bytes", each)
	}
	runtime.KeepAlive(&h)
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
