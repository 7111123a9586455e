package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxLine bounds a line, with its line break, in bytes.
const maxLine = 16 << 10

// How many bytes of a record's texts are kept. Each may become six as JSON escapes it, and they
// must fit into maxLine together.
const (
	maxName   = 128 // principal
	maxShort  = 64  // role, via, from, protocol, method, id
	maxDetail = 256 // credential
	maxText   = 512 // reason, message
)

// maxStrangerParams bounds the parameters of a call by nobody.
const maxStrangerParams = 256

// line returns the record as a line with its line break, cut down to what is bounded.
func (r *Record) line() ([]byte, error) {
	c := *r
	for _, s := range []struct {
		text *string
		most int
	}{
		{&c.ID, maxShort},
		{&c.Principal, maxName},
		{&c.Role, maxShort},
		{&c.Via, maxShort},
		{&c.Credential, maxDetail},
		{&c.From, maxShort},
		{&c.Protocol, maxShort},
		{&c.Method, maxShort},
		{&c.Reason, maxText},
		{&c.Outcome, maxShort},
		{&c.Message, maxText},
	} {
		*s.text = cut(*s.text, s.most)
	}
	if len(c.Params) > 0 && !json.Valid(c.Params) {
		c.Params, c.ParamsTruncated = quote(string(c.Params)), true
	}
	if c.Via == "" && len(c.Params) > maxStrangerParams {
		c.Params, c.ParamsTruncated = quote(cut(string(c.Params), maxStrangerParams)), true
	}
	text, err := c.encode()
	for err == nil && len(text) > maxLine && len(c.Flows) > 0 {
		c.Flows, c.FlowsTruncated = c.Flows[:len(c.Flows)/2], true
		text, err = c.encode()
	}
	if err == nil && len(text) > maxLine {
		c.Params, c.ParamsTruncated = quote(cut(string(c.Params), maxText)), true
		text, err = c.encode()
	}
	return text, err
}

// encode returns the record as a line. JSON escapes what would break it.
func (r *Record) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // filters have > and <
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("encode a record: %w", err)
	}
	return b.Bytes(), nil
}

// quote returns a text as JSON.
func quote(s string) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a text always can be
	return bytes.TrimSpace(b.Bytes())
}

// cut returns the beginning of a text, without half a letter at its end.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = s[:most]
	for i := 0; i < utf8.UTFMax && len(s) > 0; i++ {
		if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return strings.ToValidUTF8(s, "?")
}
