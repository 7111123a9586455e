package rtsp

import "bytes"

// Unit is what a stream of RTSP consists of: a message, an interleaved frame or an empty line.
type Unit struct {
	Message *Message // a request or reply; nil for the others
	Blank   bool     // an empty line between messages
	Channel uint8    // of an interleaved frame
	Size    int64    // bytes of the whole unit, with body or data; may be more than there are yet
}

// frameHead is what begins an interleaved frame: '$', channel and length (RFC 2326 section 10.12,
// RFC 7826 section 14).
const frameHead = 4

// Next reads the first unit of buf, which begins at a boundary. A message is returned as soon as its
// head is whole, a frame with its fourth byte.
//
// An empty line (CRLF or LF) where a message could begin is a unit of its own, one line each:
// receivers skip them, and some clients send them to keep a connection alive.
//
// The error is ErrShort or wraps ErrMalformed, and the latter as early as the bytes tell: bytes that
// can't begin a start line need no line ending to be refused.
func Next(buf []byte) (Unit, error) {
	if len(buf) == 0 {
		return Unit{}, ErrShort
	}
	switch buf[0] {
	case '$':
		if len(buf) < frameHead {
			return Unit{}, ErrShort
		}
		return Unit{Channel: buf[1], Size: frameHead + int64(buf[2])<<8 + int64(buf[3])}, nil
	case '\n':
		return Unit{Blank: true, Size: 1}, nil
	case '\r':
		if len(buf) < 2 {
			return Unit{}, ErrShort
		}
		if buf[1] != '\n' {
			return Unit{}, malformed("a CR without LF")
		}
		return Unit{Blank: true, Size: 2}, nil
	}
	m := new(Message)
	at, err := m.startLine(buf)
	if err != nil {
		return Unit{}, err
	}
	m.Head = HeadEnd(buf[:min(len(buf), MaxHead)], at)
	if m.Head < 0 {
		if len(buf) >= MaxHead {
			return Unit{}, malformed("a head of more than %d bytes", MaxHead)
		}
		return Unit{}, ErrShort
	}
	if err := m.headers(buf[:m.Head], at); err != nil {
		return Unit{}, err
	}
	return Unit{Message: m, Size: int64(m.Head) + m.ContentLength}, nil
}

// HeadEnd finds where the head that begins at buf's first byte ends: the offset behind its empty
// line, or -1 where that hasn't come yet. The lines may end in CRLF or LF.
//
// It looks for an empty line that ends at byte from or later: who gets a few bytes at a time passes
// the length that buf had at the call before, and reads none twice but the last two.
func HeadEnd(buf []byte, from int) int {
	for at := max(0, from-2); at < len(buf); {
		i := bytes.IndexByte(buf[at:], '\n')
		if i < 0 {
			break
		}
		at += i + 1
		rest := buf[at:]
		switch {
		case len(rest) > 0 && rest[0] == '\n':
			return at + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return at + 2
		}
	}
	return -1
}
