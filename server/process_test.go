package server

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// TestStaleSocket: a killed daemon leaves its socket, and the next one starts all the same; one
// that lives keeps its socket from a second one.
func TestStaleSocket(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	dir := t.TempDir()
	first := startProcess(t, ns, dir)
	answers := func(p *process) {
		t.Helper()
		if info, err := p.client(ctdclient.Config{}).Info(t.Context()); err != nil || info.NetNS != ns.Name() {
			t.Errorf("%+v, %v", info, err)
		}
	}
	answers(first)

	for name, args := range map[string][]string{
		"the same socket": {"--socket", first.sock, "--no-listen"},
		"the same port":   {"--socket", dir + "/other.sock", "--listen", strings.TrimPrefix(first.url, "http://")},
	} {
		c := exec.Command(program(t), append([]string{"serve", "--config", os.DevNull, "--netns", ns.Name(), "--state-dir", dir + "/other"}, args...)...)
		out, err := c.CombinedOutput()
		if c.ProcessState.ExitCode() != int(wire.ExitOther) || !strings.Contains(string(out), "address in use") || !strings.Contains(string(out), "hint: another daemon") {
			t.Errorf("a second daemon on %s: %v %s", name, err, out)
		}
		answers(first)
	}
	if token, err := os.ReadFile(dir + "/token"); err != nil || strings.TrimSpace(string(token)) != first.token {
		t.Errorf("the second daemon wrote its token over the first one's: %v", err)
	}

	// Two in one folder would write their tokens over each other's.
	c := exec.Command(program(t), "serve", "--config", os.DevNull, "--netns", ns.Name(), "--socket", dir+"/other.sock", "--state-dir", dir+"/other", "--no-listen")
	out, err := c.CombinedOutput()
	if c.ProcessState.ExitCode() != int(wire.ExitOther) || !strings.Contains(string(out), "another daemon's token") || !strings.Contains(string(out), "hint: ") {
		t.Errorf("a second daemon in one folder: %v %s", err, out)
	}
	if _, err := os.Lstat(dir + "/other.sock"); err == nil {
		t.Error("it left its socket behind")
	}
	if token, err := os.ReadFile(dir + "/token"); err != nil || strings.TrimSpace(string(token)) != first.token {
		t.Errorf("the second daemon's end took the first one's token: %v", err)
	}
	answers(first)

	first.end(syscall.SIGKILL)
	for _, name := range []string{"ctd.sock", "token"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Errorf("a killed daemon took its %s along: %v", name, err)
		}
	}
	if c, err := net.Dial("unix", first.sock); err == nil {
		c.Close()
		t.Error("somebody listens still")
	}
	second := startProcess(t, ns, dir)
	answers(second)
	if first.token == second.token {
		t.Error("the token is the same as before")
	}
	old := second.client(ctdclient.Config{Server: second.url, Token: first.token})
	if _, err := old.Info(t.Context()); err == nil {
		t.Error("the old token is still good")
	}
	if fi, err := os.Stat(dir + "/token"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("token: %v, %v", fi.Mode(), err)
	}
	second.end(syscall.SIGTERM)
	if second.status != nil {
		t.Errorf("ended by SIGTERM: %v", second.status)
	}
	for _, name := range []string{"ctd.sock", "token", "token.lock"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("left behind: %s", name)
		}
	}
}

// TestTerminate: SIGTERM lets a list under way come to its end.
func TestTerminate(t *testing.T) {
	const flows = 30_000
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	var lines strings.Builder
	for i := range flows {
		lines.WriteString("-A -p udp -s 10.7." + strconv.Itoa(i>>8) + "." + strconv.Itoa(i&255) + " -d 192.0.2.1 --sport 1 --dport 2 -t 600 -u SEEN_REPLY\n")
	}
	if _, err := ns.Conntrack8In(lines.String(), "-R", "-"); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, ns, t.TempDir())
	call := jsonCall(t, p.url+"/rpc", "conntrack.list", "")
	call.Header.Set("Authorization", "Bearer "+p.token)
	c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(128 << 10); err != nil {
		t.Fatal(err)
	}
	if err := call.Write(c); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if _, err := r.Peek(1); err != nil { // the list is under way
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	conntracktest.Eventually(t, "the daemon stops listening", func() bool {
		d := net.Dialer{Timeout: time.Second}
		c, err := d.DialContext(context.Background(), "unix", p.sock)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case <-p.ended:
		t.Fatal("it ended before the list did")
	default:
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	var reply struct {
		Result struct {
			Flows   []json.RawMessage
			Matched int
		}
	}
	if err == nil {
		err = json.Unmarshal(b, &reply)
	}
	if err != nil || len(reply.Result.Flows) != flows || reply.Result.Matched != flows {
		t.Errorf("%d flows of %d matched, %v; want %d", len(reply.Result.Flows), reply.Result.Matched, err, flows)
	}
	// A second signal would end it at once.
	select {
	case <-p.ended:
		if p.status != nil {
			t.Errorf("exit: %v\n%s", p.status, p.log.String())
		}
	case <-time.After(20 * time.Second):
		t.Error("it did not end when the list had")
	}
}
