package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctd/rpc/wire"
)

func as(role string, p Protocol) context.Context {
	return WithProtocol(WithPrincipal(context.Background(), caller{role}), p)
}

func TestListMethods(t *testing.T) {
	f := newFixture()
	for _, c := range []struct {
		role     string
		protocol Protocol
		has, not []string
	}{
		{wire.RoleViewer, JSONRPC, []string{"echo", "rpc.discover", "system.listMethods"}, []string{"kill", "session.raw"}},
		{wire.RoleViewer, XMLRPC, []string{"echo", "session.raw"}, []string{"kill"}},
		{wire.RoleAdmin, JSONRPC, []string{"echo", "kill"}, []string{"session.raw"}},
		{wire.RoleAny, JSONRPC, []string{"system.listMethods"}, []string{"echo"}},
	} {
		got, err := f.Call(as(c.role, c.protocol), "system.listMethods", Params{})
		if err != nil {
			t.Fatal(err)
		}
		names := got.([]string)
		if !slices.IsSorted(names) {
			t.Errorf("%v are not sorted", names)
		}
		for _, name := range c.has {
			if !slices.Contains(names, name) {
				t.Errorf("%s over %s: no %s", c.role, c.protocol, name)
			}
		}
		for _, name := range c.not {
			if slices.Contains(names, name) {
				t.Errorf("%s over %s: has %s", c.role, c.protocol, name)
			}
		}
	}
}

func TestMethodHelpAndSignature(t *testing.T) {
	f := newFixture()
	ctx := as(wire.RoleViewer, XMLRPC)
	help, err := f.Call(ctx, "system.methodHelp", Params{Args: []any{"echo"}})
	want := "Gives back.\nRole: viewer.\nParameters, by name in one struct or by position in this order:\n" +
		"  value (any): anything\n  text (string): a text: one of one, two\n"
	if err != nil || help != want {
		t.Errorf("help %q, %v, want %q", help, err, want)
	}
	for method, want := range map[string][][]string{
		"subtract":           {{"int", "struct"}, {"int", "int", "int"}},
		"session.raw":        {{"int", "int"}},
		"system.listMethods": {{"array"}},
		"select":             {{"struct", "struct"}, {"struct", "struct", "int", "struct"}},
	} {
		got, err := f.Call(ctx, "system.methodSignature", Params{Args: []any{method}})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("signature of %s (-want +got):\n%s", method, diff)
		}
	}
	for _, name := range []string{"system.methodHelp", "system.methodSignature"} {
		if _, err := f.Call(ctx, name, Params{Args: []any{"kill"}}); err == nil {
			t.Errorf("%s tells a viewer of kill", name)
		}
	}
}

func TestRegisterTwice(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a name was registered twice")
		}
	}()
	RegisterSystem(newFixture().Registry, "1")
}

// TestOpenRPC checks the document by the rules of the OpenRPC 1.3 specification, with all of
// the contract's structs in it.
func TestOpenRPC(t *testing.T) {
	f := newFixture()
	registerContract(f.Registry)
	e := &jsonEncoder{}
	if err := encodeValue(e, f.OpenRPC("1.2.3")); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		OpenRPC string `json:"openrpc"`
		Info    struct{ Title, Version string }
		Methods []struct {
			Name   string
			Params []struct {
				Name     string
				Required bool
				Schema   map[string]any
			}
			Result *struct {
				Name   string
				Schema map[string]any
			}
			ParamStructure string
			Errors         []map[string]any
		}
		Components struct {
			Schemas map[string]map[string]any
			Errors  map[string]struct {
				Code    int
				Message string
			}
		}
	}
	if err := json.Unmarshal(e.buf, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenRPC != openrpcVersion || doc.Info.Title == "" || doc.Info.Version != "1.2.3" || len(doc.Methods) < 10 {
		t.Errorf("openrpc %q, info %+v, %d methods", doc.OpenRPC, doc.Info, len(doc.Methods))
	}
	seen := map[string]bool{}
	for _, m := range doc.Methods {
		if seen[m.Name] || m.Name == "" || m.Name == "session.raw" {
			t.Errorf("method %q", m.Name)
		}
		seen[m.Name] = true
		if m.Result == nil || m.Result.Name == "" || m.Result.Schema == nil {
			t.Errorf("%s has no result", m.Name)
		}
		if !slices.Contains([]string{"either", "by-name", "by-position"}, m.ParamStructure) {
			t.Errorf("%s: paramStructure %q", m.Name, m.ParamStructure)
		}
		names, optional := map[string]bool{}, false
		for _, p := range m.Params {
			if names[p.Name] || p.Name == "" || p.Schema == nil || p.Required && optional {
				t.Errorf("%s: parameter %+v", m.Name, p)
			}
			names[p.Name] = true
			optional = optional || !p.Required
		}
	}
	for name, e := range doc.Components.Errors {
		if e.Code == 0 || e.Message == "" {
			t.Errorf("error %s: %+v", name, e)
		}
	}
	for name, schema := range doc.Components.Schemas {
		if schema == nil {
			t.Errorf("schema %s is empty", name)
		}
	}
	checkRefs(t, e.buf)
}

