package server

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ctd/auth"
	"ctd/rpc"
	"ctd/rpc/wire"
)

func TestForwardedFor(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/48")}
	isProxy := func(a netip.Addr) bool {
		return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	for _, c := range []struct {
		headers []string
		want    string // empty where there is none
	}{
		{nil, ""},
		{[]string{""}, ""},
		{[]string{"203.0.113.7"}, "203.0.113.7"},
		{[]string{" 203.0.113.7 "}, "203.0.113.7"},
		{[]string{"203.0.113.7:5000"}, "203.0.113.7"},
		{[]string{"2001:db8::7"}, "2001:db8::7"},
		{[]string{"[2001:db8::7]"}, "2001:db8::7"},
		{[]string{"[2001:db8::7]:5000"}, "2001:db8::7"},
		{[]string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		{[]string{"fe80::1%eth0"}, "fe80::1"},
		{[]string{"10.9.9.9, 203.0.113.7"}, "203.0.113.7"}, // the first is of the caller's making
		{[]string{"10.9.9.9", "203.0.113.7"}, "203.0.113.7"},
		{[]string{"10.9.9.9, 203.0.113.7, 192.0.2.5"}, "203.0.113.7"},
		{[]string{"203.0.113.7", "192.0.2.5, 2001:db8:1::5"}, "203.0.113.7"},
		{[]string{"192.0.2.6, 192.0.2.5"}, "192.0.2.6"},
		{[]string{"unknown"}, ""},
		{[]string{"203.0.113.7, unknown"}, ""},
		{[]string{"unknown, 192.0.2.5"}, "192.0.2.5"},
		{[]string{"203.0.113.7,"}, ""},
		{[]string{strings.Repeat("192.0.2.5,", 5000) + "192.0.2.5"}, "192.0.2.5"},
	} {
		got := ""
		if a := forwardedFor(c.headers, isProxy); a.IsValid() {
			got = a.String()
		}
		if got != c.want {
			t.Errorf("%.60q: %s, want %s", c.headers, got, c.want)
		}
	}
}

// TestByProxy: a proxy that names somebody twice, or somebody whom nobody knows, is refused; one that names
// nobody has let through somebody who isn't known.
func TestByProxy(t *testing.T) {
	f := newFixture(t, Config{Auth: auth.DefaultConfig()})
	for _, c := range []struct {
		names   []string
		claimed string
		code    wire.Code
	}{
		{nil, "", ""},
		{[]string{""}, "", ""},
		{[]string{"  "}, "", ""},
		{[]string{"stranger"}, "stranger", wire.PermissionDenied},
		{[]string{"jane", "root"}, "", wire.Unauthenticated},
		{[]string{"", "root"}, "", wire.Unauthenticated},
	} {
		r := httptest.NewRequest(http.MethodPost, "/rpc", nil)
		for _, name := range c.names {
			r.Header.Add("X-Remote-User", name)
		}
		v := &visit{policy: f.Server.policy.Load(), proxied: true}
		p, err := byProxy(r, v)
		var code wire.Code
		if err != nil {
			code = err.Code
		}
		if p != nil || code != c.code || v.claimed != c.claimed || err != nil && err.Hint == "" {
			t.Errorf("%q: %v, %v, claimed %q", c.names, p, err, v.claimed)
		}
	}
	// From anywhere else the header tells nothing.
	r := countCall()
	r.Header.Del("Authorization")
	r.Header.Set("X-Remote-User", "root")
	if w := serveOne(f.Handler(), over(r, "192.0.2.1", "192.0.2.9")); w.Code != 401 || !strings.Contains(w.Body.String(), "-32001") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// recorder is an auditor that keeps what was refused.
type recorder struct {
	mu      sync.Mutex
	refused []rpc.AuditedCall
	codes   []wire.Code
}

func (a *recorder) Begin(rpc.AuditedCall) (string, error)         { return "1", nil }
func (a *recorder) End(string, rpc.AuditedCall, rpc.AuditOutcome) {}
func (a *recorder) Refused(c rpc.AuditedCall, o rpc.AuditOutcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused, a.codes = append(a.refused, c), append(a.codes, o.Err.Code)
}

// TestRefusedIsRecorded: who isn't let in is recorded with the name that was given and the address, and
// without the secret.
func TestRefusedIsRecorded(t *testing.T) {
	f := newFixture(t, Config{})
	a := &recorder{}
	f.records = a
	h := f.Handler()
	basic, bearer, twice, elsewhere := countCall(), countCall(), countCall(), countCall()
	basic.SetBasicAuth("jane"+strings.Repeat("x", 1000), "wrong-"+secret)
	bearer.Header.Set("Authorization", "Bearer wrong")
	twice.Header.Add("Authorization", "Bearer "+secret)
	elsewhere.Header.Set("Origin", "http://evil.example")
	for i, r := range []*http.Request{basic, bearer, twice, elsewhere} {
		if w := serveOne(h, over(r, "192.0.2.1", "192.0.2.9")); w.Code != 401 && w.Code != 403 {
			t.Errorf("request %d: %d", i, w.Code)
		}
	}
	if want := []wire.Code{wire.Unauthenticated, wire.Unauthenticated, wire.Unauthenticated, wire.PermissionDenied}; !slices.Equal(a.codes, want) {
		t.Errorf("recorded %v, want %v", a.codes, want)
	}
	for i, c := range a.refused {
		if c.From != "192.0.2.9:4711" || c.Principal != nil || (i == 0) != strings.HasPrefix(c.Claimed, "janexxx") {
			t.Errorf("record %d: %+v", i, c)
		}
	}
	if serveOne(h, countCall()); len(a.codes) != 4 {
		t.Error("what was let in is recorded as refused")
	}
}

// TestSlowed: who has shown too much that was wrong is told when to come again.
func TestSlowed(t *testing.T) {
	f := newFixture(t, Config{})
	v := &visit{policy: f.Server.policy.Load()}
	err := v.authError(&auth.SlowedError{Wait: 90 * time.Second})
	h := f.logged(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visitOf(r.Context()).wait = v.wait
		f.refuse(w, r, err)
	}))
	for _, contentType := range []string{"application/json", "text/xml"} {
		r := countCall()
		r.Header.Set("Content-Type", contentType)
		w := serveOne(h, r)
		if w.Code != 429 || w.Header().Get("Retry-After") != "91" || !strings.HasPrefix(w.Header().Get("Content-Type"), contentType) || !strings.Contains(w.Body.String(), "1m31s") {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	}
}
