package rpc

import (
	"encoding/json"
	"io"
	"net/netip"
	"time"
)

// encoder writes one result, value by value. Both protocols have one; a result that is long
// streams itself into it (see streamer). Values are written in order: in an object each after
// its key. The calls don't fail; err says whether the caller is still there.
type encoder interface {
	beginObject()
	// key begins a member of an object. The name is a literal of letters, digits, _ . and -
	// and isn't escaped.
	key(name string)
	// keyText begins a member with any name.
	keyText(name string)
	endObject()
	beginArray()
	endArray()

	str(s string)
	// addr writes an address as a string.
	addr(a netip.Addr)
	int(i int64)
	uint(u uint64)
	float(f float64)
	// number writes a number that is kept as text.
	number(n json.Number)
	boolean(b bool)
	null()
	time(t time.Time)
	bytes(b []byte)

	// omitsNull tells whether the protocol has no null, so that a member without a value is
	// to be left out.
	omitsNull() bool
	// err returns the first failed write to the caller. A streamer should look now and then
	// and stop; what it writes after a failure goes nowhere.
	err() error

	mark() mark
	// rewind takes back what was written since the mark. It can't, and returns false, once
	// some of it has left for the caller.
	rewind(m mark) bool
}

// flushSize is how much of an answer is gathered before it is sent.
const flushSize = 64 << 10

// bufferSize leaves room for the value that goes over flushSize.
const bufferSize = flushSize + 4<<10

// sink gathers an encoder's output and sends it on in pieces of flushSize.
type sink struct {
	w       io.Writer
	buf     []byte
	flushes int
	failed  error
}

// mark is a place in an encoder's output.
type mark struct {
	at, flushes int
	comma       bool // of jsonEncoder
	depth       int  // of xmlEncoder
}

func (s *sink) err() error { return s.failed }

// flush sends what is gathered.
func (s *sink) flush() {
	if s.failed == nil && len(s.buf) > 0 {
		_, s.failed = s.w.Write(s.buf)
	}
	s.flushes++
	s.buf = s.buf[:0]
}

func (s *sink) rewindTo(m mark) bool {
	if s.flushes != m.flushes {
		return false
	}
	s.buf = s.buf[:m.at]
	return true
}
