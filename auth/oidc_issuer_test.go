package auth

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc/oidctest"
)

const testAudience = "ctd"

// testIssuer is an issuer on loopback.
type testIssuer struct {
	*httptest.Server
	t       testing.TB
	key     *rsa.PrivateKey
	fetches atomic.Int64 // of keys
	asked   atomic.Int64 // what it says of itself

	mu   sync.Mutex
	oidc oidctest.Server
	down bool // what it answers is an error
}

func newTestIssuer(t testing.TB, start func(http.Handler) *httptest.Server) *testIssuer {
	t.Helper()
	i := &testIssuer{t: t, key: newRSA(t)}
	i.Server = start(i)
	t.Cleanup(i.Close)
	i.oidc.SetIssuer(i.URL)
	i.publish("one", &i.key.PublicKey)
	return i
}

func (i *testIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if r.URL.Path == "/keys" {
		i.fetches.Add(1)
	} else {
		i.asked.Add(1)
	}
	if i.down {
		http.Error(w, "later", http.StatusServiceUnavailable)
		return
	}
	i.oidc.ServeHTTP(w, r)
}

// publish makes a key the only one.
func (i *testIssuer) publish(id string, key crypto.PublicKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.oidc.PublicKeys = []oidctest.PublicKey{{PublicKey: key, KeyID: id}}
}

func (i *testIssuer) setDown(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

// claims returns the claims of a good token, with others over them; nil takes one away.
func (i *testIssuer) claims(over map[string]any) string {
	c := map[string]any{
		"iss": i.URL, "aud": testAudience, "sub": "4711", "exp": time.Now().Add(time.Hour).Unix(),
		"preferred_username": "jane", "roles": []string{"staff", "netops"},
	}
	maps.Copy(c, over)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	b, err := json.Marshal(c)
	if err != nil {
		i.t.Fatal(err)
	}
	return string(b)
}

// token returns a token of the issuer's key.
func (i *testIssuer) token(over map[string]any) string {
	return oidctest.SignIDToken(i.key, "one", "RS256", i.claims(over))
}

func newRSA(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (i *testIssuer) config() OIDC {
	cfg := DefaultConfig().OIDC
	cfg.Issuer, cfg.Audience = i.URL, testAudience
	cfg.Grants = []OIDCGrant{
		{Value: "netadmin", Grant: Grant{Role: "admin"}},
		{Value: "netops", Grant: Grant{Role: "operator", Networks: []string{"10.3.0.0/16"}}},
		{Value: "staff", Grant: Grant{Role: "viewer"}},
	}
	return cfg
}

func newTestVerifier(t testing.TB, cfg OIDC, logger *slog.Logger) *oidcVerifier {
	t.Helper()
	v, wrong := newOIDC(cfg, newBudgets(time.Now), logger)
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	t.Cleanup(v.close)
	return v
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
