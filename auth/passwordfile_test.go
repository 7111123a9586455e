package auth

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// logBuffer is a log that tests read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPasswordFileLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	hash := cheapHash(t, "secret")
	write(t, path, "# people\n\njane:"+hash+"\r\n  joe:"+sha1Hex+"  \njim:"+sha1Base+"\n"+
		"md5:$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00\nnonsense\na b:"+hash+"\n:"+hash+"\njane:"+sha1Hex+"\nlast:"+hash)
	log := &logBuffer{}
	f := newPasswordFile(path, time.Now, log.logger())
	got := map[string]string{}
	for name, line := range f.lines.get() {
		got[name] = line.hash
	}
	if diff := cmp.Diff(map[string]string{"jane": hash, "joe": sha1Hex, "jim": sha1Base, "last": hash}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, want := range []string{
		`:6 why="it is hashed with MD5`, `:7 why="it is not name:hash`, `:8 why="\"a b\"`, `:9 why="a name is needed`,
		`:10 why="the name is there twice`, "has SHA-1", "names=2",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}
	if strings.Contains(log.String(), "lZL6V") || strings.Contains(log.String(), "nonsense") {
		t.Errorf("the log shows what is in the file:\n%s", log)
	}
}

func TestPasswordFileManyWrongLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	write(t, path, strings.Repeat("nonsense\n", 1000))
	log := &logBuffer{}
	newPasswordFile(path, time.Now, log.logger())
	if n := strings.Count(log.String(), "\n"); n != maxToldLines+1 || !strings.Contains(log.String(), "lines=990") {
		t.Errorf("%d lines:\n%s", n, log)
	}
}

func TestRehash(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "htpasswd"), filepath.Join(dir, "link")
	const text = "# people\n\njoe:%s\r\n\tjane : x\njim:%s\n# the end, without a line end"
	write(t, path, fmt.Sprintf(text, sha1Hex, sha1Base))
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 1234, 4321); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("htpasswd", link); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	log := &logBuffer{}
	f := newPasswordFile(link, time.Now, log.logger())
	joe := f.rehash("joe", sha1Hex, "secret")
	jim := f.rehash("jim", sha1Base, "secret")
	got, err := os.ReadFile(path)
	if err != nil || joe == "" || jim == "" {
		t.Fatalf("%q, %q, %v\n%s", joe, jim, err, log)
	}
	if diff := cmp.Diff(fmt.Sprintf(text, joe, jim), string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	a, b := before.Sys().(*unixStat), after.Sys().(*unixStat)
	if after.Mode() != before.Mode() || a.Uid != b.Uid || a.Gid != b.Gid {
		t.Errorf("mode %v of %d:%d, want %v of %d:%d", after.Mode(), b.Uid, b.Gid, before.Mode(), a.Uid, a.Gid)
	}
	if fi, err := os.Lstat(link); err != nil || fi.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is none any more: %v", err)
	}
	if left, _ := filepath.Glob(dir + "/.*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// It counts at once, although the file is looked at only once a second.
	if line, ok := f.line("joe"); !ok || line != (passwordLine{hash: joe, was: sha1Hex}) {
		t.Errorf("%+v, %v", line, ok)
	}
	if strings.Contains(log.String(), "secret") || strings.Contains(log.String(), joe) {
		t.Errorf("the log has a secret:\n%s", log)
	}
}

// TestRehashLeavesOthersChanges: a line that has changed since it was read stays as it is.
func TestRehashLeavesOthersChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	write(t, path, "joe:"+sha1Hex+"\n")
	log := &logBuffer{}
	f := newPasswordFile(path, time.Now, log.logger())
	for name, text := range map[string]string{
		"another hash": "joe:" + cheapHash(t, "x") + "\n", "no such name": "jane:" + sha1Hex + "\n", "empty": "",
	} {
		write(t, path, text)
		if hash := f.rehash("joe", sha1Hex, "secret"); hash != "" {
			t.Errorf("%s: replaced by %s", name, hash)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if n := strings.Count(log.String(), "can't be replaced"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, log)
	}
}

func TestRehashTooLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	write(t, path, "joe:"+sha1Hex+"\n")
	log := &logBuffer{}
	f := newPasswordFile(path, time.Now, log.logger())
	if hash := f.rehash("joe", sha1Hex, strings.Repeat("x", maxPassword+1)); hash != "" || !strings.Contains(log.String(), "more than 72 bytes") {
		t.Errorf("%q\n%s", hash, log)
	}
}

// TestRehashTogether: each of many writers at the same time leaves what the others wrote.
func TestRehashTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	const names = 6
	var text strings.Builder
	for i := range names {
		fmt.Fprintf(&text, "name%d:%s\n", i, sha1Hex)
	}
	write(t, path, text.String())
	hashes := make([]string, names)
	var wg sync.WaitGroup
	for i := range names {
		wg.Go(func() {
			f := newPasswordFile(path, time.Now, slog.New(slog.DiscardHandler)) // as of another daemon
			for range 100 {
				if hashes[i] = f.rehash(fmt.Sprint("name", i), sha1Hex, "secret"); hashes[i] != "" {
					return
				}
			}
		})
	}
	wg.Wait()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for i, hash := range hashes {
		want += fmt.Sprintf("name%d:%s\n", i, hash)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
