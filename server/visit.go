package server

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"ctd/auth"
	"ctd/rpc"
)

// visit is what is known of a request from its beginning to its end.
type visit struct {
	policy  *policy
	proxied bool              // a trusted proxy sent it
	proxy   auth.TrustedProxy // which one that is
	from    netip.Addr        // the caller's address, behind a trusted proxy the one that the proxy tells; zero for a local one
	where   string            // the same for people: address and port, or unix

	shown     bool          // there is an Authorization header
	byName    bool          // a name and a password were shown
	claimed   string        // the name that the caller gave
	wait      time.Duration // until the caller's credentials are looked at again
	principal string        // who it was, for the log
	session   *session      // by whose cookie it was recognised; nil for another way
	foreign   bool          // a page of a site that may call sent it
	place     *placedWriter // where it is worked on; nil before
}

type visitKey struct{}

// visitOf returns what is known of a request.
func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}

// newVisit looks where a request comes from. caller.Remote stays the socket's other end: that is the
// connection which a change must spare.
func (s *Server) newVisit(r *http.Request, caller rpc.Caller) *visit {
	v := &visit{policy: s.policyOf(r.Context()), from: caller.Remote.Addr(), where: r.RemoteAddr}
	if c, ok := unixConnection(r.Context()); ok {
		v.where = "unix"
		v.proxy, v.proxied = v.policy.auth.ProxyPeer(c)
	} else {
		v.proxy, v.proxied = v.policy.auth.ProxyAt(v.from)
	}
	if !v.proxied {
		return v
	}
	if from := forwardedFor(r.Header.Values("X-Forwarded-For"), v.policy.auth.IsProxy); from.IsValid() {
		v.from, v.where = from, from.String()
	}
	return v
}

// forwardedFor returns the last address of X-Forwarded-For that isn't a trusted proxy's: each proxy adds the
// one that it was called from, and what stands before may be of the caller's making. Where all are
// proxies' it is the first of them, and where the last one can't be read there is none.
func forwardedFor(headers []string, isProxy func(netip.Addr) bool) (from netip.Addr) {
	for i := len(headers) - 1; i >= 0; i-- {
		for rest, more := headers[i], true; more; {
			var last string
			at := strings.LastIndexByte(rest, ',')
			if more = at >= 0; more {
				rest, last = rest[:at], rest[at+1:]
			} else {
				last = rest
			}
			hop, ok := parseHop(strings.TrimSpace(last))
			if !ok {
				return from
			}
			from = hop
			if !isProxy(hop) {
				return from
			}
		}
	}
	return from
}

// parseHop reads an address, which some proxies write with a port.
func parseHop(text string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")); err == nil {
		return a.WithZone("").Unmap(), true
	}
	ap, err := netip.ParseAddrPort(text)
	return plain(ap).Addr(), err == nil
}

// encrypted tells whether nobody on the way between a browser and the daemon, or the trusted proxy,
// can read a request.
func (v *visit) encrypted(r *http.Request) bool {
	if v.proxied {
		return strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
	}
	return r.TLS != nil
}