// checkRefs looks up every $ref of a document.
func checkRefs(t *testing.T, text []byte) {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	refs := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				refs++
				var at any = doc
				for step := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
					at = at.(map[string]any)[step]
				}
				if at == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, member := range v {
				walk(member)
			}
		}
	}
	walk(doc)
	if refs < 10 {
		t.Errorf("only %d references", refs)
	}
}

// registerContract registers methods with the contract's structs, which are not called.
func registerContract(r *Registry) {
	add := func(name string, result any) Method {
		return Method{Name: name, Summary: "Is not called.", Role: wire.RoleViewer, Result: result}
	}
	Register(r, add("c.list", wire.ListResult{}), func(context.Context, *wire.ListParams) (any, error) { return nil, nil })
	Register(r, add("c.kill", wire.KillResult{}), func(context.Context, *wire.KillParams) (any, error) { return nil, nil })
	Register(r, add("c.modify", wire.ModifyResult{}), func(context.Context, *wire.ModifyParams) (any, error) { return nil, nil })
	Register(r, add("c.create", wire.Flow{}), func(context.Context, *wire.CreateParams) (any, error) { return nil, nil })
	Register(r, add("c.stats", wire.StatsResult{}), func(context.Context, *wire.StatsParams) (any, error) { return nil, nil })
	Register(r, add("c.expect", &wire.Expect{}), func(context.Context, *wire.ExpectCreateParams) (any, error) { return nil, nil })
	Register(r, add("c.info", wire.InfoResult{}), func(context.Context, *wire.Empty) (any, error) { return nil, nil })
}

func TestLateRequiredParameter(t *testing.T) {
	f := newFixture()
	registerContract(f.Registry)
	_, err := f.Call(as(wire.RoleViewer, JSONRPC), "c.modify", Params{Named: map[string]any{"dry_run": true}})
	if want := `missing parameter "set" of c.modify`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestMarkdown(t *testing.T) {
	f := newFixture()
	registerContract(f.Registry)
	var b bytes.Buffer
	if err := f.WriteMarkdown(&b, "1.2.3"); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"# The API of ctd 1.2.3\n",
		"| [`c.modify`](#cmodify) | viewer |  | Is not called. |\n",
		"| `set` | [Set](#set) | yes | what to change |\n",
		"### Set\n",
		"| `nat` | [NAT](#nat) | yes | other addresses: the flow is made anew with them |\n",
		"### NAT\n",
		"Result: [ListResult](#listresult).\n",
		"- `session.raw(int)` gives int\n",
		`{"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"value": 1}}`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, code := range wire.Codes() {
		if want := fmt.Sprintf("| `%s` | %d |", code, code.Number()); !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "|") && strings.Count(strings.ReplaceAll(line, `\|`, ""), "|") < 4 {
			t.Errorf("line %d: %q", i+1, line)
		}
	}
}

// TestTooManyParameters: the hint says what the method takes; where that is nothing there is none to give.
func TestTooManyParameters(t *testing.T) {
	f := newFixture()
	for _, tt := range []struct {
		method string
		params Params
		want   string
		hint   string
	}{
		{"subtract", Params{Args: []any{1, 2, 3}}, "subtract takes at most 2 parameters, not 3", "in this order: minuend, subtrahend"},
		{"get_data", Params{Args: []any{1}}, "get_data takes no parameters", ""},
		{"get_data", Params{Named: map[string]any{"a": 1}}, `unknown parameter "a" of get_data`, ""},
	} {
		_, err := f.Call(as(wire.RoleViewer, JSONRPC), tt.method, tt.params)
		got := ErrorOf(err)
		if got.Code != wire.InvalidParams || got.Message != tt.want || got.Hint != tt.hint {
			t.Errorf("%s %+v: %+v", tt.method, tt.params, got)
		}
	}
}
