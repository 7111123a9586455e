package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"ctd/auth"
	"ctd/auth/audit"
	"ctd/rpc"
	"ctd/rpc/wire"
)

// newAudited returns a server that records into a file, which is open.
func newAudited(t testing.TB) (f *fixture, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	f = newFixture(t, Config{Audit: audit.Config{To: audit.ToFile, File: path, MaxSize: 1 << 20, MaxFiles: 2}}, tcpFlows(3)...)
	openAudit(t, f)
	return f, path
}

func openAudit(t testing.TB, f *fixture) {
	t.Helper()
	closeLog, err := f.auditor.open(f.cfg.Audit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeLog)
}

var jane = auth.NewPrincipal(auth.Identity{Name: "jane", Role: auth.Operator, Via: auth.ViaToken, Credential: "desk"})

// kill is a call that the record has.
func kill() rpc.AuditedCall {
	return rpc.AuditedCall{
		Principal: jane, From: "10.0.0.1:4711", Protocol: "json-rpc", Method: "conntrack.kill",
		Params: json.RawMessage(`{"filter":"bytes=>1K","max":10}`), Reason: "spam", Matched: new(2), Flows: []string{"tcp 10.0.0.1:1>192.0.2.1:443"},
	}
}

// readAudit calls server.audit.
func readAudit(t testing.TB, f *fixture, p wire.AuditParams) wire.AuditResult {
	t.Helper()
	got, err := f.Server.audit(rpc.WithPrincipal(t.Context(), auth.NewPrincipal(auth.Identity{Name: "root", Role: auth.Admin})), p)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestAuditRecords(t *testing.T) {
	f, _ := newAudited(t)
	before := time.Now()
	id, err := f.auditor.Begin(kill())
	if err != nil {
		t.Fatal(err)
	}
	f.auditor.knows = func(name string) bool { return name == "mallory" }
	f.auditor.Refused(rpc.AuditedCall{Claimed: "mallory", From: "unix", Method: "login"}, rpc.AuditOutcome{
		Err: &wire.Error{Code: wire.Unauthenticated, Message: "the credentials are not right"},
	})
	f.auditor.End(id, kill(), rpc.AuditOutcome{Err: &wire.Error{Code: wire.Conflict, Message: "taken"}, Changed: new(1), Failed: 1, Took: 3 * time.Millisecond})
	under, err := f.auditor.Begin(kill())
	if err != nil || under == id {
		t.Fatal(under, err)
	}
	one := wire.AuditRecord{
		Kind: "change", ID: id, Principal: "jane", Role: "operator", Via: "token", Credential: "desk", From: "10.0.0.1:4711",
		Protocol: "json-rpc", Method: "conntrack.kill", Params: map[string]any{"filter": "bytes=>1K", "max": json.Number("10")}, Reason: "spam",
		Matched: new(2), Flows: []string{"tcp 10.0.0.1:1>192.0.2.1:443"}, Outcome: "conflict", Message: "taken", Changed: new(1), Failed: 1, TookMS: 3,
	}
	two := one
	two.ID, two.Outcome, two.Message, two.Changed, two.Failed, two.TookMS = under, "unknown", "", nil, 0, 0
	want := []wire.AuditRecord{
		one,
		{Kind: "refusal", Principal: "mallory", From: "unix", Method: "login", Outcome: "unauthenticated", Message: "the credentials are not right"},
		two,
	}
	got := readAudit(t, f, wire.AuditParams{})
	for i := range got.Records {
		if at := got.Records[i].Time; at.Before(before.Add(-time.Second)) || at.After(time.Now()) {
			t.Errorf("%d at %v", i, at)
		}
		got.Records[i].Time = time.Time{}
	}
	if got.Records[1].ID == "" {
		t.Error("a refusal has no ID")
	}
	got.Records[1].ID = ""
	if diff := cmp.Diff(wire.AuditResult{Records: want}, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, n := range map[*wire.AuditParams]int{
		{Kind: "change"}:                    2,
		{Kind: "refusal"}:                   1,
		{From: "unix"}:                      1,
		{From: "10.0.0.1"}:                  2,
		{From: "::ffff:10.0.0.1"}:           2,
		{From: "10.0.0.0/24"}:               2,
		{From: "10.0.0.2"}:                  0,
		{Principal: "jane"}:                 2,
		{Outcome: "unknown"}:                1,
		{Text: "10.0.0.1:1>"}:               2,
		{Method: "login"}:                   1,
		{Since: new(time.Now().Add(1e9))}:   0,
		{Until: new(time.Now().Add(-1e10))}: 0,
		{Limit: 2}:                          2,
	} {
		if got := readAudit(t, f, *name); len(got.Records) != n || got.Truncated != (name.Limit > 0) {
			t.Errorf("%+v: %d records, truncated %v; want %d", *name, len(got.Records), got.Truncated, n)
		}
	}
}

// TestAuditRefuses: who may read, what can be asked, and what there is to read.
func TestAuditRefuses(t *testing.T) {
	f, _ := newAudited(t)
	none := newFixture(t, Config{Audit: audit.Config{To: audit.ToNone}})
	notOpen := newFixture(t, f.cfg)
	admin := auth.NewPrincipal(auth.Identity{Name: "root", Role: auth.Admin})
	bound := auth.NewPrincipal(auth.Identity{Name: "site", Role: auth.Admin, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	for _, tt := range []struct {
		name   string
		server *Server
		who    *auth.Principal
		p      wire.AuditParams
		want   wire.Code
		text   string
	}{
		{"bound to networks", f.Server, bound, wire.AuditParams{}, wire.PermissionDenied, "bound to networks"},
		{"nothing kept", none.Server, admin, wire.AuditParams{}, wire.Unsupported, `to = "file"`},
		{"not open", notOpen.Server, admin, wire.AuditParams{}, wire.Unsupported, "no record"},
		{"below 0", f.Server, admin, wire.AuditParams{Limit: -1}, wire.InvalidParams, "limit"},
		{"above the most", f.Server, admin, wire.AuditParams{Limit: maxAuditLimit + 1}, wire.InvalidParams, "10000"},
		{"no address", f.Server, admin, wire.AuditParams{From: "router"}, wire.InvalidParams, "from: want an address"},
		{"bits beyond the network", f.Server, admin, wire.AuditParams{From: "10.0.0.7/8"}, wire.InvalidParams, "the network is 10.0.0.0/8"},
		{"no such outcome", f.Server, admin, wire.AuditParams{Outcome: "permission-denied"}, wire.InvalidParams, `did you mean "permission_denied"?`},
		{"no such method", f.Server, admin, wire.AuditParams{Method: "conntrack.kil"}, wire.InvalidParams, `did you mean "conntrack.kill"?`},
		{"until before since", f.Server, admin, wire.AuditParams{Since: new(time.Unix(2, 0)), Until: new(time.Unix(1, 0))}, wire.InvalidParams, "until: it is before since"},
		{"no network", f.Server, admin, wire.AuditParams{From: "10.0.0.0/33"}, wire.InvalidParams, "from: want an address"},
	} {
		_, err := tt.server.audit(rpc.WithPrincipal(t.Context(), tt.who), tt.p)
		var we *wire.Error
		if !errors.As(err, &we) || we.Code != tt.want || !strings.Contains(we.Message+we.Hint, tt.text) {
			t.Errorf("%s: %+v, want %s with %q", tt.name, err, tt.want, tt.text)
		}
	}
	if _, err := f.Server.audit(t.Context(), wire.AuditParams{}); err == nil {
		t.Error("nobody may read")
	}
	f.auditor.Refused(rpc.AuditedCall{Method: "conntrack.bogus"}, rpc.AuditOutcome{Err: &wire.Error{Code: wire.Unauthenticated}})
	if got := readAudit(t, f, wire.AuditParams{Method: "conntrack.bogus"}); len(got.Records) != 1 {
		t.Errorf("a method that there isn't, and that was called: %+v", got)
	}
	if got := readAudit(t, f, wire.AuditParams{Method: "conntrack.kill", Outcome: "unknown"}); len(got.Records) != 0 {
		t.Errorf("%+v", got)
	}
	if _, err := notOpen.auditor.Begin(kill()); err == nil {
		t.Error("a change is made before the record is open")
	}
	if got := finding(t, notOpen.Server, "audit"); got.Severity != severityError {
		t.Errorf("not open: %+v", got)
	}
	if got := finding(t, none.Server, "audit"); got.Severity != severityInfo || none.auditor.forService(nil) != nil {
		t.Errorf("none: %+v", got)
	}
}

// TestAuditFails: a change whose record can't be written isn't made, the log says why once a minute, the
// doctor and the metrics tell, reads go on, and all is well again when it can be.
func TestAuditFails(t *testing.T) {
	f, path := newAudited(t)
	id, err := f.auditor.Begin(kill())
	if err != nil {
		t.Fatal(err)
	}
	if got := finding(t, f.Server, "audit"); got.Severity != severityOK || !strings.Contains(got.Message, path) {
		t.Errorf("%+v", got)
	}
	away := filepath.Dir(path) + "-away"
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(filepath.Dir(path), away)
	for range 3 {
		_, err := f.auditor.Begin(kill())
		var we *wire.Error
		if !errors.As(err, &we) || we.Code != wire.Unavailable || we.Errno != "ENOENT" || we.Exit() != wire.ExitRefused || we.Hint == "" || strings.Contains(we.Message+we.Hint, path) {
			t.Errorf("%+v", err)
		}
	}
	f.auditor.Refused(kill(), rpc.AuditOutcome{Err: &wire.Error{Code: wire.PermissionDenied}})
	f.auditor.End(id, kill(), rpc.AuditOutcome{Changed: new(2)})
	log := f.log.String()
	if n := strings.Count(log, "can't be recorded and isn't made"); n != 1 || !strings.Contains(log, "make its folder") {
		t.Errorf("said %d times in %s", n, log)
	}
	if !strings.Contains(log, "the end of a change can't be recorded") || !strings.Contains(log, `\"changed\":2`) || !strings.Contains(log, id) {
		t.Errorf("the end isn't in %s", log)
	}
	if got := finding(t, f.Server, "audit"); got.Severity != severityError || got.Mend == "" {
		t.Errorf("%+v", got)
	}
	const want = `# HELP ctd_audit_errors_total Records that could not be written; a change that can't be recorded isn't made.
# TYPE ctd_audit_errors_total counter
ctd_audit_errors_total 5
# HELP ctd_audit_records_total Records that were written of changes and refusals.
# TYPE ctd_audit_records_total counter
ctd_audit_records_total 1
`
	if err := testutil.CollectAndCompare(newCollector(f.Server), strings.NewReader(want), "ctd_audit_errors_total", "ctd_audit_records_total"); err != nil {
		t.Error(err)
	}
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, readyPath, nil))
	if w.Code != http.StatusOK {
		t.Errorf("readiness %d: %s", w.Code, w.Body)
	}
	move(away, filepath.Dir(path))
	if _, err := f.auditor.Begin(kill()); err != nil {
		t.Error(err)
	}
	if got := finding(t, f.Server, "audit"); got.Severity != severityOK {
		t.Errorf("%+v", got)
	}
	if got := readAudit(t, f, wire.AuditParams{}); len(got.Records) != 2 || got.Records[0].ID != id || got.Records[0].Outcome != "ok" {
		t.Errorf("%+v", got)
	}
}

// TestAuditCannotStart: a daemon that could record nothing doesn't start, and says what to do.
func TestAuditCannotStart(t *testing.T) {
	f := newFixture(t, Config{Audit: audit.Config{To: audit.ToFile, File: filepath.Join(t.TempDir(), "none", "audit.log"), MaxSize: 1 << 20, MaxFiles: 2}})
	_, err := f.auditor.open(f.cfg.Audit)
	var h *hintError
	if !errors.As(err, &h) || !strings.Contains(err.Error(), "make its folder") || !strings.Contains(h.hint, "[audit]") {
		t.Errorf("%v", err)
	}
}

func TestAuditReopen(t *testing.T) {
	f, path := newAudited(t)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	f.auditor.reopen()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	var none *auditor
	none.reopen()
}

// TestAuditMethod: over both protocols.
func TestAuditMethod(t *testing.T) {
	f, _ := newAudited(t)
	id, err := f.auditor.Begin(kill())
	if err != nil {
		t.Fatal(err)
	}
	f.auditor.End(id, kill(), rpc.AuditOutcome{Changed: new(2)})
	for kind, tt := range map[string]struct{ body, want string }{
		"application/json": {
			`{"jsonrpc":"2.0","id":1,"method":"server.audit","params":{"since":"2026-01-01T00:00:00Z","kind":"change"}}`,
			`"params":{"filter":"bytes=>1K","max":10},"reason":"spam","matched":2,`,
		},
		"text/xml": {
			`<?xml version="1.0"?><methodCall><methodName>server.audit</methodName><params><param><value><struct>` +
				`<member><name>text</name><value><string>SPAM</string></value></member></struct></value></param></params></methodCall>`,
			`<member><name>max</name><value><int>10</int></value></member>`,
		},
	} {
		r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(tt.body))
		r.Header.Set("Authorization", "Bearer "+secret)
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		f.Handler().ServeHTTP(w, r)
		body := w.Body.String()
		if !strings.Contains(body, tt.want) && !strings.Contains(body, strings.ReplaceAll(tt.want, ">", `\u003e`)) || !strings.Contains(body, id) {
			t.Errorf("%s: %d %s", kind, w.Code, body)
		}
	}
}
