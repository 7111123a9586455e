package wire

import (
	"reflect"
	"strings"
	"sync"
)

// Field is one member of a parameter or result struct, as its tags describe it.
type Field struct {
	Name      string // the member's name
	Index     []int  // for reflect.Value.FieldByIndex
	Type      reflect.Type
	Doc       string
	Enum      []string // the values that it may have; empty where any will do
	OmitEmpty bool
	OmitZero  bool
}

// Required tells whether a caller must give the member: it has no omitempty and is no pointer.
func (f Field) Required() bool {
	return !f.OmitEmpty && !f.OmitZero && f.Type.Kind() != reflect.Pointer
}

// fieldCache holds the fields of each struct type that was seen: their number is that of the
// types in the program.
var fieldCache sync.Map // reflect.Type -> []Field

// Fields returns the members of a struct type in order; those of embedded structs stand in
// their place. The caller must not change the result.
func Fields(t reflect.Type) []Field {
	if fs, ok := fieldCache.Load(t); ok {
		return fs.([]Field)
	}
	var fields []Field
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, tagged := sf.Tag.Lookup("json")
		if sf.Anonymous && !tagged && sf.Type.Kind() == reflect.Struct {
			for _, f := range Fields(sf.Type) {
				f.Index = append([]int{i}, f.Index...)
				fields = append(fields, f)
			}
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if !sf.IsExported() || tag == "-" {
			continue
		}
		if name == "" {
			name = sf.Name
		}
		f := Field{Name: name, Index: []int{i}, Type: sf.Type, Doc: sf.Tag.Get("doc")}
		if enum := sf.Tag.Get("enum"); enum != "" {
			f.Enum = strings.Split(enum, ",")
		}
		for option := range strings.SplitSeq(options, ",") {
			f.OmitEmpty = f.OmitEmpty || option == "omitempty"
			f.OmitZero = f.OmitZero || option == "omitzero"
		}
		fields = append(fields, f)
	}
	fs, _ := fieldCache.LoadOrStore(t, fields)
	return fs.([]Field)
}
