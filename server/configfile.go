package server

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"ctd/auth"
	"ctd/rpc/wire"
)

// DefaultConfigFile is read where it is there and no other is named.
const DefaultConfigFile = "/etc/ctd/ctd.toml"

// maxConfigFile bounds what is read of a configuration file.
const maxConfigFile = 1 << 20

// errNoTable says that a value is something else.
var errNoTable = errors.New("no table")

// configFile is a configuration file that was read. One that isn't there has no settings.
type configFile struct {
	name  string
	there bool
	mode  fs.FileMode
	meta  toml.MetaData
	tree  map[string]toml.Primitive
	keys  []keyLine
	noted map[string]bool // keys of which is said already what is wrong with them
}

// readConfigFile reads a file into s, which has the defaults. With an empty name that is
// DefaultConfigFile, which need not be there. The errors are all that is wrong with it.
func readConfigFile(name string, s *settings) (*configFile, []error) {
	f := &configFile{name: name}
	if name == "" {
		f.name = DefaultConfigFile
	}
	text, err := f.read()
	if name == "" && errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, []error{err}
	}
	return f, f.decode(text, s)
}

// read returns the file's text.
func (f *configFile) read() (string, error) {
	text, fi, err := readFile(f.name, maxConfigFile)
	if err != nil {
		return "", err
	}
	f.there, f.mode = true, fi.Mode()
	return string(text), nil
}

// decode reads text into s, as far as it is right.
func (f *configFile) decode(text string, s *settings) []error {
	if err := auth.CheckTOMLDepth(text); err != nil {
		return []error{f.syntaxError(err)}
	}
	var err error
	if f.meta, err = toml.Decode(text, &f.tree); err != nil {
		return []error{f.syntaxError(err)}
	}
	f.keys = keyLines(text)
	all := allSettings()
	wrong := f.unknown(all)
	return append(wrong, f.decodeTable(all, nil, nil, f.tree, reflect.ValueOf(s).Elem())...)
}

// decodeTable reads a table, which is at a path of settings, and at a place in the file. into is the struct
// that indices of its settings are for.
func (f *configFile) decodeTable(all []setting, path []string, at keyPath, tree map[string]toml.Primitive, into reflect.Value) []error {
	var wrong []error
	for _, one := range beneath(all, path) {
		value, ok := tree[one.name()]
		if !ok {
			continue
		}
		at, field := at.with(step{name: one.name()}), into.FieldByIndex(one.index)
		var err error
		switch {
		case one.table:
			var below map[string]toml.Primitive
			// The decoder takes what is no table for none.
			if err = f.meta.PrimitiveDecode(value, &below); err == nil && below == nil {
				err = errNoTable
			}
			if err == nil {
				wrong = append(wrong, f.decodeTable(all, one.path, at, below, into)...)
			}
		case one.list:
			var below []map[string]toml.Primitive
			if err = f.meta.PrimitiveDecode(value, &below); err != nil {
				break
			}
			if slices.ContainsFunc(below, func(tree map[string]toml.Primitive) bool { return tree == nil }) {
				err = errNoTable
				break
			}
			for i, tree := range below {
				at, each := slices.Clone(at), reflect.New(one.typ.Elem()).Elem()
				at[len(at)-1].of = i + 1
				wrong = append(wrong, f.decodeTable(all, one.path, at, tree, each)...)
				field.Set(reflect.Append(field, each))
			}
		default:
			err = f.meta.PrimitiveDecode(value, field.Addr().Interface())
		}
		if err != nil {
			wrong = append(wrong, f.wrong(at, "want %s", one.words()))
		}
	}
	return wrong
}

func (f *configFile) syntaxError(err error) error {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%s:%d: %s", f.name, parse.Position.Line, auth.WithoutValues(parse.Message))
	}
	return fmt.Errorf("%s: %w", f.name, err)
}

// unknown returns an error for each key that is no setting, but not for those below one of them.
func (f *configFile) unknown(all []setting) []error {
	var wrong []error
	var told []keyPath
	for _, key := range f.keys {
		if slices.ContainsFunc(told, key.path.belowAny) {
			continue
		}
		names := key.path.names()
		at := slices.IndexFunc(all, func(s setting) bool { return slices.Equal(s.path, names) })
		if at >= 0 {
			if !all[at].table && !all[at].list { // what is below was no table, which decode tells
				told = append(told, key.path)
			}
			continue
		}
		told = append(told, key.path)
		text := "there is no such setting"
		if near := nearestSetting(names, all); near == names[len(names)-1] { // the same word, of another place
			text += " in this table; " + ownPlace(near, all)
		} else if near != "" {
			text += fmt.Sprintf("; did you mean %s?", near)
		}
		wrong = append(wrong, f.wrong(key.path, "%s", text))
	}
	return wrong
}

// nearestSetting returns the setting that a key is most likely meant for: by its own name among those of
// its table, else among all.
func nearestSetting(key []string, all []setting) string {
	own := key[len(key)-1]
	var beside, whole []string
	for _, s := range all {
		if slices.Equal(s.path[:len(s.path)-1], key[:len(key)-1]) {
			beside = append(beside, s.path[len(s.path)-1])
		}
		whole = append(whole, s.key())
	}
	if near := wire.Nearest(own, beside); near != "" {
		return near
	}
	if near := wire.Nearest(strings.Join(key, "."), whole); near != "" {
		return near
	}
	// One that stands in the wrong table.
	for _, s := range all {
		if s.path[len(s.path)-1] == own {
			return s.key()
		}
	}
	return ""
}

// ownPlace says where a setting stands that is in no table.
func ownPlace(name string, all []setting) string {
	switch at := slices.IndexFunc(all, func(s setting) bool { return s.key() == name }); {
	case at >= 0 && all[at].table:
		return fmt.Sprintf("%s is a table of its own: [%[1]s]", name)
	case at >= 0 && all[at].list:
		return fmt.Sprintf("%s is a list of tables of its own: [[%[1]s]]", name)
	}
	return name + " stands at the beginning of the file, before the first table"
}

// line returns the line of a key, 0 where it isn't in the file.
func (f *configFile) line(path keyPath) int {
	for _, k := range f.keys {
		if slices.Equal(k.path, path) {
			return k.line
		}
	}
	return 0
}

// wrong is an error about a key in the file.
func (f *configFile) wrong(path keyPath, format string, args ...any) error {
	if f.noted == nil {
		f.noted = map[string]bool{}
	}
	f.noted[path.String()] = true
	return fmt.Errorf("%s:%d: %s: %s", f.name, f.line(path), path, fmt.Sprintf(format, args...))
}

// placed says where a setting's error comes from: a flag, a line of the file, or neither. What isn't in the
// file is placed where its table is.
func (f *configFile) placed(e *settingError, flags map[string]string) error {
	if flag, ok := flags[e.key]; ok {
		return fmt.Errorf("%s: %s", flag, e.text)
	}
	for path := parseKeyPath(e.key); len(path) > 0; path = path[:len(path)-1] {
		line := f.line(path)
		if line == 0 { // an element of a list that is no table
			path = slices.Clone(path)
			path[len(path)-1].of = 0
			line = f.line(path)
		}
		if line > 0 {
			return fmt.Errorf("%s:%d: %s: %s", f.name, line, e.key, e.text)
		}
	}
	return e
}
