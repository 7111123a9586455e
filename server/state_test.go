package server

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStateDir(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"mine": 0o750, "shared": 0o770, "open": 0o703} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("mine", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		mode os.FileMode // afterwards
		want string      // in the error; empty for none
	}{
		"new":                {"new", 0o700, ""},
		"below what is new":  {"a/b/c", 0o700, ""},
		"there":              {"mine", 0o750, ""},
		"a link":             {"link", 0o750, ""},
		"group may write":    {"shared", 0o770, "others may write into it"},
		"anybody may write":  {"open", 0o703, "others may write into it"},
		"a file":             {"file", 0o600, "not a directory"},
		"below a file":       {"file/state", 0, "not a directory"},
		"where nothing goes": {"../../../../../../../../proc/ctd", 0, "state directory"},
	} {
		path := filepath.Join(dir, c.path)
		err := makeStateDir(path)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if fi, err := os.Stat(path); c.mode != 0 && (err != nil || fi.Mode().Perm() != c.mode) {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	if err := makeStateDir(""); err != nil {
		t.Errorf("none: %v", err)
	}
}

// TestStateDirHint: a daemon whose state directory can't be made says what to do.
func TestStateDirHint(t *testing.T) {
	err := withHint(makeStateDir("/proc/ctd"))
	if h, ok := err.(*hintError); !ok || !strings.Contains(h.hint, "--state-dir") { //nolint:errorlint // what is printed
		t.Errorf("%#v", err)
	}
}

func TestExposed(t *testing.T) {
	user := "[[user]]\nname = \"a\"\nrole = \"viewer\"\n"
	password := "password = \"" + testHash + "\"\n"
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string // in the warning; empty for none
	}{
		"no secret":          {user, 0o644, ""},
		"password, own":      {user + password, 0o600, ""},
		"password, group":    {user + password, 0o640, ""},
		"password, readable": {user + password, 0o644, "anybody may read it"},
		"token, readable":    {"[[token]]\nname = \"t\"\nrole = \"viewer\"\nhash = \"" + testTokenHash + "\"", 0o604, "anybody may read it"},
		"writable":           {"", 0o602, "anybody may write it"},
	} {
		file := filepath.Join(t.TempDir(), "ctd.toml")
		if err := os.WriteFile(file, []byte("state_dir = \"\"\naudit.to = \"none\"\n"+c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.mode); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		status := CheckConfigCommand([]string{file}, &stdout, &stderr)
		want := ""
		if c.want != "" {
			want = "ctd: check-config: warning: " + file + ": "
		}
		if got := stderr.String(); status != 0 || stdout.String() != "ok\n" || (got == "") != (want == "") || !strings.HasPrefix(got, want) || !strings.Contains(got, c.want) {
			t.Errorf("%s: status %d, %q, %q", name, status, stdout.String(), got)
		}
	}

	dir := t.TempDir()
	cfg := Config{TLS: TLSConfig{Key: filepath.Join(dir, "key.pem")}}
	cfg.Auth.UsersFile, cfg.Auth.TokensFile = filepath.Join(dir, "users.toml"), filepath.Join(dir, "tokens.toml")
	cfg.Auth.Passwords.Files = []string{filepath.Join(dir, "htpasswd"), filepath.Join(dir, "none")}
	for name, mode := range map[string]os.FileMode{"key.pem": 0o644, "users.toml": 0o600, "tokens.toml": 0o604, "htpasswd": 0o666} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, e := range exposed(&configFile{}, &cfg) {
		got = append(got, filepath.Base(e.file))
	}
	if strings.Join(got, " ") != "tokens.toml key.pem htpasswd" {
		t.Errorf("exposed: %q", got)
	}
}
