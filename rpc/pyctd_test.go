package rpc

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// pyctdAPI is an api whose sessions' clock stands.
type pyctdAPI struct {
	*api
	now time.Time
}

func newPyctd(cfg PyctdConfig, flows ...conntrack.Flow) *pyctdAPI {
	p := &pyctdAPI{api: newAPI(flows...), now: time.Unix(1_000_000, 0)}
	p.service.Pyctd = cfg
	p.service.now = func() time.Time { return p.now }
	p.Registry = NewRegistry()
	p.service.Register(p.Registry)
	RegisterSystem(p.Registry, "1.2.3")
	return p
}

// do calls a method as nobody and returns what it gave.
func (p *pyctdAPI) do(t testing.TB, method string, values ...string) any {
	t.Helper()
	v, code := p.xmlRPC(t, "", methodCall(method, values...))
	if code != 0 {
		t.Fatalf("%s %q: fault %d", method, values, code)
	}
	return v
}

// fault calls a method that must fail.
func (p *pyctdAPI) fault(t testing.TB, code wire.Code, method string, values ...string) {
	t.Helper()
	before := p.table.Writes()
	if v, got := p.xmlRPC(t, "", methodCall(method, values...)); got != code.Number() {
		t.Errorf("%s %q gave %v, fault %d, want %d (%s)", method, values, v, got, code.Number(), code)
	}
	if n := p.table.Writes() - before; n != 0 {
		t.Errorf("%s %q: %d writes", method, values, n)
	}
}

func (p *pyctdAPI) login(t testing.TB) string {
	t.Helper()
	sid, _ := p.do(t, "login", "admin", "right").(string)
	if len(sid) < 20 {
		t.Fatalf("session id %q", sid)
	}
	return sid
}

// view returns the rows by id.
func (p *pyctdAPI) view(t testing.TB, sid string) map[string]map[string]any {
	t.Helper()
	rows := map[string]map[string]any{}
	for id, row := range p.do(t, "view", sid).(map[string]any) {
		rows[id] = row.(map[string]any)
		if fmt.Sprint(rows[id]["id"]) != id {
			t.Errorf("row %s has the id %v", id, rows[id]["id"])
		}
	}
	return rows
}

func TestPyctdLogin(t *testing.T) {
	p := newPyctd(PyctdConfig{})
	p.fault(t, wire.Unauthenticated, "login")
	p.fault(t, wire.Unauthenticated, "login", "admin")
	p.fault(t, wire.Unauthenticated, "login", "admin", "wrong")
	p.fault(t, wire.Unauthenticated, "login", "admin", "<int>1</int>")
	p.fault(t, wire.Unauthenticated, "login", "admin", "right", "more")
	for _, method := range []string{"view", "kill", "change"} {
		p.fault(t, wire.Unauthenticated, method)
		p.fault(t, wire.Unauthenticated, method, "")
		p.fault(t, wire.Unauthenticated, method, "guess", "<int>1</int>")
		p.fault(t, wire.Unauthenticated, method, "<int>1</int>")
	}
	if a, b := p.login(t), p.login(t); a == b {
		t.Error("two sessions have one id")
	}
	// A caller who is known may give anything.
	for _, args := range [][]string{nil, {"x"}, {"x", "y", "z"}} {
		if v, code := p.xmlRPC(t, wire.RoleViewer, methodCall("login", args...)); code != 0 || v == "" {
			t.Errorf("login%q of a known caller: %v, fault %d", args, v, code)
		}
	}
	// They aren't there in JSON-RPC.
	if _, err := p.tryAs(t, wire.RoleAdmin, "login", `[]`); err == nil || err.Code != wire.MethodNotFound {
		t.Errorf("login by JSON-RPC: %v", err)
	}
}

func TestPyctdSession(t *testing.T) {
	p := newPyctd(PyctdConfig{}, tcpFlow(1))
	sid, other := p.login(t), p.login(t)
	// Each call renews it, whether it goes well or not.
	for range 3 {
		for _, call := range []func(){
			func() { p.view(t, sid) },
			func() { p.do(t, "kill", sid, "<array><data/></array>") },
			func() { p.do(t, "change", sid, "mark", "1", "5") },
			func() { p.fault(t, wire.NotFound, "change", sid, "mark", "77", "5") },
			func() { p.fault(t, wire.InvalidParams, "change", sid, "colour", "1", "5") },
		} {
			p.now = p.now.Add(sessionIdle)
			call()
		}
	}
	p.fault(t, wire.Unauthenticated, "view", other)
	p.now = p.now.Add(sessionIdle + 1)
	p.fault(t, wire.Unauthenticated, "view", sid)
	p.now = p.now.Add(-2 * sessionIdle)
	p.fault(t, wire.Unauthenticated, "view", sid)
}

