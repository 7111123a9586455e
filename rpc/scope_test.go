package rpc

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

// bound is a principal with networks and a budget.
type bound struct {
	caller
	networks []netip.Prefix
	room     *int // entries that may still be changed; nil: no bound
	calls    *int
	ended    *bool
}

func (b bound) Networks() []netip.Prefix { return b.networks }
func (b bound) Valid() bool              { return b.ended == nil || !*b.ended }

func (b bound) TakeCall() time.Duration {
	if b.calls == nil {
		return 0
	}
	if *b.calls == 0 {
		return 2 * time.Second
	}
	*b.calls--
	return 0
}

func (b bound) TakeKills(n int) (ok bool, room int, wait time.Duration) {
	switch {
	case b.room == nil:
		return true, 0, 0
	case n > 50:
		return false, *b.room, 0
	case n > *b.room:
		return false, *b.room, 3 * time.Second
	}
	*b.room -= n
	return true, 0, 0
}

func (b bound) GiveBackKills(n int) {
	if b.room != nil {
		*b.room += n
	}
}

func boundTo(role string, networks ...string) bound {
	b := bound{caller: caller{role}}
	for _, n := range networks {
		b.networks = append(b.networks, netip.MustParsePrefix(n))
	}
	return b
}

// as calls a method as a principal, writes its result as JSON and returns the error.
func (a *api) as(t testing.TB, p Principal, method, params string) (string, *wire.Error) {
	t.Helper()
	named := map[string]any{}
	dec := json.NewDecoder(strings.NewReader(cmp.Or(params, "{}")))
	dec.UseNumber()
	if err := dec.Decode(&named); err != nil {
		t.Fatal(err)
	}
	ctx := WithProtocol(WithPrincipal(t.Context(), p), JSONRPC)
	result, err := a.Call(ctx, method, Params{Named: named})
	if err != nil {
		return "", public(err)
	}
	e := &jsonEncoder{}
	if err := write(ctx, method, e, result); err != nil {
		return "", public(err)
	}
	return string(e.sink.buf), nil
}

// sites has flows of two sites, 10.1/16 and 10.2/16: 1 and 2 each between a host and the world, 3 between
// them, 4 to a server of the second behind a translated address, and 5 of neither.
func sites(t *testing.T) (*api, *fakeCutter) {
	t.Helper()
	forwarded := udpFlow("198.51.100.9", 5)
	forwarded.Orig.Dst = netip.MustParseAddr("203.0.113.1")
	forwarded.Reply = forwarded.Orig.Inverse()
	forwarded.Reply.Src = netip.MustParseAddr("10.2.0.80")
	between := udpFlow("10.1.0.1", 3)
	between.Orig.Dst = netip.MustParseAddr("10.2.0.1")
	a, cutter := newCutAPI(udpFlow("10.1.0.1", 1), udpFlow("10.2.0.1", 2), between, forwarded, udpFlow("172.16.0.1", 6))
	return a, cutter
}

func TestScope(t *testing.T) {
	for _, c := range []struct{ side, network, want string }{
		{"", "10.1.0.0/16", "[1 3]"},
		{"", "10.2.0.0/16", "[2 3 4]"},
		{ScopeEither, "10.2.0.80/32", "[4]"},
		{ScopeOrig, "10.2.0.0/16", "[2 3]"},
		{ScopeOrig, "203.0.113.1/32", "[4]"},
		{ScopeReply, "10.2.0.0/16", "[2 3 4]"},
		{ScopeReply, "203.0.113.1/32", "[]"},
		{"", "2001:db8::/32", "[]"},
	} {
		a, _ := sites(t)
		a.service.Scope = side(c.side)
		p := boundTo(wire.RoleOperator, c.network)
		var list wire.ListResult
		text, err := a.as(t, p, "conntrack.list", `{}`)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatal(err)
		}
		if ids(list.Flows) != c.want || list.Matched != len(list.Flows) || list.Scanned != len(list.Flows) {
			t.Errorf("%s %s: %s of %d scanned %d, want %s", c.side, c.network, ids(list.Flows), list.Matched, list.Scanned, c.want)
		}
		var count wire.CountResult
		text, _ = a.as(t, p, "conntrack.count", `{}`)
		if err := json.Unmarshal([]byte(text), &count); err != nil || count.Count != len(list.Flows) {
			t.Errorf("%s %s: count %s", c.side, c.network, text)
		}
	}
}

