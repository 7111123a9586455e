package rtsp

import "bytes"

// Methods (RFC 2326 section 10, RFC 7826 section 13). They are compared by case.
const (
	MethodOptions      = "OPTIONS"
	MethodDescribe     = "DESCRIBE"
	MethodAnnounce     = "ANNOUNCE"
	MethodSetup        = "SETUP"
	MethodPlay         = "PLAY"
	MethodPlayNotify   = "PLAY_NOTIFY"
	MethodPause        = "PAUSE"
	MethodTeardown     = "TEARDOWN"
	MethodRecord       = "RECORD"
	MethodRedirect     = "REDIRECT"
	MethodGetParameter = "GET_PARAMETER"
	MethodSetParameter = "SET_PARAMETER"
)

const (
	protocolName = "RTSP"
	versionLen   = len("RTSP/1.0")
	statusDigits = 3
)

// startLine reads the first line of a message and returns where the next begins. It refuses as soon
// as a byte can't be part of a start line, before the line is whole.
func (m *Message) startLine(buf []byte) (int, error) {
	line, next, err := firstLine(buf)
	if err != nil {
		return 0, err
	}
	word := 0
	for word < len(line) && isToken(line[word]) {
		word++
	}
	switch {
	case word == 0 && len(line) > 0, word > MaxMethod:
		return 0, malformed("no method and no version at the beginning")
	case word == len(line):
		if next < 0 {
			return 0, ErrShort
		}
		return 0, malformed("a start line of one word")
	case line[word] == '/':
		if string(line[:word]) != protocolName {
			return 0, malformed("a reply of another protocol")
		}
		err = m.statusLine(line, next >= 0)
	case isSpace(line[word]):
		if next < 0 {
			return 0, ErrShort
		}
		m.Request, m.Method = true, string(line[:word])
		err = m.requestLine(line[word:])
	default:
		return 0, malformed("a byte that is in no method")
	}
	return next, err
}

// firstLine is the first line of buf, without its ending, and where the next begins. Where there is
// no line ending yet, the line is what there is and next is below 0.
func firstLine(buf []byte) (line []byte, next int, err error) {
	line, next = buf[:min(len(buf), MaxStartLine)], -1
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		line, next = line[:i], i+1
	} else if len(buf) >= MaxStartLine {
		return nil, 0, malformed("a start line of more than %d bytes", MaxStartLine)
	}
	// The CR may be the last byte so far, too: then it stands where LF may follow.
	line = bytes.TrimSuffix(line, []byte{'\r'})
	for _, b := range line {
		if b < ' ' && b != '\t' || b == 0x7f {
			return nil, 0, malformed("a control character in the start line")
		}
	}
	return line, next, nil
}

// statusLine reads "RTSP/1.0 200 OK". The reason may be missing.
func (m *Message) statusLine(line []byte, whole bool) error {
	short := ErrShort
	if whole {
		short = malformed("a status line that ends early")
	}
	if err := m.version(line[:min(len(line), versionLen)], short); err != nil {
		return err
	}
	rest := line[versionLen:]
	if len(rest) == 0 {
		return short
	}
	digits := bytes.TrimLeft(rest, " \t")
	if len(digits) == len(rest) {
		return malformed("no space behind the version")
	}
	for i := range statusDigits {
		if i == len(digits) {
			return short
		}
		if !isDigit(digits[i]) || i == 0 && digits[i] == '0' {
			return malformed("a status that is no number of three digits")
		}
		m.Status = m.Status*10 + int(digits[i]-'0')
	}
	if len(digits) == statusDigits {
		if whole {
			return nil
		}
		return short
	}
	if !isSpace(digits[statusDigits]) {
		return malformed("a status of more than three digits")
	}
	if !whole {
		return ErrShort
	}
	return nil
}

// requestLine reads what is behind the method. There are clients that don't escape spaces in their
// URI: it goes up to the last word, which is the version.
func (m *Message) requestLine(line []byte) error {
	line = bytes.Trim(line, " \t")
	i := bytes.LastIndexAny(line, " \t")
	if i < 0 {
		return malformed("a request line without URI or version")
	}
	version := line[i+1:]
	if len(version) != versionLen {
		return malformed("a request of another protocol")
	}
	m.URI = string(bytes.TrimRight(line[:i], " \t"))
	return m.version(version, nil)
}

// version reads "RTSP/1.0"; where that has only begun, the error is short.
func (m *Message) version(text []byte, short error) error {
	for i, b := range text {
		ok := true
		switch {
		case i < len(protocolName):
			ok = b == protocolName[i]
		case i == 4:
			ok = b == '/'
		case i == 5:
			ok = b == '1' || b == '2'
		case i == 6:
			ok = b == '.'
		case i == 7:
			ok = isDigit(b)
		}
		if !ok {
			return malformed("another protocol, or another version of it")
		}
	}
	if len(text) < versionLen {
		return short
	}
	m.Major, m.Minor = text[5]-'0', text[7]-'0'
	return nil
}
