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

// xmlEncoder writes XML-RPC values.
//
// A number is an <int> where it fits in 32 signed bits and else the decimal in a <string>:
// clients turn a larger <int> or an <i8> into -1 or nothing. A time is a <string> as in JSON,
// because <dateTime.iso8601> has neither fractions nor a zone. There is no null: a member
// without a value is left out, elsewhere an empty <string> stands for it.
type xmlEncoder struct {
	sink
	objects []bool // what is open, innermost last: a struct, else an array
}

func (e *xmlEncoder) mark() mark {
	return mark{at: len(e.buf), flushes: e.flushes, depth: len(e.objects)}
}

// rewind needs no more than the depth: what was open at the mark still is.
func (e *xmlEncoder) rewind(m mark) bool {
	e.objects = e.objects[:m.depth]
	return e.rewindTo(m)
}

func (e *xmlEncoder) omitsNull() bool { return true }

// done takes the buffer back with the content of a value in it.
func (e *xmlEncoder) done(b []byte) {
	b = append(b, "</value>"...)
	if n := len(e.objects); n > 0 && e.objects[n-1] {
		b = append(b, "</member>"...)
	}
	e.buf = b
	if len(b) >= flushSize {
		e.flush()
	}
}

func (e *xmlEncoder) beginObject() {
	e.buf = append(e.buf, "<value><struct>"...)
	e.objects = append(e.objects, true)
}

func (e *xmlEncoder) endObject() {
	e.objects = e.objects[:len(e.objects)-1]
	e.done(append(e.buf, "</struct>"...))
}

func (e *xmlEncoder) beginArray() {
	e.buf = append(e.buf, "<value><array><data>"...)
	e.objects = append(e.objects, false)
}

func (e *xmlEncoder) endArray() {
	e.objects = e.objects[:len(e.objects)-1]
	e.done(append(e.buf, "</data></array>"...))
}

func (e *xmlEncoder) key(name string) {
	b := append(e.buf, "<member><name>"...)
	b = append(b, name...)
	e.buf = append(b, "</name>"...)
}

func (e *xmlEncoder) keyText(name string) {
	b := appendXMLText(append(e.buf, "<member><name>"...), name)
	e.buf = append(b, "</name>"...)
}

func (e *xmlEncoder) str(s string) {
	b := appendXMLText(append(e.buf, "<value><string>"...), s)
	e.done(append(b, "</string>"...))
}

func (e *xmlEncoder) addr(a netip.Addr) {
	b := a.AppendTo(append(e.buf, "<value><string>"...))
	e.done(append(b, "</string>"...))
}

func (e *xmlEncoder) int(i int64) {
	if i < math.MinInt32 || i > math.MaxInt32 {
		b := strconv.AppendInt(append(e.buf, "<value><string>"...), i, 10)
		e.done(append(b, "</string>"...))
		return
	}
	b := strconv.AppendInt(append(e.buf, "<value><int>"...), i, 10)
	e.done(append(b, "</int>"...))
}

func (e *xmlEncoder) uint(u uint64) {
	if u <= math.MaxInt32 {
		e.int(int64(u))
		return
	}
	b := strconv.AppendUint(append(e.buf, "<value><string>"...), u, 10)
	e.done(append(b, "</string>"...))
}

// float writes plain decimals: the specification has no exponents, and no name for what is
// not a number.
func (e *xmlEncoder) float(f float64) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		e.null()
		return
	}
	b := strconv.AppendFloat(append(e.buf, "<value><double>"...), f, 'f', -1, 64)
	e.done(append(b, "</double>"...))
}

func (e *xmlEncoder) number(n json.Number) {
	if i, err := n.Int64(); err == nil {
		e.int(i)
	} else if u, err := strconv.ParseUint(n.String(), 10, 64); err == nil {
		e.uint(u)
	} else if f, err := n.Float64(); err == nil {
		e.float(f)
	} else {
		e.str(n.String())
	}
}

func (e *xmlEncoder) boolean(v bool) {
	digit := byte('0')
	if v {
		digit = '1'
	}
	b := append(append(e.buf, "<value><boolean>"...), digit)
	e.done(append(b, "</boolean>"...))
}

func (e *xmlEncoder) null() { e.done(append(e.buf, "<value><string></string>"...)) }

func (e *xmlEncoder) time(t time.Time) {
	b := t.AppendFormat(append(e.buf, "<value><string>"...), time.RFC3339Nano)
	e.done(append(b, "</string>"...))
}

func (e *xmlEncoder) bytes(v []byte) {
	b := base64.StdEncoding.AppendEncode(append(e.buf, "<value><base64>"...), v)
	e.done(append(b, "</base64>"...))
}

// appendXMLText appends s as character data. What XML 1.0 can't carry (section 2.2: control
// characters, U+FFFE, U+FFFF, bytes that are no UTF-8) becomes U+FFFD; a carriage return is
// written as a reference, because readers turn a plain one into a line feed.
func appendXMLText(b []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '<' && c != '>' && c != '&' {
			i++
			continue
		}
		size, replacement := 1, ""
		switch {
		case c == '<':
			replacement = "&lt;"
		case c == '>':
			replacement = "&gt;"
		case c == '&':
			replacement = "&amp;"
		case c == '\r':
			replacement = "&#13;"
		case c == '\n', c == '\t':
		case c < ' ':
			replacement = "\uFFFD"
		default:
			var r rune
			r, size = utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 || r == 0xFFFE || r == 0xFFFF {
				replacement = "\uFFFD"
			}
		}
		if replacement != "" {
			b = append(append(b, s[start:i]...), replacement...)
			start = i + size
		}
		i += size
	}
	return append(b, s[start:]...)
}