func side(s string) func(context.Context) string { return func(context.Context) string { return s } }

// TestScopeReads: whatever a bound caller asks for, nothing of the outside is in the answer.
func TestScopeReads(t *testing.T) {
	a, cutter := sites(t)
	a.service.HelperSessions = func(context.Context) (wire.HelperSessionsResult, error) {
		return wire.HelperSessionsResult{Sessions: []wire.HelperSession{
			{Client: "10.1.0.9:4000", Server: "192.0.2.7:554"}, {Client: "10.2.0.9:4000", Server: "192.0.2.7:554"}, {},
		}}, nil
	}
	addr := netip.MustParseAddr
	cutter.blocked = []cut.Block{{Src: addr("10.1.0.1"), Dst: addr("192.0.2.1")}, {Src: addr("10.2.0.1"), Dst: addr("192.0.2.1")}}
	p := boundTo(wire.RoleAdmin, "10.1.0.0/16")
	for _, call := range []string{
		`conntrack.list {}`, `conntrack.list {"sort": "src"}`, `conntrack.list {"filter": {"id": 2}}`, `conntrack.list {"filter": "src=10.2.0.0/16"}`,
		`conntrack.count {"by": "src"}`, `conntrack.export {}`, `helper.sessions {}`, `conntrack.blocks {}`,
		`conntrack.kill {"all": true, "dry_run": true}`, `conntrack.modify {"all": true, "dry_run": true, "set": {"mark": 1}}`,
		`conntrack.reconcile {"all": true, "dry_run": true}`, `conntrack.unblock {"all": true, "dry_run": true}`,
	} {
		method, params, _ := strings.Cut(call, " ")
		text, err := a.as(t, p, method, params)
		if err != nil {
			t.Errorf("%s: %v", call, err)
			continue
		}
		// Flow 3 is the caller's, and its other end is told.
		for _, outside := range []string{`"10.2.0.1","dst":"192`, `"10.2.0.9`, "10.2.0.80", "172.16.0.1", "198.51.100.9"} {
			if strings.Contains(strings.ReplaceAll(text, " ", ""), outside) {
				t.Errorf("%s shows %s: %s", call, outside, text)
			}
		}
		if !strings.Contains(call, `"id": 2`) && !strings.Contains(call, "10.2") && !strings.Contains(text, "10.1.0.") {
			t.Errorf("%s shows nothing of the inside: %s", call, text)
		}
	}
	for _, call := range []string{
		`conntrack.get {"flow": 2}`, `conntrack.get {"flow": {"protocol": "udp", "orig": {"src": "10.2.0.1", "dst": "192.0.2.53", "sport": 2, "dport": 53}}}`,
		`expect.create {"master": 2, "tuple": {"src": "10.1.0.1", "dst": "10.1.0.2", "dport": 1}, "timeout": 5}`,
	} {
		method, params, _ := strings.Cut(call, " ")
		known, unknown := "", ""
		if _, err := a.as(t, p, method, params); err != nil {
			known = fmt.Sprint(err.Code, err.Message, err.Hint, err.Errno)
		}
		if _, err := a.as(t, p, method, strings.NewReplacer(": 2}", ": 99}", ": 2,", ": 99,").Replace(params)); err != nil {
			unknown = fmt.Sprint(err.Code, err.Message, err.Hint, err.Errno)
		}
		if !strings.HasPrefix(known, string(wire.NotFound)) || known != unknown {
			t.Errorf("%s: one outside %q, one that isn't there %q", call, known, unknown)
		}
	}
}

