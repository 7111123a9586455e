package helper

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"ctd/helper/rtsp"
)

// statusSessionNotFound: the server knows no session of that id (RFC 2326 section 11.3.5).
const statusSessionNotFound = 454

// maxPending bounds the requests of a side that await their reply; players send one at a time.
const maxPending = 64

// request awaits its reply.
type request struct {
	method, session string
	uri             string // of a SETUP, without credentials
	version         string
	setup           *setup  // of a SETUP that asks for streams beside the connection
	stream          *stream // that a TEARDOWN names, where the session has others
	at              time.Time
}

// size is about how many bytes a request takes.
func (q *request) size() int { return 256 + len(q.session) + len(q.uri) }

// await remembers a request. Without room it doesn't: its reply then answers nothing.
func (c *connection) await(dir int, cseq uint64, q *request) bool {
	c.answered(dir, cseq, true)
	if len(c.pending[dir]) >= maxPending {
		return false
	}
	if c.helper.keep(c.client(), q.size()) {
		c.helper.keep(c.client(), -q.size())
		return false
	}
	if c.pending[dir] == nil {
		c.pending[dir] = make(map[uint64]*request)
	}
	c.pending[dir][cseq] = q
	return true
}

// answered returns a request that awaits its reply no longer; nil where there is none. With cancel, what was
// registered for it is taken back.
func (c *connection) answered(dir int, cseq uint64, cancel bool) *request {
	q := c.pending[dir][cseq]
	if q == nil {
		return nil
	}
	delete(c.pending[dir], cseq)
	c.helper.keep(c.client(), -q.size())
	if cancel {
		q.cancel()
	}
	return q
}

// cancel takes back what was registered at a request that came to nothing.
func (q *request) cancel() {
	if q.setup != nil {
		q.setup.release()
		q.setup = nil
	}
}

// message reads a request or a reply.
func (c *connection) message(dir int, m *rtsp.Message, change changer) {
	if m.Request {
		c.helper.counters.Requests++
		c.request(dir, m, change)
		return
	}
	c.helper.counters.Replies++
	c.reply(dir, m, change)
}

func (c *connection) request(dir int, m *rtsp.Message, change changer) {
	if dir == fromClient && m.UserAgent != "" {
		c.agent = m.UserAgent
	}
	if !m.HasCSeq { // no reply could be told to be its
		return
	}
	q := &request{method: m.Method, session: m.Session, version: version(m), at: time.Now()}
	if m.Method == rtsp.MethodSetup {
		q.uri = withoutCredentials(m.URI)
	}
	if !c.await(dir, m.CSeq, q) || dir == fromServer {
		return
	}
	s := c.session(m.Session)
	s.alive() // every request is a sign of life
	switch m.Method {
	case rtsp.MethodSetup:
		q.setup = c.plan(m, change)
	case rtsp.MethodTeardown:
		q.stream = s.only(m.URI)
	}
}

// withoutCredentials returns a URL as it may be shown.
func withoutCredentials(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || u.User == nil {
		return uri
	}
	u.User = nil
	return u.String()
}

func version(m *rtsp.Message) string {
	return string([]byte{'0' + m.Major%10, '.', '0' + m.Minor%10})
}

// reply matches a reply with its request.
func (c *connection) reply(dir int, m *rtsp.Message, change changer) {
	if !m.HasCSeq || m.Status < 200 { // 1xx: the reply is still to come
		return
	}
	q := c.answered(1-dir, m.CSeq, m.Status >= 300)
	if q == nil {
		return
	}
	s := c.session(q.session)
	if m.Status >= 300 {
		if m.Status == statusSessionNotFound {
			c.endSession(s, "unknown to the server")
		}
		return
	}
	switch q.method {
	case rtsp.MethodSetup:
		c.agreed(q, m, change)
	case rtsp.MethodPlay:
		s.enter(statePlaying)
	case rtsp.MethodRecord:
		s.enter(stateRecording)
	case rtsp.MethodPause:
		s.enter(stateReady)
	case rtsp.MethodTeardown:
		if q.stream != nil && s != nil {
			s.remove(q.stream)
			return
		}
		c.endSession(s, "torn down")
	}
}

// only returns the stream that a URL names, where the session has others as well: then it can be torn
// down alone (RFC 2326 section 10.7, RFC 7826 section 13.7).
func (s *session) only(uri string) *stream {
	if s == nil || len(s.streams) < 2 {
		return nil
	}
	for _, st := range s.streams {
		if sameURL(st.url, withoutCredentials(uri)) {
			return st
		}
	}
	return nil
}

