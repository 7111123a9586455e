package server

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// over makes a request look as if it had come to the daemon's address local from remote, by TCP.
func over(r *http.Request, local, remote string) *http.Request {
	r.RemoteAddr = net.JoinHostPort(remote, "4711")
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, address(local, 8420)))
}

// serve returns what a handler answers.
func serveOne(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// countCall is a call with the token.
func countCall() *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"conntrack.count"}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+secret)
	return r
}

func TestHost(t *testing.T) {
	set := []string{"Router.Example.org"}
	for _, c := range []struct {
		local, host string
		hosts       []string
		ok          bool
	}{
		{"127.0.0.1", "localhost:8420", nil, true},
		{"127.0.0.1", "LOCALHOST.", nil, true},
		{"127.0.0.1", "127.0.0.1:8420", nil, true},
		{"127.0.0.1", "127.9.9.9", nil, true},
		{"127.0.0.1", "[::1]:8420", nil, true},
		{"::1", "[::1]", nil, true},
		{"::1", "[::ffff:127.0.0.1]", nil, true},
		{"127.0.0.1", "", nil, true},
		{"127.0.0.1", "evil.example", nil, false},
		{"127.0.0.1", "localhost.evil.example", nil, false},
		{"127.0.0.1", "127.0.0.1.evil.example:8420", nil, false},
		{"::1", "evil.example:8420", nil, false},
		{"127.0.0.1", "192.0.2.1", nil, false},
		{"127.0.0.1", "[::1", nil, true}, // no URL of a browser's
		{"127.0.0.1", "router.example.org:8420", nil, false},
		{"127.0.0.1", "router.example.org:8420", set, true},
		{"127.0.0.1", "ROUTER.example.org.", set, true},
		{"127.0.0.1", "localhost", set, true},
		{"127.0.0.1", "evil.example", set, false},
		{"192.0.2.1", "anything.example", nil, true},
		{"192.0.2.1", "router.example.org", set, true},
		{"192.0.2.1", "localhost", set, true},
		{"192.0.2.1", "192.0.2.1:8420", set, true},
		{"192.0.2.1", "203.0.113.9", set, true},
		{"192.0.2.1", "anything.example", set, false},
	} {
		f := newFixture(t, Config{Hosts: c.hosts}, tcpFlow(1))
		r := over(countCall(), c.local, "127.0.0.1")
		r.Host = c.host
		w := serveOne(f.Handler(), r)
		if ok := w.Code == 200; ok != c.ok {
			t.Errorf("%q at %s with hosts %q: %d %s", c.host, c.local, c.hosts, w.Code, w.Body)
		}
		if !c.ok && (w.Code != 403 || !strings.Contains(w.Body.String(), `"code":-32002`) || !strings.Contains(w.Body.String(), "hosts")) {
			t.Errorf("%q: refused with %d %s", c.host, w.Code, w.Body)
		}
	}
}

// TestHostSocket: over the Unix socket every name will do, as clients have to name one.
func TestHostSocket(t *testing.T) {
	f := newFixture(t, Config{Hosts: []string{"router.example.org"}}, tcpFlow(1))
	r := f.start(t)
	if status, body := do(t, unixClient(t, r.sock), jsonCall(t, "http://anything.example/rpc", "conntrack.count", "")); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	call := jsonCall(t, r.tcp+"/rpc", "conntrack.count", "")
	call.Host = "anything.example"
	if status, body := do(t, tcpClient(t), call); status != 403 {
		t.Errorf("over TCP: %d %s", status, body)
	}
}

