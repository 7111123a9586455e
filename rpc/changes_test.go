package rpc

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

func TestKill(t *testing.T) {
	a := newAPI(append(tcpFlows(4), udpFlow("10.0.0.9", 1))...)
	for params, text := range map[string]string{
		`{}`:                                    "all: true",
		`{"filter": {}}`:                        "all: true",
		`{"filter": ""}`:                        "all: true",
		`{"filter": []}`:                        "",
		`{"filter": [{"src": "10.0.0.1"}, {}]}`: "",
		`{"filter": {"scr": "10.0.0.1"}}`:       "src",
		`{"fliter": {"src": "10.0.0.1"}}`:       "filter",
		`{"filter": {"src": "10.0.0.1"}, "flows": [1]}`: "together",
		`{"flows": [1], "all": true}`:                   "flows are given",
		`{"flows": [1, {}]}`:                            "flows[1]",
		`{"flows": ["x"]}`:                              "flows[0]",
		`{"flows": ["0o1"]}`:                            "flows[0]",
		`{"flows": 1}`:                                  "flows",
		`{"filter": "proto=tcp", "max": -1}`:            "max",
		`{"filter": "proto=tcp", "dryrun": true}`:       "dry_run",
		`{"filter": "proto=tcp", "dry_run": 1.5}`:       "dry_run",
	} {
		a.refused(t, "conntrack.kill", params, wire.InvalidParams, text)
	}
	a.refused(t, "conntrack.kill", `{"filter": "proto=tcp", "max": 3}`, wire.LimitExceeded, "4 flows match, more than max 3; nothing was changed")
	a.refused(t, "conntrack.kill", `{"flows": [1, 2, 3], "max": 2}`, wire.LimitExceeded, "3 flows match")
	a.refused(t, "conntrack.kill", `{"filter": "proto=tcp", "max": 0}`, wire.LimitExceeded, "more than max 0")
	if _, err := a.tryAs(t, wire.RoleViewer, "conntrack.kill", `{"flows": [1]}`); err == nil || err.Code != wire.PermissionDenied || a.table.Writes() != 0 {
		t.Errorf("a viewer killed: %v", err)
	}

	kill := func(params string, wantIDs string, killed, matched int) wire.KillResult {
		t.Helper()
		var got wire.KillResult
		a.call(t, "conntrack.kill", params, &got)
		if ids(got.Flows) != wantIDs || got.Killed != killed || got.Matched != matched || got.Changed != (killed > 0) || got.Truncated {
			t.Errorf("%s: %+v, want %d of %d killed and %s shown", params, got, killed, matched, wantIDs)
		}
		return got
	}
	kill(`{"filter": "proto=tcp", "max": 4, "dry_run": true}`, "[1 2 3 4]", 0, 4)
	if a.table.Writes() != 0 {
		t.Fatalf("%d writes of a dry run", a.table.Writes())
	}
	kill(`{"flows": [1, "2", 1, {"id": 2}, 77], "max": 2, "reason": "test"}`, "[1 2]", 2, 2)
	kill(`{"flows": [1, 2]}`, "[]", 0, 0)
	kill(`{"flows": []}`, "[]", 0, 0)
	kill(`{"flows": [{"protocol": "udp", "orig": {"src": "10.0.0.9", "dst": "192.0.2.53", "sport": 1, "dport": 53}}]}`, "[5]", 1, 1)
	a.table.Deny(3, unix.EPERM)
	got := kill(`{"filter": {"proto": "tcp"}}`, "[4]", 1, 2)
	if len(got.Failed) != 1 || got.Failed[0].Flow.ID != 3 || got.Failed[0].Code != wire.PermissionDenied || got.Failed[0].Hint == "" {
		t.Errorf("failed %+v", got.Failed)
	}
	a.table.Deny(3, nil)
	kill(`{"all": true}`, "[3]", 1, 1)
	kill(`{"all": true}`, "[]", 0, 0)
}

// goneTable has flows that end between the dump and the kill.
type goneTable struct{ Table }

func (t goneTable) Kill(ctx context.Context, keys []conntrack.Key) []error {
	t.Table.Kill(ctx, keys[:1])
	return t.Table.Kill(ctx, keys)
}

