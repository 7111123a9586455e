package rtsp

import "bytes"

// lws is linear white space as it occurs in the value of a header: spaces, tabs and the line endings
// of continued lines.
const lws = " \t\r\n"

func isSpace(b byte) bool { return b == ' ' || b == '\t' }

func isLWS(b byte) bool { return b == ' ' || b == '\t' || b == '\r' || b == '\n' }

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// isToken tells whether b may be in a token (RFC 2326 section 15.1).
func isToken(b byte) bool {
	switch {
	case b >= 'A' && b <= 'Z', b >= 'a' && b <= 'z', b >= '0' && b <= '9':
		return true
	}
	switch b {
	case '!', '#', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return false
}

// is compares a name with one in lower case, whatever its own case.
func is(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, b := range name {
		if b >= 'A' && b <= 'Z' {
			b += 'a' - 'A'
		}
		if b != lower[i] {
			return false
		}
	}
	return true
}

// clean is text for people: at most MaxText bytes, printable ASCII. Other bytes become '?', and white
// space a space each.
func clean(text []byte) string {
	text = bytes.Trim(text, lws)
	text = text[:min(len(text), MaxText)]
	out := make([]byte, len(text))
	for i, b := range text {
		switch {
		case isLWS(b):
			b = ' '
		case b < ' ' || b > '~':
			b = '?'
		}
		out[i] = b
	}
	return string(out)
}

// unquote takes one pair of quotes away, and white space around and in them.
func unquote(text []byte) []byte {
	s := inner(text)
	return text[s.start:s.end]
}

// inner is where the text stands that unquote returns.
func inner(text []byte) span {
	s := trimmed(text, span{end: len(text)})
	if s.end-s.start >= 2 && text[s.start] == '"' && text[s.end-1] == '"' {
		s = trimmed(text, span{start: s.start + 1, end: s.end - 1})
	}
	return s
}

// trimmed is s without the white space at its ends.
func trimmed(text []byte, s span) span {
	for s.start < s.end && isLWS(text[s.start]) {
		s.start++
	}
	for s.end > s.start && isLWS(text[s.end-1]) {
		s.end--
	}
	return s
}

// number reads decimal digits and nothing else, up to most.
func number(text []byte, most uint64) (uint64, bool) {
	if len(text) == 0 {
		return 0, false
	}
	var n uint64
	for _, b := range text {
		if !isDigit(b) {
			return 0, false
		}
		d := uint64(b - '0')
		if n > (most-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}
