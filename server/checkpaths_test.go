package server

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCheckAuditFile: the record is no other file of the daemon's, and neither is its lock nor what is set aside.
func TestCheckAuditFile(t *testing.T) {
	for name, c := range map[string]struct {
		file string // in DIR
		want string // after the file's name; empty where it is right
	}{
		"beside others":        {"state/audit.log", ""},
		"not there yet":        {"none/there/audit.log", ""},
		"like another's":       {"state/users.toml2", ""},
		"no number":            {"state/users", ""},
		"users":                {"state/users.toml", "the users file"},
		"tokens, unclean":      {"state/../state//tokens.toml", "the tokens file"},
		"users by a link":      {"link/users.toml", "the users file"},
		"socket":               {"ctd.sock", "the socket"},
		"token":                {"token", "the token"},
		"token's lock":         {"token.lock", "the token's lock"},
		"password file":        {"htpasswd", "a password file"},
		"set aside":            {"passwords", "a password file"},
		"its lock":             {"old", "a password file"},
		"a hard link":          {"hard", "a password file"},
		"configuration":        {"ctd.toml", "the configuration"},
		"a folder":             {"state", "is a folder"},
		"a folder by its name": {"new/", "is a folder"},
		"a symbolic link":      {"soft", "is a symbolic link"},
		"a pipe":               {"pipe", "is no regular file"},
		"oidc.ca":              {"ca.pem", "oidc.ca"},
		"certificate":          {"one.pem", "tls.cert"},
		"key":                  {"one.key", "tls.key"},
		"client_ca":            {"clients.pem", "tls.client_ca"},
	} {
		dir := t.TempDir()
		at := func(name string) string { return filepath.Join(dir, name) }
		if err := os.Mkdir(at("state"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at("htpasswd"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			os.Symlink("state", at("link")), os.Symlink("state/audit.log", at("soft")), os.Link(at("htpasswd"), at("hard")), unix.Mkfifo(at("pipe"), 0o600),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		s := defaultSettings()
		s.Socket, s.StateDir, s.OIDC.CA = at("ctd.sock"), at("state"), at("ca.pem")
		s.TLS = tlsSettings{Cert: at("one.pem"), Key: at("one.key"), ClientCA: at("clients.pem")}
		s.Passwords.Files = []string{at("htpasswd"), at("passwords.7"), at("old.lock")}
		s.Audit.File = dir + "/" + c.file
		cfg, _ := s.config()
		wrong := cfg.checkAuditFile(at("ctd.toml"))
		if c.want == "" && wrong != nil || c.want != "" && (len(wrong) != 1 || wrong[0].key != "audit.file" || !strings.Contains(wrong[0].text, c.want)) {
			t.Errorf("%s: %v, want %q", name, wrong, c.want)
		}
		s.Audit.To = "none"
		cfg, _ = s.config()
		if wrong := cfg.checkAuditFile(at("ctd.toml")); wrong != nil {
			t.Errorf("%s, to none: %v", name, wrong)
		}
	}
	file := filepath.Join(t.TempDir(), "ctd.toml")
	if err := os.WriteFile(file, []byte("\n[audit]\nfile = \""+file+"\""), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, wrong := (&grammar{Config: &file}).load(); len(wrong) != 1 || !strings.HasPrefix(wrong[0].Error(), file+":3: audit.file: ") {
		t.Errorf("the file itself: %v", wrong)
	}
}

// TestDoubts: what isn't there, but may come, is told and no error: by check-config, and in the log at the start
// and at a reload.
func TestDoubts(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":         {"", ""},
		"no namespace":    {"netns = \"ctd-there-is-none\"", ":3: netns: there is no network namespace /run/netns/ctd-there-is-none"},
		"no such path":    {"netns = \"/proc/self/ns/none\"", ":3: netns: there is no network namespace /proc/self/ns/none"},
		"a namespace":     {"netns = \"/proc/self/ns/net\"", ""},
		"no user":         {"run_as = \"ctd-there-is-none\"", ":3: run_as: run as ctd-there-is-none: "},
		"a user":          {"run_as = \"root\"", ""},
		"no passwords":    {"[passwords]\nfiles = [\"/dev/null\", \"/none/htpasswd\"]", ":4: passwords.files: /none/htpasswd isn't there"},
		"a token's end":   {"[[token]]\nname = \"t\"\nrole = \"viewer\"\nhash = \"" + testTokenHash + "\"\nexpires = \"2020-01-31\"", ":7: token[0].expires: the token t has ended"},
		"a token's later": {"[[token]]\nname = \"t\"\nrole = \"viewer\"\nhash = \"" + testTokenHash + "\"\nexpires = \"2999-01-31\"", ""},
	} {
		file := filepath.Join(t.TempDir(), "ctd.toml")
		if err := os.WriteFile(file, []byte("state_dir = \"\"\naudit.to = \"none\"\n"+c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		status := CheckConfigCommand([]string{file}, &stdout, &stderr)
		want := ""
		if c.want != "" {
			want = "ctd: check-config: warning: " + file + c.want
		}
		if got := stderr.String(); status != 0 || stdout.String() != "ok\n" || (got == "") != (want == "") || !strings.HasPrefix(got, want) || strings.Count(got, "\n") > 1 {
			t.Errorf("%s: status %d, %q, %q, want %q", name, status, stdout.String(), got, want)
		}
	}
	f := newReloadFixture(t, "")
	f.reloadWith(t, "[passwords]\nfiles = [\"/none/htpasswd\"]")
	if logged := f.log.events(t, "a setting may have no effect, or keep the daemon from starting"); len(logged) != 1 || !strings.Contains(logged[0]["setting"].(string), f.file+":2: passwords.files: ") {
		t.Errorf("log of a reload: %s", f.log)
	}
}
