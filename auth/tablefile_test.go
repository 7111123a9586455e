package auth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTablesAreReadAsWritten(t *testing.T) {
	dir := t.TempDir()
	users := []User{
		{Name: "jane", Password: cheapHash(t, "x"), Grant: Grant{Role: "operator", Networks: []string{"10.3.0.0/16", "2001:db8::/32"}, Rate: 60, KillsPerMinute: 5}},
		{Name: `o"\brien`, Grant: Grant{Role: "viewer"}},
		{Name: "jürgen", Grant: Grant{Role: "admin"}},
	}
	_, hash := NewBearerToken()
	tokens := []Token{
		{Name: "monitoring", Hash: hash, Grant: Grant{Role: "viewer"}, Expires: "2027-01-31"},
		{Name: `a"b`, Hash: strings.Repeat("0", 64), Grant: Grant{Role: "admin", Networks: []string{"10.0.0.1"}}},
	}
	usersPath, tokensPath := filepath.Join(dir, "users.toml"), filepath.Join(dir, "tokens.toml")
	if err := errors.Join(
		UpdateUsers(usersPath, func([]User) ([]User, error) { return users, nil }),
		UpdateTokens(tokensPath, func([]Token) ([]Token, error) { return tokens, nil }),
	); err != nil {
		t.Fatal(err)
	}
	gotUsers, err := ReadUsers(usersPath)
	if diff := cmp.Diff(users, gotUsers); diff != "" || err != nil {
		t.Errorf("users (-want +got), %v:\n%s", err, diff)
	}
	gotTokens, err := ReadTokens(tokensPath)
	if diff := cmp.Diff(tokens, gotTokens); diff != "" || err != nil {
		t.Errorf("tokens (-want +got), %v:\n%s", err, diff)
	}
	for _, path := range []string{usersPath, tokensPath} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	if list, err := ReadUsers(filepath.Join(dir, "none")); list != nil || err != nil {
		t.Errorf("no file: %v, %v", list, err)
	}
}

func TestTablesWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.toml")
	for text, want := range map[string]string{
		"[[user]]\nname = 1\n":                                "string",
		"[[user]]\nnome = \"jane\"\n":                         "user.nome: there is no such setting",
		"[[user]]\nname = jane\n":                             "line 2",
		"[[token]]\nname = \"jane\"\n":                        "token",
		"[[user]]\nname = \"a\"\ncertificates = [\"CN=a\"]\n": "certificates belong into the configuration",
	} {
		write(t, path, text)
		if _, err := ReadUsers(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
		err := UpdateUsers(path, func(users []User) ([]User, error) { return users, nil })
		if got, _ := os.ReadFile(path); err == nil || string(got) != text {
			t.Errorf("%q was written over: %v", text, err)
		}
	}
	write(t, path, "[[user]]\nname = \"jane\"\nrole = \"king\"\n")
	log, c := &logBuffer{}, newClock()
	if w := watch(path, c.now, log.logger(), watchedKind{}, decodeUsers); len(w.get()) != 0 || !strings.Contains(log.String(), "is none of viewer") {
		t.Errorf("%v\n%s", w.get(), log)
	}
	// What is wrong isn't written.
	write(t, path, "")
	for name, users := range map[string][]User{
		"no role": {{Name: "jane"}}, "twice": {{Name: "a", Grant: Grant{Role: "viewer"}}, {Name: "a", Grant: Grant{Role: "viewer"}}},
		"plain": {{Name: "a", Password: "secret", Grant: Grant{Role: "viewer"}}},
	} {
		if err := UpdateUsers(path, func([]User) ([]User, error) { return users, nil }); err == nil {
			t.Errorf("%s was written", name)
		}
	}
}

// TestUpdateTogether: writers at the same time lose nothing of each other's.
func TestUpdateTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.toml")
	const writers = 20
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			secret, hash := NewBearerToken()
			err := UpdateTokens(path, func(tokens []Token) ([]Token, error) {
				return append(tokens, Token{Name: secret, Hash: hash, Grant: Grant{Role: "viewer"}}), nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if tokens, err := ReadTokens(path); len(tokens) != writers || err != nil {
		t.Errorf("%d tokens, %v; want %d", len(tokens), err, writers)
	}
}

// TestUpdateGivesFileAway: what root writes is the folder's owner's, in whose place nothing can be led
// elsewhere.
func TestUpdateGivesFileAway(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root gives files away
	}
	outer := t.TempDir()
	dir, victim := filepath.Join(outer, "state"), filepath.Join(outer, "victim")
	write(t, victim, "")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 1234, 4321)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "users.toml")
	set := func() error {
		return UpdateUsers(path, func(users []User) ([]User, error) { return []User{{Name: "a", Grant: Grant{Role: "viewer"}}}, nil })
	}
	if err := set(); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if sys := fi.Sys().(*unixStat); sys.Uid != 1234 || sys.Gid != 4321 || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v of %d:%d", fi.Mode(), sys.Uid, sys.Gid)
	}
	if err := errors.Join(os.Remove(path), os.Symlink("../victim", path)); err != nil {
		t.Fatal(err)
	}
	if err := set(); err == nil {
		t.Error("a link out of the folder was followed")
	}
	if b, err := os.ReadFile(victim); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
}