func TestKillGone(t *testing.T) {
	a := newAPI(tcpFlows(2)...)
	a.service.Table = goneTable{a.table}
	var got wire.KillResult
	a.call(t, "conntrack.kill", `{"all": true}`, &got)
	if got.Matched != 2 || got.Killed != 1 || ids(got.Flows) != "[2]" || len(got.Failed) != 0 {
		t.Errorf("%+v, want one of two killed and no failure", got)
	}
}

// bigTable gives a fixed number of flows and remembers which were killed.
type bigTable struct {
	Table
	left  []uint32
	dumps int
	same  uint32 // an id that all flows have, where not 0

	refuse  int // so many of the flows, the first ones, can't be killed
	failing int // the dump of this number fails, and counting begins anew
	once    bool
}

func (t *bigTable) Flows(context.Context, conntrack.Filter, ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	t.dumps++
	if t.dumps == t.failing {
		if t.dumps = 0; t.once {
			t.failing = 0
		}
		return func(yield func(conntrack.Flow, error) bool) { yield(conntrack.Flow{}, conntrack.ErrInterrupted) }
	}
	return func(yield func(conntrack.Flow, error) bool) {
		for _, n := range t.left {
			f := tcpFlow(int(n))
			f.ID = n
			if t.same != 0 {
				f.ID = t.same
			}
			f.Set(conntrack.AttrID)
			if !yield(f, nil) {
				return
			}
		}
	}
}

func (t *bigTable) Kill(_ context.Context, keys []conntrack.Key) []error {
	if len(keys) > maxHeld {
		panic(fmt.Sprint(len(keys), " keys at a time"))
	}
	errs := make([]error, len(keys))
	gone := 0
	for i, k := range keys {
		if int(k.ID) <= t.refuse {
			errs[i] = unix.EPERM
		} else {
			gone++
		}
	}
	t.left = slices.Delete(t.left, t.refuse, t.refuse+gone) // they come in order
	return errs
}

func newBigTable(n int) *bigTable {
	t := &bigTable{}
	for i := range n {
		t.left = append(t.left, uint32(i+1))
	}
	return t
}

func TestKillMany(t *testing.T) {
	a := newAPI()
	for _, c := range []struct {
		n     int
		dumps int
	}{{maxShown, 1}, {maxShown + 1, 1}, {maxHeld, 1}, {maxHeld + 1, 2}, {2*maxHeld + 1, 3}} {
		table := newBigTable(c.n)
		a.service.Table = table
		var got wire.KillResult
		params := fmt.Sprintf(`{"all": true, "max": %d}`, c.n)
		a.call(t, "conntrack.kill", strings.Replace(params, "}", `, "dry_run": true}`, 1), &got)
		if got.Killed != 0 || got.Matched != c.n || got.Truncated != (c.n > maxShown) || len(table.left) != c.n {
			t.Errorf("dry run of %d: killed %d, matched %d, truncated %v, %d left", c.n, got.Killed, got.Matched, got.Truncated, len(table.left))
		}
		table.dumps = 0
		a.call(t, "conntrack.kill", params, &got)
		if got.Killed != c.n || got.Matched != c.n || len(got.Flows) != min(c.n, maxShown) || got.Truncated != (c.n > maxShown) || len(table.left) != 0 || table.dumps != c.dumps {
			t.Errorf("%d: killed %d, matched %d, %d shown, truncated %v, %d left, %d dumps",
				c.n, got.Killed, got.Matched, len(got.Flows), got.Truncated, len(table.left), table.dumps)
		}
	}
	// 1000 is the limit where none is given.
	a.service.Table = newBigTable(defaultMax + 1)
	if _, err := a.tryAs(t, wire.RoleOperator, "conntrack.kill", `{"all": true}`); err == nil || err.Code != wire.LimitExceeded {
		t.Errorf("%d flows: %v", defaultMax+1, err)
	}
}

// TestKillManyRefused: what the kernel refuses is not tried again in place of the others.
func TestKillManyRefused(t *testing.T) {
	table := newBigTable(maxHeld + maxHeld/2)
	table.refuse = maxHeld / 2
	a := newAPI()
	a.service.Table = table
	var got wire.KillResult
	a.call(t, "conntrack.kill", fmt.Sprintf(`{"all": true, "max": %d}`, 2*maxHeld), &got)
	if got.Killed != maxHeld || len(table.left) != maxHeld/2 || len(got.Failed) != maxShown || !got.Truncated {
		t.Errorf("killed %d, %d left, %d failed, truncated %v", got.Killed, len(table.left), len(got.Failed), got.Truncated)
	}
}

