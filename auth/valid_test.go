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
		f.cfg.Proxy.Addresses, f.cfg.Proxy.Role = []string{"192.0.2.9", "192.0.2.16/28"}, "viewer"
		f.cfg.Proxy.UnixUsers = []string{"1234", "1235"}
		f.cfg.OIDC = OIDC{
			Issuer: "https://login.example.org", Audience: "ctd", NameClaim: "sub", RoleClaim: "roles",
			Grants: []OIDCGrant{{Value: "a", Grant: Grant{Role: "viewer"}}},
		}
	}
	counts := true
	byCertificate := func(f *fixture) *Principal { return f.a.Certificate(cert, func() bool { return counts }) }
	by := func(name, from string) func(f *fixture) *Principal {
		return func(f *fixture) *Principal {
			proxy, ok := f.a.ProxyAt(addr("%s", from))
			if !ok {
				f.t.Fatalf("%s is no proxy", from)
			}
			return f.a.ProxyUser(proxy, name)
		}
	}
	byProxy, strangeByProxy := by("jane", "192.0.2.9"), by("joan", "192.0.2.9")
	byLocalProxy := func(f *fixture) *Principal { return f.a.ProxyUser(TrustedProxy{uid: new(uint32(1234))}, "jane") }
	addresses := func(list ...string) func(f *fixture) {
		return func(f *fixture) { f.cfg.Proxy.Addresses = list }
	}
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
		"proxy, no more":                {byProxy, func(f *fixture) { f.cfg.Proxy = DefaultConfig().Proxy }, false},
		"proxy, another instead":        {byProxy, addresses("192.0.2.10"), false},
		"proxy, a local one instead":    {byProxy, addresses(), false},
		"proxy, another besides":        {byProxy, addresses("192.0.2.10", "192.0.2.9"), true},
		"proxy, within a network":       {byProxy, addresses("192.0.2.8/31"), true},
		"proxy, of a network":           {by("jane", "192.0.2.17"), addresses("192.0.2.16/31"), true},
		"proxy, of a smaller network":   {by("jane", "192.0.2.18"), addresses("192.0.2.16/31"), false},
		"proxy, as IPv4 within IPv6":    {by("jane", "::ffff:192.0.2.9"), func(*fixture) {}, true},
		"proxy, another header":         {byProxy, func(f *fixture) { f.cfg.Proxy.Header = "X-User" }, false},
		"proxy, the header in capitals": {byProxy, func(f *fixture) { f.cfg.Proxy.Header = "X-REMOTE-USER" }, true},
		"local proxy, the same":         {byLocalProxy, addresses("192.0.2.10"), true},
		"local proxy, another instead":  {byLocalProxy, func(f *fixture) { f.cfg.Proxy.UnixUsers = []string{"1235"} }, false},
		"local proxy, another header":   {byLocalProxy, func(f *fixture) { f.cfg.Proxy.Header = "X-User" }, false},
		"stranger, another proxy":       {strangeByProxy, addresses("192.0.2.10"), false},
		"stranger, another header":      {strangeByProxy, func(f *fixture) { f.cfg.Proxy.Header = "X-User" }, false},
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
