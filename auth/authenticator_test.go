package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"
)

// fixture is an authenticator whose clock the test moves, and its files.
type fixture struct {
	t      *testing.T
	c      *clock
	log    *logBuffer
	dir    string
	cfg    Config
	secret string // the daemon's own
	a      *Authenticator
}

func newFixture(t *testing.T, change func(f *fixture)) *fixture {
	t.Helper()
	f := &fixture{t: t, c: newClock(), log: &logBuffer{}, dir: t.TempDir(), secret: NewToken(), cfg: DefaultConfig()}
	f.cfg.UsersFile, f.cfg.TokensFile = f.path("users.toml"), f.path("tokens.toml")
	f.cfg.Users = []User{{Name: "jane", Password: cheapHash(t, "secret"), Grant: Grant{Role: "operator", Networks: []string{"10.3.0.0/16"}}}}
	if change != nil {
		change(f)
	}
	f.reload()
	return f
}

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

// reload makes a new authenticator of the configuration as it is now.
func (f *fixture) reload() {
	f.t.Helper()
	a, wrong := newAuthenticator(f.cfg, Defaults{}, f.secret, f.a, f.log.logger(), f.c.now)
	if len(wrong) > 0 {
		f.t.Fatal(wrong)
	}
	a.cost = bcrypt.MinCost
	if f.a != nil {
		f.a.Close()
	}
	f.a = a
}

// login logs in from an address of its own.
func (f *fixture) login(name, password string) (*Principal, error) {
	return f.a.Password(context.Background(), addr("192.0.2.1"), name, password)
}

func (f *fixture) must(p *Principal, err error) *Principal {
	f.t.Helper()
	if err != nil || p == nil {
		f.t.Fatalf("%v, %v\n%s", p, err, f.log)
	}
	if !p.Valid() {
		f.t.Fatalf("%s is not valid", p.Name())
	}
	return p
}

// users and tokens write the files, and let the time pass after which they are looked at.
func (f *fixture) users(users ...User) {
	f.t.Helper()
	if err := UpdateUsers(f.cfg.UsersFile, func([]User) ([]User, error) { return users, nil }); err != nil {
		f.t.Fatal(err)
	}
	f.c.after(lookEvery)
}

func (f *fixture) tokens(tokens ...Token) {
	f.t.Helper()
	if err := UpdateTokens(f.cfg.TokensFile, func([]Token) ([]Token, error) { return tokens, nil }); err != nil {
		f.t.Fatal(err)
	}
	f.c.after(lookEvery)
}

func hashOf(secret string) string {
	h := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(h[:])
}

