package server

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctd/auth"
	"ctd/auth/audit"
	"ctd/rpc/wire"
)

// TestAuditHasNoSecretAsName: who gives a token or a password where a name belongs, by whatever way, is
// refused, and neither record nor log has it. The name of a user is recorded, and so is what a trusted proxy says.
func TestAuditHasNoSecretAsName(t *testing.T) {
	const password = "correct-horse"
	bearer, hash := auth.NewBearerToken()
	passwordHash, err := auth.HashPassword(password)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Auth: auth.DefaultConfig()}
	cfg.Auth.Users = []auth.User{{Name: "jane", Password: passwordHash, Grant: auth.Grant{Role: "viewer"}}}
	cfg.Auth.Tokens = []auth.Token{{Name: "desk", Hash: hash, Grant: auth.Grant{Role: "viewer"}}}
	cfg.Auth.Proxy.Addresses = []string{"192.0.2.77"}
	path := filepath.Join(t.TempDir(), "audit.log")
	cfg.Audit = audit.Config{To: audit.ToFile, File: path, MaxSize: 1 << 20, MaxFiles: 2}
	const pyctd = `<?xml version="1.0"?><methodCall><methodName>login</methodName><params>` +
		`<param><value><string>%s</string></value></param><param><value><string>%s</string></value></param></params></methodCall>`
	post := func(url, kind, body string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, url, strings.NewReader(body))
		r.Host = "localhost:8420"
		r.Header.Set("Content-Type", kind)
		return over(r, "127.0.0.1", "127.0.0.1")
	}
	ways := map[string]func(name, password string) *http.Request{
		"basic": func(name, password string) *http.Request {
			r := post("/rpc", "application/json", whoami)
			r.SetBasicAuth(name, password)
			return r
		},
		"basic without a colon": func(name, _ string) *http.Request {
			r := post("/rpc", "application/json", whoami)
			r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(name)))
			return r
		},
		"session": func(name, password string) *http.Request {
			return post("/session", "application/json", fmt.Sprintf(`{"user":%q,"password":%q}`, name, password))
		},
		"session by basic": func(name, password string) *http.Request {
			r := post("/session", "application/json", "")
			r.SetBasicAuth(name, password)
			return r
		},
		"pyctd": func(name, password string) *http.Request {
			return post("/RPC2", "text/xml", fmt.Sprintf(pyctd, name, password))
		},
		"basic from elsewhere": func(name, password string) *http.Request {
			r := over(post("/rpc", "application/json", whoami), "192.0.2.1", "192.0.2.9")
			r.SetBasicAuth(name, password)
			return r
		},
		"basic by a proxy": func(name, password string) *http.Request {
			r := over(post("/rpc", "application/json", whoami), "192.0.2.1", "192.0.2.77")
			r.Header.Set("X-Remote-User", "somebody")
			r.SetBasicAuth(name, password)
			return r
		},
	}
	for way, request := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel() // most of the time a wrong password is looked at
			for _, name := range []string{secret, bearer, password, bearer + "x", "jane"} {
				cfg := cfg
				cfg.Audit.File = filepath.Join(t.TempDir(), "audit.log")
				f := newFixture(t, cfg)
				openAudit(t, f)
				w := serveOne(f.Handler(), request(name, ""))
				if body := w.Body.String(); w.Code == http.StatusOK && !strings.Contains(body, "-32001") {
					t.Fatalf("%d %s", w.Code, body)
				} else if name != "jane" && strings.Contains(body, name) {
					t.Errorf("the answer has it: %s", body)
				}
				text, err := os.ReadFile(cfg.Audit.File)
				if err != nil || len(text) == 0 {
					t.Fatalf("%v: nothing is recorded", err)
				}
				if name == "jane" {
					if got := readAudit(t, f, wire.AuditParams{Principal: "jane"}); len(got.Records) != 1 && way != "basic without a colon" {
						t.Errorf("a user's name is missing: %s", text)
					}
					continue
				}
				if strings.Contains(string(text), name) || strings.Contains(f.log.String(), name) {
					t.Errorf("%s stands in the record or the log:\n%s\n%s", name, text, f.log.String())
				}
			}
		})
	}
	t.Run("vouched for", func(t *testing.T) {
		cfg := cfg
		f := newFixture(t, cfg)
		openAudit(t, f)
		r := over(post("/rpc", "application/json", whoami), "192.0.2.1", "192.0.2.77")
		r.Header.Set("X-Remote-User", "stranger")
		if w := serveOne(f.Handler(), r); w.Code != http.StatusForbidden {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		b := &browser{t: t, h: f.Handler()}
		b.login()
		if w := b.send("DELETE", "/session", "", "X-CSRF-Token", ""); w.Code != http.StatusForbidden {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		for _, name := range []string{"stranger", "token"} {
			if got := readAudit(t, f, wire.AuditParams{Principal: name}); len(got.Records) != 1 || got.Records[0].Via != "" {
				t.Errorf("%s: %+v", name, got)
			}
		}
	})
}
