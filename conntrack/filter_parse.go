package conntrack

import (
	"fmt"
	"slices"
	"strings"
)

// filterSpace separates the words of the text form.
const filterSpace = " \t\r\n"

// ParseFilter reads the text form. Text without words is the zero Filter. The error is a
// *FilterError.
func ParseFilter(text string) (Filter, error) {
	if len(text) > MaxFilterText {
		return Filter{}, tooLong()
	}
	words, err := splitWords(text)
	if err != nil {
		return Filter{}, err
	}
	if len(words) == 0 {
		return Filter{}, nil
	}
	var p filterParser
	p.begin()
	for _, word := range words {
		if strings.EqualFold(word, "or") {
			err = p.end()
			p.begin()
		} else {
			err = p.word(word)
		}
		if err != nil {
			return Filter{}, err
		}
	}
	if err := p.end(); err != nil {
		return Filter{}, err
	}
	return newFilter(p.clauses)
}

// splitWords splits text at spaces that are not in quotes.
func splitWords(text string) ([]string, error) {
	var words []string
	start, quoted := -1, false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case !quoted && strings.IndexByte(filterSpace, c) >= 0:
			if start >= 0 {
				words = append(words, text[start:i])
				start = -1
			}
			continue
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		}
		if start < 0 {
			start = i
		}
	}
	if quoted {
		return nil, &FilterError{Value: clip(text[start:]), Msg: "the quote is not closed"}
	}
	if start >= 0 {
		words = append(words, text[start:])
	}
	return words, nil
}

// filterParser gathers clauses.
type filterParser struct {
	clauses []filterClause
	values  int // of all clauses
	size    int // bytes of values of the object form
}

// begin begins a clause.
func (p *filterParser) begin() { p.clauses = append(p.clauses, filterClause{}) }

// end ends the clause that was begun.
func (p *filterParser) end() error {
	c := &p.clauses[len(p.clauses)-1]
	if len(c.terms) == 0 {
		return &FilterError{
			Msg:  "an alternative without fields would match every flow",
			Hint: `leave the filter out to mean every flow; "or" stands between two alternatives`,
		}
	}
	if len(p.clauses) > MaxFilterClauses {
		return &FilterError{
			Msg:  fmt.Sprintf("more than %d alternatives", MaxFilterClauses),
			Hint: "put the values of one field in one list: src=10.0.0.1,10.0.0.2",
		}
	}
	slices.SortFunc(c.terms, func(a, b filterTerm) int { return int(a.field) - int(b.field) })
	return nil
}

// word reads field=values of the text form.
func (p *filterParser) word(word string) error {
	name, values, ok := strings.Cut(word, "=")
	if !ok {
		e := &FilterError{Value: clip(word), Msg: "not of the form field=value"}
		if i := strings.IndexAny(word, "<>"); i > 0 {
			e.Hint = "write " + clip(word[:i]+"="+word[i:])
		} else if _, known := lookupField(word); known {
			e.Hint = "say which values are meant, e.g. " + word + "=" + exampleOf(word)
		} else {
			e.Hint = "a list has no spaces (80,443), and a value with a space stands in double quotes"
		}
		return e
	}
	id, ok := lookupField(name)
	if !ok {
		bare := strings.TrimRight(name, "<>!")
		if _, known := lookupField(bare); known && bare != name {
			op := name[len(bare):]
			if op != "!" {
				op += "=" // bytes>=1M
			}
			return &FilterError{
				Value: clip(word), Msg: "not of the form field=value",
				Hint: "write " + clip(bare+"="+op+values),
			}
		}
		return unknownField(name)
	}
	return p.term(id, values)
}

func exampleOf(name string) string {
	id, _ := lookupField(name)
	return id.spec().Example
}

// term reads the values of one field; each text may be a list.
func (p *filterParser) term(id fieldID, texts ...string) error {
	c := &p.clauses[len(p.clauses)-1]
	spec := id.spec()
	for _, t := range c.terms {
		if t.field == id {
			return &FilterError{
				Field: spec.Name, Msg: "the field stands twice",
				Hint: "put its values in one list: " + spec.Name + "=A,B; for alternatives write or between them",
			}
		}
	}
	t := filterTerm{field: id}
	seen := make(map[string]bool)
	for _, text := range texts {
		for rest, more := text, true; more; {
			var raw rawValue
			var err error
			if raw, rest, more, err = nextValue(spec, rest); err != nil {
				return err
			}
			if p.values++; p.values > MaxFilterValues {
				return &FilterError{
					Field: spec.Name, Msg: fmt.Sprintf("more than %d values in the filter", MaxFilterValues),
					Hint: "use networks and ranges, or ask in several calls",
				}
			}
			v, err := parseValue(spec, raw)
			if err != nil {
				return err
			}
			key := v.text
			if v.not {
				key = "!" + key
			}
			if !seen[key] {
				seen[key] = true
				t.values = append(t.values, v)
			}
		}
	}
	if len(t.values) == 0 {
		return &FilterError{Field: spec.Name, Msg: "no value", Hint: "leave the field out where it doesn't matter"}
	}
	if err := checkCover(spec, t.values); err != nil {
		return err
	}
	c.terms = append(c.terms, t)
	return nil
}

// rawValue is one value as it stands in the text, without "!" and quotes.
type rawValue struct {
	not    bool
	quoted bool
	text   string
}

// nextValue takes the first value off a list; more tells whether a comma came after it.
func nextValue(spec *FilterField, list string) (v rawValue, rest string, more bool, err error) {
	s := strings.Trim(list, filterSpace)
	if strings.HasPrefix(s, "!") {
		v.not, s = true, strings.TrimLeft(s[1:], filterSpace)
	}
	bad := func(value, msg, hint string) (rawValue, string, bool, error) {
		return rawValue{}, "", false, &FilterError{Field: spec.Name, Value: clip(value), Msg: msg, Hint: hint}
	}
	if !strings.HasPrefix(s, `"`) {
		v.text, rest, more = strings.Cut(s, ",")
		v.text = strings.Trim(v.text, filterSpace)
		switch {
		case v.text == "":
			return bad("", "empty value", "e.g. "+spec.Name+"="+spec.Example+"; leave the field out where it doesn't matter")
		case strings.HasPrefix(v.text, "!"):
			return bad("!"+v.text, "negated twice", `one "!" is enough; a name that begins with it stands in double quotes`)
		case strings.Contains(v.text, `"`):
			return bad(v.text, "a quote inside a value", `put the whole value in quotes and write \" for a quote in it`)
		}
	} else {
		var b strings.Builder
		i := 1
		for ; i < len(s) && s[i] != '"'; i++ {
			if s[i] == '\\' {
				if i++; i == len(s) || s[i] != '"' && s[i] != '\\' {
					return bad(s, "an escape that there isn't", `inside quotes \" is a quote and \\ a backslash`)
				}
			}
			b.WriteByte(s[i])
		}
		if i == len(s) {
			return bad(s, "the quote is not closed", "")
		}
		v.text, v.quoted = b.String(), true
		rest = strings.TrimLeft(s[i+1:], filterSpace)
		if rest != "" && rest[0] != ',' {
			return bad(s, "text after the closing quote", "values are separated by commas")
		}
		rest, more = strings.CutPrefix(rest, ",")
		if v.text == "" {
			return bad("", "empty value", "")
		}
	}
	if !isText(v.text) {
		return bad(v.text, "not UTF-8 text without control characters", "")
	}
	return v, rest, more, nil
}
