package rtsp

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
)

// Change says what becomes of one alternative. Zero members leave as it is what they stand for, and
// so does what isn't written there: nothing is added to an alternative.
type Change struct {
	// ClientPort are the new ports of client_port and dest_addr; of destination where its port is
	// the same as that of client_port, or where there is no client_port. They are written in the style of what
	// they replace: a single port becomes a single port, and Sep doesn't matter. Last may be 0:
	// then the second port keeps its distance to the first.
	ClientPort Ports
	ServerPort Ports // those of server_port, src_addr and source

	// Destination and Source are written instead of the hosts of destination and dest_addr, of
	// source and src_addr.
	Destination, Source netip.Addr
	// DropDestination and DropSource take these away: the parameter destination or source, and the
	// hosts in dest_addr or src_addr, which becomes ":5000" (and where it has a host without a
	// port, the parameter). They go before Destination and Source.
	DropDestination, DropSource bool
}

// Rewrite returns the edits of msg, the message that m was read from, that make the changes, which
// are by index of Transports. They are in order. All that isn't changed passes byte for byte.
//
// An edit replaces the value of one Transport header, up to the end of its line, by a text that is
// never shorter: spaces at the end make up for what is missing. Where the text would be longer than
// the value, what is equal in meaning is written shorter: no white space around separators, and in
// alternatives that are changed "RTP/AVP" for "RTP/AVP/UDP". If it is longer even so, one edit of the
// message may add up to grow bytes; the error is ErrTooLong where that isn't enough.
func (m *Message) Rewrite(msg []byte, changes map[int]Change, grow int) ([]Edit, error) {
	if len(msg) < m.Head {
		return nil, errors.New("the message is shorter than its head")
	}
	for i := range changes {
		if i < 0 || i >= len(m.Transports) {
			return nil, fmt.Errorf("transport %d: %w", i, errNoTransport)
		}
	}
	grow = min(grow, MaxHead-m.Head)
	var edits []Edit
	for _, v := range m.values {
		if !v.changed(changes) {
			continue
		}
		e, err := m.rewriteValue(msg, v, changes, grow)
		if err != nil {
			return nil, err
		}
		if e.New == nil {
			continue
		}
		if len(e.New) > e.End-e.Start {
			grow = 0
		}
		edits = append(edits, e)
	}
	return edits, nil
}

// changed tells whether there is a change of one of its alternatives.
func (v headerValue) changed(changes map[int]Change) bool {
	for i := range v.count {
		if _, ok := changes[v.first+i]; ok {
			return true
		}
	}
	return false
}

// rewriteValue is the edit of one header. It has no text where nothing changes.
func (m *Message) rewriteValue(msg []byte, v headerValue, changes map[int]Change, grow int) (Edit, error) {
	old := msg[v.start:v.end]
	e := Edit{Start: v.start, End: v.end}
	var texts [levels][]byte
	for l := range texts {
		w := writer{level: level(l), out: make([]byte, 0, len(old)+max(grow, 0))}
		if err := w.value(old, m.Transports[v.first:v.first+v.count], v.first, changes); err != nil {
			return e, err
		}
		// White space at the end is room. That a line is continued by white space alone must not
		// be kept: without the white space it would be the empty line.
		texts[l] = bytes.TrimRight(w.out, lws)
		if l == 0 && bytes.Equal(texts[l], bytes.TrimRight(old, lws)) {
			return e, nil
		}
		if len(texts[l]) <= len(old) {
			e.New = texts[l]
			for len(e.New) < len(old) {
				e.New = append(e.New, ' ')
			}
			return e, nil
		}
	}
	for _, text := range texts {
		if len(text) <= len(old)+grow {
			e.New = text
			return e, nil
		}
	}
	return e, ErrTooLong
}

// level is how short a value is written.
type level int

const (
	levelPlain   level = iota // as it is
	levelCompact              // without white space around separators
	levelShort                // and without what is the default
	levels
)

// writer writes the value of a Transport header anew.
type writer struct {
	level level
	out   []byte
}

// value writes all alternatives, of which the first that isn't empty has the index first.
func (w *writer) value(text []byte, ts []Transport, first int, changes map[int]Change) error {
	for n := 0; ; {
		i := separator(text, ',')
		alternative := text[:i]
		if n < len(ts) && len(bytes.Trim(alternative, lws)) > 0 {
			c, ok := changes[first+n]
			if !ok {
				w.unchanged(alternative)
			} else if err := w.alternative(alternative, &ts[n], c); err != nil {
				return err
			}
			n++
		} else {
			w.unchanged(alternative)
		}
		if i == len(text) {
			return nil
		}
		w.out, text = append(w.out, ','), text[i+1:]
	}
}

// unchanged writes an alternative as it is.
func (w *writer) unchanged(text []byte) {
	i := separator(text, ';')
	w.spec(text[:i], false)
	for i < len(text) {
		text = text[i+1:]
		i = separator(text, ';')
		w.out = append(w.out, ';')
		w.param(text[:i], readParam(text[:i]), nil)
	}
}

// alternative writes one that is changed; t is what was read of it.
func (w *writer) alternative(text []byte, t *Transport, c Change) error {
	begin := len(w.out)
	i := separator(text, ';')
	w.spec(text[:i], true)
	for i < len(text) {
		text = text[i+1:]
		i = separator(text, ';')
		p := readParam(text[:i])
		value, drop, err := t.change(p.kind, text[p.value.start:p.value.end], c)
		if err != nil {
			return err
		}
		if !drop {
			w.out = append(w.out, ';')
			w.param(text[:i], p, value)
		}
	}
	if len(bytes.Trim(w.out[begin:], lws)) == 0 {
		w.out = append(w.out, ';') // it had nothing but what was dropped: those behind it keep their index
	}
	return nil
}

// spec writes the specification. UDP is the default of RTP (RFC 2326 section 12.39).
func (w *writer) spec(text []byte, changed bool) {
	if w.level > levelPlain {
		text = bytes.Trim(text, lws)
	}
	if w.level == levelShort && changed && isRTPUDP(text) {
		text = text[:len(text)-len("/UDP")]
	}
	w.out = append(w.out, text...)
}

// isRTPUDP tells whether spec is "RTP/AVP/UDP", or another profile in the place of AVP.
func isRTPUDP(spec []byte) bool {
	n := len(spec) - len("/UDP")
	return n > len("RTP/") && is(spec[:len("RTP/")], "rtp/") && is(spec[n:], "/udp") && bytes.Count(spec, []byte{'/'}) == 2
}

// param writes a parameter, with another value where that isn't nil.
func (w *writer) param(text []byte, p param, value []byte) {
	if value == nil {
		value = text[p.value.start:p.value.end]
	}
	if w.level == levelPlain {
		w.out = append(w.out, text[:p.value.start]...)
		w.out = append(w.out, value...)
		w.out = append(w.out, text[p.value.end:]...)
		return
	}
	name, _, ok := bytes.Cut(text, []byte{'='})
	w.out = append(w.out, bytes.Trim(name, lws)...)
	if ok {
		w.out = append(w.out, '=')
		w.out = append(w.out, value...)
	}
}
