package rtsp

import "bytes"

// field is a header: a line and those that continue it, which begin with white space.
type field struct {
	name       []byte // without the white space before the colon; nil in a line without colon
	start, end int    // of the value: from its first byte that isn't white space to the last line's end
}

// nextField reads the header whose line begins at byte at of head, and returns where the next line
// begins: len(head) where head ends before it is known that this one isn't continued.
func nextField(head []byte, at int) (field, int) {
	end, next := lineEnd(head, at)
	var f field
	colon := bytes.IndexByte(head[at:end], ':')
	if colon >= 0 {
		f.name = bytes.TrimRight(head[at:at+colon], " \t")
	}
	for next < len(head) && isSpace(head[next]) {
		end, next = lineEnd(head, next)
	}
	f.start, f.end = end, end
	if colon >= 0 {
		f.start = at + colon + 1
		for f.start < end && isLWS(head[f.start]) {
			f.start++
		}
	}
	return f, next
}

// lineEnd finds where the line at byte at ends, without CR and LF, and where the next begins.
func lineEnd(head []byte, at int) (end, next int) {
	i := bytes.IndexByte(head[at:], '\n')
	if i < 0 {
		return len(head), len(head)
	}
	end, next = at+i, at+i+1
	if end > at && head[end-1] == '\r' {
		end--
	}
	return end, next
}

// blankLine tells whether b begins with an empty line.
func blankLine(b []byte) bool {
	return len(b) > 0 && b[0] == '\n' || len(b) > 1 && b[0] == '\r' && b[1] == '\n'
}

// Undecided returns the offset in a head that isn't whole yet (Next gave ErrShort) from which on
// bytes may still be rewritten: where the value of its first Transport header begins. It is len(buf)
// where no byte of such a value has come: what comes before a value is never changed, so a header
// whose name or colon is still to come holds nothing up.
func Undecided(buf []byte) int {
	head := buf[:min(len(buf), MaxHead)]
	at := bytes.IndexByte(head, '\n') + 1
	if at == 0 {
		return len(buf)
	}
	for n := 0; n < MaxHeaders && at < len(head) && !blankLine(head[at:]); n++ {
		f, next := nextField(head, at)
		if is(f.name, "transport") && f.start < f.end {
			return f.start
		}
		at = next
	}
	return len(buf)
}
