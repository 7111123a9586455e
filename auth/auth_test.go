package auth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMay(t *testing.T) {
	tests := []struct {
		has  Role
		need string
		want bool
	}{
		{Viewer, "viewer", true},
		{Viewer, "operator", false},
		{Viewer, "admin", false},
		{Operator, "viewer", true},
		{Operator, "operator", true},
		{Operator, "admin", false},
		{Admin, "viewer", true},
		{Admin, "operator", true},
		{Admin, "admin", true},
		{Admin, "", false},
		{Admin, "king", false},
		{"", "viewer", false},
		{"king", "viewer", false},
	}
	for _, tt := range tests {
		if got := NewPrincipal(Identity{Role: tt.has}).May(tt.need); got != tt.want {
			t.Errorf("%q may %q: %v, want %v", tt.has, tt.need, got, tt.want)
		}
	}
}

func TestTokenVerify(t *testing.T) {
	secret := NewToken()
	admin := NewPrincipal(Identity{Role: Admin})
	v := newOwnToken(secret, admin)
	for name, tt := range map[string]struct {
		secret string
		want   *Principal
	}{
		"right":       {secret, admin},
		"empty":       {"", nil},
		"one less":    {secret[1:], nil},
		"one more":    {secret + "A", nil},
		"lower case":  {strings.ToLower(secret), nil},
		"another one": {NewToken(), nil},
	} {
		if got := v.verify(tt.secret); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestWriteToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	// One that everybody could read lies there already.
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteToken(path, "secret"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "secret\n" {
		t.Errorf("read %q, %v", got, err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", fi.Mode().Perm())
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".token-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := WriteToken(filepath.Join(path, "no", "token"), "x"); err == nil {
		t.Error("wrote into a folder that isn't there")
	}
}

func TestRemoveToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for _, tt := range []struct {
		name, there string
		left        bool
	}{
		{"one's own", "mine\n", false},
		{"another's", "another\n", true},
		{"one that begins like it", "mine2\n", true},
		{"empty", "", true},
	} {
		if err := os.WriteFile(path, []byte(tt.there), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := RemoveToken(path, "mine"); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if b, err := os.ReadFile(path); (err == nil) != tt.left || string(b) != tt.there && tt.left {
			t.Errorf("%s: %q, %v; want it left: %v", tt.name, b, err, tt.left)
		}
	}
	if err := RemoveToken(filepath.Join(t.TempDir(), "none"), "mine"); err != nil {
		t.Errorf("none: %v", err)
	}
}

func TestLockToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	// What a killed daemon left keeps nobody away.
	if err := os.WriteFile(path+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	unlock, err := LockToken(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockToken(path); !errors.Is(err, ErrTokenLocked) {
		t.Errorf("the second: %v, want %v", err, ErrTokenLocked)
	}
	other, err := LockToken(path + "2")
	if err != nil {
		t.Fatalf("another path: %v", err)
	}
	other()
	unlock()
	if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if unlock, err = LockToken(path); err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	unlock()
	if _, err := LockToken(filepath.Join(path, "no", "token")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a folder that isn't there: %v", err)
	}
}
