package server

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctd/conntrack/conntracktest"
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
		"the one begun":        {"next", "a password file"},
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
		s.Passwords.Files = []string{at("htpasswd"), at("passwords.7"), at("old.lock"), at("next.new")}
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

// TestDoubtsOfPaths: a record and a socket that can't work are told of before the daemon starts.
func TestDoubtsOfPaths(t *testing.T) {
	check := func(file, text string, want ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		status := CheckConfigCommand([]string{file}, &stdout, &stderr)
		got := stderr.String()
		if status != 0 || stdout.String() != "ok\n" || strings.Count(got, "\n") != len(want) {
			t.Errorf("%s: status %d, %q, %q, want %q", text, status, stdout.String(), got, want)
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q, want %q", text, got, w)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "ctd.toml")
	for text, want := range map[string]string{
		"state_dir = \"state\"\naudit.file = \"/tmp/ctd-none.log\"":               ":1: state_dir: state is sought in whatever folder",
		"audit.file = \"audit.log\"":                                              ":1: audit.file: audit.log is sought in whatever folder",
		"socket = \"ctd.sock\"":                                                   ":1: socket: ctd.sock is sought",
		"audit.file = \"/none/there/audit.log\"":                                  ":1: audit.file: the folder /none/there isn't there",
		"state_dir = \"/none/there/ctd\"":                                         "",
		"state_dir = \"/none/there/ctd\"\naudit.file = \"/none/there/audit.log\"": "",
		"state_dir = \"/none/there/ctd\"\naudit.file = \"/none/th/audit.log\"":    ":2: audit.file: the folder /none/th isn't there",
		"audit.file = \"/none/there/audit.log\"\naudit.to = \"none\"":             "",
	} {
		if want == "" {
			check(file, text)
		} else {
			check(file, text, "warning: "+file+want)
		}
	}

	conntracktest.Kernel(t)
	socket, state := foldersFor(t)
	dir := filepath.Dir(state)
	file = filepath.Join(dir, "ctd.toml")
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, folder := range []string{"own", "other"} {
		if err := os.Mkdir(at(folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, uid := range map[string]int{"own/r": 0, "own/r.1": 0, "other/r": 0, "other/r-of-another": 0, "htpasswd": 0} {
		writeAs(t, at(name), uid)
	}
	text := "run_as = \"nobody\"\nsocket = \"" + socket + "\"\nstate_dir = \"" + state + "\"\n"
	unreadable := ":1: run_as: nobody can't read " + file + ", which is read again while the daemon runs (each SIGHUP): chgrp 65534 " + file + " && chmod g+r " + file
	check(file, text, unreadable)
	check(file, text+"audit.file = \""+at("own/r")+"\"", unreadable)
	check(file, text+"audit.file = \""+at("other/r")+"\"", unreadable, ":4: audit.file: nobody can't write to the folder "+at("other"))
	check(file, text+"passwords.files = [\""+at("htpasswd")+"\"]", unreadable, ":4: passwords.files: nobody can't read "+at("htpasswd"))
	check(file, strings.Replace(text, "run/ctd.sock", "ctd.sock", 1), unreadable, ":2: socket: nobody can't write to the folder "+dir)
	if err := os.Chown(file, 0, nobody); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	check(file, text)
}
