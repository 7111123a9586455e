package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// flowOf returns a TCP flow (a UDP one where proto says so) from src to dst whose answers come as
// reply says; a zero reply is the inverse.
func flowOf(proto conntrack.Protocol, src, dst string, reply ...string) conntrack.Flow {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	f := conntrack.Flow{Timeout: 600 * time.Second, Orig: conntrack.Tuple{
		Proto: proto, Src: s.Addr(), Dst: d.Addr(), SrcPort: s.Port(), DstPort: d.Port(),
	}}
	if len(reply) == 2 {
		s, d := netip.MustParseAddrPort(reply[0]), netip.MustParseAddrPort(reply[1])
		f.Reply = conntrack.Tuple{Proto: proto, Src: s.Addr(), Dst: d.Addr(), SrcPort: s.Port(), DstPort: d.Port()}
	}
	return f
}

// callFrom calls a method as an admin who comes from somewhere.
func (a *api) callFrom(t testing.TB, c Caller, method, params string) (*changeResult, *wire.Error) {
	t.Helper()
	var named map[string]any
	dec := json.NewDecoder(strings.NewReader(params))
	dec.UseNumber()
	if err := dec.Decode(&named); err != nil {
		t.Fatal(err)
	}
	ctx := WithCaller(WithPrincipal(t.Context(), caller{wire.RoleAdmin}), c)
	result, err := a.Call(ctx, method, Params{Named: named})
	if err != nil {
		return nil, public(err)
	}
	return result.(*changeResult), nil
}

