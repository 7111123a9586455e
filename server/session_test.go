package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ctd/auth"
)

// browser keeps the cookie of a session, over plain HTTP from loopback.
type browser struct {
	t      *testing.T
	h      http.Handler
	cookie *http.Cookie
	csrf   string
}

// send sends a request as a page of the daemon's own would.
func (b *browser) send(method, path, body string, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := over(httptest.NewRequest(method, path, strings.NewReader(body)), "127.0.0.1", "127.0.0.1")
	r.Host = "localhost:8420"
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if b.cookie != nil {
		r.AddCookie(&http.Cookie{Name: b.cookie.Name, Value: b.cookie.Value})
	}
	if b.csrf != "" {
		r.Header.Set("X-CSRF-Token", b.csrf)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return serveOne(b.h, r)
}

// login logs in with the token.
func (b *browser) login() *httptest.ResponseRecorder {
	b.t.Helper()
	w := b.send("POST", "/session", `{"token":"`+secret+`"}`)
	if w.Code != 200 || len(w.Result().Cookies()) != 1 {
		b.t.Fatalf("login: %d %v %s", w.Code, w.Header(), w.Body)
	}
	b.cookie = w.Result().Cookies()[0]
	var answer sessionAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		b.t.Fatal(err)
	}
	b.csrf = answer.CSRF
	return w
}

const whoami = `{"jsonrpc":"2.0","id":1,"method":"server.whoami"}`

func TestSession(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlow(1))
	b := &browser{t: t, h: f.Handler()}
	if w := b.send("GET", "/session", ""); w.Code != 401 {
		t.Errorf("before the login: %d %s", w.Code, w.Body)
	}
	w := b.login()
	c := b.cookie
	if c.Name != "ctd_session" || !c.HttpOnly || c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || len(c.Value) < 26 {
		t.Errorf("cookie %+v", c)
	}
	want := fmt.Sprintf(`{"name":"token","role":"admin","networks":[],"csrf":%q}`, b.csrf)
	if w.Body.String() != want || len(b.csrf) < 26 || b.csrf == c.Value {
		t.Errorf("answer %s", w.Body)
	}
	if w := b.send("GET", "/session", ""); w.Code != 200 || w.Body.String() != want {
		t.Errorf("again: %d %s", w.Code, w.Body)
	}
	if w := b.send("POST", "/rpc", whoami); w.Code != 200 || !strings.Contains(w.Body.String(), `"name":"token"`) {
		t.Errorf("a call: %d %s", w.Code, w.Body)
	}
	// What is shown in the header counts, and not the cookie.
	if w := b.send("POST", "/rpc", whoami, "Authorization", "Bearer wrong"); w.Code != 401 {
		t.Errorf("a wrong token beside the cookie: %d %s", w.Code, w.Body)
	}
	if w := b.send("DELETE", "/session", "", "X-CSRF-Token", ""); w.Code != 403 {
		t.Errorf("logout by the cookie alone: %d %s", w.Code, w.Body)
	}
	out := b.send("DELETE", "/session", "")
	if cookies := out.Result().Cookies(); out.Code != 204 || len(cookies) != 1 || cookies[0].MaxAge >= 0 || cookies[0].Name != c.Name {
		t.Errorf("logout: %d %v", out.Code, out.Header())
	}
	if w := b.send("POST", "/rpc", whoami); w.Code != 401 {
		t.Errorf("after it: %d %s", w.Code, w.Body)
	}
	if w := b.send("DELETE", "/session", ""); w.Code != 401 {
		t.Errorf("logout again: %d %s", w.Code, w.Body)
	}
	for _, secret := range []string{secret, c.Value, b.csrf} {
		if strings.Contains(f.log.String(), secret) {
			t.Error("a secret is in the log")
		}
	}
}

