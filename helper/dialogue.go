package helper

import (
	"slices"
	"time"

	"ctd/helper/rtsp"
)

// statusSessionNotFound: the server knows no session of that id (RFC 2326 section 11.3.5).
const statusSessionNotFound = 454

// maxPending bounds the requests of a side that await their reply; players send one at a time.
const maxPending = 64

// request awaits its reply.
type request struct {
	method, uri, session string
	setup                *setup // of a SETUP that asks for streams beside the connection
	version              string
	at                   time.Time
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
	if _, again := c.pending[dir][m.CSeq]; again || len(c.pending[dir]) >= maxPending {
		c.cancel(c.pending[dir][m.CSeq])
		delete(c.pending[dir], m.CSeq)
		if !again {
			return
		}
	}
	q := &request{method: m.Method, uri: m.URI, session: m.Session, at: time.Now()}
	q.version = version(m)
	c.pending[dir][m.CSeq] = q
	if dir == fromServer {
		return
	}
	c.session(m.Session).alive() // every request is a sign of life
	if m.Method == rtsp.MethodSetup {
		q.setup = c.plan(m, change)
	}
}

func version(m *rtsp.Message) string {
	return string([]byte{'0' + m.Major%10, '.', '0' + m.Minor%10})
}

// reply matches a reply with its request.
func (c *connection) reply(dir int, m *rtsp.Message, change changer) {
	asked := c.pending[1-dir]
	q := asked[m.CSeq]
	if q == nil || !m.HasCSeq || m.Status < 200 { // 1xx: the reply is still to come
		return
	}
	delete(asked, m.CSeq)
	if m.Status >= 300 {
		c.cancel(q)
		if m.Status == statusSessionNotFound {
			c.endSession(c.session(q.session), "unknown to the server")
		}
		return
	}
	s := c.session(q.session)
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
		c.teardown(s, q.uri)
	}
}

// teardown ends a session, or the stream of it that uri names where it has others as well (RFC 2326
// section 10.7, RFC 7826 section 13.7).
func (c *connection) teardown(s *session, uri string) {
	if s == nil {
		return
	}
	if len(s.streams) > 1 {
		for _, st := range s.streams {
			if st.url == uri && uri != "" {
				s.remove(st)
				return
			}
		}
	}
	c.endSession(s, "torn down")
}

// cancel takes back what was registered at a request that came to nothing.
func (c *connection) cancel(q *request) {
	if q != nil && q.setup != nil {
		q.setup.release()
		q.setup = nil
	}
}

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
	refreshed time.Time // when its flows were given time
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
	s.refresh()
	if state != stateReady {
		return
	}
	h := s.c.helper
	time.AfterFunc(lateTime, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if slices.Contains(s.c.sessions, s) && s.state == stateReady {
			s.refresh()
		}
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
	c.helper.cfg.Logger.Info("rtsp session ended", "client", c.client(), "server", c.server(), "session", s.id, "rtsp", s.version,
		"agent", c.agent, "streams", s.count, "seconds", int(time.Since(s.started).Seconds()), "reason", reason)
}

// endAll ends everything that the connection has or has asked for.
func (c *connection) endAll(reason string) {
	for seq, q := range c.pending[fromClient] {
		c.cancel(q)
		delete(c.pending[fromClient], seq)
	}
	for len(c.sessions) > 0 {
		c.endSession(c.sessions[0], reason)
	}
}