func TestSparing(t *testing.T) {
	const daemon, client = "198.51.100.1:8420", "192.0.2.7:5000"
	remote := Caller{Remote: netip.MustParseAddrPort(client), Local: netip.MustParseAddrPort(daemon)}
	v6 := Caller{Remote: netip.MustParseAddrPort("[2001:db8::7]:5000"), Local: netip.MustParseAddrPort("[2001:db8::1]:8420")}
	here := Caller{Here: true}
	loopback := Caller{Remote: netip.MustParseAddrPort("127.0.0.1:5000"), Local: netip.MustParseAddrPort("127.0.0.1:8420"), Here: true}
	const session = `"ssh_connection": "192.0.2.7 52100 198.51.100.1 22"`
	tcp, udp := conntrack.TCP, conntrack.UDP
	for _, c := range []struct {
		name   string
		caller Caller
		params string
		flow   conntrack.Flow
		spared bool
	}{
		{"its connection", remote, "", flowOf(tcp, client, daemon), true},
		{"met in its middle", remote, "", flowOf(tcp, daemon, client), true},
		{"a forwarded port", remote, "", flowOf(tcp, client, "203.0.113.9:80", daemon, client), true},
		{"a client behind NAT of the router", remote, "", flowOf(tcp, "10.0.0.7:6000", daemon, daemon, client), true},
		{"IPv6", v6, "", flowOf(tcp, "[2001:db8::7]:5000", "[2001:db8::1]:8420"), true},
		{"over loopback", loopback, "", flowOf(tcp, "127.0.0.1:5000", "127.0.0.1:8420"), true},
		{"another port", remote, "", flowOf(tcp, "192.0.2.7:5001", daemon), false},
		{"another address", remote, "", flowOf(tcp, "192.0.2.8:5000", daemon), false},
		{"another service", remote, "", flowOf(tcp, client, "198.51.100.1:8421"), false},
		{"another protocol", remote, "", flowOf(udp, client, daemon), false},
		{"nobody knows who", Caller{}, "", flowOf(tcp, client, daemon), false},
		{"asked for", remote, `"include_self": true`, flowOf(tcp, client, daemon), false},

		{"its SSH session", remote, session, flowOf(tcp, "192.0.2.7:52100", "198.51.100.1:22"), true},
		{"its SSH session, met in its middle", here, session, flowOf(tcp, "198.51.100.1:22", "192.0.2.7:52100"), true},
		{
			"its SSH session through the router", remote, `"ssh_connection": "192.0.2.7 52100 10.0.0.5 22"`,
			flowOf(tcp, "192.0.2.7:52100", "198.51.100.1:2222", "10.0.0.5:22", "192.0.2.7:52100"), true,
		},
		{
			"its SSH session, link-local", here, `"ssh_connection": "fe80::7%eth0 52100 fe80::1%eth0 22"`,
			flowOf(tcp, "[fe80::7]:52100", "[fe80::1]:22"), true,
		},
		{"its SSH session, asked for", here, session + `, "include_self": true`, flowOf(tcp, "192.0.2.7:52100", "198.51.100.1:22"), false},
		{"another's SSH session", remote, session, flowOf(tcp, "192.0.2.8:52100", "198.51.100.1:22"), false},

		{"a session that nobody names", here, "", flowOf(tcp, "192.0.2.8:52100", "198.51.100.1:22"), true},
		{"a session that nobody names, met in its middle", here, "", flowOf(tcp, "198.51.100.1:22", "192.0.2.8:52100"), true},
		{"a session that nobody names, IPv6", here, "", flowOf(tcp, "[2001:db8::8]:52100", "[2001:db8::1]:22"), true},
		{"a session to a forwarded port", here, "", flowOf(tcp, "192.0.2.8:52100", "203.0.113.9:2200", "198.51.100.1:22", "192.0.2.8:52100"), true},
		{"a tunnel", loopback, "", flowOf(tcp, "192.0.2.8:52100", "198.51.100.1:22"), true},
		{
			"a tunnel of a machine with a session of its own", loopback, `"ssh_connection": "10.0.0.2 52100 10.0.0.5 22"`,
			flowOf(tcp, "192.0.2.8:52100", "198.51.100.1:22"), true,
		},
		{"a session to loopback", here, "", flowOf(tcp, "127.0.0.1:52100", "127.0.0.9:22"), true},
		{"a session that nobody names, from elsewhere", remote, "", flowOf(tcp, "192.0.2.8:52100", "198.51.100.1:22"), false},
		{"a session through the router", here, "", flowOf(tcp, "192.0.2.8:52100", "10.0.0.5:22"), false},
		{"a session of the router to elsewhere", here, "", flowOf(tcp, "198.51.100.1:52100", "10.0.0.5:22"), false},
		{"not SSH", here, "", flowOf(tcp, "192.0.2.8:52100", "198.51.100.1:443"), false},
		{"not TCP", here, "", flowOf(udp, "192.0.2.8:52100", "198.51.100.1:22"), false},
		{"all asked for", here, `"include_self": true`, flowOf(tcp, "192.0.2.8:52100", "198.51.100.1:22"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := tcpFlow(1)
			for _, method := range []string{"conntrack.kill", "conntrack.modify"} {
				for _, selection := range []string{`"all": true`, `"flows": [1, 2]`} {
					a := newAPI(c.flow, other)
					a.table.SetLocalAddrs(netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1"))
					params := selection
					if c.params != "" {
						params += ", " + c.params
					}
					if method == "conntrack.modify" {
						params += `, "set": {"mark": 99}`
					}
					want := 2
					if c.spared {
						want = 1 // of which the guards speak, too
					}
					for _, dry := range []string{`, "dry_run": true`, ""} {
						before := a.table.Writes()
						guards := fmt.Sprintf(`, "max": %d, "expect_count": %d`, want, want)
						got, err := a.callFrom(t, c.caller, method, "{"+params+guards+dry+"}")
						if err != nil {
							t.Fatalf("%s %s%s: %+v", method, params, dry, err)
						}
						if got.matched != want || got.spared != 2-want || len(got.flows) != want || dry == "" && a.table.Writes()-before != want {
							t.Errorf("%s %s%s: matched %d, spared %d, %d shown, %d writes; want %d spared",
								method, params, dry, got.matched, got.spared, len(got.flows), a.table.Writes()-before, 2-want)
						}
					}
				}
			}
		})
	}
}

// TestStaleSession: a session that a caller on the router names counts only while it is there. A tmux
// that is opened again later still names the one in which it was begun.
func TestStaleSession(t *testing.T) {
	const named = "192.0.2.7 52100 198.51.100.1 22"
	here := Caller{Here: true}
	remote := Caller{Remote: netip.MustParseAddrPort("192.0.2.9:5000"), Local: netip.MustParseAddrPort("198.51.100.1:8420")}
	tcp := conntrack.TCP
	in := func(state string, f conntrack.Flow) conntrack.Flow {
		var ok bool
		if f.State, ok = conntrack.ParseState(tcp, state); !ok {
			t.Fatal(state)
		}
		f.Set(conntrack.AttrState)
		return f
	}
	zoned := flowOf(tcp, "192.0.2.7:52100", "198.51.100.1:22")
	zoned.Zone = 7
	live := flowOf(tcp, "192.0.2.7:52100", "198.51.100.1:22")
	for _, c := range []struct {
		name    string
		caller  Caller
		session string
		there   []conntrack.Flow // beside another session
		spared  int
	}{
		{"there", here, named, []conntrack.Flow{in("ESTABLISHED", live)}, 1},
		{"there, its state untold", here, named, []conntrack.Flow{live}, 1},
		{"met in its middle", here, named, []conntrack.Flow{flowOf(tcp, "198.51.100.1:22", "192.0.2.7:52100")}, 1},
		{"translated", here, named, []conntrack.Flow{flowOf(tcp, "10.0.0.7:6000", "203.0.113.9:2200", "198.51.100.1:22", "192.0.2.7:52100")}, 1},
		{"in a zone", here, named, []conntrack.Flow{zoned}, 1},
		{"gone", here, named, nil, 1},
		{"another port", here, named, []conntrack.Flow{flowOf(tcp, "192.0.2.7:52101", "198.51.100.1:22")}, 2},
		{"another protocol", here, named, []conntrack.Flow{flowOf(conntrack.UDP, "192.0.2.7:52100", "198.51.100.1:22")}, 1},
		{"over", here, named, []conntrack.Flow{in("TIME_WAIT", live)}, 2},
		{"closing", here, named, []conntrack.Flow{in("LAST_ACK", live)}, 2},
		{"gone, to another port", here, "192.0.2.7 52100 198.51.100.1 2222", nil, 1},
		{"gone, from elsewhere", remote, named, nil, 0},
		{"another machine's, from elsewhere", remote, "10.0.0.2 52100 10.0.0.5 22", nil, 0},
		{"there, from elsewhere", remote, named, []conntrack.Flow{live}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAPI(append([]conntrack.Flow{tcpFlow(1), flowOf(tcp, "192.0.2.8:52100", "198.51.100.1:22")}, c.there...)...)
			a.table.SetLocalAddrs(netip.MustParseAddr("198.51.100.1"))
			table := &listedTable{Table: a.table}
			a.service.Table = table
			got, err := a.callFrom(t, c.caller, "conntrack.kill", fmt.Sprintf(`{"all": true, "ssh_connection": %q, "dry_run": true}`, c.session))
			if err != nil {
				t.Fatal(err)
			}
			if got.spared != c.spared || got.matched != 2+len(c.there)-c.spared {
				t.Errorf("spared %d, matched %d; want %d spared", got.spared, got.matched, c.spared)
			}
			// One list for the kill, and one for the session.
			if table.lists > 2 || c.caller == remote && table.lists > 1 {
				t.Errorf("%d lists", table.lists)
			}
		})
	}
	// What is not known is no leave.
	a := newAPI(flowOf(tcp, "192.0.2.8:52100", "198.51.100.1:22"))
	a.table.SetLocalAddrs(netip.MustParseAddr("198.51.100.1"))
	a.service.Table = &listedTable{Table: a.table, fail: 2}
	if r, err := a.callFrom(t, here, "conntrack.kill", fmt.Sprintf(`{"all": true, "ssh_connection": %q}`, named)); err == nil || a.table.Writes() != 0 {
		t.Errorf("%+v, %d writes", r, a.table.Writes())
	}
}

