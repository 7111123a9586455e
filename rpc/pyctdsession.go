package rpc

import (
	"cmp"
	"context"
	"math"
	"regexp"
	"sync"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

const (
	// sessionIdle is how long a session lives unused.
	sessionIdle = 10 * time.Second
	// maxSessions bounds the sessions at a time. A page may log in each time it is loaded.
	maxSessions = 4096
	// maxSessionsPerName bounds those of one name, so that nobody takes all.
	maxSessionsPerName = 1024
	// maxHandles bounds the ids that all sessions hold together, which is some 70 MB. Those of one name hold
	// half of them at most: twice the table's usual size.
	maxHandles = 1_000_000
)

// pyctd are the sessions of its clients.
type pyctd struct {
	service    *Service
	now        func() time.Time
	afterFunc  func(d time.Duration, fn func())
	maxHandles int

	mu       sync.Mutex
	sessions map[string]*pyctdSession
	handles  int            // ids held by all sessions
	byName   map[string]int // and by those of a name
	timer    bool           // whether a sweep is to come
}

// pyctdSession is one client between login and its last call.
type pyctdSession struct {
	sid       string
	principal Principal

	// Of pyctd.mu:
	used   time.Time
	active int // calls that run or wait; meanwhile the session doesn't end
	held   int // ids it holds

	turn    chan struct{} // held during a call: a session's calls come one by one
	next    uint32
	view    uint32 // number of the last view
	handles handles
}

// newPyctdSessions returns the sessions of a service, of which there are none yet.
func newPyctdSessions(s *Service) *pyctd {
	p := &pyctd{
		service: s, now: s.now, afterFunc: s.afterFunc, maxHandles: cmp.Or(s.maxHandles, maxHandles),
		sessions: make(map[string]*pyctdSession), byName: make(map[string]int),
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.afterFunc == nil {
		p.afterFunc = func(d time.Duration, fn func()) { time.AfterFunc(d, fn) }
	}
	return p
}

// expire forgets the sessions that were not used for sessionIdle. p.mu is held.
func (p *pyctd) expire() {
	for _, s := range p.sessions {
		if s.active == 0 && p.now().Sub(s.used) > sessionIdle {
			p.end(s)
		}
	}
}

// sessionsOf counts the sessions of a name. p.mu is held.
func (p *pyctd) sessionsOf(name string) (n int) {
	for _, s := range p.sessions {
		if s.principal.Name() == name {
			n++
		}
	}
	return n
}

// end forgets a session. p.mu is held.
func (p *pyctd) end(s *pyctdSession) {
	p.hold(s, -s.held)
	delete(p.sessions, s.sid)
}

// hold counts n ids more that a session holds, or fewer. p.mu is held.
func (p *pyctd) hold(s *pyctdSession, n int) {
	name := s.principal.Name()
	s.held += n
	p.handles += n
	if p.byName[name] += n; p.byName[name] == 0 {
		delete(p.byName, name)
	}
}

// schedule has the sessions that end swept away while there are any, so that they give back their
// memory though nobody calls. p.mu is held.
func (p *pyctd) schedule() {
	if p.timer || len(p.sessions) == 0 {
		return
	}
	p.timer = true
	p.afterFunc(sessionIdle+time.Second, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.timer = false
		p.expire()
		p.schedule()
	})
}

// SessionOf returns who began the session of pyctd's whose id is in the first bytes of a request, before it is
// known what it calls; nil where there is none. Whoever has an id may as well be counted as its owner:
// nobody else knows it.
func (s *Service) SessionOf(head []byte) Principal {
	sid := sidForm.Find(head)
	if sid == nil || s.pyctd == nil {
		return nil
	}
	session := s.pyctd.begin(string(sid))
	if session == nil || !s.pyctd.valid(session) {
		return nil
	}
	s.pyctd.leave(session)
	return session.principal
}

// sidForm is what rand.Text makes.
var sidForm = regexp.MustCompile(`\b[A-Z2-7]{26}\b`)

type sessionKey struct{}

// WithSession returns a context of a request of a session's, by SessionOf. It may be as long as those of callers
// who are recognised; its methods still ask for the session.
func WithSession(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, sessionKey{}, p)
}

// isKnown tells whether a request is of somebody who is recognised, or of a session's.
func isKnown(ctx context.Context) bool {
	return PrincipalFrom(ctx) != nil || ctx.Value(sessionKey{}) != nil
}

func errNoSession() *wire.Error {
	return &wire.Error{Code: wire.Unauthenticated, Message: "no such session", Hint: "call login again"}
}

