package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kolo/xmlrpc"
	"golang.org/x/crypto/bcrypt"

	"ctd/auth"
	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// methodCase is a call of a method that changes something where it may.
type methodCase struct {
	params string
	role   wire.Role
	change bool
}

// methodCases are calls of all methods but pyctd's; a test holds them to be all. None names an address of
// the table, so that one in an answer is a leak.
var methodCases = map[string]methodCase{
	"conntrack.list":      {`{}`, wire.RoleViewer, false},
	"conntrack.get":       {`{"flow": 1}`, wire.RoleViewer, false},
	"conntrack.count":     {`{"by": "src"}`, wire.RoleViewer, false},
	"conntrack.export":    {`{}`, wire.RoleViewer, false},
	"conntrack.stats":     {`{}`, wire.RoleViewer, false},
	"conntrack.blocks":    {`{}`, wire.RoleViewer, false},
	"conntrack.kill":      {`{"all": true}`, wire.RoleOperator, true},
	"conntrack.modify":    {`{"all": true, "set": {"mark": 77}}`, wire.RoleOperator, true},
	"conntrack.reconcile": {`{"all": true}`, wire.RoleOperator, true},
	"conntrack.unblock":   {`{"all": true}`, wire.RoleOperator, false}, // there is nothing to lift
	"conntrack.create":    {`{"flow": {"protocol": "udp", "orig": {"src": "198.51.100.7", "dst": "198.51.100.8", "sport": 1, "dport": 2}, "timeout": 9}}`, wire.RoleAdmin, true},
	"conntrack.import":    {`{"flows": [{"protocol": "udp", "orig": {"src": "198.51.100.7", "dst": "198.51.100.8", "sport": 1, "dport": 2}, "timeout": 9}]}`, wire.RoleAdmin, true},
	"conntrack.flush":     {`{"all": true}`, wire.RoleAdmin, true},
	"expect.list":         {`{}`, wire.RoleViewer, false},
	"expect.get":          {`{"expect": 1}`, wire.RoleViewer, false},
	"expect.create":       {`{"master": 1, "tuple": {"src": "198.51.100.1", "dst": "198.51.100.2", "dport": 5004, "protocol": "udp"}, "timeout": 60}`, wire.RoleAdmin, false}, // the master has no helper
	"expect.kill":         {`{"all": true}`, wire.RoleAdmin, false},
	"expect.flush":        {`{"all": true}`, wire.RoleAdmin, false},
	"helper.status":       {`{}`, wire.RoleViewer, false},
	"helper.sessions":     {`{}`, wire.RoleViewer, false},
	"helper.rules":        {`{}`, wire.RoleViewer, false},
	"server.info":         {`{}`, wire.RoleViewer, false},
	"server.doctor":       {`{}`, wire.RoleViewer, false},
	"server.whoami":       {`{}`, wire.RoleViewer, false},
	"server.audit":        {`{}`, wire.RoleAdmin, false},

	"system.listMethods":     {`{}`, wire.RoleAny, false},
	"system.methodHelp":      {`{"method": "server.whoami"}`, wire.RoleAny, false},
	"system.methodSignature": {`{"method": "server.whoami"}`, wire.RoleAny, false},
	"system.getCapabilities": {`{}`, wire.RoleAny, false},
	"system.multicall":       {`[[{"methodName": "conntrack.kill", "params": [{"all": true}]}]]`, wire.RoleAny, false},
	"rpc.discover":           {`{}`, wire.RoleAny, false},
}

// matrixCaller is somebody who calls.
type matrixCaller struct {
	name           string
	role           wire.Role // empty: nobody
	outside        bool      // bound to networks that no flow is in
	user, password string    // of Basic and pyctd's login
	bearer         string
}

const outsideNetwork = "203.0.113.0/24"

