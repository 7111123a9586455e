package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctd/conntrack/conntracktest"
)

const xmlList = `<methodCall><methodName>conntrack.list</methodName></methodCall>`

func TestAuthentication(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlow(1))
	h := f.Handler()
	basic := func(password string) string {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.SetBasicAuth("anybody", password)
		return r.Header.Get("Authorization")
	}
	for _, c := range []struct {
		name, authorization string
		status              int
		principal           string
	}{
		{"nobody", "", 401, ""},
		{"bearer", "Bearer " + secret, 200, "token"},
		{"bearer in lower case", "bearer  " + secret + " ", 200, "token"},
		{"basic", basic(secret), 200, "token"},
		{"wrong bearer", "Bearer wrong-" + secret, 401, ""},
		{"wrong basic", basic("wrong-" + secret), 401, ""},
		{"empty bearer", "Bearer ", 401, ""},
		{"empty basic", basic(""), 401, ""},
		{"malformed basic", "Basic " + secret, 401, ""},
		{"another scheme", "Digest " + secret, 401, ""},
		{"no scheme", secret, 401, ""},
	} {
		for _, p := range []struct{ contentType, body, failure string }{
			{"application/json", `{"jsonrpc":"2.0","id":1,"method":"conntrack.list"}`, `{"jsonrpc":"2.0","id":null,"error":{"code":-32001,`},
			{"text/xml", xmlList, `<methodResponse><fault>`},
		} {
			t.Run(c.name+" "+p.contentType, func(t *testing.T) {
				r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(p.body))
				r.Header.Set("Content-Type", p.contentType)
				if c.authorization != "" {
					r.Header.Set("Authorization", c.authorization)
				}
				w := httptest.NewRecorder()
				before := len(f.log.events(t, "request"))
				h.ServeHTTP(w, r)
				if w.Code != c.status || !strings.HasPrefix(w.Header().Get("Content-Type"), p.contentType) {
					t.Errorf("status %d, %s, want %d", w.Code, w.Header().Get("Content-Type"), c.status)
				}
				if refused := strings.Contains(w.Body.String(), p.failure); refused != (c.status == 401) || refused != (w.Header().Get("WWW-Authenticate") != "") {
					t.Errorf("headers %v, body %s", w.Header(), w.Body)
				}
				events := f.log.events(t, "request")[before:]
				if len(events) != 1 || events[0]["principal"] != c.principal || events[0]["status"] != float64(c.status) {
					t.Errorf("logged %v", events)
				}
			})
		}
	}
	if strings.Contains(f.log.String(), secret) {
		t.Error("the token is in the log")
	}
}

func TestRequestLog(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlow(1))
	h := f.Handler()
	for _, c := range []struct {
		name, contentType, body string
		want                    map[string]any // of the event; nil for a member that isn't there
	}{
		{
			"one call", "application/json", `{"jsonrpc":"2.0","id":1,"method":"conntrack.count"}`,
			map[string]any{"protocol": "json-rpc", "methods": "conntrack.count", "calls": 1.0, "status": 200.0, "failed": nil, "code": nil, "cut": nil, "reason": nil},
		},
		{
			"batch", "application/json", `[{"jsonrpc":"2.0","id":1,"method":"conntrack.get","params":[9]},{"jsonrpc":"2.0","id":2,"method":"conntrack.count"}]`,
			map[string]any{"methods": "conntrack.get conntrack.count", "calls": 2.0, "failed": 1.0, "code": "not_found", "status": 200.0},
		},
		{
			"pyctd's password", "text/xml",
			`<methodCall><methodName>login</methodName><params><param><value>jane</value></param><param><value>` + secret + `</value></param></params></methodCall>`,
			map[string]any{"protocol": "xml-rpc", "methods": "login", "failed": nil},
		},
		{
			"reason", "application/json", `{"jsonrpc":"2.0","id":1,"method":"conntrack.kill","params":{"filter":"src=10.99.0.1","reason":"ticket 4711"}}`,
			map[string]any{"methods": "conntrack.kill", "reason": "ticket 4711", "failed": nil, "changed": nil},
		},
		{
			"a dry run", "application/json", `{"jsonrpc":"2.0","id":1,"method":"conntrack.kill","params":{"all":true,"dry_run":true}}`,
			map[string]any{"methods": "conntrack.kill", "changed": nil},
		},
		{
			"changes", "application/json", `[{"jsonrpc":"2.0","id":1,"method":"conntrack.modify","params":{"all":true,"set":{"mark":9}}},{"jsonrpc":"2.0","id":2,"method":"conntrack.kill","params":{"all":true}}]`,
			map[string]any{"methods": "conntrack.modify conntrack.kill", "changed": 2.0},
		},
		{"malformed", "application/json", `{`, map[string]any{"code": "parse_error", "failed": 1.0, "methods": nil, "protocol": nil}},
		{"no protocol", "text/plain", `x`, map[string]any{"status": 415.0, "code": "unsupported"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/RPC2", strings.NewReader(c.body))
			r.Header.Set("Content-Type", c.contentType)
			r.Header.Set("Authorization", "Bearer "+secret)
			before := len(f.log.events(t, "request"))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			events := f.log.events(t, "request")[before:]
			if len(events) != 1 {
				t.Fatalf("%d events", len(events))
			}
			e := events[0]
			for k, want := range c.want {
				if e[k] != want {
					t.Errorf("%s is %v, want %v", k, e[k], want)
				}
			}
			if e["http"] != "POST /RPC2" || e["remote"] != "192.0.2.1:1234" || e["bytes"] != float64(w.Body.Len()) || e["took"] == nil || e["principal"] != "token" {
				t.Errorf("event %v", e)
			}
		})
	}
	if strings.Contains(f.log.String(), secret) {
		t.Error("a secret is in the log")
	}
}

