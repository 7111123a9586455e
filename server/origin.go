package server

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"ctd/rpc"
	"ctd/rpc/wire"
)

// corsMaxAge is how many seconds a browser may keep what a preflight told it.
const corsMaxAge = "600"

// ownOrigin refuses what a browser sends by the will of a page that isn't the daemon's: by a name that
// leads to the daemon's address though it is another's (DNS rebinding), or from another site.
func (s *Server) ownOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := visitOf(r.Context())
		setHeaders(w.Header())
		if err := checkHost(r, v); err != nil {
			s.refuse(w, r, err)
			return
		}
		if len(v.policy.cfg.Origins) > 0 {
			w.Header().Add("Vary", "Origin")
		}
		if err := checkOrigin(r, v); err != nil {
			s.refuse(w, r, err)
			return
		}
		if v.foreign {
			h := w.Header()
			h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
			if r.Method == http.MethodOptions {
				// Access-Control-Allow-Credentials is left out: no cookie of the daemon's is sent for a
				// page of another site, which shows a token.
				h.Set("Access-Control-Allow-Methods", http.MethodPost)
				h.Set("Access-Control-Allow-Headers", "authorization, content-type, "+strings.ToLower(csrfHeader))
				h.Set("Access-Control-Max-Age", corsMaxAge)
				w.WriteHeader(http.StatusNoContent)
				return
			}
			h.Set("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate")
		}
		next.ServeHTTP(w, r)
	})
}

// setHeaders sets what every answer has. Strict-Transport-Security isn't among it: it would hold for
// every port of the router's name, and so for other services of it that have no TLS.
func setHeaders(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
}

// checkHost refuses a name that isn't the daemon's. On loopback no other can be meant. Elsewhere, and behind a
// trusted proxy, every name will do as long as none is set, since the daemon can't know them, and others than callers with
// credentials get nothing there either.
func checkHost(r *http.Request, v *visit) *wire.Error {
	local := rpc.CallerFrom(r.Context()).Local.Addr()
	hosts := v.policy.cfg.Hosts
	if !local.IsValid() || (v.proxied || !local.IsLoopback()) && len(hosts) == 0 {
		return nil
	}
	host := hostname(r.Host)
	// Browsers always name the host; some clients of HTTP/1.0 don't.
	if host == "" || host == "localhost" || slices.ContainsFunc(hosts, func(h string) bool { return hostname(h) == host }) {
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil && (a.Unmap().IsLoopback() || !local.IsLoopback()) {
		return nil
	}
	return &wire.Error{
		Code: wire.PermissionDenied, Message: "the daemon isn't called by this host name",
		Hint: "call it by its address, or add the name to hosts in the daemon's configuration",
	}
}

// hostname returns a host without its port, brackets and final dot, in lower case.
func hostname(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// checkOrigin refuses what a page of another site sends, unless the site is one of the configured
// origins. Other clients than browsers name no origin.
func checkOrigin(r *http.Request, v *visit) *wire.Error {
	origins, site := r.Header.Values("Origin"), r.Header.Get("Sec-Fetch-Site")
	denied := &wire.Error{
		Code: wire.PermissionDenied, Message: "a page of another site may not call",
		Hint: "an administrator can add the site to origins in the daemon's configuration",
	}
	switch {
	case len(origins) > 1:
		return denied
	case len(origins) == 1:
		origin := canonicalOrigin(origins[0])
		if origin == "" { // null among them, which is what sandboxed pages and local files have
			return denied
		}
		if isOwn(origin, r, v) || v.proxied && site == "same-origin" { // a proxy may have changed the host
			return nil
		}
		if !slices.ContainsFunc(v.policy.cfg.Origins, func(o string) bool { return canonicalOrigin(o) == origin }) {
			return denied
		}
		v.foreign = true
	case site != "" && site != "same-origin" && site != "none":
		// Somebody may follow a link to the daemon, which shows the page that links nothing.
		if r.Method != http.MethodGet || r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document" {
			return denied
		}
	}
	return nil
}

// isOwn tells whether an origin is the daemon's own, as it was called.
func isOwn(origin string, r *http.Request, v *visit) bool {
	host := r.Host
	if v.proxied {
		if forwarded := r.Header.Values("X-Forwarded-Host"); len(forwarded) == 1 {
			host = forwarded[0]
		}
	}
	scheme := "http://"
	if v.encrypted(r) {
		scheme = "https://"
	}
	return origin == canonicalOrigin(scheme+host)
}

// canonicalOrigin returns an origin in lower case and without the scheme's own port; empty where it is none.
func canonicalOrigin(text string) string {
	u, err := url.Parse(strings.ToLower(text))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return ""
	}
	if port := u.Port(); port != "" && (u.Scheme != "http" || port != "80") && (u.Scheme != "https" || port != "443") {
		return u.Scheme + "://" + net.JoinHostPort(u.Hostname(), port)
	}
	return u.Scheme + "://" + u.Hostname()
}