// TestScopeChanges: nothing outside is changed, whatever names it.
func TestScopeChanges(t *testing.T) {
	p := boundTo(wire.RoleAdmin, "10.1.0.0/16")
	for _, c := range []struct {
		call string
		code wire.Code // of the error; empty: it does what it can
		left string
	}{
		{`conntrack.kill {"all": true}`, "", "[2 4 5]"},
		{`conntrack.kill {"all": true, "cut": true}`, "", "[2 4 5]"},
		{`conntrack.kill {"flows": [2, 4, 1]}`, "", "[2 3 4 5]"},
		{`conntrack.kill {"flows": [{"protocol": "udp", "orig": {"src": "10.2.0.1", "dst": "192.0.2.53", "sport": 2, "dport": 53}}]}`, "", "[1 2 3 4 5]"},
		{`conntrack.kill {"filter": "src=10.2.0.0/16"}`, "", "[1 2 3 4 5]"},
		{`conntrack.reconcile {"all": true}`, "", "[2 4 5]"},
		{`conntrack.flush {"all": true}`, wire.PermissionDenied, "[1 2 3 4 5]"},
		{`conntrack.flush {"all": true, "dry_run": true}`, wire.PermissionDenied, "[1 2 3 4 5]"},
		{`expect.flush {"all": true}`, wire.PermissionDenied, "[1 2 3 4 5]"},
		{`conntrack.create {"flow": {"protocol": "udp", "orig": {"src": "10.9.0.1", "dst": "192.0.2.1", "sport": 1, "dport": 2}, "timeout": 9}}`, wire.PermissionDenied, "[1 2 3 4 5]"},
		{`conntrack.create {"flow": {"protocol": "udp", "orig": {"src": "10.1.0.7", "dst": "192.0.2.1", "sport": 1, "dport": 2}, "timeout": 9}}`, "", "[1 2 3 4 5 6]"},
		{`conntrack.create {"flow": {"protocol": "udp", "orig": {"src": "10.1.0.7", "dst": "192.0.2.1", "sport": 1, "dport": 2}, "reply": {"src": "10.9.0.66", "dst": "10.9.0.5"}, "timeout": 9}}`, wire.PermissionDenied, "[1 2 3 4 5]"},
		{`conntrack.create {"dry_run": true, "flow": {"protocol": "udp", "orig": {"src": "10.1.0.7", "dst": "192.0.2.1", "sport": 1, "dport": 2}, "reply": {"src": "10.2.0.80", "dst": "198.51.100.9"}, "timeout": 9}}`, wire.PermissionDenied, "[1 2 3 4 5]"},
		{`conntrack.modify {"all": true, "set": {"nat": {"src": "10.9.0.5:1234"}}}`, wire.PermissionDenied, "[1 2 3 4 5]"},
		{`conntrack.modify {"all": true, "dry_run": true, "set": {"nat": {"dst": "198.51.100.2:53"}}}`, wire.PermissionDenied, "[1 2 3 4 5]"},
		{`conntrack.import {"flows": [{"protocol": "udp", "orig": {"src": "10.9.0.1", "dst": "192.0.2.1", "sport": 1, "dport": 2}, "timeout": 9}]}`, wire.PermissionDenied, "[1 2 3 4 5]"},
		{`conntrack.import {"on_conflict": "replace", "flows": [{"protocol": "udp", "orig": {"src": "10.1.0.9", "dst": "192.0.2.1", "sport": 1, "dport": 2}, "timeout": 9}]}`, wire.PermissionDenied, "[1 2 3 4 5]"},
	} {
		a, _ := sites(t)
		method, params, _ := strings.Cut(c.call, " ")
		_, err := a.as(t, p, method, params)
		if err == nil && c.code != "" || err != nil && err.Code != c.code {
			t.Errorf("%s: %v, want %q", c.call, err, c.code)
		}
		var left wire.ListResult
		a.call(t, "conntrack.list", `{"sort": "id"}`, &left)
		if ids(left.Flows) != c.left {
			t.Errorf("%s left %s, want %s", c.call, ids(left.Flows), c.left)
		}
	}
}

