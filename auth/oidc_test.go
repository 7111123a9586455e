package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc/oidctest"
	"golang.org/x/sys/unix"
)

func TestOIDC(t *testing.T) {
	i := newTestIssuer(t, httptest.NewServer)
	other := newRSA(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := x509.MarshalPKCS1PublicKey(&i.key.PublicKey)
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: public})
	unsigned := func(header string) string {
		enc := base64.RawURLEncoding.EncodeToString
		return enc([]byte(header)) + "." + enc([]byte(i.claims(nil))) + "."
	}
	good := i.token(nil)
	parts := strings.Split(good, ".")
	admin := strings.Split(i.token(map[string]any{"roles": "netadmin"}), ".")
	type is = map[string]any
	for name, tt := range map[string]struct {
		token string
		want  string // name, role and credential; empty is an error
		err   error
	}{
		"right":                          {good, "jane operator 4711@" + i.URL, nil},
		"for several":                    {i.token(is{"aud": []string{"x", testAudience}}), "jane operator 4711@" + i.URL, nil},
		"the role as a text":             {i.token(is{"roles": "netadmin"}), "jane admin 4711@" + i.URL, nil},
		"the first grant that fits":      {i.token(is{"roles": []string{"staff", "netadmin", "netops"}}), "jane admin 4711@" + i.URL, nil},
		"without a name":                 {i.token(is{"preferred_username": nil}), "4711 operator 4711@" + i.URL, nil},
		"an empty name":                  {i.token(is{"preferred_username": " "}), "4711 operator 4711@" + i.URL, nil},
		"a name that is a number":        {i.token(is{"preferred_username": 7}), "4711 operator 4711@" + i.URL, nil},
		"a name over lines":              {i.token(is{"preferred_username": "ja\r\nne\x1b[2J\u202e"}), "jane[2J operator 4711@" + i.URL, nil},
		"a long name":                    {i.token(is{"preferred_username": strings.Repeat("ä", 500)}), strings.Repeat("ä", 64) + " operator 4711@" + i.URL, nil},
		"soon valid":                     {i.token(is{"nbf": time.Now().Add(time.Minute).Unix()}), "jane operator 4711@" + i.URL, nil},
		"wrong audience":                 {i.token(is{"aud": "another"}), "", ErrWrong},
		"no audience":                    {i.token(is{"aud": nil}), "", ErrWrong},
		"wrong issuer":                   {i.token(is{"iss": "https://login.example.org"}), "", ErrWrong},
		"expired":                        {i.token(is{"exp": time.Now().Add(-time.Second).Unix()}), "", ErrExpired},
		"expired for another audience":   {i.token(is{"exp": time.Now().Add(-time.Second).Unix(), "aud": "another"}), "", ErrWrong},
		"expired and signed by another":  {oidctest.SignIDToken(other, "one", "RS256", i.claims(is{"exp": 1})), "", ErrWrong},
		"without an end":                 {i.token(is{"exp": nil}), "", ErrExpired},
		"not yet valid":                  {i.token(is{"nbf": time.Now().Add(time.Hour).Unix()}), "", ErrWrong},
		"alg none":                       {unsigned(`{"alg":"none"}`), "", ErrWrong},
		"alg None":                       {unsigned(`{"alg":"None","kid":"one"}`), "", ErrWrong},
		"HS256 with the public key":      {oidctest.SignIDToken(public, "one", "HS256", i.claims(nil)), "", ErrWrong},
		"HS256 with the public key, PEM": {oidctest.SignIDToken(publicPEM, "one", "HS256", i.claims(nil)), "", ErrWrong},
		"unknown key":                    {oidctest.SignIDToken(other, "two", "RS256", i.claims(nil)), "", ErrWrong},
		"another key by the same name":   {oidctest.SignIDToken(other, "one", "RS256", i.claims(nil)), "", ErrWrong},
		"another kind of key":            {oidctest.SignIDToken(ec, "one", "ES256", i.claims(nil)), "", ErrWrong},
		"no role":                        {i.token(is{"roles": []string{"guest"}}), "", ErrWrong},
		"no role claim":                  {i.token(is{"roles": nil}), "", ErrWrong},
		"the role as an object":          {i.token(is{"roles": is{"netadmin": true}}), "", ErrWrong},
		"a list in the list":             {i.token(is{"roles": []any{[]string{"netadmin"}, 7, nil}}), "", ErrWrong},
		"claims of another token":        {parts[0] + "." + admin[1] + "." + parts[2], "", ErrWrong},
		"without its signature":          {parts[0] + "." + parts[1] + ".", "", ErrWrong},
		"one part more":                  {good + ".x", "", ErrWrong},
		"of dots":                        {"..", "", ErrWrong},
		"huge":                           {i.token(is{"padding": strings.Repeat("x", maxOIDCToken)}), "", ErrWrong},
		"deep":                           {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("[", 8000))) + "." + parts[2], "", ErrWrong},
		"empty":                          {"", "", ErrWrong},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			v := newTestVerifier(t, i.config(), slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
			p, err := v.verify(t.Context(), tt.token)
			if !errors.Is(err, tt.err) || (p == nil) != (tt.err != nil) {
				t.Fatalf("%v, %v; want %q, %v\n%s", p, err, tt.want, tt.err, log.String())
			}
			for _, part := range strings.Split(tt.token, ".") {
				if len(part) > 8 && strings.Contains(log.String(), part[:min(len(part), 40)]) {
					t.Errorf("a part of the token is in the log: %s", log.String())
				}
			}
			if p == nil {
				return
			}
			if got := p.Name() + " " + p.Role() + " " + p.Credential(); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if p.Via() != "oidc" || time.Until(p.Expires()) > time.Hour || time.Until(p.Expires()) < 50*time.Minute || !p.Valid() {
				t.Errorf("via %s, ends at %v, valid %v", p.Via(), p.Expires(), p.Valid())
			}
			if p.Role() == "operator" && fmt.Sprint(p.Networks()) != "[10.3.0.0/16]" {
				t.Errorf("networks %v", p.Networks())
			}
		})
	}
}

