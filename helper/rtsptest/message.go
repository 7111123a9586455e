package rtsptest

import (
	"bufio"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"
)

// Message is a request or a response as it came.
type Message struct {
	Raw  string // byte for byte, with the body
	Line string // the first line
	head textproto.MIMEHeader
}

// Method returns a request's method, "" for a response.
func (m Message) Method() string {
	method, _, _ := strings.Cut(m.Line, " ")
	if strings.HasPrefix(method, "RTSP/") {
		return ""
	}
	return method
}

// Status returns a response's status, 0 for a request.
func (m Message) Status() int {
	fields := strings.Fields(m.Line)
	if len(fields) < 2 || !strings.HasPrefix(fields[0], "RTSP/") {
		return 0
	}
	status, _ := strconv.Atoi(fields[1])
	return status
}

// Version returns the message's protocol, e.g. "RTSP/1.0".
func (m Message) Version() string {
	for field := range strings.FieldsSeq(m.Line) {
		if strings.HasPrefix(field, "RTSP/") {
			return field
		}
	}
	return ""
}

// Header returns the value of a header, "" where there is none.
func (m Message) Header(name string) string { return m.head.Get(name) }

// Session returns the session's id.
func (m Message) Session() string {
	id, _, _ := strings.Cut(m.Header("Session"), ";")
	return strings.TrimSpace(id)
}

// Param returns the value of a parameter in the first alternative of the Transport header, without
// quotation marks around it.
func (m Message) Param(name string) string {
	first, _, _ := strings.Cut(m.Header("Transport"), ",")
	for param := range strings.SplitSeq(first, ";") {
		if k, v, _ := strings.Cut(param, "="); strings.EqualFold(strings.TrimSpace(k), name) {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return ""
}

// readMessage reads the next message, and calls frame for interleaved data before it.
func readMessage(r *bufio.Reader, frame func(channel byte, data []byte)) (Message, error) {
	for {
		b, err := r.Peek(1)
		if err != nil {
			return Message{}, err
		}
		if b[0] != '$' {
			break
		}
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return Message{}, err
		}
		data := make([]byte, int(head[2])<<8|int(head[3]))
		if _, err := io.ReadFull(r, data); err != nil {
			return Message{}, err
		}
		frame(head[1], data)
	}
	m := Message{head: textproto.MIMEHeader{}}
	var raw strings.Builder
	for {
		line, err := r.ReadString('\n')
		raw.WriteString(line)
		if err != nil {
			return Message{}, fmt.Errorf("in a message %q: %w", raw.String(), err)
		}
		line = strings.TrimRight(line, "\r\n")
		name, value, _ := strings.Cut(line, ":")
		switch {
		case line == "" && m.Line != "":
			length, _ := strconv.Atoi(m.Header("Content-Length"))
			if _, err := io.CopyN(&raw, r, int64(length)); err != nil {
				return Message{}, err
			}
			m.Raw = raw.String()
			return m, nil
		case m.Line == "":
			m.Line = line
		default:
			m.head.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
}
