package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

const (
	master = `{"protocol": "tcp", "orig": {"src": "10.0.0.1", "dst": "192.0.2.1", "sport": 40000, "dport": 443}}`
	expect = `"tuple": {"src": "192.0.2.1", "dst": "10.0.0.1", "protocol": "udp", "dport": %d}`
)

// newExpectAPI has a master with a helper, which has the id 1, one without, and n expectations
// with the ids from 3 on and the ports from 5000 on.
func newExpectAPI(t testing.TB, n int) *api {
	t.Helper()
	f := tcpFlow(1)
	f.Helper = "Q.931"
	a := newAPI(f, tcpFlow(2))
	for i := range n {
		var got wire.Expect
		a.call(t, "expect.create", `{"master": `+master+`, "timeout": 60, `+fmt.Sprintf(expect, 5000+i)+`}`, &got)
		if got.ID != uint32(3+i) || *got.Tuple.DPort != uint16(5000+i) || got.Helper != "Q.931" || *got.Timeout != 60 || got.Protocol != "udp" {
			t.Fatalf("made %+v", got)
		}
	}
	return a
}

func TestExpectCreate(t *testing.T) {
	a := newExpectAPI(t, 1)
	a.refused(t, "expect.create", `{"master": 1, `+fmt.Sprintf(expect, 5000)+`}`, wire.AlreadyExists, "already")
	before := a.table.Writes()
	var got wire.Expect
	a.call(t, "expect.create", `{"dry_run": true, "master": 1, `+fmt.Sprintf(expect, 5001)+`}`, &got)
	if a.table.Writes() != before {
		t.Error("a dry run wrote")
	}
	a.call(t, "expect.create", `{"master": 1, "flags": ["permanent", "inactive"], "class": 1, "function": "sip",
		"mask": {"src": "255.255.255.255", "dport": 65535}, "nat": {"direction": "reply", "tuple": {"src": "10.9.0.1", "sport": 7}}, `+fmt.Sprintf(expect, 5001)+`}`, &got)
	if strings.Join(got.Flags, " ") != "permanent inactive" || got.Class != 1 || got.Function != "sip" || got.NAT == nil ||
		got.NAT.Direction != "reply" || *got.NAT.Tuple.SPort != 7 || got.Mask.Src != "255.255.255.255" {
		t.Errorf("made %+v", got)
	}
	for params, want := range map[string]struct {
		code wire.Code
		text string
	}{
		`"master": 2`:                               {wire.Unsupported, "no helper"},
		`"master": 77`:                              {wire.NotFound, "master"},
		`"master": {}`:                              {wire.InvalidParams, "master"},
		`"helper": "ftp", "master": 1`:              {wire.InvalidParams, "Q.931"},
		`"flags": ["lasting"], "master": 1`:         {wire.InvalidParams, "permanent"},
		`"nat": {"direction": "up"}, "master": 1`:   {wire.InvalidParams, "orig"},
		`"nat": {"direction": "orig"}, "master": 1`: {wire.InvalidParams, "nat.tuple"},
		`"mask": {"src": "x"}, "master": 1`:         {wire.InvalidParams, "mask.src"},
		`"timeout": -1, "master": 1`:                {wire.InvalidParams, "timeout"},
		`"mastre": 1`:                               {wire.InvalidParams, "master"},
	} {
		a.refused(t, "expect.create", `{`+params+`, `+fmt.Sprintf(expect, 5009)+`}`, want.code, want.text)
	}
	a.refused(t, "expect.create", `{"master": 1}`, wire.InvalidParams, "tuple")
	a.refused(t, "expect.create", `{"master": 1, "tuple": {}}`, wire.InvalidParams, "")
	a.refused(t, "expect.create", `{"master": 1, "tuple": {"src": "192.0.2.1", "dst": "10.0.0.1", "protocol": "tpc"}}`, wire.InvalidParams, "protocol")
}