// TestRequestLogSession: a request of a session of pyctd's is logged with the principal of its login,
// whatever name was given with the token.
func TestRequestLogSession(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlow(1))
	h := f.Handler()
	call := func(method string, params ...string) string {
		t.Helper()
		r := xmlCall(t, "", method, params...)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Body.String()
	}
	const want = "token"
	for _, user := range []string{"jane", "root\nlevel=ERROR"} {
		answer := call("login", user, secret)
		_, sid, _ := strings.Cut(answer, "<string>")
		sid, _, ok := strings.Cut(sid, "</string>")
		if !ok {
			t.Fatalf("login: %s", answer)
		}
		before := len(f.log.events(t, "request"))
		call("view", sid)
		events := f.log.events(t, "request")[before:]
		if len(events) != 1 || events[0]["principal"] != want || events[0]["methods"] != "view" || events[0]["code"] != nil {
			t.Errorf("logged %v, want %q", events, want)
		}
	}
	call("login", "jane", "wrong")
	call("view", "guess")
	events := f.log.events(t, "request")
	for _, e := range events[len(events)-2:] {
		if e["principal"] != "" || e["code"] != "unauthenticated" {
			t.Errorf("of nobody: %v", e)
		}
	}
	if strings.Contains(f.log.String(), secret) {
		t.Error("a secret is in the log")
	}
}

// TestRequestLogPath: a path is logged up to a limit, and only health checks are quiet.
func TestRequestLogPath(t *testing.T) {
	f := newFixture(t, Config{})
	h := f.Handler()
	long := strings.Repeat("x", maxLoggedText-len("GET /"))
	for _, c := range []struct{ method, path, want, level string }{
		{"GET", "/healthz", "GET /healthz", "DEBUG"},
		{"GET", "/readyz", "GET /readyz", "DEBUG"},
		{"POST", "/healthz", "POST /healthz", "INFO"},
		{"GET", "/z", "GET /z", "INFO"},
		{"GET", "/x/healthz", "GET /x/healthz", "INFO"},
		{"GET", "/" + long, "GET /" + long, "INFO"},
		{"GET", "/" + long + "y", "GET /" + long + "...", "INFO"},
		{"GET", "/" + long + strings.Repeat("y", 10_000), "GET /" + long + "...", "INFO"},
		{strings.Repeat("M", 10_000), "/", strings.Repeat("M", maxLoggedText) + "...", "INFO"},
	} {
		before := len(f.log.events(t, "request"))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(c.method, c.path, nil))
		events := f.log.events(t, "request")[before:]
		if len(events) != 1 || events[0]["http"] != c.want || events[0]["level"] != c.level {
			t.Errorf("%.20s %.20s: logged %v, want %q at %s", c.method, c.path, events, c.want, c.level)
		}
	}
}

// TestUnixPeer: the daemon's own user needs no token over the socket, another one does.
func TestUnixPeer(t *testing.T) {
	if os.Getenv("CTD_TEST_PEER") != "" {
		status, body := do(t, unixClient(t, os.Getenv("CTD_TEST_PEER")), peerCall(t, os.Getenv("CTD_TEST_TOKEN")))
		fmt.Printf("answer %d %s\n", status, body)
		return
	}
	f := newFixture(t, Config{}, tcpFlow(1))
	r := f.start(t)
	if status, body := do(t, unixClient(t, r.sock), peerCall(t, "")); status != 200 || !strings.Contains(body, `"via":"unix"`) {
		t.Errorf("own user: %d %s", status, body)
	}
	if status, _ := do(t, unixClient(t, r.sock), peerCall(t, "wrong")); status != 401 {
		t.Errorf("own user with a wrong token: %d, want 401", status)
	}
	if status, _ := do(t, tcpClient(t), jsonCall(t, r.tcp+"/rpc", "server.whoami", "")); status != 200 {
		t.Errorf("TCP with the token: %d", status)
	}
	// Requests are answered before they are logged.
	conntracktest.Eventually(t, "three requests are logged", func() bool { return len(f.log.events(t, "request")) >= 3 })
	// So they may be logged in another order.
	from := map[string]int{}
	for _, e := range f.log.events(t, "request") {
		remote, _, _ := strings.Cut(fmt.Sprint(e["remote"]), ":")
		from[remote]++
	}
	if diff := cmp.Diff(map[string]int{"unix": 2, "127.0.0.1": 1}, from); diff != "" {
		t.Errorf("requests from (-want +got):\n%s", diff)
	}
	conntracktest.Kernel(t) // what follows needs root
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	// Let that user through to the socket and to this program.
	dir, err := os.MkdirTemp("", "ctd-peer-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/peer", self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	g := newFixture(t, Config{Socket: dir + "/ctd.sock"}, tcpFlow(1))
	open := g.start(t)
	if err := os.Chmod(open.sock, 0o666); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]string{"": "answer 401 ", "wrong": "answer 401 ", secret: "answer 200 "} {
		c := exec.Command(dir+"/peer", "-test.run=^TestUnixPeer$")
		c.Dir = "/"
		c.Env = append(os.Environ(), "CTD_TEST_PEER="+open.sock, "CTD_TEST_TOKEN="+token)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		out, err := c.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("another user with the token %q: %v, %s; want %s", token, err, out, want)
		}
	}
}

func peerCall(t testing.TB, token string) *http.Request {
	r := jsonCall(t, "http://ctd/rpc", "server.whoami", "")
	r.Header.Del("Authorization")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}
