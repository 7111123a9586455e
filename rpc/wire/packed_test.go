package wire

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// unpackAll unpacks a tree to its end.
func unpackAll(v any) any {
	switch v := Unpack(v).(type) {
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = unpackAll(item)
		}
		return out
	case map[string]any:
		out := make(map[string]any)
		for name, member := range v {
			out[name] = unpackAll(member)
		}
		return out
	default:
		return v
	}
}

func TestPacked(t *testing.T) {
	at := time.Date(2026, 11, 22, 4, 15, 0, 123456789, time.FixedZone("", 3600))
	tree := map[string]any{
		"": nil, "no": false, "yes": true, "text": "ä\x00", "none": "", "number": json.Number("-1.5e400"),
		"int": int64(math.MinInt64), "uint": uint64(math.MaxUint64), "float": -0.25, "bytes": []byte{0, 255}, "time": at,
		"list":   []any{json.Number("1"), []any{}, map[string]any{}, []any{[]any{"deep", map[string]any{"x": []any{nil}}}}, "end"},
		"object": map[string]any{"inner": map[string]any{"a": []any{map[string]any{"b": "c"}}}},
	}
	for _, v := range []any{tree, []any{tree, tree, "x"}, []any{}, map[string]any{}} {
		if diff := cmp.Diff(v, unpackAll(Pack(v))); diff != "" {
			t.Errorf("packed and unpacked (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(v, unpackAll(Pack(Pack(v).Unpack()))); diff != "" {
			t.Errorf("packed twice (-want +got):\n%s", diff)
		}
	}
	items := Pack([]any{"a", map[string]any{"b": "c"}, []any{"d"}}).Unpack().([]any)
	if _, ok := items[1].(Packed); !ok {
		t.Errorf("an object of a list is %T", items[1])
	}
	if _, ok := items[2].(Packed); !ok || items[0] != "a" {
		t.Errorf("a list of a list is %T, a text %v", items[2], items[0])
	}
}

// TestDecodePacked: a tree with packed items gives what the tree does, and a list of anything keeps them.
func TestDecodePacked(t *testing.T) {
	type inner struct {
		Name string `json:"name,omitempty"`
		Port uint16 `json:"port,omitempty"`
	}
	type outer struct {
		Many  []inner          `json:"many,omitempty"`
		Lists [][]int          `json:"lists,omitempty"`
		Any   any              `json:"any,omitempty"`
		Items []any            `json:"items,omitempty"`
		Map   map[string]inner `json:"map,omitempty"`
	}
	tree := map[string]any{
		"many":  []any{map[string]any{"name": "a", "port": json.Number("7")}, nil, map[string]any{"name": "b"}},
		"lists": []any{[]any{json.Number("1")}, []any{}},
		"any":   map[string]any{"or": []any{map[string]any{"src": "x"}, []any{int64(7)}}},
		"items": []any{json.Number("1"), map[string]any{"id": int64(2)}},
		"map":   map[string]any{"m": map[string]any{"name": "c"}},
	}
	var want, got outer
	if err := Decode(tree, &want, true); err != nil {
		t.Fatal(err)
	}
	if err := Decode(Pack(tree), &got, true); err != nil {
		t.Fatal(err)
	}
	if p, ok := got.Items[1].(Packed); !ok {
		t.Errorf("an item is %T", got.Items[1])
	} else {
		got.Items[1] = normalise(p)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	err := Decode(Pack(map[string]any{"many": []any{map[string]any{"prot": json.Number("1")}}}), &got, true)
	if err == nil || err.Error() != `unknown member "many[0].prot": did you mean "port"?` {
		t.Errorf("an error: %v", err)
	}
}
