package rpc

import (
	"reflect"
	"strings"

	"ctd/rpc/wire"
)

// binder makes a parameter struct of a call's parameters.
type binder struct {
	method string
	fields []wire.Field
	// loneStruct: XML-RPC has positional parameters only. By custom one struct alone holds
	// named parameters, so that is what it is taken for; see named.
	loneStruct bool
}

func (b binder) bind(p Params, into reflect.Value) error {
	if b.loneStruct && p.Named == nil && len(p.Args) == 1 {
		if members, ok := p.Args[0].(map[string]any); ok && b.named(members) {
			p = Params{Named: members}
		}
	}
	d := wire.Decoder{Strict: true, Subject: b.method}
	if p.Named != nil {
		if err := d.Decode(p.Named, into.Addr().Interface()); err != nil {
			return err
		}
		return b.missing(func(_ int, f wire.Field) bool { return p.Named[f.Name] != nil })
	}
	if len(p.Args) > len(b.fields) && len(b.fields) == 0 {
		return invalidParams("%s takes no parameters", b.method)
	}
	if len(p.Args) > len(b.fields) {
		err := invalidParams("%s takes at most %d parameters, not %d", b.method, len(b.fields), len(p.Args))
		err.Hint = "in this order: " + strings.Join(b.names(), ", ")
		return err
	}
	for i, arg := range p.Args {
		if err := d.Field("", b.fields[i], arg, into); err != nil {
			return err
		}
	}
	return b.missing(func(i int, _ wire.Field) bool { return i < len(p.Args) && p.Args[i] != nil })
}

// named tells whether a lone struct holds named parameters rather than being the first
// parameter itself: always, unless it has members of which none is a parameter's name and the
// first parameter may be an object. So {"dport": 22} alone is the filter of conntrack.list, but
// {"filter": ..., "fitler": ...} is an error.
func (b binder) named(members map[string]any) bool {
	if len(members) == 0 || len(b.fields) == 0 || !takesObject(b.fields[0].Type) {
		return true
	}
	for _, f := range b.fields {
		if _, ok := members[f.Name]; ok {
			return true
		}
	}
	return false
}

func takesObject(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer:
		return takesObject(t.Elem())
	case reflect.Interface, reflect.Map, reflect.Struct:
		return true
	}
	return false
}

func (b binder) names() []string {
	names := make([]string, len(b.fields))
	for i, f := range b.fields {
		names[i] = f.Name
	}
	return names
}

func (b binder) missing(given func(i int, f wire.Field) bool) error {
	for i, f := range b.fields {
		if f.Required() && !given(i, f) {
			err := invalidParams("missing parameter %q of %s", f.Name, b.method)
			err.Hint = f.Doc
			return err
		}
	}
	return nil
}
