package rtsp

// Ports are one port or two, as in "client_port=5000-5001". The zero value is none.
type Ports struct {
	First, Last uint16 // equal where a single port is written
	Sep         byte   // '-' or '/'; 0 where a single port is written
}

// Count is how many ports are written: 0, 1 or 2. A pair of twice the same port counts as 2, and so
// does a range of more, of which only the ends are written: see Span.
func (p Ports) Count() int {
	switch {
	case p == Ports{}:
		return 0
	case p.Sep == 0:
		return 1
	}
	return 2
}

// Span is how many ports are meant: those from First to Last for "a-b", else as many as are written.
// It is 0 for a range that ends before it begins.
func (p Ports) Span() int {
	if p.Sep != '-' {
		return p.Count()
	}
	return max(0, int(p.Last)-int(p.First)+1)
}

// portsText is how ports are written: the offsets of the digits of each.
type portsText struct {
	Ports
	first, last span
}

// readPorts reads "5000", "5000-5001" or "5000/5001", with quotes or white space around any part.
// What can't be read is none.
func readPorts(text []byte) portsText {
	var p portsText
	i := skip(text, 0, lws+`"`)
	var ok bool
	if p.First, p.first, i, ok = readPort(text, i); !ok {
		return portsText{}
	}
	p.Last, p.last = p.First, p.first
	j := skip(text, i, lws)
	if j < len(text) && (text[j] == '-' || text[j] == '/') {
		p.Sep = text[j]
		if p.Last, p.last, i, ok = readPort(text, skip(text, j+1, lws)); !ok {
			return portsText{}
		}
	}
	if skip(text, i, lws+`"`) != len(text) {
		return portsText{}
	}
	return p
}

// readPort reads the digits at byte i of text and returns where they end.
func readPort(text []byte, i int) (port uint16, s span, next int, ok bool) {
	s.start = i
	for i < len(text) && isDigit(text[i]) {
		i++
	}
	s.end = i
	port, ok = portNumber(text[s.start:s.end])
	return port, s, i, ok && port != 0
}

// portNumber reads a port of at most five digits.
func portNumber(digits []byte) (uint16, bool) {
	if len(digits) > 5 {
		return 0, false
	}
	n, ok := number(digits, 1<<16-1)
	return uint16(n), ok
}

// skip is the offset of the first byte of text from i on that isn't one of set.
func skip(text []byte, i int, set string) int {
	for ; i < len(text); i++ {
		if !contains(set, text[i]) {
			break
		}
	}
	return i
}

func contains(set string, b byte) bool {
	for i := range len(set) {
		if set[i] == b {
			return true
		}
	}
	return false
}
