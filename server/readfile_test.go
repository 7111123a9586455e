package server

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// within fails where fn hasn't ended in time.
func within(t testing.TB, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal(what + " hangs")
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"file": "0123", "long": "01234"} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := unix.Mkfifo(at("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("pipe", at("link")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{ // what is read, or ! and what is wrong
		at("file"): "0123", at("long"): "!has more than the 4 bytes", at("none"): "!no such file", os.DevNull: "",
		at("pipe"): "!is no regular file", at("link"): "!is no regular file", at("socket"): "!is no regular file",
		dir: "!is no regular file", "/dev/zero": "!is no regular file", "/dev/full": "!is no regular file",
	} {
		within(t, name, func() {
			text, _, err := readFile(name, 4)
			wrong, isWrong := strings.CutPrefix(want, "!")
			if isWrong != (err != nil) || isWrong && !strings.Contains(err.Error(), wrong) || !isWrong && string(text) != want {
				t.Errorf("%s: %q, %v, want %q", name, text, err, want)
			}
		})
	}
}

// TestPipes: a pipe in the place of a file that the daemon reads keeps nobody waiting.
func TestPipes(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	within(t, "the configuration", func() {
		if _, wrong := readConfigFile(pipe, defaultSettings()); len(wrong) != 1 || !strings.Contains(wrong[0].Error(), pipe+" is no regular file") {
			t.Errorf("the configuration: %v", wrong)
		}
	})
	within(t, "TLS", func() {
		if wrong := checkTLS(TLSConfig{Cert: pipe, Key: pipe, ClientCA: pipe}); len(wrong) != 2 {
			t.Errorf("TLS: %v", wrong)
		}
	})
	within(t, "the doctor", func() {
		if got := unreadable(TLSConfig{Cert: pipe}); got != pipe {
			t.Errorf("the doctor finds %q", got)
		}
	})
}

// TestEndWhileReloading: the daemon ends although the configuration is still being read.
func TestEndWhileReloading(t *testing.T) {
	f := newReloadFixture(t, "")
	begun, hangs := make(chan struct{}), make(chan struct{})
	load := f.reloads.load
	f.reloads.load = func() (*loaded, []error) {
		close(begun)
		<-hangs
		return load()
	}
	f.timing.grace = 50 * time.Millisecond
	before := f.policy.Load()
	r := f.start(t)
	f.signals <- unix.SIGHUP
	<-begun
	r.stop()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	close(hangs)
	time.Sleep(50 * time.Millisecond)
	if f.policy.Load() != before {
		t.Error("what was read after the end counts")
	}
}