func TestExpectListAndGet(t *testing.T) {
	a := newExpectAPI(t, 3)
	for _, c := range []struct {
		params         string
		shown, matched int
	}{
		{`{}`, 3, 3},
		{`{"filter": "dport=5000-5001"}`, 2, 2},
		{`{"filter": {"dst": "10.0.0.1", "proto": "udp"}, "limit": 1}`, 1, 3},
		{`{"filter": "helper=Q.931 id=4"}`, 1, 1},
		{`{"filter": "proto=tcp"}`, 0, 0},
	} {
		var got wire.ExpectListResult
		a.call(t, "expect.list", c.params, &got)
		if len(got.Expects) != c.shown || got.Matched != c.matched {
			t.Errorf("%s: %+v, want %d of %d", c.params, got, c.shown, c.matched)
		}
		for _, x := range got.Expects {
			if x.Master.Src != "10.0.0.1" || x.Master.Protocol != "tcp" {
				t.Errorf("master %+v", x.Master)
			}
		}
	}
	a.refused(t, "expect.list", `{"filter": "mark=1"}`, wire.InvalidParams, "an expectation has no mark")
	a.refused(t, "expect.list", `{"filter": "dprot=1"}`, wire.InvalidParams, "dport")
	a.refused(t, "expect.list", `{"limit": -1}`, wire.InvalidParams, "limit")
	for _, params := range []string{`{"expect": 4}`, `{"expect": "4"}`, `[4]`, `{"expect": {"id": 4}}`} {
		var got wire.Expect
		a.call(t, "expect.get", params, &got)
		if got.ID != 4 || *got.Tuple.DPort != 5001 {
			t.Errorf("%s: %+v", params, got)
		}
	}
	a.refused(t, "expect.get", `{"expect": "0b11"}`, wire.InvalidParams, "1 to 4294967295")
	a.refused(t, "expect.get", `{"expect": 77}`, wire.NotFound, "")
	a.refused(t, "expect.get", `{"expect": 0}`, wire.InvalidParams, "1 to 4294967295")
	a.refused(t, "expect.get", `{"expect": {}}`, wire.InvalidParams, "1 to 4294967295")
}

func TestExpectKillAndFlush(t *testing.T) {
	a := newExpectAPI(t, 5)
	for params, text := range map[string]string{
		`{}`:                                "all: true",
		`{"filter": ""}`:                    "all: true",
		`{"filter": "mark=1"}`:              "no mark",
		`{"filter": {}, "expects": [3]}`:    "together",
		`{"expects": [0]}`:                  "expects[0]",
		`{"expects": [3], "max": -1}`:       "max",
		`{"expects": [3], "dry-run": true}`: "dry_run",
	} {
		a.refused(t, "expect.kill", params, wire.InvalidParams, text)
	}
	a.refused(t, "expect.kill", `{"all": true, "max": 4}`, wire.LimitExceeded, "5 expectations match, more than max 4; nothing was killed")
	if _, err := a.tryAs(t, wire.RoleOperator, "expect.kill", `{"all": true}`); err == nil || err.Code != wire.PermissionDenied {
		t.Errorf("an operator kills expectations: %v", err)
	}
	kill := func(params string, killed, matched, shown int) {
		t.Helper()
		var got wire.ExpectKillResult
		a.call(t, "expect.kill", params, &got)
		if got.Killed != killed || got.Matched != matched || len(got.Expects) != shown || got.Changed != (killed > 0) {
			t.Errorf("%s: %+v, want %d of %d killed, %d shown", params, got, killed, matched, shown)
		}
	}
	kill(`{"filter": "dport=5000", "dry_run": true}`, 0, 1, 1)
	kill(`{"filter": "dport=5000"}`, 1, 1, 1)
	kill(`{"filter": "dport=5000"}`, 0, 0, 0)
	kill(`{"expects": [4, 4, 77, {"id": 5}]}`, 2, 2, 2)
	a.refused(t, "expect.flush", `{"all": false}`, wire.InvalidParams, "all: true")
	var got wire.FlushResult
	a.call(t, "expect.flush", `{"all": true, "dry_run": true}`, &got)
	if got.Killed != 2 {
		t.Errorf("a dry run counts %d, want 2", got.Killed)
	}
	a.call(t, "expect.flush", `{"all": true}`, &got)
	if got.Killed != 2 {
		t.Errorf("flushed %d, want 2", got.Killed)
	}
	a.call(t, "expect.flush", `{"all": true}`, &got)
	if n, _ := a.table.Count(t.Context(), conntrack.Filter{}); got.Killed != 0 || n != 2 {
		t.Errorf("flushed %d again, %d flows", got.Killed, n)
	}
}