// session returns the session that the first argument names, if its caller has a role, and begins
// a call of it, which must end by leave. The context is the caller's. An id that isn't known and one that has ended look the
// same.
func (p *pyctd) session(ctx context.Context, args []any, role wire.Role) (context.Context, *pyctdSession, error) {
	if len(args) == 0 {
		return ctx, nil, errNoSession()
	}
	sid, _ := args[0].(string)
	s := p.begin(sid)
	if s == nil {
		return ctx, nil, errNoSession()
	}
	if !p.valid(s) {
		return ctx, nil, errNoSession()
	}
	CallLogFrom(ctx).principal(s.principal)
	ctx = WithPrincipal(ctx, s.principal)
	changeFrom(ctx).by(s.principal)
	if !s.principal.May(role) {
		p.leave(s)
		return ctx, nil, &wire.Error{
			Code: wire.PermissionDenied, Message: "this needs the role " + role,
			Hint: s.principal.Name() + " has the role " + s.principal.Role(),
		}
	}
	return ctx, s, nil
}

// begin begins a call of the session with an id; nil where there is none.
func (p *pyctd) begin(sid string) *pyctdSession {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire()
	s := p.sessions[sid]
	if s != nil {
		s.active++
		s.used = p.now()
	}
	return s
}

// valid tells whether the owner of a session whose call was begun is let in still. If not, the call ends, and so does
// the session. It may look at files, and so p.mu isn't held meanwhile.
func (p *pyctd) valid(s *pyctdSession) bool {
	if s.principal.Valid() {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.active--; s.active == 0 && p.sessions[s.sid] == s {
		p.end(s)
	}
	return false
}

// enter is session for the beginning of a call, which it takes from the caller's budget.
func (p *pyctd) enter(ctx context.Context, args []any, role wire.Role) (context.Context, *pyctdSession, error) {
	ctx, s, err := p.session(ctx, args, role)
	if err != nil {
		return ctx, nil, err
	}
	if err := takeCall(s.principal); err != nil {
		p.leave(s)
		return ctx, nil, err
	}
	return ctx, s, nil
}

// leave ends a call: the session lasts from now on, however long the call took.
func (p *pyctd) leave(s *pyctdSession) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.active--
	s.used = p.now()
}

// await waits for the session's other calls to end, or ctx. The caller gives done its turn back.
func (s *pyctdSession) await(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *pyctdSession) done() { <-s.turn }

// id returns the id of a flow in the session, and whether this view has shown it already. Ids count
// up from 1, so that none is ever given to another flow (as far as flowKey can tell them apart),
// and stay within 31 bits, which is what every client can read.
func (p *pyctd) id(s *pyctdSession, f *conntrack.Flow) (id uint32, twice bool, err error) {
	flow := keyOf(f)
	if have := s.handles.of(&flow); have != nil {
		twice, have.view = have.view == s.view, s.view
		return have.id, twice, nil
	}
	if s.next == math.MaxInt32 {
		return 0, false, &wire.Error{Code: wire.LimitExceeded, Message: "the session's ids are used up", Hint: "call login again"}
	}
	if err := p.reserve(s); err != nil {
		return 0, false, err
	}
	s.next++
	s.handles.add(handle{flow, s.next, s.view})
	return s.next, false, nil
}

// reserve counts an id that a session will hold. Where its name has as many as it may, sessions of it give way that
// nothing is called in, as of a page that logs in each time it is loaded.
func (p *pyctd) reserve(s *pyctdSession) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := s.principal.Name()
	for p.byName[name] >= p.maxHandles/2 || p.handles >= p.maxHandles {
		p.expire()
		idle := p.idleOf(name)
		if idle == nil {
			return &wire.Error{
				Code: wire.LimitExceeded, Message: "too many flows for the ids of all sessions",
				Hint: "call conntrack.list with a filter, which needs no ids",
			}
		}
		p.end(idle)
	}
	p.hold(s, 1)
	return nil
}

// idleOf returns the session of a name with ids that is unused for the longest time; nil where there is none.
// p.mu is held.
func (p *pyctd) idleOf(name string) (idle *pyctdSession) {
	for _, s := range p.sessions {
		if s.active == 0 && s.held > 0 && s.principal.Name() == name && (idle == nil || s.used.Before(idle.used)) {
			idle = s
		}
	}
	return idle
}

// forget drops the ids of a session that ended tells.
func (p *pyctd) forget(s *pyctdSession, ended func(*handle) bool) {
	s.handles.drop(ended)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold(s, s.handles.count()-s.held)
}

// find returns the flow with an id, if it is the same flow still:
// ErrNotFound where another one has taken its place. The kernel compares ids, which the new one
// mostly shares, but not starts; so the flow is read just before.
func (p *pyctd) find(ctx context.Context, t Table, s *pyctdSession, id uint32) (conntrack.Flow, error) {
	held, ok := s.handles.flow(id)
	if !ok {
		return conntrack.Flow{}, conntrack.ErrNotFound
	}
	f, err := t.Get(ctx, held.key())
	if err == nil && keyOf(&f) != held {
		err = conntrack.ErrNotFound
	}
	return f, err
}