func TestPassword(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.cfg.Tokens = []Token{{Name: "script", Hash: hashOf("ctd_S"), Grant: Grant{Role: "viewer"}}, {Name: "old", Hash: hashOf("ctd_O"), Grant: Grant{Role: "viewer"}, Expires: "2020-01-01"}}
		f.cfg.Users = append(f.cfg.Users, User{Name: "proxied", Grant: Grant{Role: "viewer"}}, User{Name: "filed", Grant: Grant{Role: "viewer"}})
		f.cfg.Passwords.Files = []string{f.path("htpasswd"), f.path("none")}
		write(t, f.path("htpasswd"), "filed:"+cheapHash(t, "secret")+"\nstranger:"+cheapHash(t, "secret")+"\njane:"+cheapHash(t, "other")+"\n")
	})
	f.users(
		User{Name: "joe", Password: cheapHash(t, "secret"), Grant: Grant{Role: "viewer"}},
		User{Name: "jane", Password: cheapHash(t, "third"), Grant: Grant{Role: "admin"}},
	)
	for name, tt := range map[string]struct {
		name, password string
		want           string // name, role and how
		err            error
	}{
		"right":                    {"jane", "secret", "jane operator password", nil},
		"wrong":                    {"jane", "Secret", "", ErrWrong},
		"empty":                    {"jane", "", "", ErrWrong},
		"too long":                 {"jane", strings.Repeat("x", 5000), "", ErrWrong},
		"nobody":                   {"", "", "", ErrWrong},
		"no such name":             {"jim", "secret", "", ErrWrong},
		"a name beyond bounds":     {strings.Repeat("x", 5000), "secret", "", ErrWrong},
		"another's case":           {"Jane", "secret", "", ErrWrong},
		"the hash":                 {"jane", f.cfg.Users[0].Password, "", ErrWrong},
		"of the users file":        {"joe", "secret", "joe viewer password", nil},
		"of it, in both":           {"jane", "third", "", ErrWrong},
		"of a file, in both":       {"jane", "other", "", ErrWrong},
		"of a file":                {"filed", "secret", "filed viewer password", nil},
		"of a file, wrong":         {"filed", "x", "", ErrWrong},
		"of a file without rights": {"stranger", "secret", "", ErrWrong},
		"without a password":       {"proxied", "", "", ErrWrong},
		"own token":                {"whoever", f.secret, "token admin token", nil},
		"a token":                  {"", "ctd_S", "script viewer token", nil},
		"an expired token":         {"jane", "ctd_O", "", ErrExpired},
	} {
		p, err := f.a.Password(t.Context(), addr("192.0.2.%d", len(name)), tt.name, tt.password)
		got := ""
		if p != nil {
			got = p.Name() + " " + p.Role() + " " + p.Via()
		}
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %q, %v; want %q, %v", name, got, err, tt.want, tt.err)
		}
	}
	if !strings.Contains(f.log.String(), "isn't let in") || !strings.Contains(f.log.String(), "name=stranger") {
		t.Errorf("the log lacks why stranger isn't let in:\n%s", f.log)
	}
	if n := strings.Count(f.log.String(), "file="+f.path("none")); n != 1 {
		t.Errorf("the missing file is told of %d times, want once:\n%s", n, f.log)
	}
	for _, word := range []string{"$2a$", "ctd_", f.secret, "third"} {
		if strings.Contains(f.log.String(), word) {
			t.Errorf("the log has %s:\n%s", word, f.log)
		}
	}
	p := f.must(f.login("jane", "secret"))
	if diff := cmp.Diff([]string{"10.3.0.0/16"}, []string{p.Networks()[0].String()}); diff != "" {
		t.Error(diff)
	}
}

func TestConfigurationCountsBeforeFile(t *testing.T) {
	f := newFixture(t, nil)
	f.users(User{Name: "jane", Password: cheapHash(t, "third"), Grant: Grant{Role: "admin"}})
	f.reload()
	if !strings.Contains(f.log.String(), "the configuration's counts") || !strings.Contains(f.log.String(), "name=jane") {
		t.Errorf("not told:\n%s", f.log)
	}
}

func TestPasswordRole(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.cfg.Passwords = PasswordFile{Files: []string{f.path("htpasswd")}, Role: "viewer"}
		write(t, f.path("htpasswd"), "stranger:"+cheapHash(t, "secret")+"\n")
	})
	p := f.must(f.login("stranger", "secret"))
	if p.Role() != "viewer" {
		t.Errorf("role %s", p.Role())
	}
	if _, err := f.login("nobody", "secret"); !errors.Is(err, ErrWrong) {
		t.Errorf("a name of no file: %v", err)
	}
	f.cfg.Passwords.Role = "operator"
	f.reload()
	if p.Valid() {
		t.Error("valid with a role that it hasn't any more")
	}
}

