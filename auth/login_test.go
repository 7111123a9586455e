package auth

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestSlowedKnown: who must wait may show a password that was right from there, and doesn't find
// another so.
func TestSlowedKnown(t *testing.T) {
	f := newFixture(t, nil)
	here := addr("192.0.2.1")
	f.must(f.login("jane", "secret"))
	for range freeAttempts {
		_, _ = f.login("jane", "x")
	}
	for range 3 * maxRefused {
		f.must(f.login("jane", "secret"))
	}
	slowed := func(from netip.Addr, password string) {
		t.Helper()
		if p, err := f.a.Password(t.Context(), from, "jane", password); p != nil || !errors.As(err, new(*SlowedError)) {
			t.Errorf("%s: %v, %v", password, p, err)
		}
	}
	slowed(here, "y")
	other := addr("198.51.100.1")
	for range freeAttempts {
		_, _ = f.a.Password(t.Context(), other, "jane", "x")
	}
	slowed(other, "secret") // it was never right from there
	for range maxRefused {
		slowed(here, "y")
	}
	slowed(here, "secret")
	f.c.after(maxWait)
	f.must(f.login("jane", "secret"))
}

// TestSameAtOnce: a browser's many first requests are one attempt.
func TestSameAtOnce(t *testing.T) {
	f := newFixture(t, nil)
	f.a.shared.gate = oneByOne()
	if f.a.shared.gate.enter(t.Context(), clean) != nil {
		t.Fatal("the gate is closed")
	}
	const many = 3 * maxPending
	done := make(chan error, many)
	for range many {
		go func() {
			_, err := f.login("jane", "secret")
			done <- err
		}()
	}
	time.Sleep(50 * time.Millisecond)
	f.a.shared.gate.leave()
	for range many {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	// Where the first gives up, another takes its place.
	f.cfg.Users[0].Password = cheapHash(t, "secret")
	f.reload()
	if f.a.shared.gate.enter(t.Context(), clean) != nil {
		t.Fatal("the gate is closed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := f.a.Password(ctx, addr("192.0.2.1"), "jane", "secret")
		done <- err
	}()
	for f.waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	go func() {
		_, err := f.login("jane", "secret")
		done <- err
	}()
	time.Sleep(50 * time.Millisecond)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that gave up: %v", err)
	}
	f.a.shared.gate.leave()
	if err := <-done; err != nil {
		t.Errorf("the other: %v", err)
	}
	if n := len(f.a.shared.slowing.offenders.byKey); n != 0 {
		t.Errorf("%d addresses are kept", n)
	}
}

func (f *fixture) waiting() int {
	g := f.a.shared.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting()
}

func TestProxyUser(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.cfg.Proxy.Addresses = []string{"192.0.2.9"} })
	by, _ := f.a.ProxyAt(addr("192.0.2.9"))
	p := f.must(f.a.ProxyUser(by, "jane"), nil)
	if p.Role() != "operator" || p.Via() != "proxy" {
		t.Errorf("%s by %s", p.Role(), p.Via())
	}
	for _, name := range []string{"", "stranger", "a:b", strings.Repeat("x", maxName+1)} {
		if p := f.a.ProxyUser(by, name); p != nil {
			t.Errorf("%q is %v", name, p)
		}
	}
	f.cfg.Proxy.Role, f.cfg.Proxy.Addresses = "viewer", []string{"192.0.2.8/31"}
	f.reload()
	stranger := f.must(f.a.ProxyUser(by, "stranger"), nil)
	if stranger.Role() != "viewer" || !p.Valid() {
		t.Errorf("%s, %v", stranger.Role(), p.Valid())
	}
	if p := f.a.ProxyUser(by, "a b"); p != nil {
		t.Errorf("a name with a space is %v", p)
	}
	f.cfg.Proxy.Role = ""
	f.cfg.Users[0].Role = "admin"
	f.reload()
	if stranger.Valid() || p.Valid() {
		t.Error("valid with rights that they haven't any more")
	}
}

func TestCheck(t *testing.T) {
	hash, good := hashOf("x"), cheapHash(t, "x")
	viewer := Grant{Role: "viewer"}
	for name, tt := range map[string]struct {
		cfg  Config
		want []string // beginnings of the errors
	}{
		"nothing": {DefaultConfig(), nil},
		"right": {Config{
			Users:  []User{{Name: "a", Password: good, Grant: viewer}, {Name: strings.Repeat("ä", maxName), Grant: viewer}},
			Tokens: []Token{{Name: "a", Hash: hash, Grant: viewer, Expires: "2020-01-01"}, {Name: "b", Hash: hashOf("y"), Grant: viewer, Expires: "2027-01-31T12:00:00+01:00"}},
		}, nil},
		"users' names": {
			Config{Users: []User{{Grant: viewer}, {Name: "a b", Grant: viewer}, {Name: "a:b", Grant: viewer}, {Name: "a\n", Grant: viewer}, {Name: "\xff", Grant: viewer}, {Name: strings.Repeat("ä", maxName+1), Grant: viewer}}},
			[]string{"user[0].name: a name is needed", `user[1].name: "a b"`, `user[2].name: "a:b"`, `user[3].name: "a\n"`, "user[4].name: a name has at most", "user[5].name: a name has at most"},
		},
		"a user twice":   {Config{Users: []User{{Name: "a", Grant: viewer}, {Name: "a", Grant: viewer}}}, []string{`user[1].name: there are two users "a"`}},
		"plain password": {Config{Users: []User{{Name: "a", Password: "secret", Grant: viewer}}}, []string{"user[0].password: it is no bcrypt hash"}},
		"no role":        {Config{Users: []User{{Name: "a"}}}, []string{"user[0].role: a role is needed"}},
		"tokens": {
			Config{Tokens: []Token{{Hash: hash, Grant: viewer}, {Name: "b", Hash: hash, Grant: Grant{}}, {Name: "b", Hash: "12", Grant: viewer, Expires: "soon"}, {Name: "c", Hash: hash, Grant: viewer}}},
			[]string{"token[0].name: a name is needed", "token[1].role: a role", `token[2].name: there are two tokens "b"`, "token[2].hash: want the SHA-256", `token[2].expires: "soon" is no time`, `token[3].hash: it is that of "b" too`},
		},
		"role of password files": {Config{Passwords: PasswordFile{Role: "king"}}, []string{`passwords.role: "king" is none of`}},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := Check(tt.cfg)
			if len(wrong) != len(tt.want) {
				t.Fatalf("%v, want %v", wrong, tt.want)
			}
			for i, err := range wrong {
				if !errors.As(err, new(*SettingError)) || !strings.HasPrefix(err.Error(), tt.want[i]) || strings.Contains(err.Error(), "secret") {
					t.Errorf("%v, want %s", err, tt.want[i])
				}
			}
			if a, more := New(tt.cfg, Defaults{}, "own", nil, slog.New(slog.DiscardHandler)); len(more) != len(wrong) || (a == nil) != (len(wrong) > 0) {
				t.Errorf("New says %v", more)
			}
		})
	}
}
