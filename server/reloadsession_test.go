package server

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// pyctdCall makes a call of pyctd's from an address, where jane is the user that a proxy names.
func pyctdCall(h http.Handler, from, method string, params ...string) string {
	body := `<methodCall><methodName>` + method + `</methodName><params>`
	for _, p := range params {
		body += `<param><value>` + p + `</value></param>`
	}
	r := httptest.NewRequest(http.MethodPost, "/RPC2", strings.NewReader(body+`</params></methodCall>`))
	r.Header.Set("Content-Type", "text/xml")
	r.Header.Set("X-Remote-User", "jane")
	r.Host = "localhost:8420"
	return serveOne(h, over(r, "127.0.0.1", from)).Body.String()
}

// pyctdLogin returns the session that a login has begun.
func pyctdLogin(t testing.TB, h http.Handler, from string, params ...string) string {
	t.Helper()
	answer := pyctdCall(h, from, "login", params...)
	_, sid, _ := strings.Cut(answer, "<string>")
	sid, _, ok := strings.Cut(sid, "</string>")
	if !ok {
		t.Fatalf("login: %s", answer)
	}
	return sid
}

// janeWith is a configuration in which jane has a password.
func janeWith(t testing.TB, more string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("audit.to = \"none\"\n[[user]]\nname = \"jane\"\nrole = \"operator\"\npassword = %q\n%s\n", hash, more)
}

// TestReloadBudget: what [limits] says counts for sessions that were there before too, all of which have one
// budget with what else shows the name.
func TestReloadBudget(t *testing.T) {
	text := janeWith(t, "")
	f := newReloadFixture(t, text)
	h := f.Handler()
	b := &browser{t: t, h: h}
	w := b.send("POST", "/session", `{"user":"jane","password":"secret"}`)
	if w.Code != 200 || len(w.Result().Cookies()) != 1 {
		t.Fatalf("login: %d %s", w.Code, w.Body)
	}
	b.cookie = w.Result().Cookies()[0]
	b.csrf = strings.TrimSuffix(w.Body.String()[strings.LastIndex(w.Body.String(), `:"`)+2:], `"}`)
	sid := pyctdLogin(t, h, "127.0.0.1", "jane", "secret")
	ways := map[string]func() string{
		"pyctd":  func() string { return pyctdCall(h, "127.0.0.1", "view", sid) },
		"cookie": func() string { return b.send("POST", "/rpc", whoami).Body.String() },
	}
	const limited = "you have made as many calls"
	count := func(way string) (passed int) {
		for range 10 {
			switch answer := ways[way](); {
			case strings.Contains(answer, limited):
			case strings.Contains(answer, "jane") || strings.Contains(answer, "10.0.0.1"):
				passed++
			default:
				t.Fatalf("%s: %s", way, answer)
			}
		}
		return passed
	}
	for _, step := range []struct {
		limits, way string
		most        int
	}{
		{"", "pyctd", 10},
		{"", "cookie", 10},
		{"rate = 3", "cookie", 3},
		{"rate = 3", "pyctd", 0},
		{"rate = 2", "pyctd", 0},
		{"rate = 5", "pyctd", 2},
		{"", "pyctd", 10},
		{"", "cookie", 10},
	} {
		f.reloadWith(t, text+"[limits]\n"+step.limits)
		if passed := count(step.way); passed != step.most {
			t.Errorf("limits %q: %d of 10 calls by %s pass, want %d", step.limits, passed, step.way, step.most)
		}
	}
	f.reloadWith(t, text+"[limits]\nkills_per_minute = 1")
	if answer := b.send("POST", "/rpc", `{"jsonrpc":"2.0","id":1,"method":"conntrack.kill","params":{"all":true}}`).Body.String(); !strings.Contains(answer, "you have 1 left") {
		t.Errorf("kill: %s", answer)
	}
}

// TestReloadProxy: what was begun by the word of a proxy ends once that one isn't trusted.
func TestReloadProxy(t *testing.T) {
	text := func(proxy string) string { return janeWith(t, "[proxy]\n"+proxy) }
	for name, c := range map[string]struct {
		proxy string
		goes  bool
	}{
		"the same":       {`addresses = ["127.0.0.99"]`, true},
		"another":        {`addresses = ["127.0.0.98"]`, false},
		"another header": {"addresses = [\"127.0.0.99\"]\nheader = \"X-User\"", false},
		"a local one":    {`unix_users = ["root"]`, false},
		"none":           {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newReloadFixture(t, text(`addresses = ["127.0.0.99"]`))
			h := f.Handler()
			sid := pyctdLogin(t, h, "127.0.0.99")
			f.reloadWith(t, text(c.proxy))
			if answer := pyctdCall(h, "127.0.0.1", "view", sid); strings.Contains(answer, "10.0.0.1") != c.goes {
				t.Errorf("goes on: want %v: %s", c.goes, answer)
			}
		})
	}
}

// TestOneBudget: a token of a user's name, which has other numbers, has no budget besides the user's.
func TestOneBudget(t *testing.T) {
	const shown = "a-token-of-the-tests"
	hash := sha256.Sum256([]byte(shown))
	f := newReloadFixture(t, janeWith(t, "rate = 3\n[[token]]\nname = \"jane\"\nrole = \"viewer\"\nrate = 4\nhash = \""+hex.EncodeToString(hash[:])+`"`))
	b := &browser{t: t, h: f.Handler()}
	passed := 0
	for i := range 20 {
		basic := httptest.NewRequest("GET", "/", nil)
		basic.SetBasicAuth("jane", "secret")
		credential := basic.Header.Get("Authorization")
		if i%2 == 1 {
			credential = "Bearer " + shown
		}
		if answer := b.send("POST", "/rpc", whoami, "Authorization", credential).Body.String(); strings.Contains(answer, `"name":"jane"`) {
			passed++
		}
	}
	if passed != 4 {
		t.Errorf("%d calls pass, want 4", passed)
	}
}
