package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
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
	// placeWait is how long a request waits for a place, with its body unread but for the beginning of a stranger's.
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

// of returns the rooms for a request of a principal's, nil being a stranger, and whose places in them are counted
// together.
func (p *places) of(r *http.Request, principal rpc.Principal) (work, sent *room, whose string) {
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

// takeSoon waits for a place as long as a request does.
func (m *room) takeSoon(ctx context.Context, whose string) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, placeWait)
	defer cancel()
	return m.take(ctx, whose)
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
		principal := rpc.PrincipalFrom(r.Context())
		if principal == nil {
			r, principal = s.strange(w, r)
		}
		v := visitOf(r.Context())
		work, sent, whose := v.policy.places.of(r, principal)
		leave, err := work.takeSoon(r.Context(), whose)
		if err != nil {
			s.busy(w, r, "too many requests are under way")
			return
		}
		p := &placedWriter{ResponseWriter: w, r: r, server: s, leave: leave, work: work, sent: sent, whose: whose}
		v.place = p
		defer p.end()
		next.ServeHTTP(p, r)
	})
}

// strange reads the beginning of a stranger's request, which has no place meanwhile: of those that there are
// for strangers a few slow ones would take all. Whose session of pyctd's it belongs to is no stranger: the request
// is worked on as its owner's.
func (s *Server) strange(w http.ResponseWriter, r *http.Request) (*http.Request, rpc.Principal) {
	if r.Method != http.MethodPost || !rpc.ForStrangers(r) && r.URL.Path != sessionPath {
		return r, nil
	}
	// net/http lifts it once the body is read. Connections that have no deadlines, as in tests, are left alone.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(s.timing.strangerRead))
	body := &endingReader{Reader: r.Body}
	head, _ := io.ReadAll(io.LimitReader(body, rpc.MaxStrangerBody+1))
	principal := s.sessionOf(head)
	if principal != nil {
		r = r.WithContext(rpc.WithSession(r.Context(), principal))
		if !body.ended { // now it has the time of a known caller's
			_ = control.SetReadDeadline(time.Now().Add(s.timing.read))
		}
	}
	// What kept it from being read to its end is met again by who reads on.
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), r.Body), r.Body}
	return r, principal
}

// endingReader notes that there is nothing more to read.
type endingReader struct {
	io.Reader
	ended bool
}

func (r *endingReader) Read(b []byte) (n int, err error) {
	n, err = r.Reader.Read(b)
	r.ended = r.ended || err != nil
	return n, err
}

// busy answers that there is no room now.
func (s *Server) busy(w http.ResponseWriter, r *http.Request, message string) {
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Connection", "close") // otherwise the body is awaited before the answer is sent
	s.answerError(w, r, errBusy(message))
}

func errBusy(message string) *wire.Error {
	return &wire.Error{Code: wire.Busy, Message: message, Hint: "try again in a moment"}
}

// placedWriter gives a request's place back once its answer is sent in pieces, and takes one among the
// answers that are sent. It is written to by one goroutine at a time.
type placedWriter struct {
	http.ResponseWriter
	r       *http.Request
	server  *Server
	leave   func()
	work    *room
	sent    *room
	whose   string
	begun   bool
	refused bool
}

// Unwrap is for http.ResponseController.
func (w *placedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// end gives back the place that the request has, whichever it is.
func (w *placedWriter) end() { w.leave() }

// without gives back a request's place at work while fn waits for something that takes long and bounds by itself
// how many do. It is called by the goroutine that writes the answer.
func (w *placedWriter) without(ctx context.Context, fn func()) error {
	if w == nil || w.begun {
		fn()
		return nil
	}
	w.leave()
	w.leave = func() {}
	fn()
	leave, err := w.work.takeSoon(ctx, w.whose)
	if err == nil {
		w.leave = leave
	}
	return err
}

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
