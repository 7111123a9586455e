package rtsp

import (
	"bytes"
	"math"
	"time"
)

// Message is the head of a request or reply.
type Message struct {
	Request      bool
	Method       string // of a request, as sent; compare with MethodSetup and the like
	URI          string // of a request, as sent; no control characters, but any other byte
	Status       int    // of a reply: 100 to 999
	Major, Minor uint8  // of RTSP: 1.0, 2.0

	CSeq    uint64
	HasCSeq bool

	Session        string        // identifier; printable ASCII
	SessionTimeout time.Duration // 0 where none is said
	Transports     []Transport   // the alternatives of all Transport headers, in order
	ContentLength  int64

	// For people: printable ASCII of at most MaxText bytes, of the first such header.
	UserAgent, Server, Location, Public string

	Head int // bytes of start line, headers and the empty line

	values []headerValue // of the Transport headers that have one
}

// span is a part of a text.
type span struct{ start, end int }

// headerValue is the value of a Transport header: from its first byte that isn't white space up to
// the end of its last line.
type headerValue struct {
	span
	first, count int // its alternatives, as indices of Transports
}

// maxSessionTimeout is the longest that is believed, in seconds; one that is longer counts as not said.
const maxSessionTimeout = 1 << 30

// headers reads what is behind the start line, which is before at, up to the end of head.
func (m *Message) headers(head []byte, at int) error {
	if err := checkBytes(head[at:]); err != nil {
		return err
	}
	if isSpace(head[at]) {
		return malformed("a start line that is continued")
	}
	seen := header{Message: m}
	for n := 0; !blankLine(head[at:]); n++ {
		if n == MaxHeaders {
			return malformed("more than %d headers", MaxHeaders)
		}
		f, next := nextField(head, at)
		if err := seen.field(head, f); err != nil {
			return err
		}
		at = next
	}
	return nil
}

// checkBytes refuses what some servers take for the end of a line or of the text, and others don't.
func checkBytes(head []byte) error {
	if bytes.IndexByte(head, 0) >= 0 {
		return malformed("a NUL in the head")
	}
	for {
		i := bytes.IndexByte(head, '\r')
		if i < 0 {
			return nil
		}
		if i+1 == len(head) || head[i+1] != '\n' {
			return malformed("a CR without LF")
		}
		head = head[i+2:]
	}
}

// header is a message whose headers are being read.
type header struct {
	*Message
	hasLength, hasSession bool
}

// field reads one header. Those that aren't known are no matter, and neither are lines without a
// colon: servers pass over them.
func (h *header) field(head []byte, f field) error {
	value := head[f.start:f.end]
	switch {
	case is(f.name, "cseq"):
		return h.cseq(bytes.Trim(value, lws))
	case is(f.name, "content-length"):
		return h.length(bytes.Trim(value, lws))
	case is(f.name, "session"):
		return h.session(value)
	case is(f.name, "transport"):
		return h.transport(value, f)
	case is(f.name, "user-agent"):
		note(&h.UserAgent, value)
	case is(f.name, "server"):
		note(&h.Server, value)
	case is(f.name, "location"):
		note(&h.Location, value)
	case is(f.name, "public"):
		note(&h.Public, value)
	}
	return nil
}

// note keeps the first text.
func note(to *string, value []byte) {
	if *to == "" {
		*to = clean(value)
	}
}

func (h *header) cseq(value []byte) error {
	n, ok := number(value, math.MaxUint64)
	if !ok {
		return malformed("a CSeq that is no number")
	}
	if h.HasCSeq && n != h.CSeq {
		return malformed("two different CSeq")
	}
	h.CSeq, h.HasCSeq = n, true
	return nil
}

func (h *header) length(value []byte) error {
	n, ok := number(value, MaxBody)
	if !ok {
		return malformed("a Content-Length that is no number from 0 to %d", MaxBody)
	}
	if h.hasLength && int64(n) != h.ContentLength {
		return malformed("two different Content-Length")
	}
	h.ContentLength, h.hasLength = int64(n), true
	return nil
}

// session reads "12345678;timeout=60".
func (h *header) session(value []byte) error {
	id, params, _ := bytes.Cut(value, []byte{';'})
	id = bytes.Trim(id, lws)
	if len(id) > MaxSession {
		return malformed("a session of more than %d bytes", MaxSession)
	}
	for _, b := range id {
		if b < ' ' || b > '~' {
			return malformed("a session with a byte that isn't printable")
		}
	}
	if h.hasSession && string(id) != h.Session {
		return malformed("two different sessions")
	}
	h.Session, h.hasSession = string(id), true
	for len(params) > 0 {
		var p []byte
		p, params, _ = bytes.Cut(params, []byte{';'})
		name, text, _ := bytes.Cut(p, []byte{'='})
		if !is(bytes.Trim(name, lws), "timeout") {
			continue
		}
		if n, ok := number(unquote(text), maxSessionTimeout); ok {
			h.SessionTimeout = time.Duration(n) * time.Second
		}
	}
	return nil
}

// transport reads one Transport header.
func (h *header) transport(value []byte, f field) error {
	v := headerValue{span: span{f.start, f.end}, first: len(h.Transports)}
	for rest := value; len(rest) > 0; {
		var alternative []byte
		alternative, rest = cut(rest, ',')
		if len(bytes.Trim(alternative, lws)) == 0 {
			continue
		}
		if len(h.Transports) == MaxTransports {
			return malformed("more than %d transports", MaxTransports)
		}
		t, err := parseTransport(alternative)
		if err != nil {
			return err
		}
		h.Transports = append(h.Transports, t)
		v.count++
	}
	if v.count > 0 {
		h.values = append(h.values, v)
	}
	return nil
}
