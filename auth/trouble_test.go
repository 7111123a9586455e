package auth

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTrouble: a file that can't be used is told of as long as that is so, and what was read stays.
func TestTrouble(t *testing.T) {
	const bob, hash = "[[user]]\nname = \"bob\"\nrole = \"viewer\"\n", "0123456789abcdef0123456789abcdef"
	f := newFixture(t, func(f *fixture) { f.cfg.Passwords.Files = []string{f.path("htpasswd")} })
	write(t, f.path("htpasswd"), "")
	users := f.path("users.toml")
	for name, tt := range map[string]struct {
		text string
		mode os.FileMode
		want string // in the error; empty: there is none
	}{
		"well":             {bob + "\n", 0o600, ""},
		"readable":         {bob, 0o644, ""},
		"broken":           {"[[user]]\nname = " + hash + "\n", 0o600, "users.toml: line 2: "},
		"a hash too big":   {"[[user]]\nname = 99999999999999999999\n", 0o600, "users.toml: line 2: "},
		"wrong":            {"[[user]]\nname = \"eve\"\nrole = \"king\"\n", 0o600, "users.toml: user[0].role: "},
		"too deep":         {"a = " + strings.Repeat("[", 20), 0o600, "users.toml: line 1: "},
		"too long":         {strings.Repeat("\n", maxFile+1), 0o600, "users.toml: it has more than"},
		"group may write":  {"", 0o660, "others may write it"},
		"others may write": {"", 0o602, "others may write it"},
	} {
		if tt.mode&0o020 != 0 && os.Geteuid() != 0 {
			continue // the group may be the own one
		}
		write(t, users, bob)
		set(t, users, 0o600)
		f.c.after(lookEvery)
		if list := f.a.Trouble(); len(list) > 0 {
			t.Errorf("%s: before: %v", name, list)
		}
		write(t, users, tt.text)
		set(t, users, tt.mode)
		f.c.after(lookEvery)
		seen := f.c.now()
		var list []Trouble
		for range 3 { // it is told of again, from when on it has been
			list = f.a.Trouble()
			f.c.after(lookEvery)
		}
		if _, ok := f.a.user("bob"); !ok {
			t.Errorf("%s: what was read before doesn't stay", name)
		}
		if tt.want == "" {
			if len(list) > 0 {
				t.Errorf("%s: %v", name, list)
			}
			continue
		}
		var file *FileError
		if len(list) != 1 || list[0].Path != users || !list[0].Since.Equal(seen) || !list[0].Kept || !errors.As(list[0].Err, &file) {
			t.Errorf("%s: %+v, want one since %v", name, list, seen)
			continue
		}
		if text := list[0].Err.Error(); !strings.Contains(text, tt.want) || strings.Contains(text, hash[:8]) || strings.Contains(text, "9999") {
			t.Errorf("%s: %q, want %q", name, text, tt.want)
		}
	}
	if strings.Contains(f.log.String(), hash) {
		t.Errorf("a hash is in the log:\n%s", f.log)
	}
}

