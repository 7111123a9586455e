package wire

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type inner struct {
	Timeout *uint32 `json:"timeout,omitempty"`
	Mode    string  `json:"mode,omitempty" enum:"fast,slow"`
}

type sample struct {
	Int    int            `json:"int"`
	Int8   int8           `json:"int8"`
	Int64  int64          `json:"int64"`
	Uint8  uint8          `json:"uint8"`
	Uint16 uint16         `json:"uint16"`
	Uint32 uint32         `json:"uint32"`
	Uint64 uint64         `json:"uint64"`
	Float  float64        `json:"float"`
	Text   string         `json:"text"`
	Bool   bool           `json:"bool"`
	Time   time.Time      `json:"time"`
	Any    any            `json:"any"`
	Ptr    *int           `json:"ptr"`
	List   []int          `json:"list"`
	Small  []uint8        `json:"small"`
	Map    map[string]int `json:"map"`
	Set    inner          `json:"set"`
	Sets   []inner        `json:"sets"`
	Hidden int            `json:"-"`
}

func num(s string) json.Number { return json.Number(s) }

func TestDecode(t *testing.T) {
	date := time.Date(2026, 11, 22, 4, 15, 0, 123456789, time.UTC)
	seven, timeout := 7, uint32(5)
	for _, c := range []struct {
		name string
		in   map[string]any
		want sample
		err  string // all of the message; empty where it decodes
		hint string
	}{
		{name: "nothing", in: map[string]any{}},
		{name: "JSON number", in: map[string]any{"int": num("-7")}, want: sample{Int: -7}},
		{name: "int64", in: map[string]any{"uint32": int64(math.MaxUint32)}, want: sample{Uint32: math.MaxUint32}},
		{name: "uint64", in: map[string]any{"uint64": uint64(math.MaxUint64)}, want: sample{Uint64: math.MaxUint64}},
		{name: "float without fraction", in: map[string]any{"int": 7.0, "uint16": num("1e3")}, want: sample{Int: 7, Uint16: 1000}},
		{name: "decimal text", in: map[string]any{"int": "-12", "uint64": "18446744073709551615"}, want: sample{Int: -12, Uint64: math.MaxUint64}},
		{name: "hexadecimal text", in: map[string]any{"int": "0X1f", "uint64": "0xffffffffffffffff"}, want: sample{Int: 31, Uint64: math.MaxUint64}},
		{name: "lowest", in: map[string]any{"int8": num("-128"), "int64": num("-9223372036854775808")}, want: sample{Int8: -128, Int64: math.MinInt64}},
		{name: "highest", in: map[string]any{"int8": num("127"), "uint8": num("255"), "uint16": num("65535")}, want: sample{Int8: 127, Uint8: 255, Uint16: 65535}},
		{name: "below", in: map[string]any{"int8": num("-129")}, err: "int8: -129 is below -128"},
		{name: "above", in: map[string]any{"int8": num("128")}, err: "int8: 128 is above 127"},
		{name: "above 8 bits", in: map[string]any{"uint8": num("256")}, err: "uint8: 256 is above 255"},
		{name: "above 16 bits", in: map[string]any{"uint16": num("65536")}, err: "uint16: 65536 is above 65535"},
		{name: "above 32 bits", in: map[string]any{"uint32": "4294967296"}, err: "uint32: 4294967296 is above 4294967295"},
		{name: "above 64 bits", in: map[string]any{"uint64": num("18446744073709551616")}, err: "uint64: 18446744073709551616 is above 18446744073709551615"},
		{name: "above 63 bits", in: map[string]any{"int64": num("9223372036854775808")}, err: "int64: 9223372036854775808 is above 9223372036854775807"},
		{name: "below 0, nested", in: map[string]any{"set": map[string]any{"timeout": num("-1")}}, err: "set.timeout: -1 is below 0"},
		{name: "fraction", in: map[string]any{"int": num("1.5")}, err: "int: want a whole number, got the number 1.5"},
		{name: "text that is no number", in: map[string]any{"int": "1x"}, err: `int: want a whole number, got "1x"`},
		{name: "empty text as number", in: map[string]any{"int": ""}, err: `int: want a whole number, got ""`},
		{name: "underscores", in: map[string]any{"int": "1_000"}, err: `int: want a whole number, got "1_000"`},
		{name: "true as number", in: map[string]any{"int": true}, err: "int: want a whole number, got true"},
		{name: "number as text", in: map[string]any{"text": num("1")}, err: "text: want a text, got the number 1"},
		{name: "number as truth", in: map[string]any{"bool": num("1")}, err: "bool: want true or false, got the number 1"},
		{name: "object as list", in: map[string]any{"list": map[string]any{}}, err: "list: want a list, got an object"},
		{name: "list as object", in: map[string]any{"set": []any{}}, err: "set: want an object, got a list"},
		{name: "list's item", in: map[string]any{"list": []any{num("1"), "x"}}, err: `list[1]: want a whole number, got "x"`},
		{name: "list's object", in: map[string]any{"sets": []any{map[string]any{"timeout": true}}}, err: "sets[0].timeout: want a whole number, got true"},
		{name: "lists", in: map[string]any{"list": []any{num("1"), "2"}, "small": []any{num("7"), num("6")}, "map": map[string]any{"a": num("1")}}, want: sample{List: []int{1, 2}, Small: []uint8{7, 6}, Map: map[string]int{"a": 1}}},
		{name: "map's member", in: map[string]any{"map": map[string]any{"a": "x"}}, err: `map.a: want a whole number, got "x"`},
		{name: "pointers", in: map[string]any{"ptr": num("7"), "set": map[string]any{"timeout": "5", "mode": "fast"}}, want: sample{Ptr: &seven, Set: inner{Timeout: &timeout, Mode: "fast"}}},
		{name: "null", in: map[string]any{"int": nil, "ptr": nil, "text": nil, "set": nil, "list": nil, "any": nil}},
		{name: "float", in: map[string]any{"float": "2.5"}, want: sample{Float: 2.5}},
		{name: "RFC 3339", in: map[string]any{"time": "2026-11-22T04:15:00.123456789Z"}, want: sample{Time: date}},
		{name: "time", in: map[string]any{"time": date}, want: sample{Time: date}},
		{name: "not a time", in: map[string]any{"time": "today"}, err: `time: want a time such as 2006-01-02T15:04:05Z, got "today"`},
		{name: "any number", in: map[string]any{"any": []any{int64(1), 2.0, num("1e2"), num("0.5"), "3", date}}, want: sample{Any: []any{num("1"), num("2"), num("100"), num("0.5"), "3", "2026-11-22T04:15:00.123456789Z"}}},
		{name: "any object", in: map[string]any{"any": map[string]any{"a": uint64(1), "b": nil, "c": true}}, want: sample{Any: map[string]any{"a": num("1"), "b": nil, "c": true}}},
		{name: "unknown", in: map[string]any{"txet": "x"}, err: `unknown parameter "txet" of test.method: did you mean "text"?`},
		{name: "unknown, nested", in: map[string]any{"set": map[string]any{"timeuot": 1}}, err: `unknown parameter "set.timeuot" of test.method: did you mean "timeout"?`},
		{name: "unknown, like nothing", in: map[string]any{"set": map[string]any{"xyzzy": 1}}, err: `unknown parameter "set.xyzzy" of test.method`, hint: "known here: timeout, mode"},
		{name: "another case", in: map[string]any{"Text": "x"}, err: `unknown parameter "Text" of test.method: did you mean "text"?`},
		{name: "hidden", in: map[string]any{"Hidden": num("1")}, err: `unknown parameter "Hidden" of test.method`, hint: "known here: int, int8, int64, uint8, uint16, uint32, uint64, float, text, bool, time, any, ptr, list, small, map, set, sets"},
		{name: "enum", in: map[string]any{"set": map[string]any{"mode": "fsat"}}, err: `set.mode: "fsat" is none of "fast", "slow"`, hint: `did you mean "fast"?`},
		{name: "empty where that may be absent", in: map[string]any{"set": map[string]any{"mode": ""}}},
		{name: "long text is shortened", in: map[string]any{"int": strings.Repeat("y", 1000)}, err: `int: want a whole number, got "` + strings.Repeat("y", 79) + "..."},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got sample
			err := Decoder{Strict: true, Subject: "test.method"}.Decode(c.in, &got)
			if c.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("struct (-want +got):\n%s", diff)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %+v, %v, want an error", got, err)
			}
			if diff := cmp.Diff(&Error{Code: InvalidParams, Message: c.err, Hint: c.hint}, e); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeLenient(t *testing.T) {
	var got sample
	in := map[string]any{"text": "x", "new": 1, "set": map[string]any{"mode": "later", "new": 1}}
	if err := Decode(in, &got, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample{Text: "x", Set: inner{Mode: "later"}}, got); diff != "" {
		t.Errorf("struct (-want +got):\n%s", diff)
	}
	if err := Decode(map[string]any{"text": num("1")}, &got, false); err == nil {
		t.Error("a wrong type is accepted")
	}
}

func TestNearest(t *testing.T) {
	names := []string{"filter", "limit", "fields", "sort", "dport", "sport", "id"}
	for in, want := range map[string]string{
		"fitler": "filter", "Filter": "filter", "filters": "filter", "feilds": "fields", "dprt": "dport",
		"ids": "id", "xyzzy": "", "": "", "x": "", strings.Repeat("filter", 20): "",
	} {
		if got := Nearest(in, names); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestCodes(t *testing.T) {
	numbers := map[int]Code{}
	for _, c := range Codes() {
		if other, taken := numbers[c.Number()]; taken {
			t.Errorf("%s and %s are both %d", c, other, c.Number())
		}
		numbers[c.Number()] = c
		if got := CodeOf(c.Number()); got != c {
			t.Errorf("number %d: got %s, want %s", c.Number(), got, c)
		}
		if c.HTTPStatus() < 400 || c.Exit() == ExitDone || c.Doc() == "" {
			t.Errorf("%s: status %d, exit %d, doc %q", c, c.HTTPStatus(), c.Exit(), c.Doc())
		}
	}
	for c, want := range map[Code]int{
		ParseError: -32700, InvalidRequest: -32600, MethodNotFound: -32601, InvalidParams: -32602, Internal: -32603,
		Unauthenticated: -32001, PermissionDenied: -32002, NotFound: -32003, AlreadyExists: -32004, Conflict: -32005,
		LimitExceeded: -32006, Unsupported: -32007, Busy: -32008, Unavailable: -32009, RateLimited: -32010, Deadline: -32011,
		UnsupportedEncoding: -32701, InvalidCharacter: -32702, "new": -32603,
	} {
		if got := c.Number(); got != want {
			t.Errorf("%s: number %d, want %d", c, got, want)
		}
	}
	for c, want := range map[Code]Exit{InvalidParams: 2, PermissionDenied: 3, Conflict: 3, NotFound: 4, Unavailable: 5, Internal: 6, "new": 6} {
		if got := c.Exit(); got != want {
			t.Errorf("%s: exit %d, want %d", c, got, want)
		}
	}
	if CodeOf(-1) != Internal {
		t.Errorf("number -1: got %s", CodeOf(-1))
	}
}

func TestParseUint(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "10": 10, "010": 10, "0x10": 16, "0X1f": 31, "0x0010": 16, "100": 100, "0x64": 100,
	} {
		if got, ok := ParseUint(text, 100); !ok || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "0x", "101", "0x65", "-1", "+1", "1_0", "0x1_0", "0b1", "0o7", "1e1", "1.0", " 1", "18446744073709551616"} {
		if got, ok := ParseUint(text, 100); ok {
			t.Errorf("%q: got %d", text, got)
		}
	}
}