func TestRehashAtLogin(t *testing.T) {
	f := newFixture(t, func(f *fixture) {
		f.cfg.Passwords = PasswordFile{Files: []string{f.path("pyctd")}, Role: "viewer"}
		write(t, f.path("pyctd"), "stranger:"+sha1Hex+"\nother:"+sha1Hex+"\n")
	})
	if _, err := f.login("stranger", "wrong"); !errors.Is(err, ErrWrong) {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(f.path("pyctd")); strings.Count(string(b), sha1Hex) != 2 {
		t.Fatalf("a wrong password changed the file:\n%s", b)
	}
	first := f.must(f.login("stranger", "secret"))
	b, err := os.ReadFile(f.path("pyctd"))
	if err != nil || !strings.HasPrefix(string(b), "stranger:$2a$10$") || !strings.HasSuffix(string(b), "\nother:"+sha1Hex+"\n") {
		t.Errorf("%v\n%s", err, b)
	}
	f.must(f.login("stranger", "secret"))
	f.c.after(lookEvery) // read again
	f.must(f.login("stranger", "secret"))
	if !first.Valid() {
		t.Error("the login that replaced the hash is not valid")
	}
	write(t, f.path("pyctd"), "stranger:"+cheapHash(t, "new")+"\n")
	f.c.after(lookEvery)
	if first.Valid() {
		t.Error("valid with an old password")
	}
	if _, err := f.login("stranger", "secret"); !errors.Is(err, ErrWrong) {
		t.Errorf("the old password: %v", err)
	}
}

func TestCostliest(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.cfg.Passwords.Files = []string{f.path("htpasswd")} })
	expect := func(want int) {
		t.Helper()
		if got := f.a.costliest(); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
	expect(bcrypt.MinCost)
	f.users(User{Name: "joe", Password: dummyHash(11), Grant: Grant{Role: "viewer"}})
	expect(11)
	write(t, f.path("htpasswd"), "a:"+sha1Hex+"\nb:"+dummyHash(12)+"\n")
	f.c.after(lookEvery)
	expect(12)
	f.cfg.Users[0].Password = dummyHash(13)
	a, wrong := build(f.cfg, Defaults{}, f.a.shared, f.a.logger)
	if len(wrong) > 0 || a.cost != 13 {
		t.Errorf("%d, %v; want 13", a.cost, wrong)
	}
}

func TestBearer(t *testing.T) {
	var end time.Time
	f := newFixture(t, func(f *fixture) {
		end = f.c.at.Add(time.Hour)
		f.cfg.Tokens = []Token{
			{Name: "script", Hash: strings.ToUpper(hashOf("ctd_S")), Grant: Grant{Role: "viewer", Networks: []string{"10.0.0.0/8"}}},
			{Name: "ends", Hash: hashOf("ctd_E"), Grant: Grant{Role: "admin"}, Expires: end.Format(time.RFC3339)},
		}
	})
	f.tokens(Token{Name: "filed", Hash: hashOf("ctd_F"), Grant: Grant{Role: "operator"}})
	bearer := func(secret string) (*Principal, error) { return f.a.Bearer(t.Context(), addr("192.0.2.1"), secret) }
	for secret, want := range map[string]string{f.secret: "token admin", "ctd_S": "script viewer", "ctd_E": "ends admin", "ctd_F": "filed operator"} {
		p := f.must(bearer(secret))
		if got := p.Name() + " " + p.Role(); got != want || p.Via() != "token" {
			t.Errorf("%s by %s, want %s", got, p.Via(), want)
		}
	}
	if p := f.must(bearer("ctd_E")); !p.Expires().Equal(end) {
		t.Errorf("expires %v", p.Expires())
	}
	for _, secret := range []string{"", "ctd_", "ctd_s", "ctd_S ", hashOf("ctd_S")} {
		if p, err := f.a.Bearer(t.Context(), netip.Addr{}, secret); p != nil || !errors.Is(err, ErrWrong) {
			t.Errorf("%q: %v, %v", secret, p, err)
		}
	}
	for i := range freeAttempts + 1 {
		_, err := bearer("ctd_X")
		if slowed := new(SlowedError); errors.As(err, &slowed) != (i == freeAttempts) {
			t.Errorf("wrong token %d: %v", i+1, err)
		}
	}
	f.must(bearer("ctd_S")) // right ones are taken all the same
	f.must(f.login("jane", "secret"))
	f.c.after(time.Hour)
	if p, err := bearer("ctd_E"); p != nil || !errors.Is(err, ErrExpired) {
		t.Errorf("expired: %v, %v", p, err)
	}
}

