package rpc

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"ctd/rpc/wire"
)

// encodeValue writes a result: a struct of the contract, or a tree of maps, lists and scalars.
// Members are named and left out by their json tags. A nil slice or map is an empty one, so
// that a list in a result is always a list.
func encodeValue(e encoder, v any) error {
	switch v := v.(type) {
	case nil:
		e.null()
	case string:
		e.str(v)
	case bool:
		e.boolean(v)
	case []byte:
		e.bytes(v)
	case wire.Packed:
		return encodeValue(e, v.Unpack())
	case map[string]any:
		e.beginObject()
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if v[name] == nil && e.omitsNull() {
				continue
			}
			e.keyText(name)
			if err := encodeValue(e, v[name]); err != nil {
				return err
			}
		}
		e.endObject()
	case []any:
		e.beginArray()
		for _, item := range v {
			if err := encodeValue(e, item); err != nil {
				return err
			}
		}
		e.endArray()
	default:
		return encodeReflect(e, reflect.ValueOf(v))
	}
	return nil
}

func encodeReflect(e encoder, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Bool:
		e.boolean(v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		e.int(v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		e.uint(v.Uint())
	case reflect.Float32, reflect.Float64:
		e.float(v.Float())
	case reflect.String:
		if v.Type() == reflect.TypeFor[json.Number]() {
			e.number(json.Number(v.String()))
		} else {
			e.str(v.String())
		}
	case reflect.Pointer:
		if v.IsNil() {
			e.null()
			return nil
		}
		return encodeReflect(e, v.Elem())
	case reflect.Interface:
		return encodeValue(e, v.Interface())
	case reflect.Struct:
		if t, ok := v.Interface().(time.Time); ok {
			e.time(t)
			return nil
		}
		return encodeStruct(e, v)
	case reflect.Map:
		return encodeMap(e, v)
	case reflect.Slice, reflect.Array:
		return encodeList(e, v)
	default:
		return fmt.Errorf("encode: type %s is not part of the contract", v.Type())
	}
	return nil
}

func encodeStruct(e encoder, v reflect.Value) error {
	e.beginObject()
	for _, f := range wire.Fields(v.Type()) {
		member := v.FieldByIndex(f.Index)
		if f.OmitEmpty && isEmpty(member) || f.OmitZero && member.IsZero() || e.omitsNull() && isNil(member) {
			continue
		}
		e.key(f.Name)
		if err := encodeReflect(e, member); err != nil {
			return err
		}
	}
	e.endObject()
	return nil
}

func encodeMap(e encoder, v reflect.Value) error {
	if v.Type().Key().Kind() != reflect.String {
		return fmt.Errorf("encode: type %s is not part of the contract", v.Type())
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		if a.String() < b.String() {
			return -1
		}
		return 1
	})
	e.beginObject()
	for _, k := range keys {
		member := v.MapIndex(k)
		if e.omitsNull() && isNil(member) {
			continue
		}
		e.keyText(k.String())
		if err := encodeReflect(e, member); err != nil {
			return err
		}
	}
	e.endObject()
	return nil
}

// encodeList writes a list. A []uint8 in a struct is a list of small numbers (the window scales
// of a connection); only a []byte that stands in a tree is bytes.
func encodeList(e encoder, v reflect.Value) error {
	e.beginArray()
	for i := range v.Len() {
		if err := encodeReflect(e, v.Index(i)); err != nil {
			return err
		}
	}
	e.endArray()
	return nil
}

// isNil tells whether there is no value: nil slices and maps are empty values.
func isNil(v reflect.Value) bool {
	return (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) && v.IsNil()
}

// isEmpty is what omitempty leaves out, as in encoding/json.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}
