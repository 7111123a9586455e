package helper

import "ctd/conntrack"

// edit is a piece of a stream that goes out as other text: the bytes from start up to end, by the
// numbers of their sender, as text. The text is never shorter. Where it is longer, all that is more
// comes out in place of the last byte. So a segment may begin and end anywhere and still say what
// those before and after it say, and the kernel's correction of sequence numbers, which knows one
// place, fits: what begins behind the last byte has a number that is higher by what was added.
type edit struct {
	start, end uint32
	text       []byte
}

// added returns how many bytes longer the text is.
func (e *edit) added() int { return len(e.text) - int(e.end-e.start) }

// rewrite returns what goes out for data, which begins at first: data itself where no edit touches it.
// The edits are in the order of the stream and don't overlap.
func rewrite(first uint32, data []byte, edits []edit) []byte {
	var out []byte
	rest, at := data, first // what isn't yet in out, and where it begins
	for i := range edits {
		e := &edits[i]
		last := at + uint32(len(rest))
		if !before(e.start, last) || !before(at, e.end) {
			continue
		}
		if skip := int32(e.start - at); skip > 0 {
			out = append(out, rest[:skip]...)
			rest, at = rest[skip:], e.start
		}
		from, to := int(at-e.start), min(int(e.end-e.start), int(last-e.start))
		text := e.text[from:to]
		if to == int(e.end-e.start) {
			text = e.text[from:]
		}
		out = append(out, text...)
		rest, at = rest[to-from:], at+uint32(to-from)
	}
	if out == nil {
		return data
	}
	return append(out, rest...)
}

// before compares sequence numbers, which wrap (RFC 9293 section 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }

// original returns the sender's own number of what its receiver acknowledges.
func original(s conntrack.SeqAdj, ack uint32) uint32 {
	if before(s.CorrectionPos, ack-uint32(s.OffsetBefore)) {
		return ack - uint32(s.OffsetAfter)
	}
	return ack - uint32(s.OffsetBefore)
}
