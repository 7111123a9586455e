package server

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestListenUnix(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "ctd.sock")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]fs.FileMode{path: socketMode | fs.ModeSocket, filepath.Dir(path): socketDirMode | fs.ModeDir} {
		if fi, err := os.Stat(p); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", p, fi.Mode(), err, want)
		}
	}
	// Somebody answers there: it stays.
	if _, err := listenUnix(path); !errors.Is(err, errInUse) {
		t.Errorf("a live socket: %v, want %v", err, errInUse)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("the live socket is gone: %v", err)
	} else {
		c.Close()
	}
	l.Close()

	// Nobody answers: it is taken away.
	stale := filepath.Join(dir, "stale.sock")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	if _, err := os.Lstat(stale); err != nil {
		t.Fatal(err)
	}
	if l, err = listenUnix(stale); err != nil {
		t.Errorf("a stale socket: %v", err)
	} else {
		l.Close()
	}

	// What isn't a socket is left alone.
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{file, link, dir} {
		if _, err := listenUnix(p); err == nil || !strings.Contains(err.Error(), "something else than a socket") {
			t.Errorf("%s: %v", p, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
	if _, err := listenUnix(filepath.Join(file, "ctd.sock")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below a file: %v, want ENOTDIR", err)
	}
}

// TestListenAll: where one address can't be had, none is kept.
func TestListenAll(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := Config{Socket: filepath.Join(t.TempDir(), "ctd.sock"), Listen: []string{"127.0.0.1:0", taken.Addr().String()}}
	if _, err := listenAll(&cfg); !errors.Is(err, errInUse) || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("%v, want that %s is in use", err, taken.Addr())
	}
	if _, err := os.Lstat(cfg.Socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	cfg.Listen = []string{"127.0.0.1:0", "[::1]:0"}
	listeners, err := listenAll(&cfg)
	if err != nil || len(listeners) != 3 {
		t.Fatalf("%d listeners, %v", len(listeners), err)
	}
	closeAll(listeners)
}