// TestOIDCAlgorithms: each kind of key with a public half does.
func TestOIDCAlgorithms(t *testing.T) {
	i := newTestIssuer(t, httptest.NewServer)
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for alg, key := range map[string]crypto.Signer{"PS256": i.key, "RS512": i.key, "ES384": ec, "EdDSA": ed} {
		i.publish("one", key.Public())
		v := newTestVerifier(t, i.config(), quiet())
		if p, err := v.verify(t.Context(), oidctest.SignIDToken(key, "one", alg, i.claims(nil))); err != nil {
			t.Errorf("%s: %v, %v", alg, p, err)
		}
	}
}

func TestClaimAt(t *testing.T) {
	claims := map[string]any{
		"roles": "flat", "https://example.org/roles": "dots",
		"realm_access": map[string]any{"roles": "nested", "a.b": map[string]any{"c": "deep"}},
		"resource":     map[string]any{"ctd": map[string]any{"roles": "deeper"}},
		"resource.ctd": "no object",
	}
	for path, want := range map[string]any{
		"roles": "flat", "https://example.org/roles": "dots", "realm_access.roles": "nested", "realm_access.a.b.c": "deep",
		"resource.ctd.roles": "deeper", "realm_access.x": nil, "roles.x": nil, "": nil, ".": nil, "realm_access.": nil,
	} {
		if got, ok := claimAt(claims, path); got != want || ok != (want != nil) {
			t.Errorf("%q: %v, %v; want %v", path, got, ok, want)
		}
	}
	i := newTestIssuer(t, httptest.NewServer)
	cfg := i.config()
	cfg.RoleClaim, cfg.NameClaim = "realm_access.roles", "who.name"
	p, err := newTestVerifier(t, cfg, quiet()).verify(t.Context(), i.token(map[string]any{
		"roles": nil, "realm_access": map[string]any{"roles": []string{"netadmin"}}, "who": map[string]any{"name": "joe"},
	}))
	if err != nil || p.Name() != "joe" || p.Role() != "admin" {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestOIDCRotation: a key that is new is fetched, one that was taken back isn't taken any more once what the
// issuer said is old, and tokens of unknown keys don't make a fetch each.
func TestOIDCRotation(t *testing.T) {
	i := newTestIssuer(t, httptest.NewServer)
	v := newTestVerifier(t, i.config(), quiet())
	verify := func(token string) error {
		_, err := v.verify(t.Context(), token)
		return err
	}
	old := i.token(nil)
	if err := verify(old); err != nil {
		t.Fatal(err)
	}
	stranger := newRSA(t)
	begun := i.fetches.Load()
	for n := range 300 {
		if err := verify(oidctest.SignIDToken(stranger, fmt.Sprint("k", n%3), "RS256", i.claims(nil))); !errors.Is(err, ErrWrong) {
			t.Fatalf("a stranger's token: %v", err)
		}
	}
	// The machine may take longer for them than keyFetchEvery.
	if got := i.fetches.Load() - begun; got > 10 {
		t.Errorf("300 tokens of unknown keys made %d fetches", got)
	}

	v = newTestVerifier(t, i.config(), quiet())
	v.client.fetchEvery = time.Millisecond
	if err := verify(old); err != nil {
		t.Fatal(err)
	}
	second := newRSA(t)
	i.publish("two", &second.PublicKey)
	time.Sleep(20 * time.Millisecond) // more than fetchEvery
	if err := verify(oidctest.SignIDToken(second, "two", "RS256", i.claims(nil))); err != nil {
		t.Errorf("a token of the new key: %v", err)
	}
	// go-oidc hands out what it fetched a moment before it forgets what it had.
	soonWrong := func(token string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !errors.Is(verify(token), ErrWrong); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("a key that was taken back is still good")
			}
		}
	}
	soonWrong(old)

	// Nobody shows a token of a third key; all the same the second is given up.
	i.publish("three", &i.key.PublicKey)
	v.mu.Lock()
	v.known.since = time.Now().Add(-oidcFresh)
	v.mu.Unlock()
	soonWrong(oidctest.SignIDToken(second, "two", "RS256", i.claims(nil)))
}

