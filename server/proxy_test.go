package server

import (
	"net/http"
	"net/http/httptest"
	"os/user"
	"strings"
	"testing"

	"ctd/auth"
)

// proxied are settings that trust a proxy at 192.0.2.5, which names jane.
func proxied(t *testing.T) Config {
	t.Helper()
	cfg := Config{Auth: auth.DefaultConfig()}
	cfg.Auth.Proxy.Addresses = []string{"192.0.2.5"}
	cfg.Auth.Users = []auth.User{{Name: "jane", Grant: auth.Grant{Role: "operator"}}}
	return cfg
}

// TestProxy: who a trusted proxy names is recognised, and nobody else by the header; a proxy's own
// certificate or peer never counts for whom it lets through.
func TestProxy(t *testing.T) {
	f := newFixture(t, proxied(t), tcpFlow(1))
	h := f.Handler()
	for _, c := range []struct {
		name, remote string
		header       [][2]string
		status       int
		want, logged string // in the answer, and where the log says it is from
	}{
		{"named", "192.0.2.5", [][2]string{{"X-Remote-User", "jane"}}, 200, `"name":"jane"`, "192.0.2.5:4711"},
		{"named, with an address", "192.0.2.5", [][2]string{{"X-Remote-User", "jane"}, {"X-Forwarded-For", "10.0.0.1, 203.0.113.7"}}, 200, `"via":"proxy"`, "203.0.113.7"},
		{"a user whom nobody knows", "192.0.2.5", [][2]string{{"X-Remote-User", "mallory"}}, 403, "[[user]]", "192.0.2.5:4711"},
		{"named twice", "192.0.2.5", [][2]string{{"X-Remote-User", "mallory"}, {"X-Remote-User", "jane"}}, 401, "more than once", "192.0.2.5:4711"},
		{"nobody named", "192.0.2.5", nil, 401, "-32001", "192.0.2.5:4711"},
		{"not from the proxy", "192.0.2.6", [][2]string{{"X-Remote-User", "jane"}, {"X-Forwarded-For", "192.0.2.5"}}, 401, "-32001", "192.0.2.6:4711"},
		{"a token, which counts first", "192.0.2.5", [][2]string{{"X-Remote-User", "jane"}, {"Authorization", "Bearer " + secret}}, 200, `"name":"token"`, "192.0.2.5:4711"},
		{"a wrong token", "192.0.2.5", [][2]string{{"X-Remote-User", "jane"}, {"Authorization", "Bearer wrong"}}, 401, "-32001", "192.0.2.5:4711"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(whoami))
			r.Header.Set("Content-Type", "application/json")
			for _, h := range c.header {
				r.Header.Add(h[0], h[1])
			}
			before := len(f.log.events(t, "request"))
			w := serveOne(h, over(r, "192.0.2.1", c.remote))
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if e := f.log.events(t, "request")[before:]; len(e) != 1 || e[0]["remote"] != c.logged {
				t.Errorf("logged %v, want remote %s", e, c.logged)
			}
		})
	}
}

// TestProxySocket: a proxy that runs as the daemon's own user and calls by the Unix socket isn't the admin
// that this user is otherwise.
func TestProxySocket(t *testing.T) {
	own, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	cfg := proxied(t)
	cfg.Auth.Proxy.UnixUsers = []string{own.Username}
	r := newFixture(t, cfg, tcpFlow(1)).start(t)
	ask := func(name string) (int, string) {
		call := peerCall(t, "")
		if name != "" {
			call.Header.Set("X-Remote-User", name)
		}
		return do(t, unixClient(t, r.sock), call)
	}
	if status, body := ask(""); status != 401 {
		t.Errorf("nobody named: %d %s", status, body)
	}
	if status, body := ask("jane"); status != 200 || !strings.Contains(body, `"name":"jane"`) {
		t.Errorf("jane: %d %s", status, body)
	}
}

// TestProxySession: behind a proxy a session has a cookie if the browser's part of the way is encrypted.
func TestProxySession(t *testing.T) {
	f := newFixture(t, proxied(t))
	h := f.Handler()
	for proto, want := range map[string]string{"": "", "http": "", "https": "__Host-ctd_session"} {
		r := httptest.NewRequest("POST", "/session", strings.NewReader(`{"token":"`+secret+`"}`))
		r.Header.Set("Content-Type", "application/json")
		if proto != "" {
			r.Header.Set("X-Forwarded-Proto", proto)
		}
		w := serveOne(h, over(r, "192.0.2.1", "192.0.2.5"))
		got := ""
		if cookies := w.Result().Cookies(); len(cookies) > 0 {
			got = cookies[0].Name
		}
		if got != want || (w.Code == 200) != (want != "") {
			t.Errorf("%q: %d, cookie %q, want %q: %s", proto, w.Code, got, want, w.Body)
		}
	}
	// Who is recognised by the proxy needs no session, and is told so.
	r := httptest.NewRequest("GET", "/session", nil)
	r.Header.Set("X-Remote-User", "jane")
	if w := serveOne(h, over(r, "192.0.2.1", "192.0.2.5")); w.Code != 200 || w.Body.String() != `{"name":"jane","role":"operator","networks":[],"csrf":""}` {
		t.Errorf("by the proxy: %d %s", w.Code, w.Body)
	}
}