// TestKillManyBreaksOff: when a later dump fails, what is gone is told.
func TestKillManyBreaksOff(t *testing.T) {
	table := newBigTable(maxHeld + 5)
	table.failing = 2
	a := newAPI()
	a.service.Table = table
	var got wire.KillResult
	a.call(t, "conntrack.kill", fmt.Sprintf(`{"all": true, "max": %d}`, 2*maxHeld), &got)
	if got.Killed != maxHeld || got.Matched != maxHeld+5 || !got.Changed || !got.Truncated ||
		len(got.Failed) != 1 || got.Failed[0].Code != wire.Busy || got.Failed[0].Hint == "" || got.Failed[0].Flow.Orig != nil {
		t.Errorf("killed %d of %d, truncated %v, failed %+v", got.Killed, got.Matched, got.Truncated, got.Failed)
	}
	// Where nothing is gone yet, it is an error as any other.
	table.failing = 1
	a.refused(t, "conntrack.kill", fmt.Sprintf(`{"all": true, "max": %d}`, 2*maxHeld), wire.Busy, "")
}

// slowTable is cancelled while it kills or modifies: the first key is done, the others are not.
type slowTable struct {
	Table
	cancel func()
}

func (t slowTable) half(ctx context.Context, keys []conntrack.Key, do func(ctx context.Context, keys []conntrack.Key) []error) []error {
	errs := do(ctx, keys[:1])
	t.cancel()
	for range keys[1:] {
		errs = append(errs, &conntrack.OpError{Op: "change", Err: ctx.Err()})
	}
	return errs
}

func (t slowTable) Kill(ctx context.Context, keys []conntrack.Key) []error {
	return t.half(ctx, keys, t.Table.Kill)
}

func (t slowTable) Modify(ctx context.Context, keys []conntrack.Key, c conntrack.Change) []error {
	return t.half(ctx, keys, func(ctx context.Context, keys []conntrack.Key) []error { return t.Table.Modify(ctx, keys, c) })
}

func (t slowTable) KillExpects(ctx context.Context, xs []conntrack.Expect) []error {
	errs := t.Table.KillExpects(ctx, xs[:1])
	t.cancel()
	for range xs[1:] {
		errs = append(errs, &conntrack.OpError{Op: "kill expectation", Err: ctx.Err()})
	}
	return errs
}

// TestCancelledHalfWay: a change that was cancelled half way tells what is done.
func TestCancelledHalfWay(t *testing.T) {
	for method, params := range map[string]map[string]any{
		"conntrack.kill":   {"all": true},
		"conntrack.modify": {"all": true, "set": map[string]any{"mark": 99}},
		"expect.kill":      {"all": true},
	} {
		a := newExpectAPI(t, 3)
		ctx, cancel := context.WithCancel(WithPrincipal(t.Context(), caller{wire.RoleAdmin}))
		a.service.Table = slowTable{a.table, cancel}
		result, err := a.Call(ctx, method, Params{Named: params})
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		var n, failed int
		switch r := result.(type) {
		case *changeResult:
			n, failed = r.n, len(r.failed)
		case *expectKillResult:
			n, failed = r.killed, len(r.failed)
		}
		if n != 1 || failed == 0 {
			t.Errorf("%s: %d done, %d failed, want 1 and what was left", method, n, failed)
		}
	}
}

func TestAmbiguousID(t *testing.T) {
	table := newBigTable(2)
	table.same = 7
	a := newAPI()
	a.service.Table = table
	a.refused(t, "conntrack.kill", `{"flows": [7]}`, wire.Conflict, "id 7")
	if len(table.left) != 2 {
		t.Error("killed all the same")
	}
}

