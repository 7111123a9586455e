package auth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWatchedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	c, log, read := newClock(), &logBuffer{}, 0
	w := watch(path, c.now, log.logger(), watchedKind{}, func(text []byte) (string, error) {
		read++
		if strings.HasPrefix(string(text), "bad") {
			return "", errors.New("it is bad")
		}
		return string(text), nil
	})
	expect := func(what, want string) {
		t.Helper()
		if got := w.get(); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	expect("none", "")
	write(t, path, "one")
	expect("within the second", "")
	c.after(lookEvery)
	expect("made", "one")
	for range 10 {
		c.after(lookEvery)
		expect("the same", "one")
	}
	if read != 1 {
		t.Errorf("read %d times, want once", read)
	}
	write(t, path, "second")
	c.after(lookEvery)
	expect("changed", "second")
	for range 3 {
		write(t, path, "bad")
		c.after(lookEvery)
		expect("bad", "second")
	}
	if n := strings.Count(log.String(), "it is bad"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, log)
	}
	write(t, path, "mended")
	c.after(lookEvery)
	expect("mended", "mended")
	write(t, path, strings.Repeat("x", maxFile+1))
	c.after(lookEvery)
	expect("too long", "mended")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c.after(lookEvery)
	expect("removed", "")
}

// TestWatchedFileRewritten: a file that was written twice within a tick of the kernel's clock has the times
// and the size that it had.
func TestWatchedFileRewritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	c, log, parsed := newClock(), &logBuffer{}, 0
	write(t, path, "one")
	w := watch(path, c.now, log.logger(), watchedKind{}, func(text []byte) (string, error) {
		parsed++
		return string(text), nil
	})
	// As it is after the second time.
	write(t, path, "two")
	state, err := StateOf(path)
	if err != nil {
		t.Fatal(err)
	}
	if w.state != (FileState{}) {
		w.state = state
	}
	for range 10 {
		c.after(lookEvery)
		if got := w.get(); got != "two" {
			t.Errorf("%q, want two", got)
		}
	}
	if parsed != 2 || w.state != state {
		t.Errorf("parsed %d times, and it is still read: %+v", parsed, w.state)
	}
}

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	file, link, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	write(t, file, "text")
	if err := errors.Join(os.Symlink("file", link), unix.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{file: true, link: true, pipe: false, dir: false, filepath.Join(dir, "none"): false} {
		began := time.Now()
		f, err := openFile(path, unix.O_RDONLY)
		if err == nil {
			f.Close()
		}
		if (err == nil) != want || time.Since(began) > 5*time.Second {
			t.Errorf("%s: %v after %v", path, err, time.Since(began))
		}
	}
	if os.Geteuid() != 0 {
		return // nobody else's folder can be made
	}
	if err := os.Chown(dir, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if f, err := openFile(link, unix.O_RDONLY); err == nil {
		f.Close()
		t.Error("a link in a folder of another user was followed")
	} else if !strings.Contains(err.Error(), "name the file itself") {
		t.Error(err)
	}
	if f, err := openFile(file, unix.O_RDONLY); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
}
