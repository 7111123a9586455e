package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// newRouterAPI is the methods over the table of a router between a client and a server.
func newRouterAPI(t *testing.T) (*api, *conntracktest.Topology) {
	t.Helper()
	conntracktest.Kernel(t)
	tp := conntracktest.NewTopology(t)
	tp.Router.Sysctl("net.netfilter.nf_conntrack_timestamp", "1")
	table, err := conntrack.Open(conntrack.Config{NetNS: tp.Router.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	a := newAPI()
	a.service.Table = table
	return a, tp
}

// TestKernelRace: between list and kill a flow ends, and a new connection takes its addresses and
// ports. The kill means the flow that was listed, and spares the new one.
func TestKernelRace(t *testing.T) {
	path := conntracktest.Path{Port: 8080, SrcPort: 40000}
	for _, c := range []struct {
		name  string
		begin func(tp *conntracktest.Topology) *conntracktest.Conn
		end   func(c *conntracktest.Conn) error
		talk  func(c *conntracktest.Conn) error
	}{
		{
			"tcp", func(tp *conntracktest.Topology) *conntracktest.Conn { return tp.TCP(path) },
			func(c *conntracktest.Conn) error {
				err := c.Client.(*net.TCPConn).SetLinger(0) // a reset leaves no TIME_WAIT at the client
				c.Close()
				return err
			},
			func(c *conntracktest.Conn) error { return c.Try("still there", conntracktest.Patience()) },
		},
		{
			"udp", func(tp *conntracktest.Topology) *conntracktest.Conn { return tp.UDP(path) },
			func(c *conntracktest.Conn) error {
				err := c.Datagram("the last one", conntracktest.Patience()) // which has the flow end in a second
				c.Close()
				return err
			},
			func(c *conntracktest.Conn) error { return c.Datagram("still there", conntracktest.Patience()) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, tp := newRouterAPI(t)
			list := func() []json.RawMessage {
				t.Helper()
				var r struct{ Flows []json.RawMessage }
				a.call(t, "conntrack.list", `{"filter": "proto=`+c.name+` sport=40000"}`, &r)
				return r.Flows
			}
			old := c.begin(tp)
			listed := list()
			if len(listed) != 1 {
				t.Fatalf("%d flows", len(listed))
			}
			tp.Router.Sysctl("net.netfilter.nf_conntrack_udp_timeout", "1")
			tp.Router.Sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", "1")
			if err := c.end(old); err != nil {
				t.Fatal(err)
			}
			conntracktest.Eventually(t, "the flow is over", func() bool {
				left := list()
				return len(left) == 0 || c.name == "tcp" && flowIn(t, left[0]).State == "CLOSE"
			})
			tp.Router.Sysctl("net.netfilter.nf_conntrack_udp_timeout", "30")
			tp.Router.Sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", "120")
			taken := c.begin(tp)
			now := list()
			was, is := flowIn(t, listed[0]), flowIn(t, now[0])
			if len(now) != 1 || was.Orig.SPort == nil || *was.Orig.SPort != *is.Orig.SPort || was.Start.Equal(is.Start) {
				t.Fatalf("no other flow took the tuple: listed %s, now %s", listed, now)
			}
			t.Logf("the new flow has the same id: %v", was.ID == is.ID)
			for method, set := range map[string]string{"conntrack.kill": "", "conntrack.modify": `, "set": {"mark": 7}`} {
				var got struct {
					Matched, Gone, Killed, Modified int
					Changed                         bool
				}
				a.call(t, method, fmt.Sprintf(`{"flows": [%s]%s}`, listed[0], set), &got)
				if got.Killed != 0 || got.Modified != 0 || got.Changed || got.Matched != got.Gone {
					t.Errorf("%s: %+v, want nothing done", method, got)
				}
			}
			if left := flowIn(t, list()[0]); left.ID != is.ID || !left.Start.Equal(is.Start) || *left.Mark != 0 {
				t.Errorf("left %+v, want the new flow as it was", left)
			}
			if err := c.talk(taken); err != nil {
				t.Errorf("the new connection: %v", err)
			}
			// And the new one can be meant.
			var killed wire.KillResult
			a.call(t, "conntrack.kill", fmt.Sprintf(`{"flows": [%s]}`, now[0]), &killed)
			if killed.Killed != 1 {
				t.Errorf("by the new flow: %+v", killed)
			}
		})
	}
}

func flowIn(t *testing.T, raw json.RawMessage) wire.Flow {
	t.Helper()
	var f wire.Flow
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// replacedTable is a kernel's table in which another entry takes the tuple of a flow just before the
// flow is changed.
type replacedTable struct {
	Table
	t *testing.T
}

func (r replacedTable) Kill(ctx context.Context, keys []conntrack.Key) []error {
	r.replace(ctx, keys)
	return r.Table.Kill(ctx, keys)
}

func (r replacedTable) Modify(ctx context.Context, keys []conntrack.Key, c conntrack.Change) []error {
	r.replace(ctx, keys)
	return r.Table.Modify(ctx, keys, c)
}

// replace gives the flow's tuple to an entry with another id. The kernel makes ids of an entry's place
// in memory, which a flow of another tuple takes first.
func (r replacedTable) replace(ctx context.Context, keys []conntrack.Key) {
	f, err := r.Get(ctx, keys[0])
	if err != nil {
		r.t.Fatal(err)
	}
	for try := range 20 {
		if err := r.Table.Kill(ctx, []conntrack.Key{{Orig: f.Orig}})[0]; err != nil {
			r.t.Fatal(err)
		}
		filler := conntrack.Flow{Orig: f.Orig, Timeout: time.Minute}
		filler.Orig.SrcPort += uint16(try) + 1
		if _, err := r.Create(ctx, filler); err != nil {
			r.t.Fatal(err)
		}
		made, err := r.Create(ctx, conntrack.Flow{Orig: f.Orig, Timeout: time.Minute})
		if err != nil {
			r.t.Fatal(err)
		}
		if made.ID != f.ID {
			return
		}
	}
	r.t.Fatal("the kernel gives no other id")
}

// TestKernelReplacedBetween: what takes a flow's tuple after the daemon's own dump is spared by the
// kernel, and the flow is gone.
func TestKernelReplacedBetween(t *testing.T) {
	for method, set := range map[string]string{"conntrack.kill": "", "conntrack.modify": `, "set": {"mark": 7}`} {
		for _, selection := range []string{`"filter": "sport=5060"`, `"flows": [%d]`} {
			a, id := newKernelAPI(t)
			a.service.Table = replacedTable{a.service.Table, t}
			if selection == `"flows": [%d]` {
				selection = fmt.Sprintf(selection, id)
			}
			var got struct {
				Matched, Gone, Killed, Modified int
				Failed                          []wire.Failure
			}
			a.call(t, method, fmt.Sprintf(`{%s%s}`, selection, set), &got)
			if got.Matched != 1 || got.Gone != 1 || got.Killed != 0 || got.Modified != 0 || len(got.Failed) != 0 {
				t.Errorf("%s %s: %+v, want it gone", method, selection, got)
			}
			var left wire.ListResult
			a.call(t, "conntrack.list", `{"filter": "sport=5060"}`, &left)
			if len(left.Flows) != 1 || left.Flows[0].ID == id || *left.Flows[0].Mark != 0 {
				t.Errorf("%s %s: left %+v, want the entry that took its place", method, selection, left.Flows)
			}
		}
	}
}
