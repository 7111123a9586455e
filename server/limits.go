package server

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"ctd/auth"
	"ctd/rpc"
	"ctd/rpc/wire"
)

const (
	// defaultRequests and defaultRequestsPerCaller are how many requests are worked on at a time, of all
	// callers and of one, where the configuration doesn't say.
	defaultRequests          = 64
	defaultRequestsPerCaller = 16
	// Of callers who aren't known: all, and those of one address.
	strangerRequests           = 32
	strangerRequestsPerAddress = 8
	// placeWait is how long a request waits for a place, with its body unread.
	placeWait = time.Second
)

// places are those of the requests that are worked on. An answer that is sent in pieces has a place of
// another kind from its first piece on, so that long lists to slow readers are in the way of no kill. Callers
// by the Unix socket have places of their own, and so have strangers: neither can keep the others out.
type places struct {
	tcp, unix, strangers             *room // at work
	tcpSent, unixSent, strangersSent *room // answers that are sent
}

func newPlaces(l Limits) *places {
	all, each := cmp.Or(l.Requests, defaultRequests), cmp.Or(l.RequestsPerCaller, defaultRequestsPerCaller)
	known := func() *room { return newRoom(all, min(all, each)) }
	strange := func() *room { return newRoom(min(all, strangerRequests), min(all, each, strangerRequestsPerAddress)) }
	return &places{
		tcp: known(), tcpSent: known(), unix: known(), unixSent: known(),
		strangers: strange(), strangersSent: strange(),
	}
}

// of returns the rooms for a request, and whose places in it are counted together.
func (p *places) of(r *http.Request) (work, sent *room, whose string) {
	principal := rpc.PrincipalFrom(r.Context())
	_, unix := unixConnection(r.Context())
	switch {
	case principal == nil:
		return p.strangers, p.strangersSent, auth.NetworkOf(visitOf(r.Context()).from).String()
	case unix:
		return p.unix, p.unixSent, principal.Name()
	}
	return p.tcp, p.tcpSent, principal.Name()
}

// room has so many places, and so many for one caller.
type room struct {
	all  *semaphore.Weighted
	each int64

	mu      sync.Mutex
	callers map[string]*callerRoom // those who have a place, or wait for one
}

type callerRoom struct {
	places *semaphore.Weighted
	count  int // of those that are taken or waited for
}

func newRoom(all, each int) *room {
	return &room{all: semaphore.NewWeighted(int64(all)), each: int64(each), callers: make(map[string]*callerRoom)}
}

var errNoPlace = errors.New("no place is free")

// take waits for a place until ctx ends. With a context that has ended it takes one that is free now.
func (m *room) take(ctx context.Context, whose string) (leave func(), err error) {
	m.mu.Lock()
	c := m.callers[whose]
	if c == nil {
		c = &callerRoom{places: semaphore.NewWeighted(m.each)}
		m.callers[whose] = c
	}
	c.count++
	m.mu.Unlock()
	forget := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if c.count--; c.count == 0 {
			delete(m.callers, whose)
		}
	}
	if !acquire(ctx, c.places) {
		forget()
		return nil, errNoPlace
	}
	if !acquire(ctx, m.all) {
		c.places.Release(1)
		forget()
		return nil, errNoPlace
	}
	return sync.OnceFunc(func() {
		m.all.Release(1)
		c.places.Release(1)
		forget()
	}), nil
}

func acquire(ctx context.Context, s *semaphore.Weighted) bool {
	return s.TryAcquire(1) || s.Acquire(ctx, 1) == nil
}

// placed lets a request be worked on once there is a place for it. Health checks need none.
func (s *Server) placed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isHealthCheck(r) {
			next.ServeHTTP(w, r)
			return
		}
		work, sent, whose := visitOf(r.Context()).policy.places.of(r)
		ctx, cancel := context.WithTimeout(r.Context(), placeWait)
		leave, err := work.take(ctx, whose)
		cancel()
		if err != nil {
			s.busy(w, r, "too many requests are under way")
			return
		}
		if rpc.PrincipalFrom(r.Context()) == nil {
			// net/http lifts it once the body is read. Connections that have no deadlines, as in tests, are left alone.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.timing.strangerRead))
		}
		p := &placedWriter{ResponseWriter: w, r: r, server: s, leave: leave, sent: sent, whose: whose}
		defer p.end()
		next.ServeHTTP(p, r)
	})
}

// busy answers that there is no room now.
func (s *Server) busy(w http.ResponseWriter, r *http.Request, message string) {
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Connection", "close") // otherwise the body is awaited before the answer is sent
	s.answerError(w, r, &wire.Error{Code: wire.Busy, Message: message, Hint: "try again in a moment"})
}

// placedWriter gives a request's place back once its answer is sent in pieces, and takes one among the
// answers that are sent. It is written to by one goroutine at a time.
type placedWriter struct {
	http.ResponseWriter
	r       *http.Request
	server  *Server
	leave   func()
	sent    *room
	whose   string
	begun   bool
	refused bool
}

// Unwrap is for http.ResponseController.
func (w *placedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// end gives back the place that the request has, whichever it is.
func (w *placedWriter) end() { w.leave() }

// WriteHeader is http.ResponseWriter's.
func (w *placedWriter) WriteHeader(status int) {
	if status >= http.StatusOK && !w.begun && !w.begin(status) {
		return
	}
	if !w.refused {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write is http.ResponseWriter's.
func (w *placedWriter) Write(b []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if w.refused {
		return 0, errNoPlace
	}
	return w.ResponseWriter.Write(b)
}

// begin takes the place of an answer that is sent in pieces, which is one whose length isn't known. It
// doesn't wait: a dump of the table is under way. Where there is none, the caller is told.
func (w *placedWriter) begin(status int) bool {
	w.begun = true
	if status == http.StatusNoContent || w.Header().Get("Content-Length") != "" {
		return true
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	leave, err := w.sent.take(now, w.whose)
	if err != nil && rpc.CallLogFrom(w.r.Context()).Changes() {
		return true // what is done can't be refused any more, and keeps the place at work
	}
	if err != nil {
		w.refused = true
		w.server.busy(w.ResponseWriter, w.r, "too many long answers are under way")
		// The connection is cut when the answer can't be written to its end.
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		return false
	}
	w.leave()
	w.leave = leave
	return true
}
