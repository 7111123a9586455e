package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctd/auth"
)

// TestDoctorUsers: files of who may call that don't count are told of, with what mends them.
func TestDoctorUsers(t *testing.T) {
	if got := finding(t, newFixture(t, Config{}).Server, "users"); got.Severity != severityOK {
		t.Errorf("no files: %+v", got)
	}
	dir := t.TempDir()
	var cfg Config
	cfg.Auth.UsersFile, cfg.Auth.TokensFile = filepath.Join(dir, "users.toml"), filepath.Join(dir, "tokens.toml")
	cfg.Auth.Passwords.Files = []string{filepath.Join(dir, "pass words")}
	put := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	put(cfg.Auth.UsersFile, "[[user]]\nname = \"jane\"\nrole = \"viewer\"\n", 0o600)
	put(cfg.Auth.Passwords.Files[0], "", 0o600)
	f := newFixture(t, cfg)
	if got := finding(t, f.Server, "users"); got.Severity != severityOK || !strings.Contains(got.Message, cfg.Auth.UsersFile) {
		t.Errorf("well: %+v", got)
	}
	put(cfg.Auth.UsersFile, "[[user]]\nname = jane\n", 0o600)
	put(cfg.Auth.TokensFile, "", 0o602)
	if err := os.Remove(cfg.Auth.Passwords.Files[0]); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // until it is looked at again
	got := finding(t, f.Server, "users")
	for _, want := range []string{"users.toml: line 2: ", "stays in force", "tokens.toml: others may write it", "nobody of it is let in", "words: no such file"} {
		if !strings.Contains(got.Message, want) {
			t.Errorf("%q says nothing of %q", got.Message, want)
		}
	}
	mend := fmt.Sprintf("${EDITOR:-vi} +2 %s && chown %d %s && chmod 0600 %[3]s && ls -la %s", cfg.Auth.UsersFile, os.Geteuid(), cfg.Auth.TokensFile, dir)
	if got.Severity != severityError || got.Mend != mend {
		t.Errorf("%+v, want the mend %s", got, mend)
	}
}

func TestFileMend(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "it's")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	quoted := "'" + dir + `/it'\''s'`
	denied := &fs.PathError{Op: "open", Path: path, Err: unix.EACCES}
	for want, e := range map[string]auth.FileError{
		"${EDITOR:-vi} +3 " + quoted: {Path: path, Line: 3, Err: errors.New("line 3")},
		"${EDITOR:-vi} " + quoted:    {Path: path, Err: errors.New("wrong")},
		"ls -ld " + dir:              {Path: dir, Err: errors.New("it is no regular file")},
		fmt.Sprintf("chown %d %s && chmod u+r %[2]s", os.Geteuid(), quoted): {Path: path, Err: denied},
		"namei -l " + dir + "/none/file":                                    {Path: dir + "/none/file", Err: denied},
	} {
		if got := fileMend(&e); got != want {
			t.Errorf("%v: %s, want %s", &e, got, want)
		}
	}
}