func TestPyctdMaxSessions(t *testing.T) {
	p := newPyctd(PyctdConfig{})
	p.service.Login = func(_ context.Context, user, _ string) (Principal, error) {
		return named{caller{wire.RoleAdmin}, user}, nil
	}
	for i := range maxSessions {
		user := fmt.Sprint("user", i/maxSessionsPerName)
		p.do(t, "login", user, "right")
		if n := i + 1; n == maxSessionsPerName {
			p.fault(t, wire.Busy, "login", user, "right")
		}
	}
	p.fault(t, wire.Busy, "login", "another", "right")
	p.now = p.now.Add(11 * time.Second)
	p.do(t, "login", "another", "right")
}

func TestPyctdReader(t *testing.T) {
	p := newPyctd(PyctdConfig{}, tcpFlow(1))
	sid := p.do(t, "login", "reader", "right").(string)
	p.view(t, sid)
	p.fault(t, wire.PermissionDenied, "kill", sid, "1")
	p.fault(t, wire.PermissionDenied, "change", sid, "mark", "1", "1")
}

func TestPyctdView(t *testing.T) {
	flow := tcpFlow(3)
	flow.Mark = 4294967295
	flow.Reply = flow.Orig.Inverse()
	flow.Reply.DstPort = 7
	icmp := udpFlow("fd00::1", 0)
	icmp.Orig.Proto, icmp.Orig.SrcPort, icmp.Orig.DstPort = conntrack.ICMPv6, 0, 0
	icmp.Orig.ICMPType, icmp.Orig.ICMPID = 128, 9
	for _, c := range []struct {
		rows, addresses string
		src, dst        any
	}{
		{"", "", "10.0.0.3", "192.0.2.1"},
		{"struct", "dotted", "10.0.0.3", "192.0.2.1"},
		{"list", "dotted", "10.0.0.3", "192.0.2.1"},
		{"struct", "integer", int64(10<<24 + 3), "3221225985"},
		{"list", "integer", int64(10<<24 + 3), "3221225985"},
	} {
		t.Run(c.rows+" "+c.addresses, func(t *testing.T) {
			p := newPyctd(PyctdConfig{Rows: c.rows, Addresses: c.addresses}, flow, icmp)
			got := p.do(t, "view", p.login(t))
			want := []any{map[string]any{
				"id":            int64(1),
				"orig_l3proto":  int64(2),
				"orig_l4proto":  int64(6),
				"orig_ipv4_src": c.src, "orig_ipv4_dst": c.dst,
				"orig_port_src": int64(40000), "orig_port_dst": int64(443),
				"orig_counter_packets": int64(3), "orig_counter_bytes": "12884901888",
				"repl_l3proto": int64(2), "repl_l4proto": int64(6),
				"repl_ipv4_src": c.dst, "repl_ipv4_dst": c.src,
				"repl_port_src": int64(443), "repl_port_dst": int64(7),
				"repl_counter_packets": int64(0), "repl_counter_bytes": int64(0),
				"mark": "4294967295", "timeout": int64(600), "use": int64(1), "tcp_state": int64(3), "username": "",
				"status": int64(conntrack.StatusConfirmed | conntrack.StatusSNAT | conntrack.StatusSNATDone),
			}, map[string]any{
				"id":           int64(2),
				"orig_l3proto": int64(10), "orig_l4proto": int64(58),
				"orig_ipv6_src": "fd00::1", "orig_ipv6_dst": "2001:db8::53",
				"orig_icmp_type": int64(128), "orig_icmp_code": int64(0), "orig_icmp_id": int64(9),
				"repl_l3proto": int64(10), "repl_l4proto": int64(58),
				"repl_ipv6_src": "2001:db8::53", "repl_ipv6_dst": "fd00::1",
				"repl_icmp_type": int64(129), "repl_icmp_code": int64(0), "repl_icmp_id": int64(9),
				"mark": int64(0), "timeout": int64(30), "use": int64(1), "username": "", "status": int64(conntrack.StatusConfirmed),
			}}
			if c.rows == "list" {
				if diff := cmp.Diff(map[string]any{"conntracks": want}, got); diff != "" {
					t.Errorf("view (-want +got):\n%s", diff)
				}
				return
			}
			if diff := cmp.Diff(map[string]any{"1": want[0], "2": want[1]}, got); diff != "" {
				t.Errorf("view (-want +got):\n%s", diff)
			}
		})
	}
	p := newPyctd(PyctdConfig{})
	sid := p.login(t)
	if rows := p.view(t, sid); len(rows) != 0 {
		t.Errorf("an empty table has %v", rows)
	}
	p.fault(t, wire.InvalidParams, "view", sid, "more")
}

