package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Packed is an object or a list that is an item of a list, as a tree of a request has it: with little
// more bytes than in the message, where maps would need ten times as many. So a long list is unpacked
// item by item, as it is read.
type Packed struct{ b []byte }

// The kinds of a packed value.
const (
	packedNil byte = iota
	packedFalse
	packedTrue
	packedString
	packedNumber
	packedInt
	packedUint
	packedFloat
	packedBytes
	packedTime
	packedList
	packedObject
)

// Pack packs a part of a tree, of the types that Decode names and Packed.
func Pack(v any) Packed { return Packed{appendPacked(nil, v)} }

// Len returns how many bytes it has.
func (p Packed) Len() int { return len(p.b) }

// Unpack returns the object or list, whose items are packed where they are objects or lists.
func (p Packed) Unpack() any {
	v, _ := unpack(p.b)
	return v
}

// Unpack unpacks what is packed, and returns anything else as it is.
func Unpack(v any) any {
	if p, ok := v.(Packed); ok {
		return p.Unpack()
	}
	return v
}

func appendPacked(b []byte, v any) []byte {
	switch v := v.(type) {
	case Packed:
		return append(b, v.b...)
	case nil:
		return append(b, packedNil)
	case bool:
		if v {
			return append(b, packedTrue)
		}
		return append(b, packedFalse)
	case string:
		return appendText(append(b, packedString), v)
	case json.Number:
		return appendText(append(b, packedNumber), string(v))
	case []byte:
		return appendText(append(b, packedBytes), string(v))
	case int64:
		return binary.AppendVarint(append(b, packedInt), v)
	case uint64:
		return binary.AppendUvarint(append(b, packedUint), v)
	case float64:
		return binary.BigEndian.AppendUint64(append(b, packedFloat), math.Float64bits(v))
	case time.Time:
		return appendText(append(b, packedTime), v.Format(time.RFC3339Nano))
	case []any:
		return appendSized(append(b, packedList), func(b []byte) []byte {
			b = binary.AppendUvarint(b, uint64(len(v)))
			for _, item := range v {
				b = appendPacked(b, item)
			}
			return b
		})
	case map[string]any:
		return appendSized(append(b, packedObject), func(b []byte) []byte {
			b = binary.AppendUvarint(b, uint64(len(v)))
			for name, member := range v {
				b = appendPacked(appendText(b, name), member)
			}
			return b
		})
	}
	panic(fmt.Sprintf("wire: a tree has a %T", v))
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendSized appends what write does, after four bytes with its length, so that it can be passed over.
func appendSized(b []byte, write func(b []byte) []byte) []byte {
	at := len(b)
	b = write(append(b, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4)) // a message is shorter than 4 GiB
	return b
}

// unpack returns the first value of b, and what comes after it.
func unpack(b []byte) (v any, rest []byte) {
	kind, b := b[0], b[1:]
	switch kind {
	case packedFalse, packedTrue:
		return kind == packedTrue, b
	case packedString:
		s, b := unpackText(b)
		return s, b
	case packedNumber:
		s, b := unpackText(b)
		return json.Number(s), b
	case packedBytes:
		s, b := unpackText(b)
		return []byte(s), b
	case packedInt:
		i, n := binary.Varint(b)
		return i, b[n:]
	case packedUint:
		u, n := binary.Uvarint(b)
		return u, b[n:]
	case packedFloat:
		return math.Float64frombits(binary.BigEndian.Uint64(b)), b[8:]
	case packedTime:
		s, b := unpackText(b)
		t, _ := time.Parse(time.RFC3339Nano, s) // as it was written
		return t, b
	case packedList:
		return unpackList(b[4:])
	case packedObject:
		return unpackObject(b[4:])
	}
	return nil, b
}

func unpackText(b []byte) (string, []byte) {
	size, n := binary.Uvarint(b)
	b = b[n:]
	return string(b[:size]), b[size:]
}

func unpackList(b []byte) ([]any, []byte) {
	count, n := binary.Uvarint(b)
	b = b[n:]
	items := make([]any, count)
	for i := range items {
		if b[0] == packedList || b[0] == packedObject {
			size := 5 + binary.BigEndian.Uint32(b[1:])
			items[i], b = Packed{b[:size:size]}, b[size:]
			continue
		}
		items[i], b = unpack(b)
	}
	return items, b
}

func unpackObject(b []byte) (map[string]any, []byte) {
	count, n := binary.Uvarint(b)
	b = b[n:]
	members := make(map[string]any, count)
	for range count {
		var name string
		name, b = unpackText(b)
		members[name], b = unpack(b)
	}
	return members, b
}
