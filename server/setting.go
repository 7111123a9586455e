package server

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"ctd/rpc/wire"
)

// setting is one setting, a table of them, or a list of such tables.
type setting struct {
	path  []string     // the tables that it is in, and its own name
	index []int        // for reflect.Value.FieldByIndex on the struct of its table, or on settings
	in    reflect.Type // that struct, where it is one of a list; nil for settings
	typ   reflect.Type
	table bool
	list  bool // of tables
	flag  string
	doc   string
	enum  []string
	min   int64 // least value of a number
	max   int64 // greatest; 0 is no bound
	fixed bool  // a reload leaves it as it is
}

func (s *setting) key() string { return strings.Join(s.path, ".") }

func (s *setting) name() string { return s.path[len(s.path)-1] }

// value returns its field in s. A setting of a list's tables has none there.
func (s *setting) value(in *settings) reflect.Value {
	return reflect.ValueOf(in).Elem().FieldByIndex(s.index)
}

// allSettings returns the settings and tables in the order of the fields, a table before what is in it.
func allSettings() []setting {
	var all []setting
	var walk func(t, in reflect.Type, above setting)
	walk = func(t, in reflect.Type, above setting) {
		for i := range t.NumField() {
			f := t.Field(i)
			index := append(slices.Clone(above.index), i)
			if f.Anonymous { // its fields are this one's
				walk(f.Type, in, setting{path: above.path, index: index, fixed: above.fixed})
				continue
			}
			name := f.Tag.Get("toml")
			if name == "-" {
				continue
			}
			s := setting{
				path: append(slices.Clone(above.path), name), index: index, in: in,
				typ: f.Type, table: f.Type.Kind() == reflect.Struct,
				list: f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct,
				flag: f.Tag.Get("flag"), doc: f.Tag.Get("doc"), fixed: above.fixed || f.Tag.Get("reload") == "no",
			}
			if enum := f.Tag.Get("enum"); enum != "" {
				s.enum = strings.Split(enum, ",")
			}
			s.min, _ = strconv.ParseInt(f.Tag.Get("min"), 10, 64) // 0 where there is none
			s.max, _ = strconv.ParseInt(f.Tag.Get("max"), 10, 64)
			all = append(all, s)
			switch {
			case s.table:
				walk(f.Type, in, s)
			case s.list:
				below := s
				below.index = nil
				walk(f.Type.Elem(), f.Type.Elem(), below)
			}
		}
	}
	walk(reflect.TypeFor[settings](), nil, setting{})
	return all
}

// beneath returns those of all that are directly in the table at path.
func beneath(all []setting, path []string) []setting {
	var in []setting
	for _, s := range all {
		if slices.Equal(s.path[:len(s.path)-1], path) {
			in = append(in, s)
		}
	}
	return in
}

// words says what a setting may be.
func (s *setting) words() string {
	if s.list {
		return "tables, each with [[" + s.key() + "]] above it"
	}
	words := typeWords(s.typ, s.min)
	if s.max > 0 {
		words = strings.Replace(words, " on", fmt.Sprintf(" to %d", s.max), 1)
	}
	return words
}

func typeWords(t reflect.Type, least int64) string {
	switch t {
	case reflect.TypeFor[byteSize]():
		return `a size as "64M", or a number of bytes`
	case reflect.TypeFor[span]():
		return `a time as "90d" or "12h", or a number of seconds`
	}
	switch t.Kind() {
	case reflect.Struct:
		return "a table"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return "a list of texts in quotes"
		}
		return "a list of " + strings.TrimPrefix(strings.Replace(typeWords(t.Elem(), least), "number", "numbers", 1), "a ")
	case reflect.String:
		return "a text in quotes"
	case reflect.Bool:
		return "true or false"
	case reflect.Uint16, reflect.Uint32: // none may be 0, as it would stand for a default; see rtspSettings.config
		return fmt.Sprintf("a whole number from 1 to %d", uint64(1)<<t.Bits()-1)
	}
	return fmt.Sprintf("a whole number from %d on", least)
}

// defaultText is a value as the file has it.
func defaultText(v reflect.Value) (string, error) {
	if v.Kind() == reflect.Slice && v.IsNil() {
		return "[]", nil
	}
	b, err := toml.Marshal(map[string]any{"v": v.Interface()})
	return strings.TrimPrefix(strings.TrimSpace(string(b)), "v = "), err
}

// settingError is what is wrong with a setting.
type settingError struct {
	key  string // its name in the file
	text string
}

func (e *settingError) Error() string { return e.key + ": " + e.text }

// wrongf is a setting's error.
func wrongf(key, format string, args ...any) *settingError {
	return &settingError{key, fmt.Sprintf(format, args...)}
}

// eachValue calls fn with each setting that is no table and its value, those of a list's tables for each
// of them, and the way to it.
func (s *settings) eachValue(fn func(one *setting, at keyPath, v reflect.Value)) {
	all := allSettings()
	var walk func(path []string, at keyPath, from reflect.Value)
	walk = func(path []string, at keyPath, from reflect.Value) {
		for _, one := range beneath(all, path) {
			v, at := from.FieldByIndex(one.index), at.with(step{name: one.name()})
			switch {
			case one.table:
				walk(one.path, at, from)
			case one.list:
				for i := range v.Len() {
					at = slices.Clone(at)
					at[len(at)-1].of = i + 1
					walk(one.path, at, v.Index(i))
				}
			default:
				fn(&one, at, v)
			}
		}
	}
	walk(nil, nil, reflect.ValueOf(s).Elem())
}

// checkValues looks whether the settings that have few values have one of them, whether numbers are
// too small or too great, and whether texts have a NUL.
func (s *settings) checkValues() []*settingError {
	var wrong []*settingError
	s.eachValue(func(one *setting, at keyPath, v reflect.Value) {
		switch {
		case !v.CanInt():
		case one.typ == reflect.TypeFor[byteSize]() && v.Int() < one.min:
			wrong = append(wrong, wrongf(at.String(), "%v is below %v; leave the line out for the default", byteSize(v.Int()), byteSize(one.min)))
		case v.Int() < one.min && one.min > 0:
			wrong = append(wrong, wrongf(at.String(), "%d is below %d; leave the line out for the default", v.Int(), one.min))
		case v.Int() < one.min:
			wrong = append(wrong, wrongf(at.String(), "%d is below %d", v.Int(), one.min))
		case one.max > 0 && v.Int() > one.max:
			wrong = append(wrong, wrongf(at.String(), "%d is above %d", v.Int(), one.max))
		}
		values, ok := v.Interface().([]string)
		if !ok && v.Kind() == reflect.String {
			values = []string{v.String()}
		}
		if slices.ContainsFunc(values, func(value string) bool { return strings.Contains(value, "\x00") }) {
			wrong = append(wrong, wrongf(at.String(), "there is a NUL character in it, which no path or name has"))
			return
		}
		if one.enum == nil {
			return
		}
		for _, value := range values {
			if slices.Contains(one.enum, value) {
				continue
			}
			names := slices.DeleteFunc(slices.Clone(one.enum), func(name string) bool { return name == "" })
			e := wrongf(at.String(), "%q is none of %s", value, strings.Join(names, ", "))
			if value == "" {
				e.text = "one of " + strings.Join(names, ", ") + " is needed"
			}
			if near := wire.Nearest(value, names); near != "" {
				e.text += fmt.Sprintf("; did you mean %q?", near)
			}
			wrong = append(wrong, e)
		}
	})
	return wrong
}
