package wire

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Decode fills into, a pointer to a struct or to anything that may be a struct's member, from a
// tree of map[string]any, []any, string, json.Number, bool, nil, []byte, time.Time, float64 and
// integers, as both protocols are read into. It is the one place where a message becomes a
// struct, so that both have the same rules:
//
//   - a number may be given as a number, a float without fraction, or a text, decimal or 0x
//   - a time is a time of the protocol or a text of RFC 3339
//   - nil is the same as an absent member
//   - a member of type any takes its part of the tree as it is, but with every number as
//     json.Number (a whole one without fraction or exponent) and every time as RFC 3339 text
//   - an item of a []any stays Packed where it is
//
// With strict an unknown member, and a value that isn't one of its member's enum, are errors;
// clients, whose daemon may be newer, are not strict. Every error is an *Error of InvalidParams
// that starts with the path of the member.
func Decode(tree, into any, strict bool) error {
	return Decoder{Strict: strict}.Decode(tree, into)
}

// Decoder is Decode with a name for what is decoded.
type Decoder struct {
	Strict  bool
	Subject string // whose parameters these are, for messages: a method's name
	Path    string // where the tree stands in what it was cut from, for messages
}

// Decode is the function of the same name.
func (d Decoder) Decode(tree, into any) error {
	return d.value(d.Path, tree, reflect.ValueOf(into).Elem())
}

func invalid(path, format string, args ...any) *Error {
	message := fmt.Sprintf(format, args...)
	if path != "" {
		message = path + ": " + message
	}
	return &Error{Code: InvalidParams, Message: message}
}

func mismatch(path, want string, got any) *Error {
	return invalid(path, "want %s, got %s", want, describe(got))
}

// describe says what a part of a tree is, with its value where that is short.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(v)
	case string:
		return clip(strconv.Quote(v))
	case json.Number:
		return "the number " + clip(v.String())
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case []byte:
		return "bytes"
	case time.Time:
		return "a time"
	}
	return fmt.Sprintf("the number %v", v)
}

// clip shortens what a caller sent before it is sent back.
func clip(s string) string {
	const longest = 80
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + "..."
}

var (
	timeType   = reflect.TypeFor[time.Time]()
	bytesType  = reflect.TypeFor[[]byte]()
	numberType = reflect.TypeFor[json.Number]()
)

func (d Decoder) value(path string, tree any, into reflect.Value) error {
	tree = Unpack(tree)
	if tree == nil {
		into.SetZero()
		return nil
	}
	switch into.Type() {
	case timeType:
		return decodeTime(path, tree, into)
	case bytesType:
		if _, list := tree.([]any); !list {
			return decodeBytes(path, tree, into)
		}
	case numberType:
		n, ok := number(tree)
		if !ok {
			return mismatch(path, "a number", tree)
		}
		into.SetString(n.String())
		return nil
	}
	switch into.Kind() {
	case reflect.Pointer:
		v := reflect.New(into.Type().Elem())
		if err := d.value(path, tree, v.Elem()); err != nil {
			return err
		}
		into.Set(v)
	case reflect.Interface:
		into.Set(reflect.ValueOf(normalise(tree)))
	case reflect.Struct:
		return d.object(path, tree, into)
	case reflect.Map:
		return d.mapping(path, tree, into)
	case reflect.Slice:
		return d.list(path, tree, into)
	case reflect.String:
		s, ok := tree.(string)
		if !ok {
			return mismatch(path, "a text", tree)
		}
		into.SetString(s)
	case reflect.Bool:
		b, ok := tree.(bool)
		if !ok {
			return mismatch(path, "true or false", tree)
		}
		into.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return decodeInt(path, tree, into)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return decodeUint(path, tree, into)
	case reflect.Float32, reflect.Float64:
		n, ok := number(tree)
		f, err := n.Float64()
		if !ok || err != nil {
			return mismatch(path, "a number", tree)
		}
		into.SetFloat(f)
	default:
		return fmt.Errorf("decode %s: type %s is not part of the contract", path, into.Type())
	}
	return nil
}

