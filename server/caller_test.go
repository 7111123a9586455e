package server

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"ctd/rpc"
)

func TestCallerOf(t *testing.T) {
	tcp := func(addr string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)) }
	caller := func(remote, local string, here bool) rpc.Caller {
		return rpc.Caller{Remote: netip.MustParseAddrPort(remote), Local: netip.MustParseAddrPort(local), Here: here}
	}
	for _, c := range []struct {
		name   string
		local  net.Addr
		remote string
		want   rpc.Caller
	}{
		{"the Unix socket", &net.UnixAddr{Name: "/run/ctd/ctd.sock", Net: "unix"}, "@", rpc.Caller{Here: true}},
		{"another machine", tcp("192.0.2.1:8420"), "192.0.2.7:5000", caller("192.0.2.7:5000", "192.0.2.1:8420", false)},
		{"loopback", tcp("127.0.0.1:8420"), "127.0.0.1:5000", caller("127.0.0.1:5000", "127.0.0.1:8420", true)},
		{"its own address", tcp("192.0.2.1:8420"), "192.0.2.1:5000", caller("192.0.2.1:5000", "192.0.2.1:8420", true)},
		{"IPv4 in IPv6", tcp("[::ffff:192.0.2.1]:8420"), "[::ffff:192.0.2.7]:5000", caller("192.0.2.7:5000", "192.0.2.1:8420", false)},
		{"a zone", tcp("[fe80::1%lo]:8420"), "[fe80::7%lo]:5000", caller("[fe80::7]:5000", "[fe80::1]:8420", false)},
		{"no connection", nil, "192.0.2.7:5000", rpc.Caller{}},
		{"no remote", tcp("192.0.2.1:8420"), "", rpc.Caller{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/rpc", nil)
			r.RemoteAddr = c.remote
			if c.local != nil {
				r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, c.local))
			}
			if got := callerOf(r); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