// TestSelectorStart: the kernel gives a new flow with the tuple of one that ended the same id, so
// where the caller gives a start, another start is another flow.
func TestSelectorStart(t *testing.T) {
	flow := tcpFlow(1)
	flow.Start = 1_700_000_000_123_456_789
	const tuple = `"id": 1, "protocol": "tcp", "orig": {"src": "10.0.0.1", "dst": "192.0.2.1", "sport": 40000, "dport": 443}`
	for _, named := range []string{`"id": 1`, tuple} {
		a := newAPI(flow)
		other := `{` + named + `, "start": "2023-11-14T22:13:20.123456788Z"}`
		same := `{` + named + `, "start": "2023-11-14T23:13:20.123456789+01:00"}`
		a.refused(t, "conntrack.get", `{"flow": `+other+`}`, wire.NotFound, "")
		var killed wire.KillResult
		a.call(t, "conntrack.kill", `{"flows": [`+other+`]}`, &killed)
		if killed.Matched != 0 || killed.Killed != 0 {
			t.Errorf("%s: another flow was killed: %+v", named, killed)
		}
		var got wire.Flow
		a.call(t, "conntrack.get", `{"flow": `+same+`}`, &got)
		a.call(t, "conntrack.kill", `{"flows": [`+same+`]}`, &killed)
		if killed.Killed != 1 {
			t.Errorf("%s: %+v, want it killed", named, killed)
		}
	}
}

func TestCreate(t *testing.T) {
	const orig = `"orig": {"src": "10.0.0.7", "dst": "192.0.2.1", "sport": 5060, "dport": 5060}`
	a := newAPI()
	for _, c := range []struct {
		name, flow string
		want       func(f *wire.Flow) bool
	}{
		{"plain", ``, func(f *wire.Flow) bool { return f.NAT == "" && *f.Reply.DPort == 5060 && f.Reply.Dst == "10.0.0.7" }},
		{"reply with an address", `, "reply": {"dst": "198.51.100.1"}`, func(f *wire.Flow) bool {
			return f.NAT == "snat" && f.Reply.Dst == "198.51.100.1" && *f.Reply.DPort == 5060 && f.Reply.Src == "192.0.2.1"
		}},
		{"reply with a port", `, "reply": {"sport": 80}`, func(f *wire.Flow) bool { return f.NAT == "dnat" && *f.Reply.SPort == 80 && f.Reply.Src == "192.0.2.1" }},
		{"whole reply", `, "reply": {"src": "10.9.9.9", "dst": "198.51.100.1", "sport": 1, "dport": 2}`, func(f *wire.Flow) bool { return f.NAT == "both" }},
		{"all there is", `, "mark": 4294967295, "status": ["assured"], "labels": [0, 127], "zone": 9`, func(f *wire.Flow) bool {
			return *f.Mark == 4294967295 && fmt.Sprint(f.Labels) == "[0 127]" && f.Zone == 9 && strings.Contains(fmt.Sprint(f.Status), "assured")
		}},
	} {
		params := `{"flow": {"protocol": "udp", "timeout": 120, ` + orig + c.flow + `}}`
		var dry, got wire.Flow
		before := a.table.Writes()
		a.call(t, "conntrack.create", strings.Replace(params, "{", `{"dry_run": true, `, 1), &dry)
		if a.table.Writes() != before || dry.ID != 0 {
			t.Errorf("%s: a dry run wrote %+v", c.name, dry)
		}
		a.call(t, "conntrack.create", params, &got)
		if !c.want(&got) || got.ID == 0 || *got.Timeout != 120 {
			t.Errorf("%s: made %+v", c.name, got)
		}
		a.refused(t, "conntrack.create", params, wire.AlreadyExists, "already")
		a.table.Flush(t.Context(), conntrack.FamilyAny, nil)
	}
	for flow, text := range map[string]string{
		`{}`:                                "orig is missing",
		`{"timeout": 5, ` + orig + `}`:      "protocol is missing",
		`{"protocol": "udp", ` + orig + `}`: "timeout is missing",
		`{"protocol": "udp", "timeout": 5, "family": "ipv6", ` + orig + `}`:                              "family",
		`{"protocol": "udp", "timeout": 5, "state": "ESTABLISHED", ` + orig + `}`:                        "no state",
		`{"protocol": "tcp", "timeout": 5, "state": "OPEN", ` + orig + `}`:                               "no state",
		`{"protocol": "udp", "timeout": 5, "labels": [128], ` + orig + `}`:                               "0 to 127",
		`{"protocol": "udp", "timeout": 5, "mark": -1, ` + orig + `}`:                                    "mark",
		`{"protocol": "udp", "timeout": 5, "status": ["x"], ` + orig + `}`:                               "no status bit",
		`{"protocol": "udp", "timeout": 5, "master": {"src": "x"}, ` + orig + `}`:                        "master.src",
		`{"protocol": "tcp", "timeout": 5, "tcp": {"wscale": [1]}, ` + orig + `}`:                        "wscale",
		`{"protocol": "udp", "timeout": 5, "reply": {"dst": "fd00::1"}, ` + orig + `}`:                   "",
		`{"protocol": "udp", "timeout": 0, ` + orig + `}`:                                                "",
		`{"protocol": "udp", "timeout": 5, "orig": {"src": "10.0.0.7", "sport": 1, "dport": 2}}`:         "",
		`{"protocol": "udp", "timeout": 5, "orig": {"src": "10.0.0.7", "dst": "192.0.2.1", "sprot": 1}}`: "sport",
	} {
		a.refused(t, "conntrack.create", `{"flow": `+flow+`}`, wire.InvalidParams, text)
		a.refused(t, "conntrack.create", `{"dry_run": true, "flow": `+flow+`}`, wire.InvalidParams, text)
	}
	if _, err := a.tryAs(t, wire.RoleOperator, "conntrack.create", `{"flow": {}}`); err == nil || err.Code != wire.PermissionDenied {
		t.Errorf("an operator creates: %v", err)
	}
}