// sameURL compares URLs as far as clients write the same one differently: in case, port and last slash.
func sameURL(a, b string) bool {
	if a == b {
		return true
	}
	u, err := url.Parse(a)
	v, err2 := url.Parse(b)
	if err != nil || err2 != nil {
		return false
	}
	port := func(u *url.URL) string { return cmp.Or(u.Port(), defaultPort) }
	return strings.EqualFold(u.Scheme, v.Scheme) && strings.EqualFold(u.Hostname(), v.Hostname()) && port(u) == port(v) &&
		strings.TrimSuffix(u.Path, "/") == strings.TrimSuffix(v.Path, "/") && u.RawQuery == v.RawQuery
}

// defaultPort is RTSP's (RFC 2326 section 3.2).
const defaultPort = "554"

// states of a session (RFC 2326 appendix A, RFC 7826 appendix B).
const (
	stateReady     = "ready"
	statePlaying   = "playing"
	stateRecording = "recording"
)

// session is an RTSP session: the streams that a client has set up under one id.
type session struct {
	c         *connection
	id        string
	version   string
	state     string
	timeout   time.Duration // after which the server ends it without a sign of life
	started   time.Time
	adopted   bool
	refreshed time.Time   // when its flows were given time
	late      *time.Timer // until it is done again, after a pause
	streams   []*stream
	count     int // of streams, over its life
}

// session returns the session with an id. Without an id it is the only one.
func (c *connection) session(id string) *session {
	for _, s := range c.sessions {
		if s.adopted && s.id == "" && id != "" {
			s.id = id // one that was picked up is known by its streams alone
		}
		if s.id == id || id == "" && len(c.sessions) == 1 {
			return s
		}
	}
	return nil
}

// enter notes a new state. Packets that are on their way when a session is paused take the time away
// again that its flows are given, so it is given once more when they have come.
func (s *session) enter(state string) {
	if s == nil {
		return
	}
	s.state = state
	if s.late != nil { // it is given in a moment anyway
		return
	}
	s.refresh()
	if state != stateReady {
		return
	}
	s.late = time.AfterFunc(lateTime, func() {
		s.c.helper.guarded(func() {
			s.late = nil
			if slices.Contains(s.c.sessions, s) && s.state == stateReady {
				s.refresh()
			}
		})
	})
}

// alive gives the flows of a session time at its client's requests, once in a while.
func (s *session) alive() {
	if s != nil && time.Since(s.refreshed) >= refreshEvery {
		s.refresh()
	}
}

// The time that a stream's flows get without traffic. The kernel gives them less with the next packet;
// while a session is paused they have no packets.
const (
	minIdle = 3 * time.Minute
	maxIdle = 2 * time.Hour
	// lateTime is when packets have arrived that were on their way at a pause.
	lateTime = time.Second
	// refreshEvery bounds the work that a client's requests make.
	refreshEvery = 5 * time.Second
	// defaultSessionTimeout is what a session has whose server doesn't say (RFC 2326 section 12.37).
	defaultSessionTimeout = time.Minute
)

// idle returns how long the session's flows live without traffic.
func (s *session) idle() time.Duration {
	timeout := s.timeout
	if timeout <= 0 {
		timeout = defaultSessionTimeout
	}
	return min(max(2*timeout+time.Minute, minIdle), maxIdle)
}

// streamCount returns how many streams the connection has beside itself.
func (c *connection) streamCount() int {
	n := 0
	for _, s := range c.sessions {
		n += len(s.streams)
	}
	return n
}

// endSession ends a session with its streams.
func (c *connection) endSession(s *session, reason string) {
	at := slices.Index(c.sessions, s)
	if at < 0 {
		return
	}
	c.sessions = slices.Delete(c.sessions, at, at+1)
	for len(s.streams) > 0 {
		s.remove(s.streams[0])
	}
	c.helper.cfg.Logger.Log(context.Background(), level(c.helper.lines), "rtsp session ended", "client", c.client(), "server", c.server(), "session", s.id, "rtsp", s.version,
		"agent", c.agent, "streams", s.count, "seconds", int(time.Since(s.started).Seconds()), "reason", reason)
}

// endAll ends everything that the connection has or has asked for.
func (c *connection) endAll(reason string) {
	for dir := range c.pending {
		for cseq := range c.pending[dir] {
			c.answered(dir, cseq, true)
		}
	}
	for len(c.sessions) > 0 {
		c.endSession(c.sessions[0], reason)
	}
}
