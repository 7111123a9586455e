package server

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ctd/auth/audit"
	"ctd/conntrack/conntracktest"
)

func testAccount() *account {
	return &account{name: "nobody", uid: nobody, gid: nobody, groups: []int{nobody}}
}

func ownerOf(t *testing.T, name string) int {
	t.Helper()
	fi, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	return int(fi.Sys().(*syscall.Stat_t).Uid)
}

// writeAs writes an empty file of a user's.
func writeAs(t *testing.T, name string, uid int) {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(name, uid, uid); err != nil {
		t.Fatal(err)
	}
}

// TestGive: only what is root's and the daemon's is given, and nothing by another way.
func TestGive(t *testing.T) {
	conntracktest.Kernel(t)
	who := testAccount()
	give := func(dir string) error {
		g, err := newGift(&place{folder: dir, files: []string{usersFile, tokensFile}, record: []string{auditFile}})
		if err != nil {
			return err
		}
		defer g.dir.Close()
		return g.give(who)
	}
	owner := func(name string) int { return ownerOf(t, name) }
	write := func(name string, uid int) { writeAs(t, name, uid) }
	for _, tt := range []struct {
		name   string
		others bool // something else is in the folder
		owner  int  // of the folder before
		want   int  // and after
	}{
		{"the daemon's alone", false, 0, nobody},
		{"others are in it", true, 0, 0},
		{"the user's already", true, nobody, nobody},
		{"a third's", false, 41001, 41001},
	} {
		dir := t.TempDir()
		outside := filepath.Join(t.TempDir(), "outside")
		write(outside, 0)
		write(dir+"/users.toml", 0)
		write(dir+"/audit.log.1", 0)
		write(dir+"/audit.log", 41001)
		if err := os.Symlink(outside, dir+"/tokens.toml"); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(outside, dir+"/audit.log.2"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir+"/audit.log.3", 0o700); err != nil {
			t.Fatal(err)
		}
		if tt.others {
			write(dir+"/other", 0)
		}
		if err := os.Chown(dir, tt.owner, tt.owner); err != nil {
			t.Fatal(err)
		}
		if err := give(dir); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := owner(dir); got != tt.want {
			t.Errorf("%s: the folder is user %d's, want %d", tt.name, got, tt.want)
		}
		for name, want := range map[string]int{
			dir + "/users.toml": nobody, dir + "/audit.log.1": nobody, dir + "/audit.log": 41001,
			outside: 0, dir + "/audit.log.2": 0, dir + "/audit.log.3": 0,
		} {
			if got := owner(name); got != want {
				t.Errorf("%s: %s is user %d's, want %d", tt.name, filepath.Base(name), got, want)
			}
		}
		if tt.others && owner(dir+"/other") != 0 {
			t.Errorf("%s: a stranger's file was given away", tt.name)
		}
	}
}

// TestGiveFiles: a stranger's file is nobody's to give, however it is named, and nothing is given where the user
// couldn't write even then.
func TestGiveFiles(t *testing.T) {
	conntracktest.Kernel(t)
	for name, tt := range map[string]struct {
		record string   // in DIR
		files  []string // root's, in DIR
		shut   string   // a folder of DIR that others can't reach
		given  []string // of files, and of the folders run, state and log
		fails  bool
	}{
		"its own": {
			"state/audit.log",
			[]string{"run/ctd.sock", "run/token", "run/token.lock", "state/users.toml", "state/tokens.toml", "state/audit.log", "state/audit.log.lock", "state/audit.log.1", "state/audit.log.new"},
			"",
			[]string{"run/ctd.sock", "run/token", "run/token.lock", "state/users.toml", "state/tokens.toml", "state/audit.log", "state/audit.log.lock", "state/audit.log.1", "state/audit.log.new", "run", "state"},
			false,
		},
		"a record of another name":       {"state/r", []string{"state/r", "state/r.2", "state/audit.log"}, "", []string{"state/r", "state/r.2", "state/audit.log", "run", "state"}, false},
		"a record beside the socket":     {"run/r", []string{"run/r", "run/token"}, "", []string{"run/r", "run/token", "run", "state"}, false},
		"a folder of its own":            {"log/r", []string{"log/r"}, "", []string{"log/r", "run", "state", "log"}, false},
		"a password file that begins so": {"log/a", []string{"log/auth.htpasswd", "run/token"}, "", nil, true},
		"an archive that begins so":      {"log/ctd", []string{"log/ctd", "log/ctd-firewall.tar"}, "", nil, true},
		"a copy of the users":            {"log/r", []string{"state/users.toml.bak", "state/users.toml"}, "", nil, true},
		"a folder that can't be reached": {"shut/log/r", []string{"run/token"}, "shut", nil, true},
		"the token of another":           {"state/audit.log", []string{"run/token-of-another"}, "", nil, true},
	} {
		socket, state := foldersFor(t)
		dir := filepath.Dir(state)
		at := func(name string) string { return filepath.Join(dir, name) }
		record := at(tt.record)
		for _, folder := range []string{at("run"), state, at("log"), filepath.Dir(record)} {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if tt.shut != "" {
			if err := os.Chmod(at(tt.shut), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		want := map[string]int{at("run"): 0, state: 0, at("log"): 0}
		for _, file := range tt.files {
			writeAs(t, at(file), 0)
			want[at(file)] = 0
		}
		for _, given := range tt.given {
			want[at(given)] = nobody
		}
		cfg := &Config{Socket: socket, StateDir: state, Audit: audit.Config{To: audit.ToFile, File: record}}
		err := giveFiles(cfg, testAccount())
		if (err != nil) != tt.fails || tt.fails && !strings.HasPrefix(err.Error(), "write to ") {
			t.Errorf("%s: %v", name, err)
		}
		for file, uid := range want {
			if got := ownerOf(t, file); got != uid {
				t.Errorf("%s: %s is user %d's, want %d", name, file, got, uid)
			}
		}
	}
	socket, state := foldersFor(t)
	if err := giveFiles(&Config{Socket: socket, StateDir: state}, testAccount()); err != nil {
		t.Errorf("folders that aren't there: %v", err)
	}
}

// TestAccess: what a user may do is found out without becoming it.
func TestAccess(t *testing.T) {
	conntracktest.Kernel(t)
	_, dir := foldersFor(t)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	closed, shared := filepath.Join(dir, "closed"), filepath.Join(dir, "shared")
	writeAs(t, closed, 0)
	writeAs(t, shared, 0)
	if err := os.Chown(shared, 0, 41002); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o640); err != nil {
		t.Fatal(err)
	}
	who := &account{name: "x", uid: 41001, gid: 41001, groups: []int{41001, 41002}}
	if err := who.access(closed, unix.R_OK); err == nil {
		t.Error("it can read what is root's")
	}
	if err := who.access(shared, unix.R_OK); err != nil {
		t.Errorf("what is its group's: %v", err)
	}
	if err := who.access(shared, unix.W_OK); err == nil {
		t.Error("it can write what its group reads")
	}
	if f, err := os.OpenFile(closed, os.O_RDWR, 0); err != nil {
		t.Errorf("root can't any more: %v", err)
	} else {
		f.Close()
	}
	// Of their users alone: another test may have left a thread without a capability, the process's first, which doesn't
	// end with its goroutine.
	kinds, _ := threads(t, os.Getpid())
	for _, k := range kinds[1:] {
		if k.Uid != kinds[0].Uid || k.Groups != kinds[0].Groups {
			t.Errorf("threads differ: %+v", kinds)
		}
	}
}