func TestOrigin(t *testing.T) {
	const mine, other = "https://noc.example.org", "https://noc.example.org:8443"
	for _, c := range []struct {
		name   string
		host   string
		header map[string]string
		ok     bool
		cors   bool // the page may read the answer
	}{
		{"no browser", "localhost:8420", nil, true, false},
		{"own", "localhost:8420", map[string]string{"Origin": "http://localhost:8420"}, true, false},
		{"own, upper case", "LocalHost:8420", map[string]string{"Origin": "http://localhost:8420"}, true, false},
		{"own, port of the scheme", "localhost", map[string]string{"Origin": "http://localhost:80"}, true, false},
		{"own, as the browser says", "localhost:8420", map[string]string{"Sec-Fetch-Site": "same-origin"}, true, false},
		{"by hand", "localhost:8420", map[string]string{"Sec-Fetch-Site": "none"}, true, false},
		{"another port", "localhost:8420", map[string]string{"Origin": "http://localhost:3000"}, false, false},
		{"another scheme", "localhost:8420", map[string]string{"Origin": "https://localhost:8420"}, false, false},
		{"another host", "localhost:8420", map[string]string{"Origin": "http://evil.example"}, false, false},
		{"said to be own", "localhost:8420", map[string]string{"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, false, false},
		{"sandboxed", "localhost:8420", map[string]string{"Origin": "null"}, false, false},
		{"file", "localhost:8420", map[string]string{"Origin": "file://"}, false, false},
		{"extension", "localhost:8420", map[string]string{"Origin": "chrome-extension://abc"}, false, false},
		{"empty", "localhost:8420", map[string]string{"Origin": ""}, false, false},
		{"with a path", "localhost:8420", map[string]string{"Origin": "http://localhost:8420/"}, false, false},
		{"no origin, cross-site", "localhost:8420", map[string]string{"Sec-Fetch-Site": "cross-site"}, false, false},
		{"no origin, same-site", "localhost:8420", map[string]string{"Sec-Fetch-Site": "same-site"}, false, false},
		{"a form that is followed", "localhost:8420", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, false, false},
		{"configured", "localhost:8420", map[string]string{"Origin": mine}, true, true},
		{"configured, cross-site", "localhost:8420", map[string]string{"Origin": mine, "Sec-Fetch-Site": "cross-site"}, true, true},
		{"configured host, another port", "localhost:8420", map[string]string{"Origin": other}, false, false},
		{"configured host as a part", "localhost:8420", map[string]string{"Origin": mine + ".evil.example"}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, Config{Origins: []string{"HTTPS://noc.example.org:443"}}, tcpFlow(1))
			r := over(countCall(), "127.0.0.1", "127.0.0.1")
			r.Host = c.host
			for k, v := range c.header {
				r.Header.Set(k, v)
			}
			w := serveOne(f.Handler(), r)
			if (w.Code == 200) != c.ok || !c.ok && (w.Code != 403 || !strings.Contains(w.Body.String(), "origins")) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			want := ""
			if c.cors {
				want = c.header["Origin"]
			}
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != want || w.Header().Get("Vary") != "Origin" {
				t.Errorf("allowed for %q, want %q; %v", got, want, w.Header())
			}
		})
	}
	f := newFixture(t, Config{}, tcpFlow(1))
	r := over(countCall(), "127.0.0.1", "127.0.0.1")
	r.Host = "localhost"
	r.Header.Add("Origin", "http://localhost")
	r.Header.Add("Origin", "http://localhost")
	if w := serveOne(f.Handler(), r); w.Code != 403 {
		t.Errorf("two origins: %d", w.Code)
	}
	// Somebody follows a link.
	get := over(httptest.NewRequest(http.MethodGet, "/healthz", nil), "127.0.0.1", "127.0.0.1")
	get.Host = "localhost"
	for k, v := range map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"} {
		get.Header.Set(k, v)
	}
	if w := serveOne(f.Handler(), get); w.Code != 200 {
		t.Errorf("a link: %d", w.Code)
	}
	get.Header.Set("Sec-Fetch-Dest", "iframe")
	if w := serveOne(f.Handler(), get); w.Code != 403 {
		t.Errorf("a frame: %d", w.Code)
	}
}

