package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needRoot skips a test that mounts something, unless it is asked for.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getenv("CTD_KERNEL_TESTS") != "1" {
		t.Skip("needs root and CTD_KERNEL_TESTS=1")
	}
}

// smallDisk returns a folder on a disk of so many bytes.
func smallDisk(t testing.TB, size int) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestDiskFull: a record is on the disk whole or not at all, what is there can be read, and it goes on
// when there is room.
func TestDiskFull(t *testing.T) {
	cfg := newConfig(t)
	cfg.File = filepath.Join(smallDisk(t, 64<<10), "audit.log")
	l := openLog(t, cfg)
	ballast := cfg.File + "-ballast"
	if err := os.WriteFile(ballast, make([]byte, 16<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	written, failed := 0, 0
	fill := func() {
		t.Helper()
		for i := 0; ; i++ {
			r := begin(fmt.Sprintf("r%d", written), t0)
			r.Reason = strings.Repeat("r", 50+i%100)
			err := l.Write(r)
			if err == nil {
				written++
				continue
			}
			failed++
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("record %d: %v, want ENOSPC", written, err)
			}
			if st := l.Status(); st.Err == nil || st.Failed != uint64(failed) {
				t.Errorf("status %+v", st)
			}
			break
		}
		if got := lines(t, cfg.File); len(got) != written {
			t.Errorf("%d lines of %d", len(got), written)
		}
		if got := read(t, l, Query{Limit: 10000}); len(got.Records) != written || got.Unread != 0 {
			t.Errorf("%d read of %d, %d unread", len(got.Records), written, got.Unread)
		}
	}
	fill()
	before := written
	fill() // still
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	fill()
	if written < before+10 || failed != 3 {
		t.Errorf("%d records, then %d; %d failed", before, written, failed)
	}
}

// TestDiskFullAtRotation: without room for a new file the old one is kept.
func TestDiskFullAtRotation(t *testing.T) {
	cfg := newConfig(t)
	cfg.File = filepath.Join(smallDisk(t, 1<<20), "audit.log")
	l := openLog(t, cfg)
	l.file.cfg.MaxSize = maxLine
	write(t, l, filled(t, l.file.cfg, "a", t0))
	if err := os.WriteFile(cfg.File+"-ballast", make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk isn't full: %v", err)
	}
	b := filled(t, l.file.cfg, "b", t0)
	if err := l.Write(b); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("on a full disk: %v", err)
	}
	if got := read(t, l, Query{}); len(got.Records) != 1 || got.Records[0].ID != "a" {
		t.Errorf("%+v", got)
	}
	if err := os.Remove(cfg.File + "-ballast"); err != nil {
		t.Fatal(err)
	}
	write(t, l, b)
	if got := read(t, l, Query{}); len(got.Records) != 2 {
		t.Errorf("%+v", got)
	}
}

// journalEnv makes the test's program what writes into journald, in a mount namespace of its own.
const journalEnv = "CTD_TEST_JOURNAL"

// TestJournald writes to a socket where journald's is, which only this test sees.
func TestJournald(t *testing.T) {
	needRoot(t)
	if os.Getenv(journalEnv) == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", os.Args[0], "-test.run=^TestJournald$", "-test.v")
		cmd.Env = append(os.Environ(), journalEnv+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestJournald") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	runtime.LockOSThread()
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if l, err := Open(Config{To: ToJournald}, nil); !errors.Is(err, ErrNoJournal) || !strings.Contains(err.Error(), "start systemd-journald") {
		t.Fatalf("without journald: %v, %v", l, err)
	}
	if err := os.MkdirAll("/run/systemd/journal", 0o755); err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/run/systemd/journal/socket", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	l := openLog(t, Config{To: ToJournald})
	r := begin("a", t0)
	r.Principal = "a\nPRIORITY=0"
	write(t, l, r)
	buf := make([]byte, 64<<10)
	n, err := socket.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	text := string(buf[:n])
	for _, want := range []string{"PRIORITY=5\n", "SYSLOG_IDENTIFIER=ctd-audit\n", "CTD_EVENT=begin\n", "CTD_ID=a\n", "CTD_METHOD=conntrack.kill\n", "CTD_FROM=10.0.0.1:4711\n", "CTD_PRINCIPAL\n\x0c\x00\x00\x00\x00\x00\x00\x00a\nPRIORITY=0\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, text)
		}
	}
	_, message, _ := strings.Cut(text, "MESSAGE=")
	message, _, _ = strings.Cut(message, "\n")
	var got Record
	if err := json.Unmarshal([]byte(message), &got); err != nil || got.ID != "a" || got.Principal != r.Principal {
		t.Errorf("%v: %q", err, message)
	}
	if _, err := l.Read(t.Context(), Query{Limit: 1}); !errors.Is(err, ErrNotRead) {
		t.Errorf("read from journald: %v", err)
	}

	// One that doesn't read holds a change up for a while, and those after it not at all.
	began := time.Now()
	for err == nil && time.Since(began) < time.Minute {
		err = l.Write(begin("b", t0))
	}
	if !errors.Is(err, errJournalHangs) || l.Status().Err == nil {
		t.Fatalf("a journald that hangs: %v", err)
	}
	began = time.Now()
	if err := l.Write(begin("c", t0)); !errors.Is(err, errJournalHangs) || time.Since(began) >= journalPatience {
		t.Errorf("the next: %v after %v", err, time.Since(began))
	}
	go func() { // it reads again
		for {
			if _, err := socket.Read(buf); err != nil {
				return
			}
		}
	}()
	for began = time.Now(); l.Write(begin("d", t0)) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("it doesn't go on")
		}
	}
	if st := l.Status(); st.Err != nil {
		t.Errorf("status %+v", st)
	}
}
