package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// TestGuards: every guard of kill and modify refuses with a code of its own, over both protocols, and
// the whole table is as before.
func TestGuards(t *testing.T) {
	type object = map[string]any
	tcp := object{"filter": "proto=tcp"}
	for _, c := range []struct {
		name   string
		role   string
		params object // beside set
		code   wire.Code
	}{
		{"max", wire.RoleOperator, object{"max": 2}, wire.LimitExceeded},
		{"max of named flows", wire.RoleOperator, object{"filter": nil, "flows": []any{1, 2, 3}, "max": 2}, wire.LimitExceeded},
		{"max below 0", wire.RoleOperator, object{"max": -1}, wire.InvalidParams},
		{"fewer than expected", wire.RoleOperator, object{"expect_count": 4}, wire.Conflict},
		{"more than expected", wire.RoleOperator, object{"expect_count": 2}, wire.Conflict},
		{"expect_count below 0", wire.RoleOperator, object{"expect_count": -1}, wire.InvalidParams},
		{"created_before without timestamps", wire.RoleOperator, object{"created_before": "2026-11-22T04:15:00Z"}, wire.Unsupported},
		{"created_before that is no time", wire.RoleOperator, object{"created_before": "yesterday"}, wire.InvalidParams},
		{"no filter", wire.RoleOperator, object{"filter": nil}, wire.InvalidParams},
		{"an empty filter", wire.RoleOperator, object{"filter": ""}, wire.InvalidParams},
		{"an empty filter, all: false", wire.RoleOperator, object{"filter": object{}, "all": false}, wire.InvalidParams},
		{"a filter and flows", wire.RoleOperator, object{"flows": []any{1}}, wire.InvalidParams},
		{"flows and all", wire.RoleOperator, object{"filter": nil, "flows": []any{1}, "all": true}, wire.InvalidParams},
		{"a filter by rate", wire.RoleOperator, object{"filter": "rate=>1"}, wire.Unsupported},
		{"a misspelt filter", wire.RoleOperator, object{"filter": "porto=tcp"}, wire.InvalidParams},
		{"a misspelt guard", wire.RoleOperator, object{"include_sefl": true}, wire.InvalidParams},
		{"ssh_connection", wire.RoleOperator, object{"ssh_connection": "192.0.2.7 22"}, wire.InvalidParams},
		{"ssh_connection, include_self", wire.RoleOperator, object{"ssh_connection": "-", "include_self": true}, wire.InvalidParams},
		{"role", wire.RoleViewer, object{}, wire.PermissionDenied},
	} {
		for method, set := range map[string]object{"conntrack.kill": nil, "conntrack.modify": {"set": object{"mark": 99}}} {
			params := maps.Clone(tcp)
			maps.Copy(params, set)
			maps.Copy(params, c.params)
			maps.DeleteFunc(params, func(_ string, v any) bool { return v == nil })
			for protocol, code := range map[string]func(a *api, t *testing.T, role, method string, params object) wire.Code{
				"json": codeOfJSON, "xml": codeOfXML,
			} {
				t.Run(c.name+" "+method+" "+protocol, func(t *testing.T) {
					a := newAPI(append(tcpFlows(3), udpFlow("10.0.0.9", 1))...)
					before := whole(t, a)
					if got := code(a, t, c.role, method, params); got != c.code {
						t.Errorf("%v: %q, want %s", params, got, c.code)
					}
					if diff := cmp.Diff(before, whole(t, a)); diff != "" || a.table.Writes() != 0 {
						t.Errorf("the table is another, after %d writes (-before +after):\n%s", a.table.Writes(), diff)
					}
				})
			}
		}
	}
}

// whole returns all flows of the table.
func whole(t *testing.T, a *api) []wire.Flow {
	t.Helper()
	var r wire.ListResult
	a.call(t, "conntrack.list", "", &r)
	if len(r.Flows) != 4 {
		t.Fatalf("%d flows", len(r.Flows))
	}
	return r.Flows
}

func codeOfJSON(a *api, t *testing.T, role, method string, params map[string]any) wire.Code {
	t.Helper()
	text, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.tryAs(t, role, method, string(text)); err != nil {
		return err.Code
	}
	return ""
}

func codeOfXML(a *api, t *testing.T, role, method string, params map[string]any) wire.Code {
	t.Helper()
	e := &xmlEncoder{}
	if err := encodeValue(e, params); err != nil {
		t.Fatal(err)
	}
	body := strings.NewReplacer("<value></value>", string(e.buf)).Replace(methodCall(method, ""))
	if _, code := a.xmlRPC(t, role, body); code != 0 {
		return wire.CodeOf(code)
	}
	return ""
}

// TestModifyGone: a flow that ended between the dump and the change is gone, and no failure.
func TestModifyGone(t *testing.T) {
	for _, c := range []struct{ set, dry string }{
		{`{"mark": 99}`, ""},
		{`{"mark": 99}`, `, "dry_run": true`},
		{`{"nat": {"dst": ":8443"}}`, ""},
		{`{"nat": {"dst": ":8443"}, "mark": 99}`, ""},
		{`{"nat": {"dst": ":8443"}, "mark": 99}`, `, "dry_run": true`},
	} {
		a := newAPI(tcpFlows(3)...)
		a.service.Table = endingTable{a.table}
		var got wire.ModifyResult
		a.call(t, "conntrack.modify", fmt.Sprintf(`{"all": true, "set": %s%s}`, c.set, c.dry), &got)
		want := 2
		if c.dry != "" {
			want = 0
		}
		if got.Matched != 3 || got.Gone != 1 || got.Modified != want || len(got.Failed) != 0 || len(got.Flows) != 2 {
			t.Errorf("%s%s: %+v, want one of three gone", c.set, c.dry, got)
		}
	}
	// What was taken away to be made anew, and couldn't be, is no flow that had ended.
	a := newAPI(tcpFlows(1)...)
	a.service.Table = brokenTable{a.table}
	var got wire.ModifyResult
	a.call(t, "conntrack.modify", `{"all": true, "set": {"nat": {"src": "198.51.100.1"}}}`, &got)
	if got.Gone != 0 || len(got.Failed) != 1 || !strings.Contains(got.Failed[0].Message, "anew") {
		t.Errorf("%+v, want a failure", got)
	}
}

// endingTable is a table whose first flow ends when the dump has ended.
type endingTable struct{ Table }

func (t endingTable) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	return func(yield func(conntrack.Flow, error) bool) {
		var first *conntrack.Key
		for f, err := range t.Table.Flows(ctx, f, opts...) {
			if k := f.Key(); first == nil {
				first = &k
			}
			if !yield(f, err) {
				return
			}
		}
		t.Kill(ctx, []conntrack.Key{*first})
	}
}

// brokenTable can't make a flow anew whose master has ended.
type brokenTable struct{ Table }

func (t brokenTable) Replace(context.Context, conntrack.Key, conntrack.NAT) (conntrack.Flow, error) {
	return conntrack.Flow{}, fmt.Errorf("%w: %w", conntrack.ErrNotRenewed, conntrack.ErrNotFound)
}
