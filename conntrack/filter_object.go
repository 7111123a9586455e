package conntrack

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FilterFromValue reads the object form: nil, a string (the text form), a map[string]any, or a
// []any of such maps. A field's value is a string, a number of any of Go's usual types or a
// json.Number, a bool for nat, or a []any of these. The error is a *FilterError.
func FilterFromValue(v any) (Filter, error) {
	switch v := v.(type) {
	case nil:
		return Filter{}, nil
	case string:
		return ParseFilter(v)
	case map[string]any:
		return filterFromObjects([]any{v})
	case []any:
		return filterFromObjects(v)
	case []map[string]any:
		objects := make([]any, len(v))
		for i := range v {
			objects[i] = v[i]
		}
		return filterFromObjects(objects)
	}
	return Filter{}, &FilterError{
		Msg:  "not a filter but " + valueName(v),
		Hint: `a filter is a text like "proto=tcp dport=80", an object like {"proto": "tcp", "dport": 80}, or an array of such objects`,
	}
}

func filterFromObjects(objects []any) (Filter, error) {
	var p filterParser
	for _, o := range objects {
		m, ok := o.(map[string]any)
		if !ok {
			return Filter{}, &FilterError{
				Msg:  "an array of filters holds objects, not " + valueName(o),
				Hint: `write [{"proto": "tcp"}, {"proto": "udp"}], or one text "proto=tcp or proto=udp"`,
			}
		}
		if len(m) == 0 && len(objects) == 1 {
			return Filter{}, nil
		}
		p.begin()
		if err := p.object(m); err != nil {
			return Filter{}, err
		}
		if err := p.end(); err != nil {
			return Filter{}, err
		}
	}
	return newFilter(p.clauses)
}

// object reads the fields of one object, in the order of the names so that the same error comes
// each time.
func (p *filterParser) object(m map[string]any) error {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		id, ok := lookupField(name)
		if !ok {
			return unknownField(name)
		}
		list, isList := m[name].([]any)
		if !isList {
			list = []any{m[name]}
		}
		texts := make([]string, len(list))
		for i, v := range list {
			text, ok := scalarText(v)
			if !ok {
				return &FilterError{
					Field: name, Msg: "not a value but " + valueName(v),
					Hint: "a value is a text, a number or a list of these; leave the field out where it doesn't matter",
				}
			}
			if p.size += len(text) + 1; p.size > MaxFilterText {
				return tooLong()
			}
			texts[i] = text
		}
		if err := p.term(id, texts...); err != nil {
			return err
		}
	}
	return nil
}

// scalarText returns a value of the object form as text.
func scalarText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		if f, err := v.Float64(); err == nil && strings.ContainsAny(string(v), ".eE") {
			return scalarText(f)
		}
		return string(v), true
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return "", false
		}
		if v == 0 {
			return "0", true // not -0
		}
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return fmt.Sprint(v), true
	}
	return "", false
}

// valueName names the kind of v for errors, with its article.
func valueName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a text"
	case bool:
		return "a boolean"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case json.Number, float64, int, int64, uint64:
		return "a number"
	case []byte:
		return "bytes"
	case time.Time:
		return "a time"
	}
	return fmt.Sprintf("%T", v)
}