// TestSessionCSRF: the cookie alone, and what a page of another site can bring a browser to send, does
// nothing.
func TestSessionCSRF(t *testing.T) {
	f := newFixture(t, Config{Origins: []string{"https://noc.example.org"}}, tcpFlow(1))
	b := &browser{t: t, h: f.Handler()}
	b.login()
	other := &browser{t: t, h: b.h}
	other.login()
	for _, c := range []struct {
		name   string
		header []string
		status int
	}{
		{"right", nil, 200},
		{"own origin", []string{"Origin", "http://localhost:8420"}, 200},
		{"no token", []string{"X-CSRF-Token", ""}, 403},
		{"wrong token", []string{"X-CSRF-Token", "wrong"}, 403},
		{"a part of the token", []string{"X-CSRF-Token", b.csrf[:10]}, 403},
		{"another session's token", []string{"X-CSRF-Token", other.csrf}, 403},
		{"the id", []string{"X-CSRF-Token", b.cookie.Value}, 403},
		{"another site", []string{"Origin", "https://evil.example"}, 403},
		{"another port, which has the same cookies", []string{"Origin", "http://localhost:3000", "Sec-Fetch-Site", "same-site"}, 403},
		{"cross-site", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a site that may call, but by a token", []string{"Origin", "https://noc.example.org", "Sec-Fetch-Site", "cross-site"}, 403},
		{"text/plain", []string{"Content-Type", "text/plain"}, 415},
		{"two cookies", []string{"Cookie", "ctd_session=" + b.cookie.Value + "; ctd_session=" + other.cookie.Value}, 401},
		{"a cookie for TLS", []string{"Cookie", "__Host-ctd_session=" + b.cookie.Value}, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			if w := b.send("POST", "/rpc", whoami, c.header...); w.Code != c.status {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	if w := b.send("GET", "/openrpc.json", "", "X-CSRF-Token", ""); w.Code != 200 {
		t.Errorf("reading needs no token: %d %s", w.Code, w.Body)
	}
}

// TestSessionFixation: a login gives a new id, whatever the browser had, and ends the old session.
func TestSessionFixation(t *testing.T) {
	f := newFixture(t, Config{})
	b := &browser{t: t, h: f.Handler(), cookie: &http.Cookie{Name: "ctd_session", Value: strings.Repeat("A", 26)}}
	b.login()
	if b.cookie.Value == strings.Repeat("A", 26) {
		t.Fatal("the id is the one that the browser came with")
	}
	old := *b
	b.login()
	if old.cookie.Value == b.cookie.Value || old.csrf == b.csrf {
		t.Error("the second login gave the same id or token")
	}
	if w := old.send("GET", "/session", ""); w.Code != 401 {
		t.Errorf("the session before: %d", w.Code)
	}
	if w := b.send("GET", "/session", ""); w.Code != 200 {
		t.Errorf("the session: %d", w.Code)
	}
}

func TestSessionLogin(t *testing.T) {
	f := newFixture(t, Config{})
	b := &browser{t: t, h: f.Handler()}
	for _, c := range []struct {
		name, body string
		header     []string
		status     int
	}{
		{"token", `{"token":"` + secret + `"}`, nil, 200},
		{"user", `{"user":"jane","password":"` + secret + `"}`, nil, 200},
		{"bearer", ``, []string{"Authorization", "Bearer " + secret}, 200},
		{"bearer, no type", ``, []string{"Authorization", "Bearer " + secret, "Content-Type", ""}, 200},
		{"wrong token", `{"token":"wrong"}`, nil, 401},
		{"wrong password", `{"user":"jane","password":"wrong"}`, nil, 401},
		{"no password", `{"user":"jane"}`, nil, 401},
		{"wrong bearer", ``, []string{"Authorization", "Bearer wrong"}, 401},
		{"nothing", ``, nil, 400},
		{"empty", `{}`, nil, 400},
		{"password alone", `{"password":"x"}`, nil, 400},
		{"both", `{"user":"jane","token":"` + secret + `"}`, nil, 400},
		{"unknown member", `{"token":"` + secret + `","x":1}`, nil, 400},
		{"two", `{"token":"` + secret + `"}{}`, nil, 400},
		{"too long", `{"token":"` + secret + `"` + strings.Repeat(" ", maxLoginBody) + `}`, nil, 400},
		{"form", `token=` + secret, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		{"text", `{"token":"` + secret + `"}`, []string{"Content-Type", "text/plain"}, 415},
		{"another site", `{"token":"` + secret + `"}`, []string{"Origin", "https://evil.example"}, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := b.send("POST", "/session", c.body, c.header...)
			if w.Code != c.status || (len(w.Result().Cookies()) == 1) != (c.status == 200) || strings.Contains(w.Body.String(), secret) {
				t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
			}
		})
	}
}

// TestSessionEncrypted: by TLS the cookie is one that browsers send by TLS only; where somebody can read
// along there is none.
func TestSessionEncrypted(t *testing.T) {
	f := newFixture(t, Config{})
	login := func(local, remote string) *http.Request {
		r := over(httptest.NewRequest("POST", "/session", strings.NewReader(`{"token":"`+secret+`"}`)), local, remote)
		r.Host = "192.0.2.1"
		r.Header.Set("Content-Type", "application/json")
		return r
	}
	plain := serveOne(f.Handler(), login("192.0.2.1", "192.0.2.9"))
	if plain.Code != 403 || len(plain.Result().Cookies()) != 0 || !strings.Contains(plain.Body.String(), "https") {
		t.Errorf("plain: %d %v %s", plain.Code, plain.Header(), plain.Body)
	}
	srv := httptest.NewTLSServer(f.Handler())
	defer srv.Close()
	req, err := http.NewRequest("POST", srv.URL+"/session", strings.NewReader(`{"token":"`+secret+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	cookies := resp.Cookies()
	if len(cookies) != 1 || cookies[0].Name != "__Host-ctd_session" || !cookies[0].Secure || cookies[0].Path != "/" || cookies[0].Domain != "" {
		t.Fatalf("TLS: %d %v", resp.StatusCode, cookies)
	}
	again, err := http.NewRequest("GET", srv.URL+"/session", nil)
	if err != nil {
		t.Fatal(err)
	}
	again.AddCookie(cookies[0])
	if status, body := do(t, srv.Client(), again); status != 200 {
		t.Errorf("TLS again: %d %s", status, body)
	}
}

// TestSessionsEnd: a session ends when it isn't used, when it is old, and with the credential that it was
// made with; and there are only so many.
func TestSessionsEnd(t *testing.T) {
	now := time.Now()
	ss := newSessions()
	ss.now = func() time.Time { return now }
	valid := true
	principal := func(name string) *auth.Principal {
		return auth.NewPrincipal(auth.Identity{Name: name, Role: auth.Viewer, Valid: func() bool { return valid }})
	}
	jane := principal("jane")
	id, _ := ss.begin(jane)
	now = now.Add(sessionIdle - time.Second)
	if ss.get(id) == nil {
		t.Error("ended before it was idle for long")
	}
	now = now.Add(sessionIdle)
	if ss.get(id) != nil {
		t.Error("idle, and didn't end")
	}
	began := now
	id, _ = ss.begin(jane)
	for now.Sub(began) < sessionLongest-10*time.Minute {
		now = now.Add(10 * time.Minute)
		if ss.get(id) == nil {
			t.Fatalf("ended after %v", now.Sub(began))
		}
	}
	now = began.Add(sessionLongest)
	if ss.get(id) != nil {
		t.Error("used for ever")
	}
	id, _ = ss.begin(jane)
	valid = false
	if ss.get(id) != nil {
		t.Error("outlived its credential")
	}
	valid = true
	if ss.get(id) != nil || len(ss.byID) != 0 {
		t.Error("came back")
	}

	ids := make([]string, maxSessionsPerName)
	for i := range ids {
		now = now.Add(time.Second)
		ids[i], _ = ss.begin(jane)
	}
	now = now.Add(time.Second)
	ss.get(ids[0])
	if _, s := ss.begin(jane); s == nil || ss.get(ids[0]) == nil || ss.get(ids[1]) != nil || ss.get(ids[2]) == nil {
		t.Error("the one that ends isn't the one that was used longest ago")
	}
	for i := 0; len(ss.byID) < maxSessions; i++ {
		if _, s := ss.begin(principal(fmt.Sprint("user", i/maxSessionsPerName))); s == nil {
			t.Fatalf("%d sessions", len(ss.byID))
		}
	}
	if _, s := ss.begin(principal("one more")); s != nil || len(ss.byID) != maxSessions {
		t.Errorf("%d sessions", len(ss.byID))
	}
	if _, s := ss.begin(jane); s == nil {
		t.Error("who ends one of its own has no room")
	}
	now = now.Add(sessionIdle)
	if _, s := ss.begin(principal("one more")); s == nil || len(ss.byID) != 1 {
		t.Errorf("%d sessions after all have ended", len(ss.byID))
	}
}
