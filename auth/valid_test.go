package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"
)

// TestValidity: what somebody has begun goes on over a reload, and ends with one that wouldn't let in who
// began it, although requests under way keep the authenticator that did.
func TestValidity(t *testing.T) {
	cert := madeCertificate(t, x509.Certificate{Subject: pkix.Name{CommonName: "jane"}, NotAfter: time.Now().Add(time.Hour)})
	jane := func(f *fixture) *User { return &f.cfg.Users[0] }
	set := func(f *fixture) {
		jane(f).Certificates = []string{"CN=jane"}
		f.cfg.Proxy.Addresses, f.cfg.Proxy.Role = []string{"192.0.2.9"}, "viewer"
		f.cfg.OIDC = OIDC{
			Issuer: "https://login.example.org", Audience: "ctd", NameClaim: "sub", RoleClaim: "roles",
			Grants: []OIDCGrant{{Value: "a", Grant: Grant{Role: "viewer"}}},
		}
	}
	counts := true
	byCertificate := func(f *fixture) *Principal { return f.a.Certificate(cert, func() bool { return counts }) }
	byProxy := func(f *fixture) *Principal { return f.a.ProxyUser("jane") }
	strangeByProxy := func(f *fixture) *Principal { return f.a.ProxyUser("joan") }
	byIssuer := func(f *fixture) *Principal {
		return NewPrincipal(f.a.oidc.identityOf("jane", "s@i", f.a.oidc.rules[0].grant, time.Now().Add(time.Hour)))
	}
	for name, tt := range map[string]struct {
		who    func(f *fixture) *Principal
		change func(f *fixture)
		want   bool
	}{
		"certificate, the same":         {byCertificate, func(*fixture) {}, true},
		"certificate, taken away":       {byCertificate, func(f *fixture) { jane(f).Certificates = nil }, false},
		"certificate, another's":        {byCertificate, func(f *fixture) { jane(f).Name = "joan" }, false},
		"certificate, another role":     {byCertificate, func(f *fixture) { jane(f).Role = "viewer" }, false},
		"certificate, not verified":     {byCertificate, func(*fixture) { counts = false }, false},
		"proxy, the same":               {byProxy, func(*fixture) {}, true},
		"proxy, no more":                {byProxy, func(f *fixture) { f.cfg.Proxy.Addresses, f.cfg.Proxy.Role = nil, "" }, false},
		"proxy, the user taken away":    {byProxy, func(f *fixture) { f.cfg.Users = nil }, false},
		"proxy, without a user":         {strangeByProxy, func(*fixture) {}, true},
		"proxy, without a user or role": {strangeByProxy, func(f *fixture) { f.cfg.Proxy.Role = "" }, false},
		"issuer, the same":              {byIssuer, func(*fixture) {}, true},
		"issuer, no more":               {byIssuer, func(f *fixture) { f.cfg.OIDC = OIDC{} }, false},
		"issuer, another grant": {byIssuer, func(f *fixture) {
			f.cfg.OIDC.Grants = []OIDCGrant{{Value: "a", Grant: Grant{Role: "admin"}}}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, set)
			counts = true
			p := tt.who(f)
			if p == nil || !p.Valid() {
				t.Fatalf("%v isn't let in", p)
			}
			old := f.a
			f.a = nil // reload would close it
			tt.change(f)
			next, wrong := newAuthenticator(f.cfg, Defaults{}, f.secret, old, f.log.logger(), f.c.now)
			if len(wrong) > 0 {
				t.Fatal(wrong)
			}
			if got := p.Valid(); got != tt.want {
				t.Errorf("valid %v, want %v", got, tt.want)
			}
			old.Close()
			if got := p.Valid(); got != tt.want {
				t.Errorf("valid %v at last, want %v", got, tt.want)
			}
			next.Close()
		})
	}
	if p := byCertificate(newFixture(t, set)); !p.Expires().Equal(cert.NotAfter) {
		t.Errorf("ends at %v, want %v", p.Expires(), cert.NotAfter)
	}
}
