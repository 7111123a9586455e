package rtsptest

import (
	"bufio"
	"bytes"
	_ "embed"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

//go:embed testdata/gst-rtsp-server.py
var gstServer string

// Program is a server or a client that runs in a namespace.
type Program struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
}

// output collects what a program says.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start starts a program, which is killed when the test ends at the latest. Where ready isn't "", it
// waits until the program has printed a line that is it.
func start(t testing.TB, ns *conntracktest.NS, ready string, argv ...string) *Program {
	t.Helper()
	p := &Program{t: t, cmd: exec.Command(argv[0], argv[1:]...), out: &output{}, done: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = p.out
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(func() { err = p.cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	is := make(chan struct{})
	go func() {
		defer close(p.done)
		lines := bufio.NewScanner(stdout)
		for seen := false; lines.Scan(); {
			if ready != "" && !seen && lines.Text() == ready {
				close(is)
				seen = true
			}
			_, _ = p.out.Write(append(lines.Bytes(), '\n'))
		}
		_ = p.cmd.Wait() // how it ended shows in what it said
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", argv[0], p.out)
		}
	})
	if ready != "" {
		select {
		case <-is:
		case <-p.done:
			t.Fatalf("%s ended: %s", argv[0], p.out)
		case <-time.After(conntracktest.Slow(time.Minute)):
			t.Fatalf("%s isn't ready after %v: %s", argv[0], conntracktest.Slow(time.Minute), p.out)
		}
	}
	return p
}

// Interrupt ends the program as Ctrl-C does and waits until it has ended: a client says TEARDOWN.
func (p *Program) Interrupt() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(os.Interrupt) // the error is that it has ended
	select {
	case <-p.done:
	case <-time.After(conntracktest.Patience()):
		p.t.Errorf("%s goes on after an interrupt: %s", p.cmd.Args[0], p.out)
	}
}

// Kill ends the program without giving it a chance to say anything.
func (p *Program) Kill() {
	_ = p.cmd.Process.Kill() // the error is that it has ended
	<-p.done
}

// Ended tells whether the program has ended by itself.
func (p *Program) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Output returns what the program has said.
func (p *Program) Output() string { return p.out.String() }

// URL returns the URL of the stream that all servers have.
func URL(server netip.AddrPort) string { return "rtsp://" + server.String() + "/stream" }

// StartGstServer starts GStreamer's server. /usr/bin/python3 is Debian's, which has the bindings.
func StartGstServer(t testing.TB, ns *conntracktest.NS, port uint16) *Program {
	t.Helper()
	return start(t, ns, "ready", "/usr/bin/python3", "-c", gstServer, strconv.Itoa(int(port)))
}

// StartGst starts GStreamer's client, which asks for UDP and makes no holes for it. version is "1-0"
// or "2-0". It takes one of the server's streams.
func StartGst(t testing.TB, ns *conntracktest.NS, url, version string, more ...string) *Program {
	t.Helper()
	argv := append([]string{
		"gst-launch-1.0", "-q", "rtspsrc", "protocols=udp", "nat-method=none",
		"default-rtsp-version=" + version, "location=" + url,
	}, more...)
	return start(t, ns, "", append(argv, "!", "fakesink", "sync=false")...)
}

// StartFFmpeg starts ffmpeg, which asks for a transport, "udp" or "tcp", and discards what comes.
func StartFFmpeg(t testing.TB, ns *conntracktest.NS, url, transport string) *Program {
	t.Helper()
	return start(t, ns, "", strings.Fields("ffmpeg -nostdin -hide_banner -loglevel warning -rtsp_transport "+
		transport+" -i "+url+" -c copy -f null -")...)
}