// TestScopeBlock: a flow may be the caller's by its translated address alone; the address before it is
// that of others too.
func TestScopeBlock(t *testing.T) {
	a, cutter := sites(t)
	p := boundTo(wire.RoleOperator, "10.2.0.0/16")
	if _, err := a.as(t, p, "conntrack.kill", `{"filter": "reply_src=10.2.0.80", "block": "1h"}`); err == nil || err.Code != wire.PermissionDenied {
		t.Errorf("block of what others share: %v", err)
	}
	if n := a.table.Writes(); n != 0 || len(cutter.blocked) != 0 {
		t.Errorf("%d writes, blocks %v", n, cutter.blocked)
	}
	if _, err := a.as(t, p, "conntrack.kill", `{"filter": "src=10.2.0.1", "block": "1h"}`); err != nil {
		t.Errorf("block of its own: %v", err)
	}
}

// TestCompares: a mask keeps an address in a network when it has all bits of that.
func TestCompares(t *testing.T) {
	for _, c := range []struct {
		mask, network string
		want          bool
	}{
		{"255.255.255.255", "10.3.0.7/32", true},
		{"255.255.255.254", "10.3.0.7/32", false},
		{"255.255.128.0", "10.3.0.0/17", true},
		{"255.255.0.0", "10.3.0.0/17", false},
		{"127.255.255.255", "10.3.0.0/16", false},
		{"0.0.0.0", "0.0.0.0/0", true},
		{"ffff:ffff:ffff::", "2001:db8:1::/48", true},
		{"ffff:ffff:fffe::", "2001:db8:1::/48", false},
		{"::", "0.0.0.0/0", false},
		{"255.255.255.255", "2001:db8::/32", false},
	} {
		if got := compares(netip.MustParseAddr(c.mask), netip.MustParsePrefix(c.network)); got != c.want {
			t.Errorf("%s of %s: %v", c.mask, c.network, got)
		}
	}
	if compares(netip.Addr{}, netip.MustParsePrefix("10.0.0.0/8")) {
		t.Error("no mask compares")
	}
}

// TestScopeZero: the counters of others stay.
func TestScopeZero(t *testing.T) {
	mine, others := tcpFlow(1), tcpFlow(300) // 10.0.0.1 and 10.0.1.44
	a := newAPI(mine, others)
	if _, err := a.as(t, boundTo(wire.RoleOperator, "10.0.0.0/24"), "conntrack.list", `{"zero": true}`); err != nil {
		t.Fatal(err)
	}
	for f := range a.table.Flows(t.Context(), conntrack.Filter{}) {
		if zero := f.OrigCounter == (conntrack.Counter{}); zero != (f.Orig == mine.Orig) {
			t.Errorf("%v has %+v", f.Orig, f.OrigCounter)
		}
	}
}

// TestSessionEnds: a session of pyctd's ends with the credential that began it.
func TestSessionEnds(t *testing.T) {
	ended := false
	p := newPyctd(PyctdConfig{}, tcpFlows(2)...)
	p.api.service.Login = func(context.Context, string, string) (Principal, error) {
		b := boundTo(wire.RoleOperator, "10.0.0.1/32")
		b.ended = &ended
		return b, nil
	}
	sid := p.login(t)
	if rows := p.view(t, sid); len(rows) != 1 {
		t.Errorf("%d rows, want the one of the network", len(rows))
	}
	ended = true
	p.fault(t, wire.Unauthenticated, "view", sid)
	// Nor does a call that is under way keep a session, or a batch.
	ended = false
	sessions := newPyctdSessions(p.api.service)
	got, err := sessions.login(t.Context(), []any{"branch", "right"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := sessions.session(t.Context(), []any{got}, wire.RoleViewer); err != nil {
		t.Fatal(err)
	}
	ended = true
	if _, _, err := sessions.session(t.Context(), []any{got}, wire.RoleViewer); err == nil {
		t.Error("a session goes on beside a call of its own")
	}
	b := boundTo(wire.RoleAdmin)
	b.ended = &ended
	if _, err := p.as(t, b, "conntrack.count", ""); err == nil || err.Code != wire.Unauthenticated {
		t.Errorf("a call of a batch after the end: %v", err)
	}
	ctx, c := p.withChange(WithPrincipal(t.Context(), b), "conntrack.reconcile", Params{})
	if err := c.begin(ctx, 1); err == nil || c.open {
		t.Error("a call that takes long goes on to change")
	}
}
