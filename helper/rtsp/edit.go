package rtsp

// Edit replaces a part of a message. The new text is as long as the old one or longer.
type Edit struct {
	Start, End int // bytes from the first of the message
	New        []byte
}

// Growth is by how many bytes an edit makes its message longer.
func (e Edit) Growth() int { return len(e.New) - (e.End - e.Start) }

// Apply returns msg with the edits, which are in order and don't overlap. It copies.
func Apply(msg []byte, edits []Edit) []byte {
	n := len(msg)
	for _, e := range edits {
		n += e.Growth()
	}
	out := make([]byte, 0, n)
	at := 0
	for _, e := range edits {
		out = append(out, msg[at:e.Start]...)
		out = append(out, e.New...)
		at = e.End
	}
	return append(out, msg[at:]...)
}
