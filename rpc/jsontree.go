package rpc

import (
	"encoding/json"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"ctd/rpc/wire"
)

// Limits of a request, in either protocol.
const (
	maxDepth  = 64      // objects and lists inside each other
	maxValues = 1 << 20 // values, those in objects and lists counted too
	maxText   = 1 << 20 // bytes of one text, as it is sent
)

// parseJSON reads one JSON text, RFC 8259, to a tree of map[string]any, []any, string,
// json.Number, bool and nil; objects and lists that are items of a list are wire.Packed. It is stricter than encoding/json: duplicate members, bytes that
// are no UTF-8 and halves of surrogate pairs are errors, and a number keeps its text.
func parseJSON(text []byte, c *claim) (any, *wire.Error) {
	if !utf8.Valid(text) {
		return nil, parseError("the text is not UTF-8")
	}
	p := &jsonParser{text: text, claim: c}
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if p.space(); p.at != len(text) {
		return nil, p.unexpected("the end")
	}
	return v, nil
}

type jsonParser struct {
	text   []byte
	at     int
	values int
	claim  *claim
}

func (p *jsonParser) unexpected(want string) *wire.Error {
	if p.at >= len(p.text) {
		return parseError("the text ends at byte %d, want %s", p.at, want)
	}
	r, _ := utf8.DecodeRune(p.text[p.at:])
	return parseError("%q at byte %d, want %s", r, p.at, want)
}

