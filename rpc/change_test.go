package rpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

// TestBudget: who may change so many a minute changes no more, and nothing half.
func TestBudget(t *testing.T) {
	a := newAPI(tcpFlows(60)...)
	room := 30
	p := boundTo(wire.RoleAdmin)
	p.room = &room
	for _, c := range []struct {
		call, hint string
		room       int
	}{
		{`conntrack.kill {"filter": "id=1-20"}`, "", 10},
		{`conntrack.kill {"filter": "id=21-40", "dry_run": true}`, "", 10},
		{`conntrack.kill {"filter": "id=21-40"}`, "try again in 4s", 10},
		{`conntrack.modify {"filter": "id=21-40", "set": {"mark": 9}}`, "try again in 4s", 10},
		{`conntrack.kill {"all": true}`, "", 10}, // 40 are left: three seconds' wait as well
		{`conntrack.reconcile {"filter": "id=21-40"}`, "try again in 4s", 10},
		{`conntrack.modify {"filter": "id=21-28", "set": {"mark": 9}}`, "", 2},
		{`conntrack.flush {"all": true}`, "try again in 4s", 2},
		{`conntrack.create {"flow": {"protocol": "udp", "orig": {"src": "10.1.0.7", "dst": "192.0.2.1", "sport": 1, "dport": 2}, "timeout": 9}}`, "", 1},
	} {
		method, params, _ := strings.Cut(c.call, " ")
		before := a.table.Writes()
		_, err := a.as(t, p, method, params)
		switch {
		case c.call == `conntrack.kill {"all": true}`:
			if err == nil || err.Code != wire.RateLimited {
				t.Errorf("%s: %v", c.call, err)
			}
		case (err == nil) != (c.hint == ""):
			t.Errorf("%s: %v", c.call, err)
		case err != nil && (err.Code != wire.RateLimited || !strings.Contains(err.Hint, c.hint) || a.table.Writes() != before):
			t.Errorf("%s: %s %s %s, %d writes", c.call, err.Code, err.Message, err.Hint, a.table.Writes()-before)
		}
		if room != c.room {
			t.Errorf("%s left %d, want %d", c.call, room, c.room)
		}
	}
	// What wasn't changed after all, or could not be recorded, is given back.
	b, r := newRecordedAPI(tcpFlows(6)...)
	b.table.Deny(2, errors.New("no"))
	room = 10
	if _, err := b.as(t, p, "conntrack.kill", `{"filter": "id=1-5"}`); err != nil || room != 6 {
		t.Errorf("%v, %d left, want 6", err, room)
	}
	r.full = true
	if _, err := b.as(t, p, "conntrack.kill", `{"filter": "id=6"}`); err == nil || room != 6 {
		t.Errorf("%v, %d left, want 6", err, room)
	}
	calls := 1
	p.calls = &calls
	if _, err := a.as(t, p, "conntrack.count", ""); err != nil {
		t.Error(err)
	}
	if _, err := a.as(t, p, "conntrack.count", ""); err == nil || err.Code != wire.RateLimited || err.Hint != "try again in 3s" {
		t.Errorf("%+v", err)
	}
}

// recorder is an Auditor that keeps records.
type recorder struct {
	lines []string
	full  bool
}