// set gives a file a mode. A group that may write is not the owner's own.
func set(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	if mode&0o020 != 0 && os.Geteuid() == 0 {
		if err := os.Chown(path, -1, 4321); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTroubleFiles: which files may be missing, and who is let in at the start.
func TestTroubleFiles(t *testing.T) {
	bad := ""
	f := newFixture(t, func(f *fixture) {
		bad = f.path("users.toml")
		write(t, bad, "[[user]]\nname = \"bob\"\nrole = \"viewer\"\n")
		set(t, bad, 0o602)
		f.cfg.Passwords.Files = []string{f.path("none")}
	})
	if _, ok := f.a.user("bob"); ok {
		t.Error("who is in a file that others may write is let in at the start")
	}
	list := f.a.Trouble()
	if len(list) != 2 || list[0].Path != bad || list[0].Kept || list[1].Path != f.path("none") || list[1].Kept {
		t.Fatalf("%+v", list)
	}
	if !errors.Is(list[0].Err, ErrWritable) || !errors.Is(list[1].Err, os.ErrNotExist) {
		t.Errorf("%+v", list)
	}
	if got := f.a.Files(); len(got) != 3 || got[0] != bad || got[2] != f.path("none") {
		t.Errorf("files: %q", got)
	}
	// Closing the file is enough.
	set(t, bad, 0o600)
	write(t, f.path("none"), "")
	f.c.after(lookEvery)
	if list := f.a.Trouble(); len(list) > 0 {
		t.Errorf("mended: %+v", list)
	}
	if _, ok := f.a.user("bob"); !ok {
		t.Error("mended, and nobody is let in")
	}
	if none := (&Authenticator{}); none.Trouble() != nil || none.Files() != nil {
		t.Error("no files, and trouble")
	}
}

// TestTroubleTriedAgain: a file that can't be opened is tried again, though it doesn't change.
func TestTroubleTriedAgain(t *testing.T) {
	f := newFixture(t, nil)
	path := f.path("users.toml")
	write(t, path, "[[user]]\nname = \"bob\"\nrole = \"viewer\"\n")
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	none := was
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	f.c.after(lookEvery)
	list := f.a.Trouble()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || !errors.Is(list[0].Err, unix.EMFILE) {
		t.Errorf("%+v", list)
	}
	f.c.after(lookEvery)
	if _, ok := f.a.user("bob"); !ok || f.a.Trouble() != nil {
		t.Errorf("it isn't read when it can be: %+v", f.a.Trouble())
	}
}

// TestGuarded: whose files count.
func TestGuarded(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	for _, tt := range []struct {
		uid, gid int
		mode     os.FileMode
		folder   int
		ok       bool
	}{
		{0, 0, 0o600, 0, true},
		{0, 0, 0o660, 0, true}, // root's own group
		{0, 4321, 0o640, 0, true},
		{0, 4321, 0o660, 0, false},
		{0, 4321, 0o602, 0, false},
		{1234, 1234, 0o600, 1234, true},
		{0, 0, 0o600, 1234, true},
		{1234, 1234, 0o600, 0, false},
		{1234, 1234, 0o600, 1235, false},
		{1234, 1234, 0o660, 1234, false}, // nobody knows who is in that group
	} {
		dir := t.TempDir()
		path := dir + "/users.toml"
		write(t, path, "")
		if err := errors.Join(os.Chown(path, tt.uid, tt.gid), os.Chmod(path, tt.mode), os.Chown(dir, tt.folder, 0)); err != nil {
			t.Fatal(err)
		}
		_, err := ReadUsers(path)
		if wrong := UpdateUsers(path, func([]User) ([]User, error) { return nil, nil }); (wrong == nil) != (err == nil) {
			t.Errorf("%+v: read %v, written %v", tt, err, wrong)
		}
		w := watch(path, time.Now, (&logBuffer{}).logger(), watchedKind{guarded: true}, decodeUsers)
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrWritable) {
			t.Errorf("%+v: %v", tt, err)
		}
		// UpdateUsers has made the good ones anew.
		if (w.sick() == nil) != tt.ok {
			t.Errorf("%+v: %+v", tt, w.sick())
		}
	}
}

func TestCheckPassword(t *testing.T) {
	for password, want := range map[string]error{
		"open sesame": nil, "pässwörd 🗝": nil, strings.Repeat("x", maxPassword): nil,
		"": ErrPasswordEmpty, strings.Repeat("x", maxPassword+1): ErrPasswordTooLong,
		"a\x00b": ErrPasswordText, "a\tb": ErrPasswordText, "\x1b[A": ErrPasswordText, "a\x7f": ErrPasswordText,
		"a\u0085": ErrPasswordText, "a\xffb": ErrPasswordText, "a\r": ErrPasswordText,
	} {
		if err := CheckPassword(password); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%q: %v, want %v", password, err, want)
		}
	}
}

// TestTroubleNotOurs: a file that was given to another user can't be read by root without its
// capabilities; that is told of before a right that was taken out of it is missed.
func TestTroubleNotOurs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	f := newFixture(t, nil)
	path := f.path("users.toml")
	write(t, path, "[[user]]\nname = \"bob\"\nrole = \"viewer\"\n")
	f.c.after(lookEvery)
	if _, ok := f.a.user("bob"); !ok {
		t.Fatal("not read")
	}
	var list []Trouble
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // which ends with the goroutine: it isn't unlocked
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		data[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
		if err == nil {
			err = errors.Join(os.Chown(path, 1234, 1234), unix.Capset(&header, &data[0]))
		}
		f.c.after(lookEvery)
		list = f.a.Trouble()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || !list[0].Kept || !errors.Is(list[0].Err, os.ErrPermission) {
		t.Errorf("%+v", list)
	}
}

func TestWithoutValues(t *testing.T) {
	for message, want := range map[string]string{
		"5e6430 is out of range for float64":     "a number is out of range for float64",
		"99999999999999999999 is out of range":   "a number is out of range",
		`expected value but found "hunter2"`:     "expected value but found ...",
		`invalid character 'x': "hun\"ter2" end`: `invalid character 'x': ... end`,
		"found 0123456789abcdef instead":         "found ... instead",
		"Key 'user.password' has already been":   "Key 'user.password' has already been",
	} {
		if got := WithoutValues(message); got != want {
			t.Errorf("%s: %q, want %q", message, got, want)
		}
	}
}
