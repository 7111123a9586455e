package rpc

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"strconv"
	"sync"

	"ctd/rpc/wire"
)

// call is one call of a request.
type call struct {
	method string
	params Params
	id     any         // of JSON-RPC: nil, string or json.Number
	notify bool        // of JSON-RPC: a notification, which gets no answer
	bad    *wire.Error // why it can't be made; nil where it can

	packed any // of a JSON-RPC batch: the call that is still to be read; nil where it was
}

// read returns the call as it is made. Those of a batch are read one by one.
func (c call) read() call {
	if c.packed != nil {
		return parseCall(wire.Unpack(c.packed))
	}
	return c
}

// answer is what became of a call.
type answer struct {
	call
	result  any
	err     *wire.Error
	session bool // of a method that knows its callers by a session of its own
}

// dispatcher is the one service that is registered with gorilla/rpc, and Call its one method.
// gorilla's own idea, one service method for each name, doesn't fit both protocols: a JSON-RPC
// batch and a system.multicall hold the calls of many methods in one request. So a codec always
// names this method and gives it all calls of the request.
type dispatcher struct {
	registry *Registry
}

// dispatchMethod is the name under which gorilla/rpc knows dispatcher.Call.
const dispatchMethod = "Registry.Call"

// Call gives the answers one by one: a call is made when the codec has written the answer of
// the one before. So no result waits in memory, and a list that streams is read from the
// kernel before the next call changes what it lists.
func (d *dispatcher) Call(r *http.Request, calls *[]call, answers *iter.Seq[answer]) error {
	ctx := r.Context()
	if len(*calls) > 1 {
		// The answer of a call is on its way while the next one works.
		ctx = withProgress(ctx, nil)
	}
	*answers = func(yield func(answer) bool) {
		for _, c := range *calls {
			if !yield(d.registry.answer(ctx, c.read())) {
				return
			}
		}
	}
	return nil
}

func (r *Registry) answer(ctx context.Context, c call) answer {
	if c.bad != nil {
		CallLogFrom(ctx).fail(c.bad.Code)
		return answer{call: c, err: c.bad}
	}
	a := answer{call: c}
	if m := r.methods[c.method]; m != nil {
		a.session = m.Role == wire.RoleSession
		if m.Changes && m.Name != multicallMethod { // which changes what its calls do
			CallLogFrom(ctx).changes()
		}
	}
	result, err := r.Call(ctx, c.method, c.params)
	if err != nil {
		a.err = public(err)
		return a
	}
	a.result = result
	return a
}

// public returns an error of Registry.Call or write, which is fit for the caller already.
func public(err error) *wire.Error {
	if e, ok := err.(*wire.Error); ok {
		return e
	}
	return ErrorOf(err)
}

// writeOr writes something that may fail half way: what of it was written is taken back and
// otherwise is given the error to write instead. Where some has already left for the caller
// the connection is cut, so that nobody takes a short answer for a whole one.
func writeOr(e encoder, try func() error, otherwise func(err *wire.Error)) {
	m := e.mark()
	err := try()
	if err == nil {
		return
	}
	if !e.rewind(m) {
		panic(http.ErrAbortHandler)
	}
	otherwise(public(err))
}

// buffers keeps the encoders' buffers between requests.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() []byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return (*buf)[:0]
	}
	return make([]byte, 0, bufferSize)
}

func (b *buffers) put(buf []byte) {
	if cap(buf) <= 2*bufferSize {
		b.pool.Put(&buf)
	}
}

// finish sends what is left in the sink, with the status where nothing was sent before.
func finish(w http.ResponseWriter, out *sendAhead, s *sink, status int) {
	if s.flushes == 0 {
		w.Header().Set("Content-Length", strconv.Itoa(len(s.buf)))
		w.WriteHeader(status)
		if _, err := w.Write(s.buf); err != nil {
			panic(http.ErrAbortHandler)
		}
		return
	}
	s.flush()
	if err := out.Close(); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// statusOf returns the HTTP status of a single call's answer. Only a caller that isn't known
// gets another than 200: clients of both protocols look for an error in the body of a 200. That
// a session has ended is such an error, which the clients that have sessions must see.
func statusOf(h http.Header, a answer, failed *wire.Error) int {
	if failed == nil || failed.Code != wire.Unauthenticated || a.session {
		return http.StatusOK
	}
	h.Set("WWW-Authenticate", challenge)
	return http.StatusUnauthorized
}

// challenge says with a 401 how to come back.
const challenge = `Bearer realm="ctd"`

// firstRead is how much room a body has at first whose length isn't announced.
const firstRead = 8 << 10

// readBody reads the whole body, whose size the handler has limited. Once the body isn't needed any more,
// the caller calls done: the request may take its memory again. An error that isn't in the protocol's own
// code has an HTTP status too.
func readBody(r *http.Request) (body []byte, done func(), failed *wire.Error) {
	c := claimFrom(r.Context())
	room := int64(firstRead)
	if n := r.ContentLength; n >= 0 {
		room = n + 1 // one more to see the end
	}
	body = make([]byte, 0, room)
	if failed := c.take(cap(body)); failed != nil {
		return nil, nil, failed
	}
	for {
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		var tooLong *http.MaxBytesError
		switch {
		case errors.Is(err, io.EOF):
			return body, func() { c.give(cap(body)) }, nil
		case errors.As(err, &tooLong):
			return nil, nil, errBodyTooLong(r.Context(), tooLong.Limit)
		case err != nil:
			return nil, nil, parseError("the body was cut short")
		}
		if len(body) < cap(body) {
			continue
		}
		room = 2 * int64(cap(body))
		if failed := c.take(int(room) - cap(body)); failed != nil {
			return nil, nil, failed
		}
		body = append(make([]byte, 0, room), body...)
	}
}

func errBodyTooLong(ctx context.Context, limit int64) *wire.Error {
	err := &wire.Error{
		Code:    wire.LimitExceeded,
		Message: "the body is longer than " + strconv.FormatInt(limit, 10) + " bytes",
		Hint:    "split it into several requests",
	}
	if !isKnown(ctx) {
		err.Hint = "it may be longer with a token or a password in the Authorization header, or in a session"
	}
	return err
}
