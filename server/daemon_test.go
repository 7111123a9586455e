package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
)

// binary is where the program lies that program builds.
var binary = struct {
	once sync.Once
	dir  string
	err  error
}{}

func TestMain(m *testing.M) {
	if text := os.Getenv(serveEnv); text != "" {
		os.Exit(serveAsTold(text))
	}
	status := m.Run()
	if binary.dir != "" {
		os.RemoveAll(binary.dir)
	}
	os.Exit(status)
}

// program returns the path of ctd: of a copy of CTD_BINARY, where that is set, or built anew, once
// for all tests.
func program(t testing.TB) string {
	t.Helper()
	binary.once.Do(func() {
		if binary.dir, binary.err = os.MkdirTemp("", "ctd-test-"); binary.err != nil {
			return
		}
		if given := os.Getenv("CTD_BINARY"); given != "" {
			var b []byte
			if b, binary.err = os.ReadFile(given); binary.err == nil {
				binary.err = os.WriteFile(binary.dir+"/ctd", b, 0o755)
			}
		} else {
			c := exec.Command("go", "build", "-o", binary.dir+"/ctd", "ctd")
			c.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := c.CombinedOutput(); err != nil {
				binary.err = fmt.Errorf("%w: %s", err, out)
			}
		}
		// Other users run it too.
		_ = os.Chmod(binary.dir, 0o755)
	})
	if binary.err != nil {
		t.Fatalf("build ctd: %v", binary.err)
	}
	return filepath.Join(binary.dir, "ctd")
}

// process is a daemon in a process of its own.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	sock   string
	url    string // of TCP
	token  string
	log    logBuffer
	ended  chan struct{}
	status error
}

// startProcess starts `ctd serve` for a namespace and waits until it is ready. It is told to end
// when the test does.
func startProcess(t testing.TB, ns *conntracktest.NS, dir string, args ...string) *process {
	t.Helper()
	p := &process{t: t, sock: filepath.Join(dir, "ctd.sock"), ended: make(chan struct{})}
	args = append([]string{"serve", "--config", os.DevNull, "--netns", ns.Name(), "--socket", p.sock, "--state-dir", filepath.Join(dir, "state"), "--listen", "127.0.0.1:0", "--log-format", "json"}, args...)
	p.cmd = exec.Command(program(t), args...)
	p.cmd.Stderr = &p.log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(syscall.SIGTERM) })
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "TCP:"); ok {
			p.url = strings.TrimSpace(url)
			break
		}
	}
	go func() {
		_, _ = io.Copy(io.Discard, stdout)
		p.status = p.cmd.Wait()
		close(p.ended)
	}()
	if p.url == "" {
		<-p.ended
		t.Fatalf("ctd %s: %v\n%s", strings.Join(args, " "), p.status, p.log.String())
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	p.token = strings.TrimSpace(string(token))
	return p
}

// end sends a signal and waits for the process to end.
func (p *process) end(s syscall.Signal) {
	p.t.Helper()
	select {
	case <-p.ended:
		return
	default:
	}
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
		p.t.Errorf("the daemon did not end at %v:\n%s", s, p.log.String())
	}
}

// client returns a client of the daemon.
func (p *process) client(cfg ctdclient.Config) *ctdclient.Client {
	p.t.Helper()
	if cfg.Server == "" {
		cfg.Server = "unix://" + p.sock
	}
	c, err := ctdclient.New(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// bigFlow sends a little more than 2 GiB over a TCP connection in a namespace, and returns the
// server's port. The connection stays open until the test ends.
func bigFlow(t testing.TB, ns *conntracktest.NS) uint16 {
	t.Helper()
	var l net.Listener
	var c net.Conn
	var err error
	ns.Do(func() { l, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ns.Do(func() {
		c, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", l.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	const pieces, piece = 1025, 2 << 20
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, piece)
		for range pieces {
			if _, err := io.ReadFull(s, buf); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	buf := bytes.Repeat([]byte("x"), piece)
	for range pieces {
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return uint16(l.Addr().(*net.TCPAddr).Port)
}
