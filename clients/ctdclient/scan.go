package ctdclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// scanBuffer is how much of a body is looked at at once.
const scanBuffer = 64 << 10

// maxScanDepth bounds the nesting of an answer.
const maxScanDepth = 64

// maxName bounds the names that the scanner remembers; longer ones are none of ours.
const maxName = 64

// writeError is an error of the writer, told apart from one of the answer.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }

// scanner copies the value of "result" out of a JSON-RPC response object byte by byte, without
// holding or decoding it. It follows strings and brackets, which is enough to know where the
// value ends and that the object is whole.
type scanner struct {
	w        io.Writer
	members  map[string]bool // names of the result's own members
	rpcError json.RawMessage // value of "error"
	matched  []byte          // digits of the result's "matched"

	stack     []byte // brackets that are open
	done      bool   // the response object has ended
	hasResult bool

	inString, escaped bool
	wantName, isName  bool   // an object's member name comes next, is being read
	name              []byte // of the string being read where isName
	member            string // the response object's member whose value is being read
	isMatched         bool   // the result's "matched" is being read
}

// copy reads r to its end.
func (s *scanner) copy(r io.Reader) error {
	s.members = map[string]bool{}
	buf := make([]byte, scanBuffer)
	for {
		n, err := r.Read(buf)
		if serr := s.scan(buf[:n]); serr != nil {
			return serr
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	switch {
	case !s.done:
		return io.ErrUnexpectedEOF
	case !s.hasResult && !isSet(s.rpcError):
		return errNoResult
	}
	return nil
}

// scan looks at one piece of the body. Runs of bytes that belong to a value are written at once.
func (s *scanner) scan(b []byte) error {
	start := 0
	for i, c := range b {
		if s.inString {
			s.inText(c)
			continue
		}
		// The response object's own punctuation and the spaces around its values are no part of
		// a value; a bracket that opens or ends a member's value is.
		depth := len(s.stack)
		if depth <= 1 && (c == ',' || c == ':' || c == '}' || c == '{' && depth == 0 || isSpace(c)) {
			if err := s.emit(b[start:i]); err != nil {
				return err
			}
			start = i + 1
			if c == ',' || c == '}' {
				s.member = ""
			}
		}
		if err := s.step(c); err != nil {
			return err
		}
	}
	return s.emit(b[start:])
}

// emit hands on bytes of the value of the current member.
func (s *scanner) emit(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	switch s.member {
	case "result":
		if _, err := s.w.Write(b); err != nil {
			return &writeError{err}
		}
	case "error":
		if len(s.rpcError)+len(b) > maxErrorBody {
			return errors.New("the error object is too large")
		}
		s.rpcError = append(s.rpcError, b...)
	}
	return nil
}

// inText follows a string.
func (s *scanner) inText(c byte) {
	switch {
	case s.escaped:
		s.escaped = false
	case c == '\\':
		s.escaped = true
	case c == '"':
		s.inString = false
		return
	}
	if s.isName && len(s.name) <= maxName {
		s.name = append(s.name, c)
	}
}

// step follows what stands outside strings.
func (s *scanner) step(c byte) error {
	if s.done && !isSpace(c) {
		return errors.New("something follows the response object")
	}
	switch c {
	case '"':
		s.inString = true
		s.isName = s.wantName
		s.wantName = false
		s.name = s.name[:0]
	case ':':
		if s.isName {
			s.named()
		}
		s.isName = false
	case ',':
		s.isMatched = false
		s.wantName = len(s.stack) > 0 && s.stack[len(s.stack)-1] == '{'
	case '{', '[':
		if len(s.stack) == maxScanDepth {
			return fmt.Errorf("nested deeper than %d", maxScanDepth)
		}
		s.stack = append(s.stack, c)
		s.wantName = c == '{'
	case '}', ']':
		if len(s.stack) == 0 || s.stack[len(s.stack)-1] != c-2 { // '{' '}' and '[' ']' lie 2 apart
			return fmt.Errorf("%q stands where it can't", c)
		}
		s.isMatched = false
		s.stack = s.stack[:len(s.stack)-1]
		s.wantName = false
		s.done = len(s.stack) == 0
	default:
		if len(s.stack) == 0 && !isSpace(c) {
			return fmt.Errorf("%q stands where a response object should", c)
		}
		if s.isMatched && !isSpace(c) && len(s.matched) < maxName {
			s.matched = append(s.matched, c)
		}
	}
	return nil
}

// named takes note of a member's name.
func (s *scanner) named() {
	switch len(s.stack) {
	case 1:
		s.member = string(s.name)
		s.hasResult = s.hasResult || s.member == "result"
	case 2:
		if s.member == "result" {
			s.members[string(s.name)] = true
			s.isMatched = string(s.name) == "matched"
		}
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }
