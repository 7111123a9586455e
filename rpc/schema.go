package rpc

import (
	"math"
	"reflect"
	"slices"
	"time"

	"ctd/rpc/wire"
)

// schemas makes JSON Schemas (draft 7, as OpenRPC has them) of the contract's types. A named
// struct becomes a component, once as it stands in results and once, as NameInput, in
// parameters: there a member that a result always has may be left out, and no other may be
// given.
type schemas struct {
	components map[string]any
}

func typeOf(v any) reflect.Type { return reflect.TypeOf(v) }

func (s *schemas) of(t reflect.Type, input bool) map[string]any {
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem(), input)
	case reflect.Interface:
		return map[string]any{}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice, reflect.Array:
		return map[string]any{"type": "array", "items": s.of(t.Elem(), input)}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.of(t.Elem(), input)}
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return map[string]any{"type": "string", "format": "date-time"}
		}
		return s.structure(t, input)
	}
	low, high := bounds(t)
	schema := map[string]any{"type": "integer"}
	if t.Bits() < 64 || low == 0 {
		schema["minimum"] = low
	}
	if t.Bits() < 64 {
		schema["maximum"] = high
	}
	return schema
}

// bounds returns the range of an integer type that is shorter than 64 bits.
func bounds(t reflect.Type) (low, high int64) {
	switch t.Kind() {
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return 0, int64(uint64(math.MaxUint64) >> (64 - t.Bits()) & math.MaxInt64)
	}
	return math.MinInt64 >> (64 - t.Bits()), math.MaxInt64 >> (64 - t.Bits())
}

func (s *schemas) structure(t reflect.Type, input bool) map[string]any {
	name := t.Name()
	if name == "" {
		return s.members(t, input)
	}
	if input {
		name += "Input"
	}
	if _, made := s.components[name]; !made {
		s.components[name] = nil // it may hold itself
		s.components[name] = s.members(t, input)
	}
	return map[string]any{"$ref": "#/components/schemas/" + name}
}

func (s *schemas) members(t reflect.Type, input bool) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, f := range wire.Fields(t) {
		properties[f.Name] = s.field(f, input)
		if f.Required() && !input {
			required = append(required, f.Name)
		}
	}
	schema := map[string]any{"type": "object", "properties": properties}
	if len(required) > 0 {
		schema["required"] = required
	}
	if input {
		schema["additionalProperties"] = false
	}
	return schema
}

func (s *schemas) field(f wire.Field, input bool) map[string]any {
	schema := s.of(f.Type, input)
	if len(f.Enum) > 0 && f.Type.Kind() == reflect.String {
		enum := f.Enum
		if f.OmitEmpty && !slices.Contains(enum, "") {
			enum = append([]string{""}, enum...)
		}
		schema["enum"] = enum
	}
	if f.Doc == "" {
		return schema
	}
	if _, ref := schema["$ref"]; ref {
		// Draft 7 ignores what stands beside a $ref.
		return map[string]any{"description": f.Doc, "allOf": []any{schema}}
	}
	schema["description"] = f.Doc
	return schema
}

// xmlType names the XML-RPC type of a Go type. What may be anything is called a struct, its
// most common form.
func xmlType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return xmlType(t.Elem())
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Float32, reflect.Float64:
		return "double"
	case reflect.Slice, reflect.Array:
		return "array"
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return "string"
		}
		return "struct"
	case reflect.Map, reflect.Interface:
		return "struct"
	}
	return "int"
}

// typeText names a type for people.
func typeText(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return typeText(t.Elem())
	case reflect.Interface:
		return "any"
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Slice, reflect.Array:
		return "list of " + typeText(t.Elem())
	case reflect.Map:
		return "object of " + typeText(t.Elem())
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return "time"
		}
		return t.Name()
	}
	return "integer"
}