// TestStaleSessionBlock: what a block spares goes by the same.
func TestStaleSessionBlock(t *testing.T) {
	for there, want := range map[bool]string{false: "[192.0.2.7 192.0.2.8]", true: "[192.0.2.7]"} {
		flows := append(tcpFlows(1), flowOf(conntrack.TCP, "192.0.2.8:52100", "198.51.100.1:22"))
		if there {
			flows = append(flows, flowOf(conntrack.TCP, "192.0.2.7:52100", "198.51.100.1:22"))
		}
		a, c := newCutAPI(flows...)
		a.table.SetLocalAddrs(netip.MustParseAddr("198.51.100.1"))
		if _, err := a.callFrom(t, Caller{Here: true}, "conntrack.kill", `{"flows": [1], "block": "1m", "ssh_connection": "192.0.2.7 52100 198.51.100.1 22"}`); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, pair := range c.options.Spare {
			got = append(got, pair.Src.String())
		}
		if got = slices.Compact(got); fmt.Sprint(got) != want {
			t.Errorf("there %v: spares %v, want %s", there, got, want)
		}
	}
}

// listedTable counts how often it is listed, and fails the one of that number.
type listedTable struct {
	Table
	lists, fail int
}

func (t *listedTable) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	if t.lists++; t.lists == t.fail {
		return func(yield func(conntrack.Flow, error) bool) { yield(conntrack.Flow{}, unix.EMFILE) }
	}
	return t.Table.Flows(ctx, f, opts...)
}

