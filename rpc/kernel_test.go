package rpc

import (
	"fmt"
	"testing"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// newKernelAPI is the methods over the table of a namespace of its own, with one UDP flow of
// tests' that has room for labels.
func newKernelAPI(t testing.TB) (a *api, id uint32) {
	t.Helper()
	conntracktest.Kernel(t)
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	ns.Sysctl("net.netfilter.nf_conntrack_timestamp", "1")
	table, err := conntrack.Open(conntrack.Config{NetNS: ns.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	a = newAPI()
	a.service.Table = table
	var made wire.Flow
	a.call(t, "conntrack.create", `{"flow": {"protocol": "udp", "timeout": 300, "mark": 3,
		"orig": {"src": "10.0.0.7", "dst": "192.0.2.1", "sport": 5060, "dport": 5060}}}`, &made)
	return a, made.ID
}

// TestKernelModifyWithNAT: a flow without a helper can't be given one, which the kernel tells when
// the addresses are changed already; they are given back.
func TestKernelModifyWithNAT(t *testing.T) {
	a, id := newKernelAPI(t)
	var got, again wire.ModifyResult
	a.call(t, "conntrack.modify", fmt.Sprintf(`{"flows": [%d], "set": {"nat": {"src": "198.51.100.1:4000"}, "mark": 5, "helper": "ftp"}}`, id), &got)
	if got.Modified != 0 || len(got.Failed) != 1 {
		t.Fatalf("%+v, want one failure", got)
	}
	if f := got.Failed[0].Flow; f.NAT != "" || f.Reply.Dst != "10.0.0.7" || *f.Reply.DPort != 5060 || *f.Mark != 3 {
		t.Errorf("left as %+v %+v", f, f.Reply)
	}
	a.call(t, "conntrack.modify", `{"filter": "proto=udp", "set": {"nat": {"src": "198.51.100.1:4000"}, "mark": 5}}`, &got)
	if got.Modified != 1 || got.Flows[0].NAT != "snat" || *got.Flows[0].Mark != 5 || *got.Flows[0].Reply.DPort != 4000 {
		t.Errorf("%+v", got)
	}
	a.call(t, "conntrack.modify", `{"filter": "proto=udp", "set": {"nat": {"src": "198.51.100.1:4000"}, "mark": 5}}`, &again)
	if again.Modified != 0 || len(again.Failed) != 0 {
		t.Errorf("the second time: %+v", again)
	}
}

// TestKernelSameTuple: an id of pyctd's is not the flow's that took the place of the one it was
// given to, whatever id the kernel gave that.
func TestKernelSameTuple(t *testing.T) {
	a, _ := newKernelAPI(t)
	do := func(method string, values ...string) (any, int) {
		t.Helper()
		return a.xmlRPC(t, "", methodCall(method, values...))
	}
	v, _ := do("login", "admin", "right")
	sid := v.(string)
	do("view", sid)
	var killed wire.KillResult
	a.call(t, "conntrack.kill", `{"all": true, "expect_count": 1}`, &killed)
	var made wire.Flow
	a.call(t, "conntrack.create", `{"flow": {"protocol": "udp", "timeout": 300,
		"orig": {"src": "10.0.0.7", "dst": "192.0.2.1", "sport": 5060, "dport": 5060}}}`, &made)
	if made.Start.IsZero() {
		t.Fatal("the flow has no start")
	}
	if _, code := do("kill", sid, "1"); code != 0 {
		t.Errorf("kill: fault %d", code)
	}
	if _, code := do("change", sid, "mark", "1", "9"); code != wire.NotFound.Number() {
		t.Errorf("change: fault %d", code)
	}
	var now wire.Flow
	a.call(t, "conntrack.get", fmt.Sprintf(`{"flow": %d}`, made.ID), &now)
	if *now.Mark != 0 || !now.Start.Equal(made.Start) {
		t.Errorf("now %+v", now)
	}
	rows, _ := do("view", sid)
	if rows.(map[string]any)["2"] == nil {
		t.Errorf("rows %v, want the new flow as 2", rows)
	}
}