// TestPyctdIDs: an id is a flow's while it lives, and never another one's.
func TestPyctdIDs(t *testing.T) {
	p := newPyctd(PyctdConfig{}, tcpFlows(3)...)
	sid, other := p.login(t), p.login(t)
	source := func(id string) any {
		row := p.view(t, sid)[id]
		if row == nil {
			return nil
		}
		return row["orig_ipv4_src"]
	}
	if a, b := source("1"), source("3"); a != "10.0.0.0" || b != "10.0.0.2" {
		t.Fatalf("1 is %v, 3 is %v", a, b)
	}
	p.fault(t, wire.NotFound, "change", other, "mark", "1", "1") // it has not looked yet
	var killed wire.KillResult
	p.call(t, "conntrack.kill", `{"filter": "src=10.0.0.1"}`, &killed)
	// The same addresses come again, which is another flow.
	if _, err := p.table.Create(t.Context(), tcpFlow(1)); err != nil {
		t.Fatal(err)
	}
	p.do(t, "kill", sid, "<array><data><value><int>2</int></value></data></array>")
	if n, _ := p.table.Count(t.Context(), conntrack.Filter{}); n != 3 {
		t.Errorf("%d flows: the id of a flow that ended killed the one that took its place", n)
	}
	if a, b, c := source("2"), source("4"), source("1"); a != nil || b != "10.0.0.1" || c != "10.0.0.0" {
		t.Errorf("2 is %v, 4 is %v, 1 is %v", a, b, c)
	}
	p.fault(t, wire.NotFound, "change", sid, "mark", "2", "1")
}

func TestPyctdKill(t *testing.T) {
	for name, value := range map[string]string{
		"list":              "<array><data><value><int>2</int></value><value>3</value></data></array>",
		"struct":            structOf("5", "<int>2</int>", "x", "<i8>3</i8>"),
		"list with a twice": "<array><data><value>2</value><value>3</value><value>2</value></data></array>",
		"with one gone":     "<array><data><value>2</value><value>3</value><value>77</value></data></array>",
		"doubles":           "<array><data><value><double>2</double></value><value><double>3.0</double></value></data></array>",
	} {
		p := newPyctd(PyctdConfig{}, tcpFlows(4)...)
		sid := p.login(t)
		p.view(t, sid)
		if v := p.do(t, "kill", sid, value); v != "" {
			t.Errorf("%s: kill gave %v", name, v)
		}
		if rows := p.view(t, sid); len(rows) != 2 || rows["1"] == nil || rows["4"] == nil {
			t.Errorf("%s: left %v", name, rows)
		}
	}
	p := newPyctd(PyctdConfig{}, tcpFlows(4)...)
	sid := p.login(t)
	p.view(t, sid)
	for _, single := range []string{"<int>1</int>", "2"} {
		p.do(t, "kill", sid, single)
	}
	if rows := p.view(t, sid); len(rows) != 2 {
		t.Errorf("left %v", rows)
	}
	for _, bad := range []string{"", "all", "<int>-1</int>", "2147483648", "<double>3.5</double>", "<boolean>1</boolean>", "<array><data><value>3</value><value>x</value></data></array>"} {
		p.fault(t, wire.InvalidParams, "kill", sid, bad)
	}
	p.fault(t, wire.InvalidParams, "kill", sid)
	p.fault(t, wire.InvalidParams, "kill", sid, "3", "4")
	p.table.Deny(3, unix.EPERM)
	p.fault(t, wire.PermissionDenied, "kill", sid, "3")
}

func TestPyctdChange(t *testing.T) {
	p := newPyctd(PyctdConfig{}, tcpFlows(2)...)
	sid := p.login(t)
	p.view(t, sid)
	for _, c := range []struct{ value, want string }{
		{"<int>5</int>", "5"}, {"0", "0"}, {"4294967295", "4294967295"}, {"0x10", "16"}, {"<i8>4294967295</i8>", "4294967295"}, {"<double>7</double>", "7"},
	} {
		if v := p.do(t, "change", sid, "mark", "<int>2</int>", c.value); v != "" {
			t.Errorf("change gave %v", v)
		}
		if row := p.view(t, sid)["2"]; fmt.Sprint(row["mark"]) != c.want {
			t.Errorf("mark %v after %s, want %s", row["mark"], c.value, c.want)
		}
	}
	p.do(t, "change", sid, "timeout", "1", "777")
	row := p.view(t, sid)["1"]
	status, _ := strconv.Atoi(fmt.Sprint(row["status"]))
	if row["timeout"] != int64(777) || conntrack.Status(status)&conntrack.StatusFixedTimeout == 0 {
		t.Errorf("timeout %v, status %v, want 777 and fixed", row["timeout"], conntrack.Status(status))
	}
	p.fault(t, wire.Conflict, "change", sid, "timeout", "1", "778") // it is fixed for good
	p.do(t, "change", sid, "mark", "1", "3")
	for _, args := range []string{"mark", "mark 1", "mark 1 2 3", "colour 1 2", "mark x 2", "mark 1 x", "mark 1 -1", "mark 1 4294967296", "mark -1 1", "timeout 1 1.5"} {
		p.fault(t, wire.InvalidParams, "change", append([]string{sid}, strings.Fields(args)...)...)
	}
	p.fault(t, wire.InvalidParams, "change", sid, "<int>1</int>", "1", "1")
	p.fault(t, wire.NotFound, "change", sid, "mark", "9", "1")
}