func (p *jsonParser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// peek returns the byte that comes next, after space; 0 at the end.
func (p *jsonParser) peek() byte {
	p.space()
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *jsonParser) value(depth int) (any, *wire.Error) {
	if p.values++; p.values > maxValues {
		return nil, tooMany("values", maxValues)
	}
	if err := p.claim.take(valueMemory); err != nil {
		return nil, err
	}
	switch c := p.peek(); {
	case (c == '{' || c == '[') && depth == maxDepth:
		return nil, tooDeep()
	case c == '{':
		return p.object(depth + 1)
	case c == '[':
		return p.list(depth + 1)
	case c == '"':
		return p.str()
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	case c == 't':
		return true, p.word("true")
	case c == 'f':
		return false, p.word("false")
	case c == 'n':
		return nil, p.word("null")
	}
	return nil, p.unexpected("a value")
}

func tooDeep() *wire.Error {
	return &wire.Error{Code: wire.LimitExceeded, Message: "nested deeper than " + strconv.Itoa(maxDepth)}
}

func tooLong() *wire.Error {
	return &wire.Error{Code: wire.LimitExceeded, Message: "a text is longer than " + strconv.Itoa(maxText) + " bytes"}
}

func tooMany(what string, limit int) *wire.Error {
	return &wire.Error{
		Code: wire.LimitExceeded, Message: "more than " + strconv.Itoa(limit) + " " + what + " in one request",
		Hint: "split it into several",
	}
}

func (p *jsonParser) word(w string) *wire.Error {
	for i := range len(w) {
		if p.at >= len(p.text) || p.text[p.at] != w[i] {
			return p.unexpected(w)
		}
		p.at++
	}
	return nil
}

func (p *jsonParser) object(depth int) (any, *wire.Error) {
	p.at++
	if err := p.claim.take(objectMemory); err != nil {
		return nil, err
	}
	members := make(map[string]any)
	if p.peek() == '}' {
		p.at++
		return members, nil
	}
	for {
		if p.peek() != '"' {
			return nil, p.unexpected("a member's name")
		}
		name, err := p.str()
		if err != nil {
			return nil, err
		}
		if _, twice := members[name]; twice {
			return nil, invalidRequest("member %s is given twice", quoted(name))
		}
		if err := p.claim.take(memberMemory); err != nil {
			return nil, err
		}
		if p.peek() != ':' {
			return nil, p.unexpected("a colon")
		}
		p.at++
		if members[name], err = p.value(depth); err != nil {
			return nil, err
		}
		switch p.peek() {
		case ',':
			p.at++
		case '}':
			p.at++
			return members, nil
		default:
			return nil, p.unexpected("a comma or }")
		}
	}
}

func (p *jsonParser) list(depth int) (any, *wire.Error) {
	p.at++
	items := []any{}
	if p.peek() == ']' {
		p.at++
		return items, nil
	}
	for {
		before := p.claim.mark()
		item, err := p.value(depth)
		if err == nil {
			item, err = p.claim.item(item, before)
		}
		if err != nil {
			return nil, err
		}
		items = append(items, item)
		switch p.peek() {
		case ',':
			p.at++
		case ']':
			p.at++
			return items, nil
		default:
			return nil, p.unexpected("a comma or ]")
		}
	}
}

// number reads -? (0 | [1-9][0-9]*) (.[0-9]+)? ([eE][+-]?[0-9]+)?
func (p *jsonParser) number() (any, *wire.Error) {
	start := p.at
	if p.text[p.at] == '-' {
		p.at++
	}
	if p.at < len(p.text) && p.text[p.at] == '0' {
		p.at++
	} else if !p.digits() {
		return nil, p.unexpected("a digit")
	}
	if p.at < len(p.text) && p.text[p.at] == '.' {
		p.at++
		if !p.digits() {
			return nil, p.unexpected("a digit")
		}
	}
	if p.at < len(p.text) && (p.text[p.at] == 'e' || p.text[p.at] == 'E') {
		p.at++
		if p.at < len(p.text) && (p.text[p.at] == '+' || p.text[p.at] == '-') {
			p.at++
		}
		if !p.digits() {
			return nil, p.unexpected("a digit")
		}
	}
	return json.Number(p.text[start:p.at]), nil
}

func (p *jsonParser) digits() bool {
	start := p.at
	for p.at < len(p.text) && '0' <= p.text[p.at] && p.text[p.at] <= '9' {
		p.at++
	}
	return p.at > start
}

func (p *jsonParser) str() (string, *wire.Error) {
	p.at++
	begin, start := p.at, p.at
	var unescaped []byte // nil as long as nothing was escaped
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == '"':
			s := p.text[start:p.at]
			p.at++
			if err := p.claim.take(textMemory * (len(s) + len(unescaped))); err != nil {
				return "", err
			}
			if unescaped == nil {
				return string(s), nil
			}
			return string(append(unescaped, s...)), nil
		case p.at-begin > maxText:
			return "", tooLong()
		case c < ' ':
			return "", p.unexpected("no control character in a string")
		case c == '\\':
			r, err := p.escape(append(unescaped, p.text[start:p.at]...))
			if err != nil {
				return "", err
			}
			unescaped, start = r, p.at
		default:
			p.at++
		}
	}
	return "", p.unexpected("the end of the string")
}

// escape appends what the escape sequence that begins here stands for.
func (p *jsonParser) escape(b []byte) ([]byte, *wire.Error) {
	p.at++
	if p.at >= len(p.text) {
		return nil, p.unexpected("an escape sequence")
	}
	c := p.text[p.at]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		return p.unicode(b)
	default:
		return nil, p.unexpected("an escape sequence")
	}
	p.at++
	return append(b, c), nil
}

// unicode reads uXXXX, or a pair of them with the backslash between.
func (p *jsonParser) unicode(b []byte) ([]byte, *wire.Error) {
	r, ok := p.hex4()
	if !ok {
		return nil, p.unexpected("u and four hexadecimal digits")
	}
	if utf16.IsSurrogate(r) {
		var low rune
		if p.at < len(p.text) && p.text[p.at] == '\\' {
			p.at++
			low, ok = p.hex4()
		}
		if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
			return nil, parseError("half of a surrogate pair before byte %d", p.at)
		}
	}
	return utf8.AppendRune(b, r), nil
}

func (p *jsonParser) hex4() (rune, bool) {
	if p.at+5 > len(p.text) || p.text[p.at] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range p.text[p.at+1 : p.at+5] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	p.at += 5
	return r, true
}
