package server

import (
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// step is one part of the way to a key: its name and, where that is a list of tables, which of them.
type step struct {
	name string
	of   int // counted from 1; 0 is no table of a list
}

// keyPath is the way to a key.
type keyPath []step

// String returns the way as errors have it: tables of a list are counted from 0.
func (p keyPath) String() string {
	var b strings.Builder
	for i, s := range p {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(s.name)
		if s.of > 0 {
			b.WriteString("[" + strconv.Itoa(s.of-1) + "]")
		}
	}
	return b.String()
}

// names returns the way without the numbers.
func (p keyPath) names() []string {
	names := make([]string, len(p))
	for i, s := range p {
		names[i] = s.name
	}
	return names
}

// with returns the way to what is below. It shares nothing with p.
func (p keyPath) with(s step) keyPath { return append(slices.Clip(p), s) }

// belowAny tells whether the way leads through another one's end, or to it; where that is a list of tables,
// through any of them.
func (p keyPath) belowAny(above keyPath) bool {
	last := len(above) - 1
	return len(p) > last && slices.Equal(p[:last], above[:last]) && p[last].name == above[last].name
}

// parseKeyPath reads what String writes, for keys of settings: these have neither dots nor brackets.
func parseKeyPath(key string) keyPath {
	var p keyPath
	for part := range strings.SplitSeq(key, ".") {
		s := step{name: part}
		if name, number, ok := strings.Cut(strings.TrimSuffix(part, "]"), "["); ok {
			if n, err := strconv.Atoi(number); err == nil {
				s = step{name, n + 1}
			}
		}
		p = append(p, s)
	}
	return p
}

// keyLine is where a key stands in a file.
type keyLine struct {
	path keyPath
	line int // counted from 1
}

// keyLines returns the keys of a text in their order, each with the line where it first stands: tables that
// are only named on the way to others too, and each table of a list. The text must be right, as the decoder
// says: the decoder itself tells where a key is only of the last table of a list.
func keyLines(text string) []keyLine {
	s := &keyScanner{text: text, line: 1, seen: map[string]bool{}, tables: map[string]int{}}
	// As the decoder does with a byte order mark.
	for _, mark := range []string{"\xff\xfe", "\xfe\xff", "\xef\xbb\xbf"} {
		if rest, ok := strings.CutPrefix(text, mark); ok {
			s.text = rest
			break
		}
	}
	s.document()
	return s.keys
}

// keyScanner finds keys in a text (https://toml.io/en/v1.0.0) that is known to be right.
type keyScanner struct {
	text   string // what is left
	line   int
	keys   []keyLine
	seen   map[string]bool // paths of keys
	tables map[string]int  // lists of tables that have headers, by path: how many there are yet
	inner  int             // how deep it is in lists of lists, where keys aren't noted
}

// note adds a key, unless it was named before.
func (s *keyScanner) note(p keyPath, line int) {
	// Names in quotes may have any character, so that String could mean two of them.
	key := toml.Key(p.names()).String() + " " + p.String()
	if s.inner == 0 && !s.seen[key] {
		s.seen[key] = true
		s.keys = append(s.keys, keyLine{p, line})
	}
}

// next takes one character.
func (s *keyScanner) next() byte {
	if s.text == "" {
		return 0
	}
	c := s.text[0]
	s.text = s.text[1:]
	if c == '\n' {
		s.line++
	}
	return c
}

// take takes a text where it comes next.
func (s *keyScanner) take(text string) bool {
	if !strings.HasPrefix(s.text, text) {
		return false
	}
	for range len(text) {
		s.next()
	}
	return true
}

// space takes spaces, and with lines also ends of lines and comments.
func (s *keyScanner) space(lines bool) {
	for s.text != "" {
		switch c := s.text[0]; {
		case c == ' ' || c == '\t' || c == '\r' || lines && c == '\n':
			s.next()
		case lines && c == '#':
			s.comment()
		default:
			return
		}
	}
}

func (s *keyScanner) comment() {
	for s.text != "" && s.text[0] != '\n' {
		s.next()
	}
}

func (s *keyScanner) document() {
	var table keyPath
	for s.space(true); s.text != ""; s.space(true) {
		if s.text[0] == '[' {
			table = s.header()
		} else {
			s.pair(table)
		}
	}
}

// header takes [a.b] or [[a.b]] and returns the way to the table.
func (s *keyScanner) header() keyPath {
	line := s.line
	list := s.take("[[")
	if !list {
		s.next()
	}
	names := s.names()
	s.take("]")
	if list {
		s.take("]")
	}
	var p keyPath
	for i, name := range names {
		p = p.with(step{name: name})
		s.note(p, line)
		key := toml.Key(p.names()).String() + " " + p.String()
		if list && i == len(names)-1 {
			s.tables[key]++
		}
		if n := s.tables[key]; n > 0 {
			p = slices.Clone(p) // what was noted stays
			p[i].of = n
			s.note(p, line)
		}
	}
	return p
}

// pair takes a key and its value.
func (s *keyScanner) pair(table keyPath) {
	line := s.line
	p := table
	for _, name := range s.names() {
		p = p.with(step{name: name})
		s.note(p, line)
	}
	s.take("=")
	s.space(false)
	s.value(p)
}

// names takes a key with dots.
func (s *keyScanner) names() []string {
	var names []string
	for {
		s.space(false)
		names = append(names, s.name())
		s.space(false)
		if !s.take(".") {
			return names
		}
	}
}

// name takes one name: bare, or in quotes.
func (s *keyScanner) name() string {
	if s.text != "" && (s.text[0] == '"' || s.text[0] == '\'') {
		before := s.text
		s.quoted()
		quoted := before[:len(before)-len(s.text)]
		// What escapes stand for, the decoder knows.
		var v struct{ K string }
		if _, err := toml.Decode("K = "+quoted, &v); err != nil {
			return quoted
		}
		return v.K
	}
	before := s.text
	for s.text != "" && !strings.ContainsRune(" \t\r\n.=]", rune(s.text[0])) {
		s.next()
	}
	return before[:len(before)-len(s.text)]
}

// quoted takes a text in quotes of any of the four kinds.
func (s *keyScanner) quoted() {
	for _, quote := range []string{`"""`, `'''`, `"`, `'`} {
		// Two quotes are an empty text, not the beginning of a long one.
		if !s.take(quote) {
			continue
		}
		for s.text != "" && !s.take(quote) {
			if s.next() == '\\' && quote[0] == '"' {
				s.next()
			}
		}
		if len(quote) == 3 { // a long text may end with up to two more
			for range 2 {
				s.take(quote[:1])
			}
		}
		return
	}
}

// value takes a value; p is the way to it.
func (s *keyScanner) value(p keyPath) {
	if s.text == "" {
		return
	}
	switch s.text[0] {
	case '"', '\'':
		s.quoted()
	case '{':
		s.next()
		for s.space(true); s.text != "" && !s.take("}"); s.space(true) {
			s.pair(p)
			s.space(true)
			s.take(",")
		}
	case '[':
		s.next()
		n := 0
		for s.space(true); s.text != "" && !s.take("]"); s.space(true) {
			n++
			if s.text[0] == '{' {
				at := slices.Clone(p)
				at[len(at)-1].of = n
				s.note(at, s.line)
				s.value(at)
			} else { // nothing has lists of lists, whose tables would need two numbers
				s.inner++
				s.value(p)
				s.inner--
			}
			s.space(true)
			s.take(",")
		}
	default: // a number, a date, true or false
		for s.text != "" && !strings.ContainsRune(",]}#\n", rune(s.text[0])) {
			s.next()
		}
	}
}