// TestOIDCDown: the issuer may be down at first and later.
func TestOIDCDown(t *testing.T) {
	i := newTestIssuer(t, httptest.NewServer)
	i.setDown(true)
	v := newTestVerifier(t, i.config(), quiet())
	v.client.fetchEvery = time.Millisecond
	good := i.token(nil)
	verify := func() error {
		_, err := v.verify(t.Context(), good)
		return err
	}
	if err := verify(); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("while it is down: %v", err)
	}
	if _, err := v.verify(t.Context(), "no-token"); !errors.Is(err, ErrWrong) {
		t.Errorf("what is no token of an issuer: %v", err)
	}
	// It isn't asked at each call.
	before := i.asked.Load()
	for range 1000 {
		_ = verify()
	}
	if got := i.asked.Load() - before; got > 10 {
		t.Errorf("1000 tokens made it be asked %d times", got)
	}
	i.setDown(false)
	for deadline := time.Now().Add(60 * time.Second); verify() != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is up again, and not asked")
		}
	}
	i.setDown(true)
	if err := verify(); err != nil {
		t.Errorf("while it is down, by a known key: %v", err)
	}
	time.Sleep(20 * time.Millisecond)
	// Whether that key is the issuer's now only the issuer could say.
	if _, err := v.verify(t.Context(), oidctest.SignIDToken(newRSA(t), "two", "RS256", i.claims(nil))); !errors.Is(err, ErrUnavailable) {
		t.Errorf("while it is down, by an unknown key: %v", err)
	}
	for age, want := range map[time.Duration]error{oidcFresh: nil, oidcStale: ErrUnavailable} {
		v.mu.Lock()
		v.known.since, v.again = time.Now().Add(-age), time.Time{}
		v.mu.Unlock()
		if err := verify(); !errors.Is(err, want) {
			t.Errorf("it is down for %v: %v, want %v", age, err, want)
		}
	}
}

// TestOIDCSilent: an issuer that doesn't answer holds callers up for a while only, and too long an answer
// isn't read.
func TestOIDCSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	i := newTestIssuer(t, httptest.NewServer)
	cfg := i.config()
	cfg.Issuer = "http://" + l.Addr().String()
	v := newTestVerifier(t, cfg, quiet())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := v.verify(ctx, i.token(nil)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("it is silent: %v", err)
	}

	var sent atomic.Int64
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		chunk := bytes.Repeat([]byte(" "), 64<<10)
		for {
			n, err := w.Write(chunk)
			if err != nil {
				return
			}
			sent.Add(int64(n))
		}
	}))
	defer endless.Close()
	cfg.Issuer = endless.URL
	var log bytes.Buffer
	v = newTestVerifier(t, cfg, slog.New(slog.NewTextHandler(&log, nil)))
	if _, err := v.verify(t.Context(), i.token(nil)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("it is endless: %v", err)
	}
	v.mu.Lock() // so that the log is written
	defer v.mu.Unlock()
	if !strings.Contains(log.String(), "more than 1048576 bytes") {
		t.Errorf("it is endless: log %s", log.String())
	}
	if got := sent.Load(); got > 32*maxIssuerAnswer {
		t.Errorf("%d bytes of its answer were read", got)
	}
}