// TestValid: a principal ends with its credential and with its rights.
func TestValid(t *testing.T) {
	joe := User{Name: "joe", Password: cheapHash(t, "secret"), Grant: Grant{Role: "operator", Networks: []string{"10.3.0.0/16"}, Rate: 10}}
	script := Token{Name: "script", Hash: hashOf("ctd_S"), Grant: Grant{Role: "operator"}}
	for name, tt := range map[string]struct {
		change      func(f *fixture)
		user, token bool // whether they are valid then
	}{
		"nothing":            {func(f *fixture) { f.users(joe); f.tokens(script) }, true, true},
		"a reload":           {func(f *fixture) { f.reload() }, true, true},
		"user gone":          {func(f *fixture) { f.users() }, false, true},
		"users file gone":    {func(f *fixture) { _ = os.Remove(f.cfg.UsersFile); f.c.after(lookEvery) }, false, true},
		"users file bad":     {func(f *fixture) { write(f.t, f.cfg.UsersFile, "["); f.c.after(lookEvery) }, true, true},
		"bad and reloaded":   {func(f *fixture) { write(f.t, f.cfg.UsersFile, "["); f.c.after(lookEvery); f.reload() }, true, true},
		"another users file": {func(f *fixture) { f.cfg.UsersFile = f.path("other.toml"); f.reload() }, false, true},
		"another password":   {func(f *fixture) { u := joe; u.Password = cheapHash(f.t, "x"); f.users(u) }, false, true},
		"another role":       {func(f *fixture) { u := joe; u.Role = "viewer"; f.users(u) }, false, true},
		"other networks":     {func(f *fixture) { u := joe; u.Networks = []string{"10.3.1.0/24"}; f.users(u) }, false, true},
		"another rate":       {func(f *fixture) { u := joe; u.Rate = 11; f.users(u) }, false, true},
		"one in the configuration": {func(f *fixture) {
			f.cfg.Users = append(f.cfg.Users, User{Name: "joe", Grant: Grant{Role: "admin"}})
			f.reload()
		}, false, true},
		"token revoked":      {func(f *fixture) { f.tokens() }, true, false},
		"token's other role": {func(f *fixture) { tk := script; tk.Role = "viewer"; f.tokens(tk) }, true, false},
		"token ended":        {func(f *fixture) { tk := script; tk.Expires = "2020-01-01"; f.tokens(tk) }, true, false},
		"a failed reload": {func(f *fixture) {
			cfg := f.cfg
			cfg.UsersFile, cfg.TokensFile = "", ""
			a, wrong := newAuthenticator(cfg, Defaults{}, f.secret, f.a, f.log.logger(), f.c.now)
			if len(wrong) > 0 {
				f.t.Fatal(wrong)
			}
			a.Close() // something else of the configuration was wrong
		}, true, true},
		"the end": {func(f *fixture) { f.a.Close() }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil)
			f.users(joe)
			f.tokens(script)
			p := f.must(f.login("joe", "secret"))
			b := f.must(f.a.Bearer(t.Context(), addr("192.0.2.1"), "ctd_S"))
			own := f.must(f.a.Bearer(t.Context(), addr("192.0.2.1"), f.secret))
			tt.change(f)
			if p.Valid() != tt.user || b.Valid() != tt.token || !own.Valid() {
				t.Errorf("user %v, token %v, own %v; want %v, %v, true\n%s", p.Valid(), b.Valid(), own.Valid(), tt.user, tt.token, f.log)
			}
		})
	}
}

// TestRemembersOverReload: what was learned goes on: wrong attempts, right passwords and budgets.
func TestRemembersOverReload(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.cfg.Users[0].KillsPerMinute = 5 })
	p := f.must(f.login("jane", "secret"))
	if ok, _, _ := p.TakeKills(5); !ok {
		t.Fatal("no room for five")
	}
	bad := addr("198.51.100.1")
	for range freeAttempts {
		_, _ = f.a.Password(t.Context(), bad, "jane", "x")
	}
	f.reload()
	if _, err := f.a.Password(t.Context(), bad, "jane", "x"); !errors.As(err, new(*SlowedError)) {
		t.Errorf("wrong attempts are forgotten: %v", err)
	}
	if ok, _, _ := f.must(f.login("jane", "secret")).TakeKills(1); ok {
		t.Error("the budget began anew")
	}
	f.a.shared.gate.most = [standings]int{} // nothing can be hashed
	if _, err := f.login("jane", "secret"); err != nil {
		t.Errorf("a right password is forgotten: %v", err)
	}
}
