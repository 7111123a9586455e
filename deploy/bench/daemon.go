package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// daemon is ctd serve over a rig's table.
type daemon struct {
	cmd   *exec.Cmd
	addr  string
	token string
	// The connection that is kept alive, without http.Client around it: its goroutines would cost
	// a small call more time than the daemon does.
	conn  net.Conn
	reply *bufio.Reader
}

// startDaemon starts the daemon with everything of its own, and waits until it is ready.
func startDaemon(ctx context.Context, ctd string, r *rig, more ...string) (*daemon, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close()
	dir := filepath.Join(r.dir, r.ns+"-daemon")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	d := &daemon{addr: addr}
	d.cmd = exec.Command(ctd, append([]string{
		"serve", "--config", os.DevNull, "--netns", r.ns, "--listen", addr,
		"--socket", filepath.Join(dir, "ctd.sock"), "--state-dir", filepath.Join(dir, "state"),
	}, more...)...)
	// A file takes its log without anybody having to read along.
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.cmd.Stderr = log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := d.ready(ctx, filepath.Join(dir, "token"))
		if err == nil {
			return d, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			said, _ := os.ReadFile(log.Name())
			return nil, errors.Join(fmt.Errorf("the daemon isn't ready: %w", err), d.stop(),
				errors.New(strings.TrimSpace(string(said))))
		}
	}
}

func (d *daemon) ready(ctx context.Context, tokenFile string) error {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return err
	}
	d.token = strings.TrimSpace(string(token))
	return d.call(ctx, "server.info", map[string]any{}, nil)
}

func (d *daemon) stop() error {
	if d.conn != nil {
		d.conn.Close()
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return d.cmd.Wait()
}

// connect opens the connection where there is none.
func (d *daemon) connect(ctx context.Context) error {
	if d.conn != nil {
		return nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return err
	}
	d.conn, d.reply = conn, bufio.NewReaderSize(conn, 256<<10)
	return nil
}

// post sends one JSON-RPC request. The answer's body must be read to its end.
func (d *daemon) post(ctx context.Context, method string, params any) (*http.Response, error) {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return nil, err
	}
	if err := d.connect(ctx); err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(d.conn, "POST /rpc HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", d.addr, d.token, len(body), body)
	if err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(d.reply, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", method, resp.Status)
	}
	return resp, nil
}

// call calls a method whose result is small.
func (d *daemon) call(ctx context.Context, method string, params, result any) error {
	resp, err := d.post(ctx, method, params)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var reply struct {
		Result json.RawMessage
		Error  *struct {
			Code    int
			Message string
		}
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &reply)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if reply.Error != nil {
		return fmt.Errorf("%s: %s (%d)", method, reply.Error.Message, reply.Error.Code)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(reply.Result, result)
}

var matchedAtEnd = regexp.MustCompile(`\],\s*"matched":\s*(\d+)`)

// list lists what a filter matches, discards it as it comes, and checks how many there were.
func (d *daemon) list(ctx context.Context, filter any, want int) (took time.Duration, size int64, err error) {
	params := map[string]any{}
	if filter != nil {
		params["filter"] = filter
	}
	begin := time.Now()
	resp, err := d.post(ctx, "conntrack.list", params)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	size, tail, err := discard(resp.Body)
	if err != nil {
		return 0, size, fmt.Errorf("conntrack.list: %w", err)
	}
	took = time.Since(begin)
	m := matchedAtEnd.FindSubmatch(tail)
	if m == nil || string(m[1]) != strconv.Itoa(want) {
		return 0, size, fmt.Errorf("conntrack.list: want %d matched at the end of %d bytes: %q", want, size, tail)
	}
	return took, size, nil
}

// kill kills and checks how many flows went.
func (d *daemon) kill(ctx context.Context, params map[string]any, want int) (time.Duration, error) {
	params["max"] = want
	var result struct{ Killed int }
	begin := time.Now()
	err := d.call(ctx, "conntrack.kill", params, &result)
	took := time.Since(begin)
	if err == nil && result.Killed != want {
		err = fmt.Errorf("conntrack.kill: killed %d, want %d", result.Killed, want)
	}
	return took, err
}

// rss returns the daemon's resident memory in bytes, now and at its peak since resetPeak.
func (d *daemon) rss() (now, peak int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			now = kib << 10
		case "VmHWM":
			peak = kib << 10
		}
	}
	if now == 0 || peak == 0 {
		return 0, 0, errors.New("no VmRSS or VmHWM")
	}
	return now, peak, nil
}

// resetPeak makes the peak start from now (proc(5), clear_refs).
func (d *daemon) resetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", d.cmd.Process.Pid), []byte("5"), 0o200)
}