// matrix are the callers, and the configuration that knows them.
func matrix(t *testing.T) ([]matrixCaller, auth.Config) {
	t.Helper()
	cfg := auth.DefaultConfig()
	dir := t.TempDir()
	cfg.UsersFile, cfg.TokensFile = filepath.Join(dir, "users.toml"), filepath.Join(dir, "tokens.toml")
	hash := func(password string) string {
		b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	token := func(name, role, expires string) string {
		secret := "ctd_" + name + "_0123456789abcdef0123456789abcdef"
		sum := sha256.Sum256([]byte(secret))
		cfg.Tokens = append(cfg.Tokens, auth.Token{
			Name: name, Hash: hex.EncodeToString(sum[:]), Grant: auth.Grant{Role: role}, Expires: expires,
		})
		return secret
	}
	user := func(name, role string, networks ...string) {
		cfg.Users = append(cfg.Users, auth.User{
			Name: name, Password: hash("right " + name), Grant: auth.Grant{Role: role, Networks: networks},
		})
	}
	user("reader", wire.RoleViewer)
	user("helpdesk", wire.RoleOperator)
	user("root", wire.RoleAdmin)
	user("branch", wire.RoleOperator, outsideNetwork)
	user("branchroot", wire.RoleAdmin, outsideNetwork)
	callers := []matrixCaller{
		{name: "nobody"},
		{name: "viewer", role: wire.RoleViewer, user: "reader", password: "right reader"},
		{name: "operator", role: wire.RoleOperator, user: "helpdesk", password: "right helpdesk"},
		{name: "admin", role: wire.RoleAdmin, user: "root", password: "right root"},
		{name: "viewer by token", role: wire.RoleViewer, bearer: token("probe", wire.RoleViewer, "")},
		{name: "admin by token", role: wire.RoleAdmin, bearer: token("robot", wire.RoleAdmin, "2999-01-01")},
		{name: "out-of-network operator", role: wire.RoleOperator, outside: true, user: "branch", password: "right branch"},
		{name: "out-of-network admin", role: wire.RoleAdmin, outside: true, user: "branchroot", password: "right branchroot"},
		{name: "expired token", bearer: token("old", wire.RoleAdmin, "2020-01-01")},
		{name: "wrong password", user: "root", password: "wrong"},
		{name: "unknown user", user: "toor", password: "right root"},
		{name: "empty password", user: "root"},
		{name: "revoked token", bearer: "ctd_revoked_0123456789abcdef0123456789abcdef"},
	}
	return callers, cfg
}

func (c *matrixCaller) authorize(r *http.Request) {
	switch {
	case c.bearer != "":
		r.Header.Set("Authorization", "Bearer "+c.bearer)
	case c.user != "":
		r.SetBasicAuth(c.user, c.password)
	}
}

// matrixAnswer is what came back.
type matrixAnswer struct {
	status int
	code   wire.Code // of the error; empty: none
	body   string
}

func (f *fixture) ask(t *testing.T, c *matrixCaller, contentType string, body []byte) matrixAnswer {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/rpc", bytes.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	c.authorize(r)
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	a := matrixAnswer{status: w.Code, body: w.Body.String()}
	for _, code := range wire.Codes() {
		// Both protocols have the code's number in what they send of an error.
		for _, mark := range []string{fmt.Sprintf(`"code":%d,`, code.Number()), fmt.Sprintf(`<name>faultCode</name><value><int>%d</int>`, code.Number())} {
			if strings.Contains(strings.ReplaceAll(a.body, `"code": `, `"code":`), mark) && a.code == "" {
				a.code = code
			}
		}
	}
	return a
}

// askBy calls a method with the parameters of its case.
func (f *fixture) askBy(t *testing.T, c *matrixCaller, protocol, method string) matrixAnswer {
	t.Helper()
	if protocol == "xml" {
		return f.askXML(t, c, method, methodCases[method].params)
	}
	return f.askJSON(t, c, method, methodCases[method].params)
}

func (f *fixture) askJSON(t *testing.T, c *matrixCaller, method, params string) matrixAnswer {
	t.Helper()
	return f.ask(t, c, "application/json", []byte(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`+params+`}`))
}

func (f *fixture) askXML(t *testing.T, c *matrixCaller, method, params string) matrixAnswer {
	t.Helper()
	var tree any
	if err := json.Unmarshal([]byte(params), &tree); err != nil {
		t.Fatal(err)
	}
	args, ok := tree.([]any)
	if !ok {
		args = []any{tree}
	}
	body, err := xmlrpc.EncodeMethodCall(method, args...)
	if err != nil {
		t.Fatal(err)
	}
	return f.ask(t, c, "text/xml", body)
}

// TestMatrix: every method, every kind of caller, both protocols.
func TestMatrix(t *testing.T) {
	callers, cfg := matrix(t)
	for _, c := range callers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.role == "" {
				refusedEverywhere(t, &c, cfg)
				return
			}
			for method, m := range methodCases {
				for _, protocol := range []string{"json", "xml"} {
					matrixCall(t, &c, cfg, method, m, protocol)
				}
			}
		})
	}
	for _, name := range allMethods(t) {
		if _, tried := methodCases[name]; !tried && !slices.Contains([]string{"login", "view", "kill", "change"}, name) {
			t.Errorf("%s isn't tried", name)
		}
	}
}

// matrixCall calls a method as somebody who is known.
func matrixCall(t *testing.T, c *matrixCaller, cfg auth.Config, method string, m methodCase, protocol string) {
	t.Helper()
	ranks := []wire.Role{wire.RoleAny, wire.RoleViewer, wire.RoleOperator, wire.RoleAdmin}
	rank := func(role wire.Role) int { return slices.Index(ranks, role) }
	f := newFixture(t, Config{Auth: cfg}, tcpFlows(3)...)
	before := f.fake.Writes()
	a := f.askBy(t, c, protocol, method)
	where := fmt.Sprintf("%s, %s, %s: %d %s", c.name, method, protocol, a.status, strings.TrimSpace(a.body))
	may := rank(c.role) >= rank(m.role)
	switch {
	case !may:
		if a.code != wire.PermissionDenied {
			t.Errorf("%s: want permission_denied", where)
		}
	case c.outside && a.code == wire.PermissionDenied && strings.Contains(a.body, "outside of your networks"):
	case c.outside && method == "server.audit": // others' flows are in it
	case a.code == wire.PermissionDenied && method == "system.multicall" && c.role == wire.RoleViewer: // of the call in it
	case a.code == wire.Unauthenticated || a.code == wire.PermissionDenied || a.code == wire.RateLimited || a.code == wire.Internal:
		t.Errorf("%s: want it to be done", where)
	}
	wrote := f.fake.Writes() - before
	inside := may && !c.outside
	if wrote != 0 && !(inside && (m.change || method == "system.multicall" && rank(c.role) >= rank(wire.RoleOperator))) {
		t.Errorf("%s: %d writes", where, wrote)
	}
	if wrote == 0 && inside && m.change {
		t.Errorf("%s: nothing was changed", where)
	}
	if !inside && method != "rpc.discover" && strings.Contains(a.body, "10.0.0.") { // it has examples
		t.Errorf("%s: tells of flows", where)
	}
}

// refusedEverywhere calls each method as somebody who isn't known: all get one answer, whatever was called,
// and nothing is done.
func refusedEverywhere(t *testing.T, c *matrixCaller, cfg auth.Config) {
	t.Helper()
	type call struct{ method, protocol string }
	var calls []call
	for method := range methodCases {
		calls = append(calls, call{method, "json"}, call{method, "xml"})
	}
	var mu sync.Mutex
	refusals := map[string]string{} // by protocol
	// A password is looked at once for those who show it at the same time, and so few calls are never too many
	// that were wrong.
	for some := range slices.Chunk(calls, 4) {
		f := newFixture(t, Config{Auth: cfg}, tcpFlows(3)...)
		before := f.fake.Writes()
		var wg sync.WaitGroup
		for _, one := range some {
			wg.Go(func() {
				a := f.askBy(t, c, one.protocol, one.method)
				where := fmt.Sprintf("%s, %s, %s: %d %s", c.name, one.method, one.protocol, a.status, strings.TrimSpace(a.body))
				if a.status != http.StatusUnauthorized || a.code != wire.Unauthenticated {
					t.Errorf("%s: want 401 and unauthenticated", where)
				}
				if strings.Contains(a.body, "10.0.0.") {
					t.Errorf("%s: tells of flows", where)
				}
				mu.Lock()
				defer mu.Unlock()
				if old, ok := refusals[one.protocol]; ok && old != a.body {
					t.Errorf("%s: another answer than %s", where, old)
				}
				refusals[one.protocol] = a.body
			})
		}
		wg.Wait()
		if wrote := f.fake.Writes() - before; wrote != 0 {
			t.Errorf("%s: %d writes by %v", c.name, wrote, some)
		}
	}
}

// allMethods names all methods of the daemon.
func allMethods(t *testing.T) []string {
	t.Helper()
	f := newFixture(t, Config{})
	a := f.askXML(t, &matrixCaller{bearer: secret}, "system.listMethods", `[]`)
	var names []string
	if err := xmlrpc.Response([]byte(a.body)).Unmarshal(&names); err != nil || len(names) < len(methodCases) {
		t.Fatalf("%d methods: %v: %s", len(names), err, a.body)
	}
	return names
}

// TestMatrixPyctd: pyctd's methods for every kind of caller, who logs in by name and password or with a
// token as the password.
func TestMatrixPyctd(t *testing.T) {
	callers, cfg := matrix(t)
	for _, c := range callers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, by := range []string{"login", "header"} {
				f := newFixture(t, Config{Auth: cfg}, tcpFlows(3)...)
				header := &matrixCaller{}
				user, password := c.user, c.password
				if c.bearer != "" {
					user, password = "whoever", c.bearer
				}
				if by == "header" {
					header, user, password = &c, "ignored", "ignored"
				}
				quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) }
				var sid string
				a := f.askXML(t, header, "login", `[`+quoted(user)+`,`+quoted(password)+`]`)
				if a.code == "" {
					if err := xmlrpc.Response([]byte(a.body)).Unmarshal(&sid); err != nil {
						t.Fatal(err)
					}
				}
				if (sid != "") != (c.role != "") {
					t.Errorf("%s by %s: login gave %q, %s", c.name, by, sid, a.body)
				}
				view := f.askXML(t, &matrixCaller{}, "view", `[`+quoted(sid)+`]`)
				rows := strings.Count(view.body, "orig_ipv4_src")
				want := 3
				if c.role == "" || c.outside {
					want = 0
				}
				if rows != want || (view.code == "") != (c.role != "") {
					t.Errorf("%s by %s: view has %d rows, want %d: %s", c.name, by, rows, want, view.body)
				}
				before := f.fake.Writes()
				changed := f.askXML(t, &matrixCaller{}, "change", `[`+quoted(sid)+`,"mark",1,5]`)
				killed := f.askXML(t, &matrixCaller{}, "kill", `[`+quoted(sid)+`,[1,2]]`)
				wantCode := map[wire.Role]wire.Code{"": wire.Unauthenticated, wire.RoleViewer: wire.PermissionDenied}[c.role]
				wantChange := wantCode
				if c.outside {
					wantChange = wire.NotFound
				}
				if changed.code != wantChange || killed.code != wantCode {
					t.Errorf("%s by %s: change %q, kill %q, want %q", c.name, by, changed.code, killed.code, wantCode)
				}
				if wrote := f.fake.Writes() != before; wrote != (wantChange == "") {
					t.Errorf("%s by %s: changed something: %v", c.name, by, wrote)
				}
			}
		})
	}
}

// TestMatrixRevoked: a token that is taken out of the file ends, with the sessions that it began.
func TestMatrixRevoked(t *testing.T) {
	_, cfg := matrix(t)
	const bearer = "ctd_later_0123456789abcdef0123456789abcdef"
	sum := sha256.Sum256([]byte(bearer))
	file := fmt.Sprintf("[[token]]\nname = \"later\"\nhash = %q\nrole = \"operator\"\n", hex.EncodeToString(sum[:]))
	if err := os.WriteFile(cfg.TokensFile, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, Config{Auth: cfg}, tcpFlows(3)...)
	c := &matrixCaller{bearer: bearer}
	if a := f.askJSON(t, c, "conntrack.count", `{}`); a.code != "" {
		t.Fatal(a.body)
	}
	var sid string
	if err := xmlrpc.Response([]byte(f.askXML(t, c, "login", `[]`).body)).Unmarshal(&sid); err != nil || sid == "" {
		t.Fatal(sid, err)
	}
	if err := os.WriteFile(cfg.TokensFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	conntracktest.Eventually(t, "the token ends", func() bool { return f.askJSON(t, c, "conntrack.count", `{}`).code != "" })
	if a := f.askXML(t, &matrixCaller{}, "kill", `["`+sid+`",[1]]`); a.code != wire.Unauthenticated {
		t.Errorf("the session of a revoked token: %s", a.body)
	}
	if n, err := f.fake.Count(t.Context(), conntrack.Filter{}); n != 3 || err != nil {
		t.Errorf("%d flows are left, %v", n, err)
	}
}
