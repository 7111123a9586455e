package server

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
)

// TestLogWriter: lines that nobody reads are lost and counted, and nothing waits for them.
func TestLogWriter(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			r, f, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer f.Close()
			logger := newLogger(&Config{LogFormat: format}, &slog.LevelVar{}, f)
			const lines = 3000
			text := strings.Repeat("x", 100)
			began := time.Now()
			for i := range lines {
				logger.Info("line", "n", i, "text", text)
			}
			if took := time.Since(began); took < logPatience || took > logPatience+conntracktest.Patience() {
				t.Errorf("%d lines took %v", lines, took)
			}
			// The reader comes back.
			in := bufio.NewScanner(r)
			read := 0
			for ; read < 10 && in.Scan(); read++ {
			}
			// Now there is room, and how many are lost is said before the next.
			logger.Info("the next")
			f.Close()
			note, next := "", ""
			for in.Scan() {
				switch line := in.Text(); {
				case strings.Contains(line, "are lost"):
					note = line
				case strings.Contains(line, "the next"):
					next = line
				default:
					read++
				}
			}
			want := fmt.Sprintf("lines=%d", lines-read)
			if format == "json" {
				want = fmt.Sprintf(`"lines":%d}`, lines-read)
			}
			if read == 0 || read == lines || !strings.HasSuffix(note, want) || next == "" {
				t.Errorf("%d of %d lines, then %q and %q; want %s", read, lines, note, next, want)
			}
		})
	}
}

// TestLogWriterTorn: what says that lines are lost is a line of its own, also behind one that was lost in its middle.
func TestLogWriterTorn(t *testing.T) {
	r, f, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer f.Close()
	logger := newLogger(&Config{LogFormat: "json"}, &slog.LevelVar{}, f)
	logger.Info("long", "text", strings.Repeat("x", 100_000)) // more than a pipe has room for
	text := make([]byte, 200_000)
	n, err := r.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("next")
	more, err := r.Read(text[n:])
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text[:n+more])), "\n")
	if len(lines) != 3 || !json.Valid([]byte(lines[1])) || !strings.Contains(lines[1], `"lines":1`) || !strings.Contains(lines[2], "next") {
		t.Errorf("%d lines, at last %.200s", len(lines), lines[len(lines)-1])
	}
}

// TestLogReaderEnds: the daemon goes on when whoever reads its log ends, and so it does when nobody reads on.
func TestLogReaderEnds(t *testing.T) {
	for name, end := range map[string]func(*os.File){
		"ended":         func(r *os.File) { r.Close() },
		"reads no more": func(*os.File) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := conntracktest.NewNS(t)
			ns.Conntrack()
			dir := t.TempDir()
			socket := filepath.Join(dir, "ctd.sock")
			c := exec.Command(program(t), "serve", "--config", os.DevNull, "--no-listen", "--socket", socket, "--state-dir", filepath.Join(dir, "state"))
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			c.Stderr = w
			ns.Do(func() { err = c.Start() })
			w.Close()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if c.ProcessState == nil {
					_ = c.Process.Kill()
					_ = c.Wait()
				}
			})
			client, err := ctdclient.New(ctdclient.Config{Server: "unix://" + socket})
			if err != nil {
				t.Fatal(err)
			}
			conntracktest.Eventually(t, "the daemon answers", func() bool {
				_, err := client.Info(t.Context())
				return err == nil
			})
			end(r)
			for i := range 1000 { // a pipe has room for some 400 lines
				if _, err := client.Info(t.Context()); err != nil {
					t.Fatalf("call %d: %v", i, err)
				}
			}
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- c.Wait() }()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("exit: %v", err)
				}
			case <-time.After(conntracktest.Patience()):
				t.Error("it doesn't end")
			}
			if left, _ := filepath.Glob(socket + "*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
