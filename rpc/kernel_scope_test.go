package rpc

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// TestKernelScope: callers of two sites, and flows whose addresses are translated, in a kernel's table of
// both families. Each sees, counts and kills its own, in every way to name them.
func TestKernelScope(t *testing.T) {
	conntracktest.Kernel(t)
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	ns.Sysctl("net.netfilter.nf_conntrack_acct", "1")
	table, err := conntrack.Open(conntrack.Config{NetNS: ns.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	a := newAPI()
	a.service.Table = table
	make1 := func(src, dst, replySrc, replyDst string, port int) uint32 {
		t.Helper()
		var f wire.Flow
		a.call(t, "conntrack.create", fmt.Sprintf(`{"flow": {"protocol": "udp", "timeout": 300,
			"orig": {"src": %q, "dst": %q, "sport": %d, "dport": 53}, "reply": {"src": %q, "dst": %q}}}`, src, dst, port, replySrc, replyDst), &f)
		return f.ID
	}
	const wan = "203.0.113.1"
	masked := make1("10.1.0.5", "192.0.2.1", "192.0.2.1", wan, 1)           // a client of site 1, masqueraded
	forwarded := make1("198.51.100.9", wan, "10.2.0.80", "198.51.100.9", 2) // to a server of site 2
	both := make1("10.1.0.5", "10.2.0.80", "10.2.0.80", "10.1.0.5", 3)
	v6 := make1("2001:db8:1::5", "2001:db8:9::1", "2001:db8:9::1", "2001:db8:1::5", 4)
	other := make1("172.16.0.1", "192.0.2.1", "192.0.2.1", wan, 5)
	all := []uint32{masked, forwarded, both, v6, other}
	sees := func(p Principal, id uint32) (listed, got bool) {
		t.Helper()
		text, err := a.as(t, p, "conntrack.list", fmt.Sprintf(`{"filter": {"id": %d}}`, id))
		if err != nil {
			t.Fatal(err)
		}
		var list wire.ListResult
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatal(err)
		}
		_, byID := a.as(t, p, "conntrack.get", fmt.Sprintf(`{"flow": %d}`, id))
		f, getErr := table.Get(t.Context(), conntrack.Key{ID: id})
		if getErr != nil {
			t.Fatal(getErr)
		}
		for _, tuple := range []string{
			fmt.Sprintf(`{"orig": {"src": %q, "dst": %q, "sport": %d, "dport": %d}, "protocol": "udp"}`, f.Orig.Src, f.Orig.Dst, f.Orig.SrcPort, f.Orig.DstPort),
			fmt.Sprintf(`{"reply": {"src": %q, "dst": %q, "sport": %d, "dport": %d}, "protocol": "udp"}`, f.Reply.Src, f.Reply.Dst, f.Reply.SrcPort, f.Reply.DstPort),
		} {
			if _, byTuple := a.as(t, p, "conntrack.get", `{"flow": `+tuple+`}`); (byTuple == nil) != (byID == nil) || byTuple != nil && *byTuple != *byID {
				t.Errorf("get of %s: %v, by id %v", tuple, byTuple, byID)
			}
		}
		return len(list.Flows) == 1, byID == nil
	}
	for _, c := range []struct {
		side     string
		networks []string
		want     []uint32
	}{
		{ScopeEither, []string{"10.1.0.0/16", "2001:db8:1::/48"}, []uint32{masked, both, v6}},
		{ScopeEither, []string{"10.2.0.0/16"}, []uint32{forwarded, both}},
		{ScopeOrig, []string{"10.2.0.0/16"}, []uint32{both}},
		{ScopeReply, []string{"10.1.0.0/16"}, []uint32{both}},
		{ScopeReply, []string{"10.2.0.80/32"}, []uint32{forwarded, both}},
	} {
		a.service.Scope = side(c.side)
		p := boundTo(wire.RoleOperator, c.networks...)
		for _, id := range all {
			want := false
			for _, one := range c.want {
				want = want || one == id
			}
			if listed, got := sees(p, id); listed != want || got != want {
				t.Errorf("%s %v: flow %d listed %v, got %v, want %v", c.side, c.networks, id, listed, got, want)
			}
		}
		text, err := a.as(t, p, "conntrack.count", `{}`)
		if want := fmt.Sprintf(`"count":%d`, len(c.want)); err != nil || !strings.Contains(text, want) {
			t.Errorf("%s %v: count %s, %v, want %s", c.side, c.networks, text, err, want)
		}
	}
	// What is outside stays, however it is named.
	a.service.Scope = side(ScopeEither)
	p := boundTo(wire.RoleAdmin, "10.1.0.0/16")
	f, err := table.Get(t.Context(), conntrack.Key{ID: forwarded})
	if err != nil {
		t.Fatal(err)
	}
	for _, params := range []string{
		fmt.Sprintf(`{"flows": [%d, %d, %d]}`, forwarded, v6, other), `{"filter": "src=172.16.0.0/12"}`, `{"filter": "dst=` + wan + `"}`, `{"filter": "proto=udp"}`,
		fmt.Sprintf(`{"flows": [{"protocol": "udp", "orig": {"src": %q, "dst": %q, "sport": %d, "dport": %d}}]}`, f.Orig.Src, f.Orig.Dst, f.Orig.SrcPort, f.Orig.DstPort),
		fmt.Sprintf(`{"flows": [{"protocol": "udp", "reply": {"src": %q, "dst": %q, "sport": %d, "dport": %d}}]}`, f.Reply.Src, f.Reply.Dst, f.Reply.SrcPort, f.Reply.DstPort),
	} {
		if _, err := a.as(t, p, "conntrack.kill", params); err != nil {
			t.Errorf("kill %s: %v", params, err)
		}
	}
	left := map[uint32]bool{}
	for f, err := range table.Flows(t.Context(), conntrack.Filter{}, conntrack.Within(mustScope(t, "0.0.0.0/0", "::/0"))) {
		if err != nil {
			t.Fatal(err)
		}
		left[f.ID] = true
	}
	if len(left) != 3 || !left[forwarded] || !left[v6] || !left[other] {
		t.Errorf("left %v, want %v", left, []uint32{forwarded, v6, other})
	}
}

func mustScope(t *testing.T, networks ...string) conntrack.Filter {
	t.Helper()
	var prefixes []netip.Prefix
	for _, n := range networks {
		prefixes = append(prefixes, netip.MustParsePrefix(n))
	}
	f, err := scopeFilter(ScopeEither, prefixes)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