// countedExpects counts the expectations that are taken of it.
type countedExpects struct {
	Table
	taken int
}

func (t *countedExpects) Expects(ctx context.Context) iter.Seq2[conntrack.Expect, error] {
	return func(yield func(conntrack.Expect, error) bool) {
		for x, err := range t.Table.Expects(ctx) {
			t.taken++
			if !yield(x, err) {
				return
			}
		}
	}
}

// TestExpectListCallerGone: nobody reads on, so the dump ends.
func TestExpectListCallerGone(t *testing.T) {
	table := &countedExpects{Table: newExpectAPI(t, 5).table}
	gone := errors.New("broken pipe")
	e := &jsonEncoder{sink: sink{w: discarding{}, failed: gone}}
	l := &expectList{table: &guarded{Table: table}}
	if err := l.stream(t.Context(), e); !errors.Is(err, gone) || table.taken != 1 {
		t.Errorf("%v after %d expectations, want %v after 1", err, table.taken, gone)
	}
}

// TestExpectSelectorContradicted names an expectation by its id and something that it isn't, and as
// a list gives it.
func TestExpectSelectorContradicted(t *testing.T) {
	a := newExpectAPI(t, 1)
	var list struct{ Expects []map[string]any }
	a.call(t, "expect.list", `{}`, &list)
	for member, value := range map[string]any{
		"family": "ipv6", "protocol": "icmp", "protonum": 1, "zone": 3, "helper": "sip",
		"master": map[string]any{"src": "192.0.2.99", "dst": "192.0.2.98", "sport": 1, "dport": 2, "protocol": "tcp"},
		"tuple":  map[string]any{"src": "192.0.2.99", "dst": "192.0.2.98", "sport": 1, "dport": 2},
	} {
		named := maps.Clone(list.Expects[0])
		if member == "protocol" || member == "protonum" {
			named = map[string]any{"id": named["id"]} // beside the tuple it would contradict that
		}
		named[member] = value
		params, err := json.Marshal(map[string]any{"expects": []any{named}, "dry_run": true})
		if err != nil {
			t.Fatal(err)
		}
		var got wire.ExpectKillResult
		a.call(t, "expect.kill", string(params), &got)
		if got.Matched != 0 {
			t.Errorf("%s %v: matched", member, value)
		}
	}
	params, err := json.Marshal(map[string]any{"expects": []any{list.Expects[0]}})
	if err != nil {
		t.Fatal(err)
	}
	var got wire.ExpectKillResult
	a.call(t, "expect.kill", string(params), &got)
	if got.Killed != 1 {
		t.Errorf("killed %d of what the list gave, want 1", got.Killed)
	}
}

