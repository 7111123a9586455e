package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// api is the methods over a table in memory.
type api struct {
	fixture
	service *Service
	table   *conntracktest.Fake
}

// knownUsers recognises one user.
func knownUsers(_ context.Context, user, password string) (Principal, error) {
	if user == "admin" && password == "right" {
		return caller{wire.RoleAdmin}, nil
	}
	if user == "reader" && password == "right" {
		return caller{wire.RoleViewer}, nil
	}
	return nil, &wire.Error{Code: wire.Unauthenticated, Message: "user or password is not right"}
}

func newAPI(flows ...conntrack.Flow) *api {
	a := &api{table: conntracktest.NewFake(flows...)}
	a.service = &Service{Table: a.table, Login: knownUsers}
	a.Registry = NewRegistry()
	a.service.Register(a.Registry)
	RegisterSystem(a.Registry, "1.2.3")
	return a
}

// tryAs calls a method over JSON-RPC with parameters as JSON and returns result and error.
func (a *api) tryAs(t testing.TB, role, method, params string) (json.RawMessage, *wire.Error) {
	t.Helper()
	if params == "" {
		params = "{}"
	}
	w := a.post(t, role, "application/json", `{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`+params+`}`)
	var answer struct {
		Result json.RawMessage
		Error  *struct {
			Message string
			Data    wire.ErrorData
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%s %s: status %d, %q: %v", method, params, w.Code, w.Body, err)
	}
	if e := answer.Error; e != nil {
		return nil, &wire.Error{Code: e.Data.Code, Message: e.Message, Hint: e.Data.Hint, Errno: e.Data.Errno}
	}
	return answer.Result, nil
}

// call calls a method, as an admin, that must succeed.
func (a *api) call(t testing.TB, method, params string, into any) {
	t.Helper()
	result, err := a.tryAs(t, wire.RoleAdmin, method, params)
	if err != nil {
		t.Fatalf("%s %s: %s %s", method, params, err.Code, err.Message)
	}
	if err := json.Unmarshal(result, into); err != nil {
		t.Fatalf("%s %s: %s: %v", method, params, result, err)
	}
}

// refused calls a method that must fail with a code and a message in which a text is, and must
// not have changed anything.
func (a *api) refused(t testing.TB, method, params string, code wire.Code, text string) {
	t.Helper()
	before := a.table.Writes()
	result, err := a.tryAs(t, wire.RoleAdmin, method, params)
	switch {
	case err == nil:
		t.Errorf("%s %s gave %s, want the error %s", method, params, result, code)
	case err.Code != code || !strings.Contains(err.Message+"\n"+err.Hint, text):
		t.Errorf("%s %s: %s %q %q, want %s with %q", method, params, err.Code, err.Message, err.Hint, code, text)
	}
	if n := a.table.Writes() - before; n != 0 {
		t.Errorf("%s %s: %d writes", method, params, n)
	}
}

// tcpFlow is flow number i of tests, 10.0.0.i:40000 to 192.0.2.1:443, whose id is i+1 when the
// flows of a table begin with number 0.
func tcpFlow(i int) conntrack.Flow {
	f := conntrack.Flow{
		Orig: conntrack.Tuple{
			Src: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Dst: netip.MustParseAddr("192.0.2.1"),
			Proto: conntrack.TCP, SrcPort: 40000, DstPort: 443,
		},
		Timeout: 600 * time.Second, State: 3, Mark: uint32(i),
		OrigCounter: conntrack.Counter{Packets: uint64(i), Bytes: uint64(i) << 32},
	}
	f.Set(conntrack.AttrState | conntrack.AttrCounters)
	return f
}

func tcpFlows(n int) []conntrack.Flow {
	flows := make([]conntrack.Flow, n)
	for i := range flows {
		flows[i] = tcpFlow(i)
	}
	return flows
}

func udpFlow(src string, port uint16) conntrack.Flow {
	f := conntrack.Flow{Timeout: 30 * time.Second}
	f.Orig = conntrack.Tuple{
		Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("192.0.2.53"), Proto: conntrack.UDP, SrcPort: port, DstPort: 53,
	}
	if f.Orig.Src.Is6() {
		f.Orig.Dst = netip.MustParseAddr("2001:db8::53")
	}
	return f
}

// ids returns the ids of flows as a text.
func ids(flows []wire.Flow) string {
	var all []uint32
	for _, f := range flows {
		all = append(all, f.ID)
	}
	return fmt.Sprint(all)
}
