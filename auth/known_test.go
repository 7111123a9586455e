package auth

import (
	"os"
	"strings"
	"testing"
)

func TestKnowsName(t *testing.T) {
	secret, hash := NewBearerToken()
	f := newFixture(t, func(f *fixture) {
		f.cfg.Tokens = []Token{{Name: "desk", Hash: hash, Grant: Grant{Role: "viewer"}}}
		f.cfg.Passwords.Files = []string{f.path("htpasswd"), f.path("none")}
		for name, text := range map[string]string{
			"users.toml": "[[user]]\nname = \"joe\"\nrole = \"viewer\"\n",
			"htpasswd":   "ann:" + cheapHash(f.t, "hush") + "\nmd5:$apr1$a$b\nonlyname\n",
		} {
			if err := os.WriteFile(f.path(name), []byte(text), 0o600); err != nil {
				f.t.Fatal(err)
			}
		}
	})
	before := f.log.String()
	for name, want := range map[string]bool{
		"jane": true, "joe": true, "ann": true,
		"": false, "Jane": false, "jane ": false, "md5": false, "onlyname": false, "desk": false, "token": false,
		"secret": false, "hush": false, secret: false, f.secret: false, strings.Repeat("x", 1<<16): false,
	} {
		if got := f.a.KnowsName(name); got != want {
			t.Errorf("%.40q: %v, want %v", name, got, want)
		}
	}
	if f.log.String() != before {
		t.Errorf("logged: %s", f.log.String())
	}
}
