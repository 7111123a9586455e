package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

const secret = "the-secret-token"

// fakeTable is a table in memory, with settings.
type fakeTable struct {
	*conntracktest.Fake
	sysctls map[string]string
	// many, where not 0, are so many flows that a list has instead of the table's.
	many int
	// between is called before each flow of a list.
	between func(ctx context.Context, n int) error
}

func (t *fakeTable) Sysctl(name string) (string, error) {
	if v, ok := t.sysctls[name]; ok {
		return v, nil
	}
	return "", fmt.Errorf("read net.netfilter.%s: %w", name, os.ErrNotExist)
}

func (t *fakeTable) InNetNS(fn func() error) error { return fn() }
func (t *fakeTable) NetNS() *os.File               { return nil }

func (t *fakeTable) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	flows := t.Fake.Flows(ctx, f, opts...)
	if t.many > 0 {
		flows = func(yield func(conntrack.Flow, error) bool) {
			for i := range t.many {
				if !yield(tcpFlow(i), nil) {
					return
				}
			}
		}
	}
	if t.between == nil {
		return flows
	}
	return func(yield func(conntrack.Flow, error) bool) {
		n := 0
		for f, err := range flows {
			if err == nil {
				err = t.between(ctx, n)
			}
			n++
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

// tcpFlow is the flow number i of tests.
func tcpFlow(i int) conntrack.Flow {
	f := conntrack.Flow{
		Orig: conntrack.Tuple{
			Src: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Dst: netip.MustParseAddr("192.0.2.1"),
			Proto: conntrack.TCP, SrcPort: 40000, DstPort: 443,
		},
		Timeout: 600 * time.Second, State: 3, Mark: uint32(i),
	}
	f.Set(conntrack.AttrState)
	return f
}

func tcpFlows(n int) []conntrack.Flow {
	flows := make([]conntrack.Flow, n)
	for i := range flows {
		flows[i] = tcpFlow(i)
	}
	return flows
}

// fixture is a server over a fake table, whose log is kept.
type fixture struct {
	*Server
	fake *fakeTable
	log  *logBuffer
	dir  string
}

func newFixture(t testing.TB, cfg Config, flows ...conntrack.Flow) *fixture {
	t.Helper()
	f := &fixture{
		fake: &fakeTable{Fake: conntracktest.NewFake(flows...), sysctls: map[string]string{}},
		log:  &logBuffer{}, dir: t.TempDir(),
	}
	cfg.Version = "1.2.3"
	if cfg.Socket == "" {
		cfg.Socket = filepath.Join(f.dir, "ctd.sock")
	}
	f.Server = newServer(t, cfg, f.fake, slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	return f
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// events returns the events with a message.
func (b *logBuffer) events(t testing.TB, message string) []map[string]any {
	t.Helper()
	var events []map[string]any
	for line := range strings.Lines(b.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if e["msg"] == message {
			events = append(events, e)
		}
	}
	return events
}

// running is a server that listens.
type running struct {
	*fixture
	tcp  string // base URL
	sock string
	stop context.CancelFunc
	done chan error
}

// start listens on a socket and on a free port until the test ends or stop is called.
func (f *fixture) start(t testing.TB) *running {
	t.Helper()
	f.cfg.Listen = []string{"127.0.0.1:0"}
	listeners, err := listenAll(&f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{fixture: f, sock: f.cfg.Socket, stop: cancel, done: make(chan error, 1)}
	r.tcp = "http://" + listeners[1].Addr().String()
	go func() { r.done <- f.serve(ctx, listeners) }()
	t.Cleanup(func() { cancel(); <-r.done })
	return r
}

// wait returns what serve returned, and leaves it for the cleanup too.
func (r *running) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("serve did not end")
		return nil
	}
}

// unixClient returns a client that goes over the socket whatever the URL is.
func unixClient(t testing.TB, path string) *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// tcpClient returns a client whose connections end with the test.
func tcpClient(t testing.TB) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// jsonCall makes a request that calls a method with the token.
func jsonCall(t testing.TB, url, method, params string) *http.Request {
	t.Helper()
	body := `{"jsonrpc":"2.0","id":1,"method":"` + method + `"`
	if params != "" {
		body += `,"params":` + params
	}
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body+"}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+secret)
	return r
}

// do sends a request and returns status and body.
func do(t testing.TB, c *http.Client, r *http.Request) (int, string) {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestShutdownFinishes: a list under way when the daemon is told to end comes whole.
func TestShutdownFinishes(t *testing.T) {
	const flows = 2000
	f := newFixture(t, Config{})
	f.fake.many = flows
	begun, resume := make(chan struct{}), make(chan struct{})
	f.fake.between = func(_ context.Context, n int) error {
		if n == flows/2 {
			close(begun)
			<-resume
		}
		return nil
	}
	r := f.start(t)
	type answer struct {
		text string
		err  error
	}
	got := make(chan answer, 1)
	call := jsonCall(t, r.tcp+"/rpc", "conntrack.list", "")
	go func() {
		resp, err := http.DefaultClient.Do(call)
		if err != nil {
			got <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		got <- answer{string(b), err}
	}()
	<-begun
	r.stop()
	conntracktest.Eventually(t, "new connections are refused", func() bool {
		c, err := net.Dial("unix", r.sock)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(resume)
	a := <-got
	if a.err != nil {
		t.Fatalf("the list was cut: %v", a.err)
	}
	var reply struct {
		Result struct {
			Flows   []json.RawMessage
			Matched int
		}
	}
	if err := json.Unmarshal([]byte(a.text), &reply); err != nil || len(reply.Result.Flows) != flows || reply.Result.Matched != flows {
		t.Errorf("%d flows, matched %d, %v; want %d", len(reply.Result.Flows), reply.Result.Matched, err, flows)
	}
	if err := r.wait(t); err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := os.Lstat(r.sock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestShutdownCuts: a call that doesn't end is cut when the grace is over.
func TestShutdownCuts(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlows(2)...)
	f.timing.grace = 100 * time.Millisecond
	begun := make(chan struct{})
	f.fake.between = func(ctx context.Context, n int) error {
		if n == 1 {
			close(begun)
			<-ctx.Done() // until the connection is cut
		}
		return ctx.Err()
	}
	r := f.start(t)
	got := make(chan error, 1)
	call := jsonCall(t, r.tcp+"/rpc", "conntrack.list", "")
	go func() {
		resp, err := http.DefaultClient.Do(call)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		got <- err
	}()
	<-begun
	began := time.Now()
	r.stop()
	if err := <-got; err == nil {
		t.Error("the call came to an end")
	}
	if err := r.wait(t); err != nil {
		t.Errorf("serve: %v", err)
	}
	if took := time.Since(began); took < f.timing.grace || took > 10*time.Second {
		t.Errorf("cut after %v, want %v", took, f.timing.grace)
	}
	if len(f.log.events(t, "requests are cut off")) != 1 {
		t.Errorf("log: %s", f.log)
	}
}

// slowReader rests after each quarter of a megabyte.
type slowReader struct {
	net.Conn
	rest time.Duration
	n    int
}

func (r *slowReader) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if r.n += n; r.n > 256<<10 {
		r.n = 0
		time.Sleep(r.rest)
	}
	return n, err
}

// TestWriteStall: a caller who doesn't read is cut; one who reads slowly is not.
func TestWriteStall(t *testing.T) {
	const flows, many = 60_000, 100_000 // some 11 and 19 MB; the kernel holds 4 and a little
	f := newFixture(t, Config{})
	f.fake.many = many
	// Far longer than the slow caller rests, so that it holds on a machine that is busy.
	f.timing.writeStall = 1500 * time.Millisecond
	r := f.start(t)
	dial := func(buffer int) net.Conn {
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) })
		}}
		c, err := d.Dial("tcp", strings.TrimPrefix(r.tcp, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := jsonCall(t, r.tcp+"/rpc", "conntrack.list", "").Write(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := dial(64 << 10)
	conntracktest.Eventually(t, "the caller who reads nothing is cut", func() bool {
		return strings.Contains(f.log.String(), `"cut":true`)
	})
	resp, err := http.ReadResponse(bufio.NewReader(c), nil) // what the kernel held
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err == nil {
		t.Error("the answer came whole")
	}

	f.fake.many = flows
	began := time.Now()
	resp, err = http.ReadResponse(bufio.NewReaderSize(&slowReader{Conn: dial(2 << 20), rest: 60 * time.Millisecond}, 64<<10), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if took := time.Since(began); took < f.timing.writeStall {
		t.Errorf("it took %v: too fast to show anything", took)
	}
	var reply struct {
		Result struct{ Flows []json.RawMessage }
	}
	if err == nil {
		err = json.Unmarshal(text, &reply)
	}
	if err != nil || len(reply.Result.Flows) != flows {
		t.Errorf("a slow caller got %d flows, %v", len(reply.Result.Flows), err)
	}
}

// newServer returns a server that cuts nothing and knows secret.
func newServer(t testing.TB, cfg Config, table Table, logger *slog.Logger) *Server {
	t.Helper()
	s, err := New(cfg, table, nil, secret, logger)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
