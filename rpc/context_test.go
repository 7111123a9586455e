package rpc

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ctd/rpc/wire"
)

// logOf sends a body as somebody ("" is nobody) and returns what was noted of it.
func (a *api) logOf(t testing.TB, role, contentType, body string) *CallLog {
	t.Helper()
	log := &CallLog{}
	r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	ctx := WithCallLog(r.Context(), log)
	if role != "" {
		ctx = WithPrincipal(ctx, caller{role})
	}
	NewHandler(a.Registry, HandlerConfig{}).ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
	return log
}

func TestCallLogReason(t *testing.T) {
	long := strings.Repeat("x", maxLoggedReason)
	for _, c := range []struct{ name, reason, want string }{
		{"none", ``, ""},
		{"plain", `ticket 4711: Zoë`, "ticket 4711: Zoë"},
		{"control characters", `a\n level=ERROR\u001b[31m\u0000\u2028`, "a? level=ERROR?[31m??"},
		{"at the limit", long, long},
		{"above it", long + "y", long},
		{"half a rune at the limit", long[1:] + "é", long[1:]},
	} {
		t.Run(c.name, func(t *testing.T) {
			for method, params := range map[string]string{
				"conntrack.kill": `"filter": "id=77"`, "conntrack.modify": `"filter": "id=77", "set": {"mark": 1}`, "expect.kill": `"expects": [77]`,
			} {
				body := `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + params + `,"reason":"` + c.reason + `"}}`
				if got := newAPI().logOf(t, wire.RoleAdmin, "application/json", body); got.Reason != c.want || got.Code != "" {
					t.Errorf("%s: reason %q, code %q, want %q", method, got.Reason, got.Code, c.want)
				}
			}
		})
	}
}

func TestCallLogPrincipal(t *testing.T) {
	p := newPyctd(PyctdConfig{}, tcpFlow(1))
	if log := p.logOf(t, wire.RoleViewer, "application/json", `{"jsonrpc":"2.0","id":1,"method":"conntrack.count"}`); log.Principal != "tester" {
		t.Errorf("of a known caller: %q", log.Principal)
	}
	if log := p.logOf(t, "", "text/xml", methodCall("login", "admin", "wrong")); log.Principal != "" {
		t.Errorf("of nobody: %q", log.Principal)
	}
	if log := p.logOf(t, "", "text/xml", methodCall("login", "admin", "right")); log.Principal != "tester" {
		t.Errorf("of a login: %q", log.Principal)
	}
	sid := p.login(t)
	for _, body := range []string{
		methodCall("view", sid), methodCall("kill", sid, "1"), methodCall("change", sid, "mark", "1", "5"),
	} {
		if log := p.logOf(t, "", "text/xml", body); log.Principal != "tester" {
			t.Errorf("of a session: %q for %s", log.Principal, body)
		}
	}
	if log := p.logOf(t, "", "text/xml", methodCall("view", "guess")); log.Principal != "" {
		t.Errorf("of an unknown session: %q", log.Principal)
	}
}
