package rpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// newForwardingAPI is the methods over the table of a router between a client and a server.
func newForwardingAPI(t testing.TB) (*api, *conntracktest.Topology) {
	t.Helper()
	tp := conntracktest.NewTopology(t)
	table, err := conntrack.Open(conntrack.Config{NetNS: tp.Router.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	a := newAPI()
	a.service.Table = table
	return a, tp
}

// nameserver answers each datagram with its own address until the test ends, and counts them.
func nameserver(t testing.TB, ns *conntracktest.NS, at netip.AddrPort) *atomic.Int64 {
	t.Helper()
	var c *net.UDPConn
	var err error
	ns.Do(func() { c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	var answered atomic.Int64
	go func() {
		buf := make([]byte, 512)
		for {
			_, peer, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			answered.Add(1)
			_, _ = c.WriteToUDPAddrPort([]byte(at.Addr().String()), peer)
		}
	}()
	return &answered
}

// drained waits until a nameserver has answered all that has come to it: it answers in turn.
func drained(t testing.TB, ns *conntracktest.NS, at netip.AddrPort) {
	t.Helper()
	var c *net.UDPConn
	var err error
	ns.Do(func() { c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at)) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(conntracktest.Patience())); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
}

// asker sends a question from one port every 20 ms until the test ends, and keeps the last answer.
func asker(t testing.TB, ns *conntracktest.NS, to netip.AddrPort) *atomic.Value {
	t.Helper()
	var c *net.UDPConn
	var err error
	ns.Do(func() { c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	last := &atomic.Value{}
	last.Store("")
	go func() {
		buf := make([]byte, 512)
		for {
			n, err := c.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				last.Store(string(buf[:n]))
			}
		}
	}()
	go func() {
		for {
			if _, err := c.Write([]byte("?")); errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return last
}

// TestKernelFailover: a client that keeps asking from one port stays with a dead backend, whatever
// the rule says now, until reconcile moves it. A neighbour with another service isn't touched.
func TestKernelFailover(t *testing.T) {
	conntracktest.Kernel(t)
	a, tp := newForwardingAPI(t)
	service := netip.MustParseAddrPort("10.0.0.53:53")
	first, second := netip.MustParseAddrPort("10.2.0.11:53"), netip.MustParseAddrPort("10.2.0.12:53")
	for _, b := range []netip.AddrPort{first, second} {
		tp.Server.Exec("ip", "addr", "add", b.Addr().String()+"/24", "dev", "router")
	}
	dead, alive := nameserver(t, tp.Server, first), nameserver(t, tp.Server, second)
	tp.DNAT("ip daddr 10.0.0.53 udp dport 53", first)
	answers := asker(t, tp.Client, service)
	neighbour := tp.UDP(conntracktest.Path{})
	answered := func(by netip.AddrPort) func() bool {
		return func() bool { return answers.Load() == by.Addr().String() }
	}
	conntracktest.Eventually(t, "the first backend answers", answered(first))

	tp.Router.Nft("flush chain inet ctd destination")
	tp.DNAT("ip daddr 10.0.0.53 udp dport 53", second)
	before := dead.Load()
	conntracktest.Eventually(t, "the entry keeps the client with the first one", func() bool { return dead.Load() >= before+10 })
	if n := alive.Load(); n != 0 {
		t.Fatalf("the second backend got %d questions: there is nothing to reconcile", n)
	}

	const rule = `{"filter": "proto=udp dst=10.0.0.53 dport=53", "keep": {"reply_src": "10.2.0.12"}, "reason": "failover"`
	began := time.Now()
	dry := a.reconcile(t, rule+`, "dry_run": true}`)
	if dry.Matched != 1 || dry.Killed != 0 || dry.Settled || answered(second)() {
		t.Errorf("dry run: %+v", dry)
	}
	got := a.reconcile(t, rule+`}`)
	if got.Killed != 1 || !got.Settled || got.Passes > 4 || len(got.Flows) != 1 || got.Flows[0].Reply.Src != "10.2.0.11" {
		t.Errorf("%+v", got)
	}
	conntracktest.Eventually(t, "the second backend answers", answered(second))
	t.Logf("moved in %v, %d passes", time.Since(began), got.Passes)
	// Behind what was under way to it the dead backend gets this from beside it.
	drained(t, tp.Server, first)
	before = dead.Load()
	if got := a.reconcile(t, rule+`, "watch": 1}`); got.Killed != 0 || got.Passes != 3 || !got.Settled {
		t.Errorf("the second time: %+v", got)
	}
	if n := dead.Load(); n != before {
		t.Errorf("the dead backend got %d more questions", n-before)
	}
	if err := neighbour.Datagram("still here", conntracktest.Patience()); err != nil {
		t.Errorf("neighbour: %v", err)
	}
	var left wire.CountResult
	a.call(t, "conntrack.count", fmt.Sprintf(`{"filter": "proto=udp dport=%d status=assured,seen_reply"}`, neighbour.Remote.Port()), &left)
	if left.Count != 1 {
		t.Errorf("the neighbour has %d flows", left.Count)
	}
}

// TestKernelBanWatch: flows that begin to a banned address during the watch go as they begin; those
// of a neighbour stay.
func TestKernelBanWatch(t *testing.T) {
	conntracktest.Kernel(t)
	a, tp := newForwardingAPI(t)
	banned, other := netip.MustParseAddr("10.2.0.66"), tp.ServerAddr(false)
	tp.Server.Exec("ip", "addr", "add", banned.String()+"/24", "dev", "router")
	const each = 300
	send := func(to netip.Addr, n int) {
		t.Helper()
		for i := range n {
			var c net.Conn
			var err error
			tp.Client.Do(func() { c, err = net.Dial("udp", netip.AddrPortFrom(to, uint16(20000+i)).String()) })
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = c.Write([]byte("hello"))
			c.Close()
		}
	}
	count := func(to netip.Addr) int {
		var got wire.CountResult
		a.call(t, "conntrack.count", `{"filter": "proto=udp addr=`+to.String()+`"}`, &got)
		return got.Count
	}
	// The hosts know each other: else most of what is sent at once would be lost while they get to.
	tp.Ping(conntracktest.Path{}, 1)
	began := time.Now()
	send(banned, 50)
	send(other, 50)
	// What is sent below is nine times as much, and has to be on its way before the watch ends.
	watch := 2 + int(30*time.Since(began).Seconds())
	conntracktest.Eventually(t, "the flows", func() bool { return count(banned) == 50 && count(other) == 50 })
	answer := make(chan wire.ReconcileResult, 1)
	failed := make(chan error, 1)
	go func() {
		result, err := a.tryAs(t, wire.RoleOperator, "conntrack.reconcile", fmt.Sprintf(`{"filter": "proto=udp addr=10.2.0.66", "watch": %d}`, watch))
		if err != nil {
			failed <- err
			return
		}
		var got wire.ReconcileResult
		if err := json.Unmarshal(result, &got); err != nil {
			failed <- err
			return
		}
		answer <- got
	}()
	conntracktest.Eventually(t, "the first are killed", func() bool { return count(banned) == 0 })
	send(banned, each)
	send(other, each)
	began = time.Now()
	conntracktest.Eventually(t, "those that began since are killed", func() bool { return count(banned) == 0 })
	t.Logf("the last one lived for at most %v", time.Since(began))
	send(banned, each)
	select {
	case got := <-answer:
		if got.Killed != 50+2*each || !got.Settled || got.Watched < float64(watch) || len(got.Failed) != 0 {
			t.Errorf("killed %d of %d, %d gone, settled %v, watched %v, failed %+v", got.Killed, got.Matched, got.Gone, got.Settled, got.Watched, got.Failed)
		}
		t.Logf("killed %d, %d gone, %d passes", got.Killed, got.Gone, got.Passes)
	case err := <-failed:
		t.Fatal(err)
	case <-time.After(time.Duration(watch)*time.Second + conntracktest.Patience()):
		t.Fatal("it goes on")
	}
	if n := count(banned); n != 0 {
		t.Errorf("%d flows to the banned address are left", n)
	}
	if n := count(other); n != 50+each {
		t.Errorf("the neighbour has %d flows, want %d", n, 50+each)
	}
}

// banList returns n addresses of 10.7.0.0/16 as the values of a filter.
func banList(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ",10.7.%d.%d", i>>8, i&255)
	}
	return b.String()[1:]
}

// TestKernelBanList: 200 addresses of 2,000 go; and a list of 10,000 is taken, and no slower by much.
func TestKernelBanList(t *testing.T) {
	conntracktest.Kernel(t)
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	table, err := conntrack.Open(conntrack.Config{NetNS: ns.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	a := newAPI()
	a.service.Table = table
	const flows, banned = 2000, 200
	var lines strings.Builder
	for i := range flows {
		fmt.Fprintf(&lines, "-A -p udp -s 10.7.%d.%d -d 192.0.2.1 --sport 1 --dport 2 -t 600\n", i>>8, i&255)
	}
	if _, err := ns.Conntrack8In(lines.String(), "-R", "-"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	got := a.reconcile(t, `{"filter": {"addr": "`+banList(banned)+`"}}`)
	if got.Killed != banned || !got.Settled || got.Passes != 3 {
		t.Errorf("%+v", got)
	}
	few := time.Since(began)
	t.Logf("%d of %d in %v", got.Killed, flows, few)
	began = time.Now()
	a.refused(t, "conntrack.reconcile", `{"filter": {"addr": "`+banList(10_000)+`"}}`, wire.LimitExceeded, "1800 flows have to go")
	got = a.reconcile(t, `{"filter": "addr=`+banList(10_000)+`", "max": 2000}`)
	if got.Killed != flows-banned || !got.Settled {
		t.Errorf("killed %d in %d passes, settled %v", got.Killed, got.Passes, got.Settled)
	}
	if took := time.Since(began); took > max(2*time.Second, 10*few) {
		t.Errorf("10,000 addresses took %v, %d took %v", took, banned, few)
	}
	t.Logf("%d by 10,000 addresses in %v", got.Killed, time.Since(began))
}

// TestKernelWatchOff: without events there is no watch, rather than one that sees nothing.
func TestKernelWatchOff(t *testing.T) {
	a, _ := newKernelAPI(t)
	table := a.service.Table.(*conntrack.Table)
	if err := table.InNetNS(func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_events", []byte("0"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	_, err := a.tryAs(t, wire.RoleOperator, "conntrack.reconcile", `{"filter": "proto=udp", "watch": 1}`)
	if err == nil || err.Code != wire.Unsupported || !strings.Contains(err.Hint, "nf_conntrack_events") {
		t.Errorf("%+v", err)
	}
	if got := a.reconcile(t, `{"filter": "proto=udp"}`); got.Killed != 1 {
		t.Errorf("without a watch: %+v", got)
	}
}