// TestOIDCTLS: the issuer's certificate counts, and whoever else answers in its place isn't believed.
func TestOIDCTLS(t *testing.T) {
	i := newTestIssuer(t, httptest.NewTLSServer)
	cfg := i.config()
	if _, err := newTestVerifier(t, cfg, quiet()).verify(t.Context(), i.token(nil)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without its authority: %v", err)
	}
	cfg.CA = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(cfg.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newTestVerifier(t, cfg, quiet()).verify(t.Context(), i.token(nil)); err != nil {
		t.Errorf("with its authority: %v", err)
	}

	// Neither the keys nor a redirect may lead to where nothing is encrypted.
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string // in the log
	}{
		"keys": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"issuer":"http://%s","jwks_uri":"http://192.0.2.1/keys"}`, r.Host)
		}, "must be https"},
		"no keys": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"issuer":"http://%s"}`, r.Host)
		}, "must be https"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		}, "nothing is encrypted"},
		"another issuer": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"issuer":"%s","jwks_uri":"%[1]s/keys"}`, i.URL)
		}, "did not match"},
	} {
		s := httptest.NewServer(tt.answer)
		cfg.Issuer = s.URL
		var log bytes.Buffer
		v := newTestVerifier(t, cfg, slog.New(slog.NewTextHandler(&log, nil)))
		if _, err := v.verify(t.Context(), i.token(nil)); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		v.mu.Lock() // so that the log is written
		if !strings.Contains(log.String(), tt.want) {
			t.Errorf("%s: log %s", name, log.String())
		}
		v.mu.Unlock()
		s.Close()
	}
}

func TestNewOIDCWrong(t *testing.T) {
	right := func() OIDC {
		cfg := DefaultConfig().OIDC
		cfg.Issuer, cfg.Audience = "https://login.example.org/realms/office", testAudience
		cfg.Grants = []OIDCGrant{{Value: "staff", Grant: Grant{Role: "viewer"}}}
		return cfg
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*OIDC)
		want   []string // keys
	}{
		"right":              {func(*OIDC) {}, nil},
		"on this machine":    {func(c *OIDC) { c.Issuer = "http://[::1]:8080" }, nil},
		"on localhost":       {func(c *OIDC) { c.Issuer = "http://localhost:8080/x" }, nil},
		"not encrypted":      {func(c *OIDC) { c.Issuer = "http://login.example.org" }, []string{"oidc.issuer"}},
		"another scheme":     {func(c *OIDC) { c.Issuer = "ftp://127.0.0.1" }, []string{"oidc.issuer"}},
		"no URL":             {func(c *OIDC) { c.Issuer = "login.example.org" }, []string{"oidc.issuer"}},
		"with a query":       {func(c *OIDC) { c.Issuer += "?x=1" }, []string{"oidc.issuer"}},
		"with a password":    {func(c *OIDC) { c.Issuer = "https://a:b@login.example.org" }, []string{"oidc.issuer"}},
		"no issuer":          {func(c *OIDC) { c.Issuer = "" }, []string{"oidc.issuer"}},
		"no audience":        {func(c *OIDC) { c.Audience = "" }, []string{"oidc.audience"}},
		"no role claim":      {func(c *OIDC) { c.RoleClaim = "" }, []string{"oidc.role_claim"}},
		"no file":            {func(c *OIDC) { c.CA = empty + "x" }, []string{"oidc.ca"}},
		"an empty file":      {func(c *OIDC) { c.CA = empty }, []string{"oidc.ca"}},
		"a pipe":             {func(c *OIDC) { c.CA = pipe }, []string{"oidc.ca"}},
		"a folder":           {func(c *OIDC) { c.CA = filepath.Dir(pipe) }, []string{"oidc.ca"}},
		"a device":           {func(c *OIDC) { c.CA = "/dev/zero" }, []string{"oidc.ca"}},
		"an empty step":      {func(c *OIDC) { c.RoleClaim = "realm_access..roles" }, []string{"oidc.role_claim"}},
		"a dot at the end":   {func(c *OIDC) { c.RoleClaim = "roles." }, []string{"oidc.role_claim"}},
		"a name with dots":   {func(c *OIDC) { c.RoleClaim = "https://example.org/roles" }, nil},
		"a value twice":      {func(c *OIDC) { c.Grants = append(c.Grants, c.Grants[0]) }, []string{"oidc.grant[1].value"}},
		"no grants":          {func(c *OIDC) { c.Grants = nil }, []string{"oidc.grant"}},
		"no role":            {func(c *OIDC) { c.Grants[0].Role = "" }, []string{"oidc.grant[0].role"}},
		"no value":           {func(c *OIDC) { c.Grants[0].Value = "" }, []string{"oidc.grant[0].value"}},
		"two of its grants":  {func(c *OIDC) { c.Grants = append(c.Grants, OIDCGrant{Value: "x", Grant: Grant{Role: "king"}}) }, []string{"oidc.grant[1].role"}},
		"nothing is set":     {func(c *OIDC) { *c = DefaultConfig().OIDC }, nil},
		"several at a time":  {func(c *OIDC) { c.Audience, c.RoleClaim = "", "" }, []string{"oidc.audience", "oidc.role_claim"}},
		"a grant without it": {func(c *OIDC) { *c = OIDC{Grants: c.Grants} }, []string{"oidc.issuer"}},
	} {
		cfg := right()
		tt.change(&cfg)
		v, wrong := newOIDC(cfg, newBudgets(time.Now), quiet())
		if got := settingKeys(t, wrong); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %q", name, wrong, tt.want)
		}
		v.close()
	}
	var none *oidcVerifier
	if _, err := none.verify(t.Context(), "a.b.c"); !errors.Is(err, ErrWrong) {
		t.Errorf("where there is no issuer: %v", err)
	}
}