func TestFlush(t *testing.T) {
	zoned := udpFlow("10.0.0.8", 1)
	zoned.Zone = 7
	a := newAPI(tcpFlow(1), zoned, udpFlow("fd00::1", 1))
	a.refused(t, "conntrack.flush", `{}`, wire.InvalidParams, "all")
	a.refused(t, "conntrack.flush", `{"all": false}`, wire.InvalidParams, "all: true")
	a.refused(t, "conntrack.flush", `{"all": true, "family": "ipx"}`, wire.InvalidParams, "ipv4")
	a.refused(t, "conntrack.flush", `{"all": true, "zone": 65536}`, wire.InvalidParams, "zone")
	for _, c := range []struct {
		params string
		want   int
	}{
		{`{"all": true, "family": "ipv4", "zone": 8}`, 0},
		{`{"all": true, "zone": 7}`, 1},
		{`{"all": true, "zone": 0, "family": "ipv6"}`, 1},
		{`{"all": true}`, 1},
		{`{"all": true}`, 0},
	} {
		before := a.table.Writes()
		var got wire.FlushResult
		a.call(t, "conntrack.flush", strings.Replace(c.params, "{", `{"dry_run": true, `, 1), &got)
		if got.Killed != c.want || a.table.Writes() != before {
			t.Errorf("dry run of %s: %d, want %d; %d writes", c.params, got.Killed, c.want, a.table.Writes()-before)
		}
		a.call(t, "conntrack.flush", c.params, &got)
		if got.Killed != c.want {
			t.Errorf("%s: %d, want %d", c.params, got.Killed, c.want)
		}
	}
}

// TestTableFails: an error of the table reaches the caller by its code, without detail where it
// is internal.
func TestTableFails(t *testing.T) {
	for _, c := range []struct {
		op             conntracktest.Op
		method, params string
	}{
		{conntracktest.OpFlows, "conntrack.kill", `{"all": true}`},
		{conntracktest.OpFlows, "conntrack.modify", `{"flows": [1], "set": {"mark": 9}}`},
		{conntracktest.OpFlows, "conntrack.count", `{"by": "src"}`},
		{conntracktest.OpCount, "conntrack.count", `{}`},
		{conntracktest.OpGet, "conntrack.get", `{"flow": 1}`},
		{conntracktest.OpFlush, "conntrack.flush", `{"all": true}`},
		{conntracktest.OpStats, "conntrack.stats", `{}`},
		{conntracktest.OpExpects, "expect.list", `{}`},
		{conntracktest.OpFlushExpects, "expect.flush", `{"all": true}`},
	} {
		a := newAPI(tcpFlow(1))
		a.table.Fail(c.op, 0, unix.EPERM)
		a.refused(t, c.method, c.params, wire.PermissionDenied, "CAP_NET_ADMIN")
		a.table.Fail(c.op, 0, fmt.Errorf("secret"))
		if _, err := a.tryAs(t, wire.RoleAdmin, c.method, c.params); err == nil || err.Code != wire.Internal || strings.Contains(err.Message, "secret") {
			t.Errorf("%s: %+v, want internal without a detail", c.method, err)
		}
	}
}