func TestPreflight(t *testing.T) {
	ask := func(f *fixture, path, origin string) *httptest.ResponseRecorder {
		r := over(httptest.NewRequest(http.MethodOptions, path, nil), "127.0.0.1", "127.0.0.1")
		r.Host = "localhost:8420"
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", "POST")
		r.Header.Set("Access-Control-Request-Headers", "authorization,content-type")
		return serveOne(f.Handler(), r)
	}
	configured := newFixture(t, Config{Origins: []string{"https://noc.example.org"}})
	for _, path := range []string{"/rpc", "/RPC2", "/"} {
		w := ask(configured, path, "https://noc.example.org")
		h := w.Header()
		if w.Code != 204 || h.Get("Access-Control-Allow-Origin") != "https://noc.example.org" || h.Get("Access-Control-Allow-Methods") != "POST" ||
			h.Get("Access-Control-Allow-Headers") != "authorization, content-type, x-csrf-token" || h.Get("Vary") != "Origin" ||
			h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: %d %v", path, w.Code, h)
		}
		if w := ask(configured, path, "https://evil.example"); w.Code != 403 || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s from another site: %d %v", path, w.Code, w.Header())
		}
		if w := ask(newFixture(t, Config{}), path, "http://localhost:8420"); w.Code != 405 || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s without origins: %d %v", path, w.Code, w.Header())
		}
	}
}

// TestCrossSiteForms: what a form of another site can send without asking first is of neither protocol,
// whatever is in it.
func TestCrossSiteForms(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlow(1))
	for _, contentType := range []string{"text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/plain; application/json", "text/xml-or-so"} {
		r := over(countCall(), "127.0.0.1", "127.0.0.1")
		r.Host = "localhost"
		r.Header.Set("Content-Type", contentType)
		if w := serveOne(f.Handler(), r); w.Code != 415 {
			t.Errorf("%q: %d %s", contentType, w.Code, w.Body)
		}
	}
}

func TestHeaders(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlow(1))
	refused := countCall()
	refused.Header.Set("Authorization", "Bearer wrong")
	for name, r := range map[string]*http.Request{
		"a result": countCall(), "a refusal": refused, "health": httptest.NewRequest(http.MethodGet, "/healthz", nil),
		"nothing there": httptest.NewRequest(http.MethodGet, "/nothing", nil),
	} {
		h := serveOne(f.Handler(), r).Header()
		for k, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Strict-Transport-Security": "", "Vary": "",
		} {
			if h.Get(k) != want {
				t.Errorf("%s: %s is %q, want %q", name, k, h.Get(k), want)
			}
		}
	}
}

// TestProxyOrigin: behind a proxy the host by which the browser called is the one that the proxy tells.
func TestProxyOrigin(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlow(1))
	for name, c := range map[string]struct {
		header map[string]string
		ok     bool
	}{
		"host passed on":        {map[string]string{"Origin": "https://ctd.example.org", "X-Forwarded-Host": "ctd.example.org", "X-Forwarded-Proto": "https"}, true},
		"another host":          {map[string]string{"Origin": "https://evil.example", "X-Forwarded-Host": "ctd.example.org", "X-Forwarded-Proto": "https"}, false},
		"host not passed on":    {map[string]string{"Origin": "https://ctd.example.org", "Sec-Fetch-Site": "same-origin"}, true},
		"cross-site":            {map[string]string{"Origin": "https://ctd.example.org", "Sec-Fetch-Site": "cross-site"}, false},
		"cross-site, no origin": {map[string]string{"Sec-Fetch-Site": "cross-site"}, false},
	} {
		r := httptest.NewRequest(http.MethodPost, "/rpc", nil)
		r.Host = "backend:8420"
		for k, v := range c.header {
			r.Header.Set(k, v)
		}
		v := &visit{policy: f.Server.policy.Load(), proxied: true}
		if err := checkOrigin(r, v); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
