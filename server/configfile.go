package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"ctd/rpc/wire"
)

// DefaultConfigFile is read where it is there and no other is named.
const DefaultConfigFile = "/etc/ctd/ctd.toml"

// maxConfigFile bounds what is read of a configuration file.
const maxConfigFile = 1 << 20

// configFile is a configuration file that was read. One that isn't there has no settings.
type configFile struct {
	name string
	meta toml.MetaData
	tree map[string]toml.Primitive
}

// readConfigFile reads a file into s, which has the defaults. With an empty name that is
// DefaultConfigFile, which need not be there. The errors are all that is wrong with it.
func readConfigFile(name string, s *settings) (*configFile, []error) {
	f := &configFile{name: name}
	if name == "" {
		f.name = DefaultConfigFile
	}
	text, err := readBounded(f.name)
	if name == "" && errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, []error{err}
	}
	return f, f.decode(text, s)
}

func readBounded(name string) (string, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if fi.Size() > maxConfigFile {
		return "", fmt.Errorf("%s has %d bytes; at most %d are read", name, fi.Size(), maxConfigFile)
	}
	b, err := os.ReadFile(name)
	return string(b), err
}

// decode reads text into s, as far as it is right.
func (f *configFile) decode(text string, s *settings) []error {
	var err error
	if f.meta, err = toml.Decode(text, &f.tree); err != nil {
		return []error{f.syntaxError(err)}
	}
	all := allSettings()
	wrong := f.unknown(all)
	for _, one := range all {
		value, ok := f.find(one.path)
		if !ok {
			continue
		}
		if one.table {
			if err := f.meta.PrimitiveDecode(value, &struct{}{}); err != nil {
				wrong = append(wrong, f.wrong(one.path, "want %s", typeWords(one.typ)))
			}
			continue
		}
		if err := f.meta.PrimitiveDecode(value, one.value(s).Addr().Interface()); err != nil {
			wrong = append(wrong, f.wrong(one.path, "want %s", typeWords(one.typ)))
		}
	}
	return wrong
}

func (f *configFile) syntaxError(err error) error {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%s:%d: %s", f.name, parse.Position.Line, parse.Message)
	}
	return fmt.Errorf("%s: %w", f.name, err)
}

// unknown returns an error for each key that is no setting, but not for those below one of them.
func (f *configFile) unknown(all []setting) []error {
	var wrong []error
	var last toml.Key
	for _, key := range f.meta.Keys() {
		if last != nil && len(key) > len(last) && slices.Equal(key[:len(last)], last) {
			continue
		}
		at := slices.IndexFunc(all, func(s setting) bool { return slices.Equal(s.path, key) })
		if at >= 0 {
			if !all[at].table { // what is below was no table, which decode tells
				last = key
			}
			continue
		}
		last = key
		text := "there is no such setting"
		if near := nearestSetting(key, all); near != "" {
			text += fmt.Sprintf("; did you mean %s?", near)
		}
		wrong = append(wrong, f.wrong(key, "%s", text))
	}
	return wrong
}

// nearestSetting returns the setting that a key is most likely meant for: by its own name among those of
// its table, else among all.
func nearestSetting(key toml.Key, all []setting) string {
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

// find returns what stands in the file at a path.
func (f *configFile) find(path []string) (toml.Primitive, bool) {
	tree := f.tree
	for i, name := range path {
		value, ok := tree[name]
		if !ok {
			return toml.Primitive{}, false
		}
		if i == len(path)-1 {
			return value, true
		}
		tree = nil
		if err := f.meta.PrimitiveDecode(value, &tree); err != nil {
			return toml.Primitive{}, false
		}
	}
	return toml.Primitive{}, false
}

// line returns the line of a key, 0 where it isn't in the file.
func (f *configFile) line(path []string) int {
	value, ok := f.find(path)
	if !ok {
		return 0
	}
	// The library tells where a key is only in its errors.
	var parse toml.ParseError
	if !errors.As(f.meta.PrimitiveDecode(value, refuser{}), &parse) {
		return 0
	}
	return parse.Position.Line
}

// refuser takes no value.
type refuser struct{}

var _ toml.Unmarshaler = refuser{}

// UnmarshalTOML is toml.Unmarshaler's.
func (refuser) UnmarshalTOML(any) error { return errors.New("refused") }

// wrong is an error about a key in the file.
func (f *configFile) wrong(path []string, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s: %s", f.name, f.line(path), strings.Join(path, "."), fmt.Sprintf(format, args...))
}

// placed says where a setting's error comes from: a flag, a line of the file, or neither.
func (f *configFile) placed(e *settingError, flags map[string]string) error {
	if flag, ok := flags[e.key]; ok {
		return fmt.Errorf("%s: %s", flag, e.text)
	}
	path := strings.Split(e.key, ".")
	if f.line(path) > 0 {
		return f.wrong(path, "%s", e.text)
	}
	return e
}