// TestExpectBound: who is bound to networks expects only what is inside whatever comes, and sees no expectation
// of which but a part is.
func TestExpectBound(t *testing.T) {
	const full, own, wide = "255.255.255.255", "255.255.0.0", "255.254.0.0"
	admin := boundTo(wire.RoleAdmin, "10.0.0.0/16", "2001:db8:1::/48")
	for _, c := range []struct {
		tuple, more string
		why         string // it is refused; empty: it isn't
		seen        bool   // where somebody else makes it for a flow of theirs
	}{
		{`"src": "192.0.2.1", "dst": "10.0.0.1"`, ``, "", true},
		{`"dst": "10.0.0.1"`, ``, "", true},
		{`"src": "192.0.2.1", "dst": "10.0.0.1"`, `, "mask": {"src": "0.0.0.0"}`, "", true},
		{`"src": "10.0.0.1", "dst": "192.0.2.1"`, ``, "", true},
		{`"src": "10.0.0.1", "dst": "192.0.2.1"`, `, "mask": {"src": "` + full + `"}`, "", true},
		{`"src": "10.0.0.1", "dst": "192.0.2.1"`, `, "mask": {"src": "` + own + `"}`, "", true},
		{`"src": "10.0.0.1", "dst": "192.0.2.1"`, `, "mask": {"src": "` + wide + `"}`, "mask.src", false},
		{`"src": "10.0.0.1", "dst": "192.0.2.1"`, `, "mask": {"src": "0.255.255.255"}`, "mask.src", false},
		{`"src": "10.0.0.1", "dst": "192.0.2.1"`, `, "mask": {"src": "0.0.0.0"}`, "mask.src", false},
		{`"src": "10.0.0.1", "dst": "192.0.2.1"`, `, "mask": {"sport": 65535}`, "mask.src", false},
		{`"dst": "192.0.2.1"`, ``, "what is expected is outside", false},
		{`"src": "10.1.0.1", "dst": "192.0.2.1"`, ``, "what is expected is outside", false},
		{`"dst": "10.0.0.1"`, `, "nat": {"direction": "reply", "tuple": {"src": "10.0.0.9", "sport": 7}}`, "nat: callers who are bound", true},
		{`"dst": "10.0.0.1"`, `, "function": "nat-follow-master"`, "function: callers who are bound", true},
	} {
		for _, by := range []string{ScopeEither, ScopeOrig, ScopeReply} {
			for _, dry := range []string{"", `, "dry_run": true`} {
				a := newExpectAPI(t, 0)
				a.service.Scope = side(by)
				params := fmt.Sprintf(`{"master": 1, "tuple": {%s, "dport": 22, "protocol": "tcp"}%s%s}`, c.tuple, c.more, dry)
				_, err := a.as(t, admin, "expect.create", params)
				if c.why == "" && err != nil || c.why != "" && (err == nil || err.Code != wire.PermissionDenied || !strings.Contains(err.Message, c.why)) {
					t.Errorf("%s %s: %v, want %q", by, params, err, c.why)
				}
				if wrote := a.table.Writes() > 0; wrote != (c.why == "" && dry == "") {
					t.Errorf("%s %s: wrote %v", by, params, wrote)
				}
			}
		}
		f := tcpFlow(1)
		f.Orig.Src, f.Helper = netip.MustParseAddr("172.16.0.1"), "Q.931"
		a := newAPI(f)
		a.call(t, "expect.create", fmt.Sprintf(`{"master": 1, "tuple": {%s, "dport": 22, "protocol": "tcp"}%s}`, c.tuple, c.more), &wire.Expect{})
		text, err := a.as(t, admin, "expect.list", `{}`)
		if err != nil || strings.Contains(text, `"matched":1`) != c.seen || strings.Contains(text, `"id":2`) != c.seen {
			t.Errorf("%s%s is listed: %s, %v", c.tuple, c.more, text, err)
		}
		if _, err := a.as(t, admin, "expect.get", `{"expect": 2}`); (err == nil) != c.seen {
			t.Errorf("%s%s: get: %v", c.tuple, c.more, err)
		}
		text, err = a.as(t, admin, "expect.kill", `{"all": true}`)
		if err != nil || strings.Contains(text, `"killed":1`) != c.seen {
			t.Errorf("%s%s: kill: %s, %v", c.tuple, c.more, text, err)
		}
	}
}