// TestSparingAsks: the router's addresses are asked for once, where a flow needs it alone, and where
// they can't be known nothing is changed.
func TestSparingAsks(t *testing.T) {
	here := Caller{Here: true}
	a := newAPI(tcpFlow(1), flowOf(conntrack.TCP, "192.0.2.8:52100", "198.51.100.1:22"), flowOf(conntrack.TCP, "192.0.2.9:52100", "198.51.100.1:22"))
	table := &askedTable{Table: a.table}
	a.service.Table = table
	for _, c := range []struct {
		caller Caller
		params string
		asks   int
	}{
		{here, `{"filter": "dport=443", "dry_run": true}`, 0},
		{here, `{"filter": "dport=22", "dry_run": true}`, 1},
		{Caller{}, `{"filter": "dport=22", "dry_run": true}`, 0},
		{here, `{"filter": "dport=22", "dry_run": true, "include_self": true}`, 0},
	} {
		table.asks = 0
		if _, err := a.callFrom(t, c.caller, "conntrack.kill", c.params); err != nil || table.asks != c.asks {
			t.Errorf("%+v %s: asked %d times, want %d; %v", c.caller, c.params, table.asks, c.asks, err)
		}
	}
	a.table.Fail(conntracktest.OpLocalAddrs, 0, unix.EMFILE)
	for method, params := range map[string]string{
		"conntrack.kill": `{"all": true}`, "conntrack.modify": `{"all": true, "set": {"mark": 9}}`,
	} {
		if r, err := a.callFrom(t, here, method, params); err == nil || a.table.Writes() != 0 {
			t.Errorf("%s: %+v, %d writes", method, r, a.table.Writes())
		}
	}
}

// askedTable counts how often it is asked for the addresses.
type askedTable struct {
	Table
	asks int
}

func (t *askedTable) LocalAddrs(ctx context.Context) ([]netip.Addr, error) {
	t.asks++
	return t.Table.LocalAddrs(ctx)
}

// TestSparingMany: what is spared stays so in the dumps that follow the first.
func TestSparingMany(t *testing.T) {
	table := newBigTable(2*maxHeld + 10)
	own := tcpFlow(5)
	a := newAPI()
	a.service.Table = sparingTable{table}
	c := Caller{Remote: netip.AddrPortFrom(own.Orig.Src, own.Orig.SrcPort), Local: netip.AddrPortFrom(own.Orig.Dst, own.Orig.DstPort)}
	got, err := a.callFrom(t, c, "conntrack.kill", fmt.Sprintf(`{"all": true, "max": %d}`, 3*maxHeld))
	if err != nil {
		t.Fatal(err)
	}
	if got.n != 2*maxHeld+9 || got.matched != got.n || got.spared != 1 || fmt.Sprint(table.left) != "[5]" {
		t.Errorf("killed %d of %d, spared %d, left %v", got.n, got.matched, got.spared, table.left)
	}
}

// sparingTable is a bigTable whose keys may come with gaps.
type sparingTable struct{ *bigTable }

func (t sparingTable) Kill(_ context.Context, keys []conntrack.Key) []error {
	if len(keys) > changeChunk {
		panic(fmt.Sprint(len(keys), " keys at a time"))
	}
	killed := make(map[uint32]bool, len(keys))
	for _, k := range keys {
		killed[k.ID] = true
	}
	left := t.left[:0]
	for _, id := range t.left {
		if !killed[id] {
			left = append(left, id)
		}
	}
	t.left = left
	return make([]error, len(keys))
}

func (t sparingTable) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	return func(yield func(conntrack.Flow, error) bool) {
		for f, err := range t.bigTable.Flows(ctx, f, opts...) {
			f.Reply = f.Orig.Inverse()
			if !yield(f, err) {
				return
			}
		}
	}
}

// TestPyctdSpares: a page doesn't cut itself off, and takes every SSH session it is told to.
func TestPyctdSpares(t *testing.T) {
	a := newAPI(flowOf(conntrack.TCP, "192.0.2.7:5000", "198.51.100.1:8420"), flowOf(conntrack.TCP, "192.0.2.8:52100", "198.51.100.1:22"))
	a.table.SetLocalAddrs(netip.MustParseAddr("198.51.100.1"))
	c := Caller{Remote: netip.MustParseAddrPort("192.0.2.7:5000"), Local: netip.MustParseAddrPort("198.51.100.1:8420"), Here: true}
	ctx := WithCaller(WithProtocol(t.Context(), XMLRPC), c)
	call := func(method string, args ...any) any {
		t.Helper()
		result, err := a.Call(ctx, method, Params{Args: args})
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return result
	}
	sid := call("login", "admin", "right").(string)
	if err := write(ctx, "view", &jsonEncoder{}, call("view", sid)); err != nil {
		t.Fatal(err)
	}
	if got := call("kill", sid, []any{1, 2}); got != pyctdChanged(1) {
		t.Errorf("kill gave %v", got)
	}
	var left wire.ListResult
	a.call(t, "conntrack.list", "", &left)
	if ids(left.Flows) != "[1]" {
		t.Errorf("left %s, want the page's own connection", ids(left.Flows))
	}
}