func (r *recorder) add(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func text(c AuditedCall) string {
	who := "nobody"
	if c.Principal != nil {
		who = c.Principal.Name()
	}
	matched := "?"
	if c.Matched != nil {
		matched = fmt.Sprint(*c.Matched)
	}
	return fmt.Sprintf("%s%s %s matched=%s flows=%d,%v params=%s reason=%s", who, c.Claimed, c.Method, matched, len(c.Flows), c.FlowsTruncated, c.Params, c.Reason)
}

func (r *recorder) Begin(c AuditedCall) (string, error) {
	if r.full {
		return "", &wire.Error{Code: wire.Unavailable, Message: "no room"}
	}
	r.add("begin %s", text(c))
	return "7", nil
}

func (r *recorder) End(id string, c AuditedCall, o AuditOutcome) {
	changed := "?"
	if o.Changed != nil {
		changed = fmt.Sprint(*o.Changed)
	}
	if o.Err != nil {
		changed = string(o.Err.Code)
	}
	r.add("end %s %s changed=%s failed=%d", id, c.Method, changed, o.Failed)
}

func (r *recorder) Refused(c AuditedCall, o AuditOutcome) {
	r.add("refused %s: %s", text(c), o.Err.Code)
}

func newRecordedAPI(flows ...conntrack.Flow) (*api, *recorder) {
	a, r := newAPI(flows...), &recorder{}
	a.SetAuditor(r)
	return a, r
}

func TestRecords(t *testing.T) {
	a, r := newRecordedAPI(tcpFlows(120)...)
	a.table.Deny(5, errors.New("no"))
	admin, viewer := caller{wire.RoleAdmin}, caller{wire.RoleViewer}
	for _, c := range []struct {
		p    Principal
		call string
		want []string
	}{
		{admin, `conntrack.list {}`, nil},
		{admin, `conntrack.kill {"filter": "id=1", "dry_run": true}`, nil},
		{admin, `conntrack.kill {"filter": "id=9999"}`, nil},
		{admin, `conntrack.kill {"filter": "id=1-5", "reason": "a\nb"}`, []string{
			`begin tester conntrack.kill matched=5 flows=5,false params={"filter":"id=1-5","reason":"a\nb"} reason=a?b`, "end 7 conntrack.kill changed=4 failed=1",
		}},
		{viewer, `conntrack.kill {"filter": "id=1"}`, []string{`refused tester conntrack.kill matched=? flows=0,false params={"filter":"id=1"} reason=: permission_denied`}},
		{nil, `conntrack.kill {"filter": "id=1"}`, []string{`refused nobody conntrack.kill matched=? flows=0,false params= reason=: unauthenticated`}},
		{admin, `conntrack.kill {"filter": "oops=1"}`, nil},
		{admin, `conntrack.modify {"filter": "id=6", "set": {"mark": 7}}`, []string{
			`begin tester conntrack.modify matched=1 flows=1,false params={"filter":"id=6","set":{"mark":7}} reason=`, "end 7 conntrack.modify changed=1 failed=0",
		}},
		{admin, `conntrack.flush {"all": true}`, []string{
			`begin tester conntrack.flush matched=116 flows=0,true params={"all":true} reason=`, "end 7 conntrack.flush changed=116 failed=0",
		}},
	} {
		r.lines = nil
		method, params, _ := strings.Cut(c.call, " ")
		if c.p == nil {
			_, err := a.Call(t.Context(), method, Params{Named: map[string]any{"password": "hush"}})
			if err == nil {
				t.Error("nobody may kill")
			}
		} else {
			_, _ = a.as(t, c.p, method, params)
		}
		if !slices.Equal(r.lines, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", c.call, strings.Join(r.lines, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

// TestRecordsAsSent: what came over the wire is recorded whole, lists and objects in them too.
func TestRecordsAsSent(t *testing.T) {
	a, r := newRecordedAPI(tcpFlows(3)...)
	if _, err := a.tryAs(t, wire.RoleAdmin, "conntrack.kill", `{"flows": [{"id": 1, "protocol": "tcp"}, [2]], "reason": "x"}`); err == nil {
		t.Error("a list is no flow")
	}
	if _, err := a.tryAs(t, wire.RoleAdmin, "conntrack.kill", `[null, [{"id": 1, "protocol": "tcp"}]]`); err != nil {
		t.Error(err)
	}
	member := func(name, value string) string {
		return "<member><name>" + name + "</name><value>" + value + "</value></member>"
	}
	one := "<struct>" + member("flows", "<array><data><value><struct>"+member("id", "<int>2</int>")+"</struct></value></data></array>") + member("reason", "why") + "</struct>"
	if _, code := a.xmlRPC(t, wire.RoleAdmin, methodCall("conntrack.kill", one)); code != 0 {
		t.Errorf("fault %d", code)
	}
	want := []string{
		`begin tester conntrack.kill matched=1 flows=1,false params=[null,[{"id":1,"protocol":"tcp"}]] reason=`, "end 7 conntrack.kill changed=1 failed=0",
		`begin tester conntrack.kill matched=1 flows=1,false params=[{"flows":[{"id":2}],"reason":"why"}] reason=why`, "end 7 conntrack.kill changed=1 failed=0",
	}
	if !slices.Equal(r.lines, want) {
		t.Errorf("\n%s\nwant\n%s", strings.Join(r.lines, "\n"), strings.Join(want, "\n"))
	}
}

// TestRecordFails: what can't be recorded isn't done, whatever the method; reads go on.
func TestRecordFails(t *testing.T) {
	a, cutter := sites(t)
	r := &recorder{full: true}
	a.SetAuditor(r)
	cutter.blocked = []cut.Block{{Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("192.0.2.1")}}
	tried := map[string]bool{"system.multicall": true, "login": true, "kill": true, "change": true} // the latter are TestRecordPyctd's
	for _, call := range []string{
		`conntrack.kill {"all": true}`, `conntrack.kill {"all": true, "cut": true, "block": 9}`, `conntrack.modify {"all": true, "set": {"mark": 3, "nat": {"src": "192.0.2.99"}}}`,
		`conntrack.reconcile {"all": true}`, `conntrack.flush {"all": true}`, `conntrack.unblock {"all": true}`,
		`conntrack.create {"flow": {"protocol": "udp", "orig": {"src": "10.1.0.7", "dst": "192.0.2.1", "sport": 1, "dport": 2}, "timeout": 9}}`,
		`conntrack.import {"flows": [{"protocol": "udp", "orig": {"src": "10.1.0.7", "dst": "192.0.2.1", "sport": 1, "dport": 2}, "timeout": 9}]}`,
		`expect.flush {"all": true}`, `conntrack.list {"zero": true}`,
	} {
		method, params, _ := strings.Cut(call, " ")
		tried[method] = true
		if _, err := a.as(t, caller{wire.RoleAdmin}, method, params); err == nil || err.Code != wire.Unavailable {
			t.Errorf("%s: %v", call, err)
		}
	}
	b := newExpectAPI(t, 1)
	b.SetAuditor(r)
	before := b.table.Writes()
	for _, call := range []string{
		`expect.kill {"all": true}`,
		`expect.create {"master": 1, "tuple": {"src": "192.0.2.1", "dst": "10.0.0.7", "dport": 5004, "protocol": "udp"}, "timeout": 60}`,
	} {
		method, params, _ := strings.Cut(call, " ")
		tried[method] = true
		if _, err := b.as(t, caller{wire.RoleAdmin}, method, params); err == nil || err.Code != wire.Unavailable {
			t.Errorf("%s: %v", call, err)
		}
	}
	if n := a.table.Writes() + b.table.Writes() - before; n != 0 || len(cutter.blocked) != 1 || len(cutter.cut) != 0 {
		t.Errorf("%d writes, blocks %v, cut %v", n, cutter.blocked, cutter.cut)
	}
	for name, m := range a.methods {
		if m.Changes && !tried[name] {
			t.Errorf("%s changes something and isn't tried here", name)
		}
	}
	if _, err := a.as(t, caller{wire.RoleAdmin}, "conntrack.list", ""); err != nil {
		t.Error(err)
	}
}

// TestRecordPyctd: its changes are recorded as its user's, and no session's id is.
func TestRecordPyctd(t *testing.T) {
	p := newPyctd(PyctdConfig{}, tcpFlows(3)...)
	r := &recorder{}
	p.api.SetAuditor(r)
	sid := p.login(t)
	p.view(t, sid)
	p.do(t, "kill", sid, `<array><data><value><int>1</int></value><value><int>2</int></value></data></array>`)
	p.do(t, "change", sid, "mark", "<int>3</int>", "<int>9</int>")
	r.full = true
	before := p.api.table.Writes()
	p.fault(t, wire.Unavailable, "kill", sid, `<array><data><value><int>3</int></value></data></array>`)
	p.fault(t, wire.Unavailable, "change", sid, "mark", "<int>3</int>", "<int>8</int>")
	if n := p.api.table.Writes() - before; n != 0 {
		t.Errorf("%d writes", n)
	}
	p.fault(t, wire.Unauthenticated, "login", "eve", "hush")
	want := []string{
		"begin tester kill matched=2 flows=2,false params=[[1,2]] reason=", "end 7 kill changed=2 failed=0",
		`begin tester change matched=1 flows=1,false params=["mark",3,9] reason=`, "end 7 change changed=1 failed=0",
		`refused nobodyeve login matched=? flows=0,false params= reason=: unauthenticated`,
	}
	if !slices.Equal(r.lines, want) {
		t.Errorf("\n%s\nwant\n%s", strings.Join(r.lines, "\n"), strings.Join(want, "\n"))
	}
}

// TestRecordedParams: what is recorded is JSON and short, whatever came.
func TestRecordedParams(t *testing.T) {
	long := strings.Repeat("ü", 5000)
	var many []any
	for i := range 5000 {
		many = append(many, map[string]any{"id": json.Number(fmt.Sprint(i))})
	}
	for name, p := range map[string]Params{
		"nothing": {}, "a text": {Named: map[string]any{"a": long}}, "a list": {Args: []any{many}}, "many texts": {Args: slices.Repeat([]any{long}, 100)},
		"a number": {Args: []any{json.Number("1" + strings.Repeat("0", 9999))}}, "odd": {Args: []any{nil, true, 1.5, []byte{0xff}, time.Time{}}},
	} {
		b, truncated := recordedParams(p, 0)
		if len(b) > 2*maxRecordedParams || b != nil && !json.Valid(b) || truncated != slices.Contains([]string{"a text", "a list", "many texts", "a number"}, name) {
			t.Errorf("%s: %d bytes, truncated %v: %.200s", name, len(b), truncated, b)
		}
	}
}
