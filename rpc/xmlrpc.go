package rpc

import (
	"fmt"
	"iter"
	"mime"
	"net/http"

	gorilla "github.com/gorilla/rpc/v2"

	"ctd/rpc/wire"
)

// xmlContentType is that of every XML-RPC answer.
const xmlContentType = "text/xml; charset=utf-8"

// xmlCodec is XML-RPC.
type xmlCodec struct {
	buffers *buffers
}

// NewRequest is gorilla/rpc's entry.
func (c *xmlCodec) NewRequest(r *http.Request) gorilla.CodecRequest {
	return &xmlRequest{codec: c, r: r}
}

// xmlRequest is one HTTP request: one methodCall.
type xmlRequest struct {
	codec  *xmlCodec
	r      *http.Request
	call   call
	status int // of an error before the call; 0 is 200
}

// Method reads the request and names the one method; see dispatcher.
func (q *xmlRequest) Method() (string, error) {
	body, done, err := readBody(q.r)
	if err != nil {
		if err.Code == wire.LimitExceeded {
			q.status = http.StatusRequestEntityTooLarge
		}
		return "", err
	}
	_, params, _ := mime.ParseMediaType(q.r.Header.Get("Content-Type"))
	method, args, err := parseXML(body, params["charset"], claimFrom(q.r.Context()))
	done()
	if err != nil {
		return "", err
	}
	q.call = call{method: method, params: Params{Args: args}}
	return dispatchMethod, nil
}

// ReadRequest hands over the call.
func (q *xmlRequest) ReadRequest(into any) error {
	calls, ok := into.(*[]call)
	if !ok {
		return fmt.Errorf("read request into %T", into)
	}
	*calls = []call{q.call}
	return nil
}

// WriteResponse makes the call and writes its answer.
func (q *xmlRequest) WriteResponse(w http.ResponseWriter, reply any) {
	answers, ok := reply.(*iter.Seq[answer])
	if !ok {
		panic(fmt.Sprintf("rpc: reply of %T", reply))
	}
	w.Header().Set("Content-Type", xmlContentType)
	out := &sendAhead{w: w}
	defer out.Close() // also where the connection is cut: w must not be written to afterwards
	e := &xmlEncoder{sink: sink{w: out, buf: q.codec.buffers.get()}}
	e.buf = append(e.buf, xmlHeader...)
	status := http.StatusOK
	for a := range *answers {
		failed := a.err
		if failed == nil {
			writeOr(e, func() error {
				e.buf = append(e.buf, "<params><param>"...)
				if err := write(q.r.Context(), a.method, e, a.result); err != nil {
					return err
				}
				e.buf = append(e.buf, "</param></params>"...)
				return nil
			}, func(err *wire.Error) { failed = err })
		}
		if failed != nil {
			writeFault(e, failed)
		}
		status = statusOf(w.Header(), a, failed)
	}
	e.buf = append(e.buf, xmlFooter...)
	finish(w, out, &e.sink, status)
	q.codec.buffers.put(e.buf)
}

const (
	xmlHeader = `<?xml version="1.0" encoding="UTF-8"?>` + "\n<methodResponse>"
	xmlFooter = "</methodResponse>\n"
)

// writeFault writes the fault element.
func writeFault(e *xmlEncoder, err *wire.Error) {
	e.buf = append(e.buf, "<fault>"...)
	faultValue(e, err)
	e.buf = append(e.buf, "</fault>"...)
}

// faultValue writes the struct of a fault. A fault has nothing but a number and a text, so that
// the hint goes into the text.
func faultValue(e encoder, err *wire.Error) {
	text := err.Message
	if err.Hint != "" {
		text += " (" + err.Hint + ")"
	}
	e.beginObject()
	e.key("faultCode")
	e.int(int64(err.Code.Number()))
	e.key("faultString")
	e.str(text)
	e.endObject()
}

// WriteError answers a request of which no call could be made.
func (q *xmlRequest) WriteError(w http.ResponseWriter, _ int, err error) {
	e := ErrorOf(err)
	CallLogFrom(q.r.Context()).fail(e.Code)
	if status := statusOfRefused(w.Header(), e); status != 0 {
		q.status = status
	}
	writeXMLFailure(w, max(q.status, http.StatusOK), e)
}

// writeXMLFailure writes a body that is nothing but a fault.
func writeXMLFailure(w http.ResponseWriter, status int, err *wire.Error) {
	e := &xmlEncoder{}
	e.buf = append(e.buf, xmlHeader...)
	writeFault(e, err)
	e.buf = append(e.buf, xmlFooter...)
	writeFailure(w, xmlContentType, status, e.buf)
}