func (d Decoder) object(path string, tree any, into reflect.Value) error {
	members, ok := tree.(map[string]any)
	if !ok {
		return mismatch(path, "an object", tree)
	}
	fields := Fields(into.Type())
	if d.Strict {
		if err := d.unknown(path, members, fields); err != nil {
			return err
		}
	}
	for _, f := range fields {
		member, ok := members[f.Name]
		if !ok {
			continue
		}
		if err := d.Field(path, f, member, into); err != nil {
			return err
		}
	}
	return nil
}

// Field decodes one member of a struct, or one positional parameter.
func (d Decoder) Field(path string, f Field, tree any, into reflect.Value) error {
	path = join(path, f.Name)
	v := into.FieldByIndex(f.Index)
	if err := d.value(path, tree, v); err != nil {
		return err
	}
	if d.Strict && tree != nil && len(f.Enum) > 0 && v.Kind() == reflect.String {
		return checkEnum(path, v.String(), f)
	}
	return nil
}

func checkEnum(path, value string, f Field) error {
	if slices.Contains(f.Enum, value) || value == "" && f.OmitEmpty {
		return nil
	}
	quoted := make([]string, len(f.Enum))
	for i, e := range f.Enum {
		quoted[i] = strconv.Quote(e)
	}
	err := invalid(path, "%s is none of %s", clip(strconv.Quote(value)), strings.Join(quoted, ", "))
	if near := Nearest(value, f.Enum); near != "" {
		err.Hint = fmt.Sprintf("did you mean %q?", near)
	}
	return err
}

// unknown returns an error for the first member, by name, that the struct has not.
func (d Decoder) unknown(path string, members map[string]any, fields []Field) error {
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.Name
	}
	first := ""
	found := false
	for name := range members {
		if !slices.Contains(known, name) && (!found || name < first) {
			first, found = name, true
		}
	}
	if !found {
		return nil
	}
	kind := "member"
	if d.Subject != "" {
		kind = "parameter"
	}
	message := fmt.Sprintf("unknown %s %s", kind, clip(strconv.Quote(join(path, first))))
	if d.Subject != "" {
		message += " of " + d.Subject
	}
	hint := ""
	if near := Nearest(first, known); near != "" {
		message += fmt.Sprintf(": did you mean %q?", near)
	} else if len(known) > 0 {
		hint = "known here: " + strings.Join(known, ", ")
	}
	return &Error{Code: InvalidParams, Message: message, Hint: hint}
}

func (d Decoder) mapping(path string, tree any, into reflect.Value) error {
	members, ok := tree.(map[string]any)
	if !ok {
		return mismatch(path, "an object", tree)
	}
	m := reflect.MakeMapWithSize(into.Type(), len(members))
	for name, member := range members {
		v := reflect.New(into.Type().Elem()).Elem()
		if err := d.value(join(path, clip(name)), member, v); err != nil {
			return err
		}
		m.SetMapIndex(reflect.ValueOf(name).Convert(into.Type().Key()), v)
	}
	into.Set(m)
	return nil
}

func (d Decoder) list(path string, tree any, into reflect.Value) error {
	items, ok := tree.([]any)
	if !ok {
		return mismatch(path, "a list", tree)
	}
	s := reflect.MakeSlice(into.Type(), len(items), len(items))
	for i, item := range items {
		if p, ok := item.(Packed); ok && into.Type().Elem().Kind() == reflect.Interface {
			s.Index(i).Set(reflect.ValueOf(p))
			continue
		}
		if err := d.value(fmt.Sprintf("%s[%d]", path, i), item, s.Index(i)); err != nil {
			return err
		}
	}
	into.Set(s)
	return nil
}

func decodeTime(path string, tree any, into reflect.Value) error {
	switch v := tree.(type) {
	case time.Time:
		into.Set(reflect.ValueOf(v))
		return nil
	case string:
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
			into.Set(reflect.ValueOf(t))
			return nil
		}
	}
	return mismatch(path, "a time such as 2006-01-02T15:04:05Z", tree)
}

func decodeBytes(path string, tree any, into reflect.Value) error {
	switch v := tree.(type) {
	case []byte:
		into.SetBytes(v)
		return nil
	case string:
		if b, err := base64.StdEncoding.DecodeString(v); err == nil {
			into.SetBytes(b)
			return nil
		}
	}
	return mismatch(path, "a list of numbers, bytes or their base64 text", tree)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
