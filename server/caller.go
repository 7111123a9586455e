package server

import (
	"net"
	"net/http"
	"net/netip"

	"ctd/rpc"
)

// callerOf says where a request comes from.
func callerOf(r *http.Request) rpc.Caller {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	switch local := local.(type) {
	case *net.UnixAddr:
		return rpc.Caller{Here: true}
	case *net.TCPAddr:
		remote, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			return rpc.Caller{}
		}
		c := rpc.Caller{Remote: plain(remote), Local: plain(local.AddrPort())}
		c.Here = c.Remote.Addr().IsLoopback() || c.Remote.Addr() == c.Local.Addr()
		return c
	}
	return rpc.Caller{}
}

// plain returns an address as the table has it: without a zone, and IPv4 not within IPv6.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().WithZone("").Unmap(), a.Port())
}
