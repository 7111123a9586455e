package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"ctd/clients/ctdclient"
	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// TestKernelSparesCaller: a caller on a machine behind the router says that all flows are to go, and
// gets its answer; so does one whose packets the router translates, and one on the router, whose
// SSH session nobody named.
func TestKernelSparesCaller(t *testing.T) {
	conntracktest.Kernel(t)
	tp := conntracktest.NewTopology(t)
	table, err := conntrack.Open(conntrack.Config{NetNS: tp.Router.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	listen := func(address string) net.Listener {
		t.Helper()
		var l net.Listener
		tp.Router.Do(func() { l, err = net.Listen("tcp", address) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	s := newServer(t, Config{}, table, nil)
	h := &http.Server{Handler: s.Handler(), ConnContext: withConnection, ReadHeaderTimeout: time.Minute}
	t.Cleanup(func() { _ = h.Close() })
	l := listen("[::]:8420")
	go func() { _ = h.Serve(l) }()

	gate, far := tp.GateAddr(false), tp.RouterAddr(false)
	tp.DNAT("ip daddr "+gate.String()+" tcp dport 80", netip.AddrPortFrom(far, 8420))
	listen("0.0.0.0:22")
	dial := func(ns *conntracktest.NS, address string) (c net.Conn) {
		t.Helper()
		ns.Do(func() { c, err = net.DialTimeout("tcp", address, 10*time.Second) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	session := dial(tp.Client, netip.AddrPortFrom(gate, 22).String())
	other := dial(tp.Server, netip.AddrPortFrom(far, 22).String())
	named := func(c net.Conn) string {
		client, server := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
		return fmt.Sprint(client.Addr(), " ", client.Port(), " ", server.Addr(), " ", server.Port())
	}
	ended := dial(tp.Client, netip.AddrPortFrom(gate, 22).String())
	stale := named(ended) // its entry remains for a while
	_ = ended.Close()
	sessions, err := conntrack.ParseFilter("proto=tcp state=ESTABLISHED dport=22")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, address string
		from          *conntracktest.NS
		params        wire.KillParams
		spared        int
	}{
		{"IPv4", netip.AddrPortFrom(gate, 8420).String(), tp.Client, wire.KillParams{}, 1},
		{"IPv6", netip.AddrPortFrom(tp.GateAddr(true), 8420).String(), tp.Client, wire.KillParams{}, 1},
		{"a forwarded port", netip.AddrPortFrom(gate, 80).String(), tp.Client, wire.KillParams{}, 1},
		{"with its session", netip.AddrPortFrom(gate, 8420).String(), tp.Client, wire.KillParams{Sparing: wire.Sparing{SSHConnection: named(session)}}, 2},
		{"from the router", "127.0.0.1:8420", tp.Router, wire.KillParams{}, 3},
		{"from the router, with its session", "127.0.0.1:8420", tp.Router, wire.KillParams{Sparing: wire.Sparing{SSHConnection: named(session)}}, 2},
		{"from the router, with one that has ended", "127.0.0.1:8420", tp.Router, wire.KillParams{Sparing: wire.Sparing{SSHConnection: stale}}, 3},
		{"with one that has ended", netip.AddrPortFrom(gate, 8420).String(), tp.Client, wire.KillParams{Sparing: wire.Sparing{SSHConnection: stale}}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			// What was killed before comes back with the next packet.
			for _, conn := range []net.Conn{session, other} {
				if _, err := conn.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			traffic := tp.TCP(conntracktest.Path{})
			conntracktest.Eventually(t, "the sessions are there again, but for the one that has ended", func() bool {
				n, err := table.Count(t.Context(), sessions)
				return err == nil && n == 2
			})
			transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(c.from, c.address), nil }}
			defer transport.CloseIdleConnections()
			client, err := ctdclient.New(ctdclient.Config{Server: "http://" + c.address, Token: secret, HTTPClient: &http.Client{Transport: transport, Timeout: 30 * time.Second}})
			if err != nil {
				t.Fatal(err)
			}
			params := c.params
			params.Filter = "proto=tcp state=ESTABLISHED"
			params.DryRun = true
			would, err := client.Kill(t.Context(), params)
			if err != nil {
				t.Fatal(err)
			}
			params.DryRun = false
			did, err := client.Kill(t.Context(), params)
			if err != nil {
				t.Fatal(err)
			}
			if did.Spared != c.spared || would.Spared != c.spared || did.Killed != would.Matched || did.Killed < 1 {
				t.Errorf("would kill %d, spare %d; killed %d, spared %d, want %d spared",
					would.Matched, would.Spared, did.Killed, did.Spared, c.spared)
			}
			// The connection is the same still, and all of its flow is there.
			again, err := client.Kill(t.Context(), params)
			if err != nil || again.Matched != 0 || again.Spared != c.spared {
				t.Errorf("again: %+v, %v", again, err)
			}
			params.IncludeSelf = true
			params.DryRun = true
			if all, err := client.Kill(t.Context(), params); err != nil || all.Spared != 0 || all.Matched != c.spared {
				t.Errorf("include_self: %+v, %v", all, err)
			}
			traffic.Close()
		})
	}
}
