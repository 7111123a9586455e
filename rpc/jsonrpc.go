package rpc

import (
	"fmt"
	"iter"
	"net/http"
	"strconv"

	gorilla "github.com/gorilla/rpc/v2"

	"ctd/rpc/wire"
)

// maxBatch is how many calls a JSON-RPC batch or a system.multicall may hold.
const maxBatch = 1000

// jsonCodec is JSON-RPC 2.0 over HTTP POST.
type jsonCodec struct {
	buffers *buffers
}

// NewRequest is gorilla/rpc's entry.
func (c *jsonCodec) NewRequest(r *http.Request) gorilla.CodecRequest {
	return &jsonRequest{codec: c, r: r}
}

// jsonRequest is one HTTP request: a call or a batch.
type jsonRequest struct {
	codec  *jsonCodec
	r      *http.Request
	calls  []call
	batch  bool
	status int // of an error before a call; 0 is 200
}

// Method reads the request and names the one method; see dispatcher.
func (q *jsonRequest) Method() (string, error) {
	body, done, err := readBody(q.r)
	if err != nil {
		if err.Code == wire.LimitExceeded {
			q.status = http.StatusRequestEntityTooLarge
		}
		return "", err
	}
	tree, err := parseJSON(body, claimFrom(q.r.Context()))
	done()
	if err != nil {
		return "", err
	}
	batch, ok := tree.([]any)
	if !ok {
		q.calls = []call{parseCall(tree)}
		return dispatchMethod, nil
	}
	q.batch = true
	switch {
	case len(batch) == 0:
		return "", invalidRequest("the batch is empty")
	case len(batch) > maxBatch:
		return "", tooMany("calls", maxBatch)
	}
	for _, item := range batch {
		if item == nil {
			item = false // no call either
		}
		q.calls = append(q.calls, call{packed: item})
	}
	return dispatchMethod, nil
}

// ReadRequest hands over the calls.
func (q *jsonRequest) ReadRequest(into any) error {
	calls, ok := into.(*[]call)
	if !ok {
		return fmt.Errorf("read request into %T", into)
	}
	*calls = q.calls
	return nil
}

// parseCall reads one request object, JSON-RPC 2.0 section 4.
func parseCall(tree any) call {
	members, ok := tree.(map[string]any)
	if !ok {
		return call{bad: invalidRequest("a call is an object, or a batch of them")}
	}
	id, hasID := members["id"]
	switch id.(type) {
	case map[string]any, []any, bool:
		return call{bad: invalidRequest("id is a text, a number or null")}
	}
	c := call{id: id, notify: !hasID}
	if c.bad = checkCall(members); c.bad != nil {
		// Whether a call that is none wanted an answer can't be known: it gets one.
		c.notify = false
		return c
	}
	c.method = members["method"].(string)
	switch params := members["params"].(type) {
	case map[string]any:
		c.params.Named = params
	case []any:
		c.params.Args = unpackEach(params)
	}
	return c
}

// unpackEach returns positional parameters without one that is packed.
func unpackEach(args []any) []any {
	for i := range args {
		args[i] = wire.Unpack(args[i])
	}
	return args
}

func checkCall(members map[string]any) *wire.Error {
	if v := members["jsonrpc"]; v != "2.0" {
		return invalidRequest(`member "jsonrpc" must be "2.0"`)
	}
	if _, ok := members["method"].(string); !ok {
		return invalidRequest(`member "method" must be a text`)
	}
	if params, ok := members["params"]; ok {
		switch params.(type) {
		case map[string]any, []any:
		default:
			return invalidRequest(`member "params" must be an object or a list`)
		}
	}
	for name := range members {
		switch name {
		case "jsonrpc", "method", "params", "id":
		default:
			err := invalidRequest("unknown member %s of the request", quoted(name))
			if near := wire.Nearest(name, []string{"jsonrpc", "method", "params", "id"}); near != "" {
				err.Hint = fmt.Sprintf("did you mean %q?", near)
			}
			return err
		}
	}
	return nil
}

// WriteResponse makes the calls and writes their answers.
func (q *jsonRequest) WriteResponse(w http.ResponseWriter, reply any) {
	answers, ok := reply.(*iter.Seq[answer])
	if !ok {
		panic(fmt.Sprintf("rpc: reply of %T", reply))
	}
	w.Header().Set("Content-Type", "application/json")
	out := &sendAhead{w: w}
	defer out.Close() // also where the connection is cut: w must not be written to afterwards
	e := &jsonEncoder{sink: sink{w: out, buf: q.codec.buffers.get()}}
	status, answered := http.StatusOK, false
	for a := range *answers {
		if a.notify {
			q.discard(a)
			continue
		}
		if q.batch && !answered {
			e.beginArray()
		}
		answered = true
		failed := q.write(e, a)
		if !q.batch {
			status = statusOf(w.Header(), a, failed)
		}
	}
	if !answered {
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if q.batch {
		e.endArray()
	}
	finish(w, out, &e.sink, status)
	q.codec.buffers.put(e.buf)
}

// write writes one answer and returns its error.
func (q *jsonRequest) write(e *jsonEncoder, a answer) *wire.Error {
	failed := a.err
	if failed == nil {
		writeOr(e, func() error {
			beginResponse(e, a.id)
			e.key("result")
			if err := write(q.r.Context(), a.method, e, a.result); err != nil {
				return err
			}
			e.endObject()
			return nil
		}, func(err *wire.Error) { failed = err })
	}
	if failed != nil {
		writeJSONError(e, a.id, failed)
	}
	return failed
}

// discard runs what streams of a notification's result: the stream may be what does the work.
func (q *jsonRequest) discard(a answer) {
	if a.err == nil {
		e := &jsonEncoder{sink: sink{w: discarding{}, buf: q.codec.buffers.get()}}
		_ = write(q.r.Context(), a.method, e, a.result) // a notification has no answer, nor an error
		q.codec.buffers.put(e.buf)
	}
}

type discarding struct{}

func (discarding) Write(b []byte) (int, error) { return len(b), nil }

func beginResponse(e *jsonEncoder, id any) {
	e.beginObject()
	e.key("jsonrpc")
	e.str("2.0")
	e.key("id")
	// An id is what parseCall let through, and that can be encoded.
	_ = encodeValue(e, id)
}

// writeJSONError writes a whole answer with an error, section 5.1.
func writeJSONError(e *jsonEncoder, id any, err *wire.Error) {
	beginResponse(e, id)
	e.key("error")
	e.beginObject()
	e.key("code")
	e.int(int64(err.Code.Number()))
	e.key("message")
	e.str(err.Message)
	e.key("data")
	_ = encodeValue(e, wire.ErrorData{Code: err.Code, Hint: err.Hint, Errno: err.Errno})
	e.endObject()
	e.endObject()
}

// WriteError answers a request of which no call could be made.
func (q *jsonRequest) WriteError(w http.ResponseWriter, _ int, err error) {
	e := ErrorOf(err)
	CallLogFrom(q.r.Context()).fail(e.Code)
	if status := statusOfRefused(w.Header(), e); status != 0 {
		q.status = status
	}
	writeJSONFailure(w, max(q.status, http.StatusOK), e)
}

// writeJSONFailure writes a body that is nothing but an error, with the id null.
func writeJSONFailure(w http.ResponseWriter, status int, err *wire.Error) {
	e := &jsonEncoder{}
	writeJSONError(e, nil, err)
	writeFailure(w, "application/json", status, e.buf)
}

func writeFailure(w http.ResponseWriter, contentType string, status int, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // nobody is left to tell
}
