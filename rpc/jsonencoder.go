package rpc

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// jsonEncoder writes JSON, RFC 8259. It is on the hot path of a list of all flows: every method
// appends to one buffer and allocates nothing.
type jsonEncoder struct {
	sink
	comma bool // something stands before at this level
}

func (e *jsonEncoder) mark() mark {
	return mark{at: len(e.buf), flushes: e.flushes, comma: e.comma}
}

func (e *jsonEncoder) rewind(m mark) bool {
	e.comma = m.comma
	return e.rewindTo(m)
}

func (e *jsonEncoder) omitsNull() bool { return false }

// next returns the buffer to append a value to.
func (e *jsonEncoder) next() []byte {
	if e.comma {
		return append(e.buf, ',')
	}
	return e.buf
}

// done takes the buffer back with the value in it.
func (e *jsonEncoder) done(b []byte) {
	e.buf = b
	e.comma = true
	if len(b) >= flushSize {
		e.flush()
	}
}

func (e *jsonEncoder) beginObject() {
	e.buf = append(e.next(), '{')
	e.comma = false
}

func (e *jsonEncoder) endObject() { e.done(append(e.buf, '}')) }

func (e *jsonEncoder) beginArray() {
	e.buf = append(e.next(), '[')
	e.comma = false
}

func (e *jsonEncoder) endArray() { e.done(append(e.buf, ']')) }

func (e *jsonEncoder) key(name string) {
	b := append(e.next(), '"')
	b = append(b, name...)
	e.buf = append(b, '"', ':')
	e.comma = false
}

func (e *jsonEncoder) keyText(name string) {
	e.buf = append(appendJSONString(e.next(), name), ':')
	e.comma = false
}

func (e *jsonEncoder) str(s string) { e.done(appendJSONString(e.next(), s)) }

func (e *jsonEncoder) addr(a netip.Addr) {
	b := a.AppendTo(append(e.next(), '"'))
	e.done(append(b, '"'))
}

func (e *jsonEncoder) int(i int64)      { e.done(strconv.AppendInt(e.next(), i, 10)) }
func (e *jsonEncoder) uint(u uint64)    { e.done(strconv.AppendUint(e.next(), u, 10)) }
func (e *jsonEncoder) boolean(b bool)   { e.done(strconv.AppendBool(e.next(), b)) }
func (e *jsonEncoder) null()            { e.done(append(e.next(), "null"...)) }
func (e *jsonEncoder) time(t time.Time) { e.done(appendTime(e.next(), t)) }

func appendTime(b []byte, t time.Time) []byte {
	b = t.AppendFormat(append(b, '"'), time.RFC3339Nano)
	return append(b, '"')
}

// float writes null for what JSON has no number for.
func (e *jsonEncoder) float(f float64) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		e.null()
		return
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	e.done(strconv.AppendFloat(e.next(), f, format, -1, 64))
}

func (e *jsonEncoder) number(n json.Number) {
	if n == "" {
		n = "0"
	}
	e.done(append(e.next(), n...))
}

func (e *jsonEncoder) bytes(v []byte) {
	b := base64.StdEncoding.AppendEncode(append(e.next(), '"'), v)
	e.done(append(b, '"'))
}

// appendJSONString appends s as a JSON string. Bytes that are no UTF-8 become U+FFFD.
func appendJSONString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[start:i]...), `\ufffd`...)
				start = i + 1
			}
			i += size
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}
