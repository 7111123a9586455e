//go:build linux

package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctd/clients/cli"
	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
	"ctd/server"
)

// terminal is a pseudo terminal: what a person sees, and where it types.
type terminal struct {
	t     *testing.T
	slave *os.File // the command's end
	pty   *os.File

	mu   sync.Mutex
	text bytes.Buffer
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pty.Close() })
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 100}); err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, slave: slave, pty: pty}
	go func() { _, _ = io.Copy(term, pty) }()
	return term
}

// Write notes what the terminal shows.
func (term *terminal) Write(b []byte) (int, error) {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.text.Write(b)
}

func (term *terminal) shown() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return strings.ReplaceAll(term.text.String(), "\r\n", "\n")
}

// await waits until the terminal shows a text.
func (term *terminal) await(text string) {
	term.t.Helper()
	for limit := time.Now().Add(conntracktest.Patience()); !strings.Contains(term.shown(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			term.t.Fatalf("%q isn't shown, but\n%s", text, term.shown())
		}
	}
}

func (term *terminal) typed(text string) {
	term.t.Helper()
	if _, err := term.pty.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

// memory is a daemon's table in memory.
type memory struct{ *conntracktest.Fake }

func (memory) Sysctl(string) (string, error) { return "", os.ErrNotExist }

func (memory) InNetNS(fn func() error) error { return fn() }

func (memory) NetNS() *os.File { return nil }

// person is somebody at a terminal with a daemon.
type person struct {
	*terminal
	client *ctdclient.Client
	url    string
	env    map[string]string

	mu    sync.Mutex
	calls []string // methods; a question mark is a dry run
	from  []string // addresses that they came from
}

func newPerson(t *testing.T, flows int) *person {
	t.Helper()
	p := &person{terminal: newTerminal(t), env: map[string]string{"CTD_TOKEN": "secret", "NO_COLOR": "1"}}
	srv, err := server.New(server.Config{Version: "1.2.3"}, memory{conntracktest.NewFake()}, nil, "secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	handler := srv.Handler()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var call struct {
			Method string
			Params struct {
				DryRun bool `json:"dry_run"`
			}
		}
		if json.Unmarshal(body, &call) == nil && call.Method != "conntrack.create" && call.Method != "conntrack.list" &&
			call.Method != "expect.create" && call.Method != "expect.list" {
			p.mu.Lock()
			p.calls = append(p.calls, strings.TrimPrefix(call.Method, "conntrack.")+map[bool]string{true: "?"}[call.Params.DryRun])
			p.from = append(p.from, r.RemoteAddr)
			p.mu.Unlock()
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	p.url = s.URL
	if p.client, err = ctdclient.New(ctdclient.Config{Server: s.URL, Token: "secret"}); err != nil {
		t.Fatal(err)
	}
	for i := range flows {
		p.create(i)
	}
	return p
}

// create makes the UDP flow number i, from 10.0.x.y.
func (p *person) create(i int) {
	p.t.Helper()
	timeout := uint32(300)
	_, err := p.client.Create(p.t.Context(), wire.CreateParams{Flow: wire.Flow{
		Protocol: "udp", ProtoNum: 17, Timeout: &timeout,
		Orig: &wire.Tuple{Src: fmt.Sprintf("10.0.%d.%d", i>>8, i&255), Dst: "192.0.2.53", SPort: new(uint16(5353)), DPort: new(uint16(53))},
	}})
	if err != nil {
		p.t.Fatal(err)
	}
}

// expect makes n expectations of one master, to the ports from 5000 on that are free.
func (p *person) expect(n int) {
	p.t.Helper()
	master := wire.Flow{
		Protocol: "tcp", ProtoNum: 6, Timeout: new(uint32(3600)), Helper: "ftp", State: "ESTABLISHED",
		Orig: &wire.Tuple{Src: "10.0.0.1", Dst: "192.0.2.1", SPort: new(uint16(40000)), DPort: new(uint16(21))},
	}
	var refused *wire.Error
	if _, err := p.client.Create(p.t.Context(), wire.CreateParams{Flow: master}); err != nil && (!errors.As(err, &refused) || refused.Code != wire.AlreadyExists) {
		p.t.Fatal(err)
	}
	for port := uint16(5000 + p.expected()); n > 0; port++ {
		n--
		_, err := p.client.ExpectCreate(p.t.Context(), wire.ExpectCreateParams{
			Master: master, Timeout: 60, Tuple: wire.Tuple{Src: "192.0.2.1", Dst: "10.0.0.1", DPort: &port},
		})
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

// expected returns how many expectations there are.
func (p *person) expected() int {
	p.t.Helper()
	r, err := p.client.ExpectList(p.t.Context(), wire.ExpectListParams{})
	if err != nil {
		p.t.Fatal(err)
	}
	return r.Matched
}

func (p *person) left() int {
	p.t.Helper()
	r, err := p.client.Kill(p.t.Context(), wire.KillParams{All: true, DryRun: true, Max: new(100000)})
	if err != nil {
		p.t.Fatal(err)
	}
	return r.Matched
}

// run runs the command with standard input and error on the terminal. answer is called when it
// asks; nil: it must not ask.
func (p *person) run(answer func(), args ...string) (status int, stdout string) {
	p.t.Helper()
	return p.runWith(p.t.Context(), cli.Options{Stdin: p.slave, Stderr: p.slave}, answer, args...)
}

func (p *person) runWith(ctx context.Context, o cli.Options, answer func(), args ...string) (status int, stdout string) {
	p.t.Helper()
	p.terminal.mu.Lock()
	p.text.Reset()
	p.terminal.mu.Unlock()
	p.mu.Lock()
	p.calls, p.from = nil, nil
	p.mu.Unlock()
	var out bytes.Buffer
	o.Stdout = &out
	o.Getenv = func(name string) string { return p.env[name] }
	done := make(chan int)
	go func() { done <- cli.Run(ctx, append(args, "--server", p.url), o) }()
	if answer != nil {
		p.await("[y/N] ")
		answer()
	}
	select {
	case status = <-done:
	case <-time.After(conntracktest.Patience()):
		p.t.Fatalf("%q doesn't end; the terminal shows\n%s", args, p.shown())
	}
	if answer == nil && strings.Contains(p.shown(), "[y/N]") {
		p.t.Errorf("%q asks:\n%s", args, p.shown())
	}
	return status, out.String()
}

func (p *person) types(text string) func() { return func() { p.t.Helper(); p.typed(text) } }

// called tells whether the last run called these methods; a question mark is a dry run.
func (p *person) called(want string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := strings.Join(p.calls, " "); got != want {
		p.t.Errorf("called %q, want %q", got, want)
	}
}

func (p *person) shows(texts ...string) {
	p.t.Helper()
	p.await(texts[len(texts)-1])
	for _, text := range texts {
		if !strings.Contains(p.shown(), text) {
			p.t.Errorf("%q isn't shown, but\n%s", text, p.shown())
		}
	}
}

// TestSparedNote: the command names the SSH session that it runs in, and says what was spared.
func TestSparedNote(t *testing.T) {
	for env, want := range map[string]string{
		"":                               "",
		"10.0.0.7 52100 192.0.2.1 22":    "10.0.0.7 52100 192.0.2.1 22",
		"fe80::7%eth0 5 fe80::1%eth0 22": "fe80::7%eth0 5 fe80::1%eth0 22",
		"UNKNOWN 65535 UNKNOWN 65535":    "",
	} {
		var params []map[string]any
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var call struct{ Params map[string]any }
			if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
				t.Error(err)
			}
			params = append(params, call.Params)
			fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":{"matched":0,"spared":2,"flows":[]}}`)
		}))
		for _, args := range [][]string{{"kill", "--all"}, {"modify", "--all", "--mark", "1"}, {"kill", "--all", "--include-self"}, {"kill", "--all", "-o", "json"}} {
			var stderr bytes.Buffer
			params = nil
			status := cli.Run(t.Context(), append(args, "--server", s.URL), cli.Options{Stderr: &stderr, Getenv: func(name string) string {
				return map[string]string{"SSH_CONNECTION": env}[name]
			}})
			got, _ := params[0]["ssh_connection"].(string)
			self := args[len(args)-1] == "--include-self"
			if status != 0 || got != want || (params[0]["include_self"] == true) != self {
				t.Errorf("SSH_CONNECTION=%q %q: status %d, params %v", env, args, status, params)
			}
			note := "spared 2 flows: your own connection and SSH sessions (--include-self takes them too)\n"
			if args[len(args)-1] == "json" {
				note = ""
			}
			if stderr.String() != note {
				t.Errorf("%q: %q", args, &stderr)
			}
		}
		s.Close()
	}
}

// heard calls fn once what a server tells before its answer has been taken up by the command.
func heard(ctx context.Context, fn func()) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
		fn()
		return nil
	}})
}

// TestProgressBar: a call that takes longer than a second shows how far it is, on a terminal.
func TestProgressBar(t *testing.T) {
	asked := false
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(wire.ProgressHeader) != "" {
			asked = true
			for i := range 5 {
				if i == 4 {
					time.Sleep(1100 * time.Millisecond)
				}
				w.Header().Set(wire.ProgressHeader, wire.Progress{Done: i * 1000, Total: 4000}.String())
				w.WriteHeader(http.StatusProcessing)
			}
		}
		fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":{"killed":4000,"matched":4000,"flows":[]}}`)
	}))
	defer s.Close()
	term := newTerminal(t)
	getenv := func(name string) string { return map[string]string{"NO_COLOR": "1"}[name] }
	var stdout bytes.Buffer
	began, early := time.Now(), true // whether what is told at once has come within the second
	told := 0
	ctx := heard(t.Context(), func() {
		if told++; told < 5 {
			early = time.Since(began) < time.Second
		}
	})
	if status := cli.Run(ctx, []string{"kill", "--all", "--server", s.URL}, cli.Options{Stdout: &stdout, Stderr: term.slave, Getenv: getenv}); status != 0 {
		t.Errorf("status %d", status)
	}
	term.await("\x1b[K\r\x1b[K")
	want := "\rdone 4000 of 4000 [" + strings.Repeat("#", 40) + "]\x1b[K" + "\r\x1b[K"
	if before, ok := strings.CutSuffix(term.shown(), want); !ok || before != "" && early || told != 5 || !asked {
		t.Errorf("shown %q, want %q; told %d times, asked %v", term.shown(), want, told, asked)
	}
	if stdout.String() != "killed 4000 flows\n" {
		t.Errorf("stdout %q", &stdout)
	}
	// Nobody at a terminal: nothing is asked for.
	asked = false
	var stderr bytes.Buffer
	cli.Run(t.Context(), []string{"kill", "--all", "--server", s.URL}, cli.Options{Stderr: &stderr, Getenv: getenv})
	if asked || stderr.Len() > 0 {
		t.Errorf("asked %v: %q", asked, &stderr)
	}
}

// TestPartlyRefused: a change that takes some flows and is refused by others doesn't look like one that
// was mistyped.
func TestPartlyRefused(t *testing.T) {
	p := newPerson(t, 9)
	p.expect(0) // makes a TCP flow
	status, stdout := p.run(nil, "modify", "--all", "--state", "CLOSE", "-y")
	if status != int(wire.ExitRefused) || !strings.HasSuffix(stdout, "modified 1 flow\n") {
		t.Errorf("status %d, %q", status, stdout)
	}
	p.shows("ctd: and 4 more\nhint: narrow the filter to proto=tcp\n")
	if n := strings.Count(p.shown(), "\n"); n != 7 {
		t.Errorf("%d lines:\n%s", n, p.shown())
	}
}

// TestInterruptedChange: Ctrl-C ends a change, and the command says how far it was at least.
func TestInterruptedChange(t *testing.T) {
	for _, c := range []struct {
		name     string
		terminal bool
		term     string
		progress bool
		args     []string
		want     string
	}{
		{"kill", true, "", true, []string{"kill", "--all", "-y"}, "interrupted: at least 71808 of 120000 flows were done\n"},
		{"no bar", true, "dumb", true, []string{"modify", "--all", "--mark", "1", "-y"}, "interrupted: at least 71808 of 120000 flows were done\n"},
		{"nothing told", true, "", false, []string{"kill", "--all", "-y"}, "interrupted: some flows may have been killed\n"},
		{"no terminal", false, "", true, []string{"modify", "--all", "--mark", "1"}, "interrupted: some flows may have been modified\n"},
		{"a preview", true, "", true, []string{"kill", "--all"}, ""},
		{"a list", true, "", true, []string{"count", "--by", "src"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			told := make(chan struct{})
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				ask := r.Header.Get(wire.ProgressHeader) != ""
				if c.progress && ask {
					w.Header().Set(wire.ProgressHeader, wire.Progress{Done: 71808, Total: 120000}.String())
					w.WriteHeader(http.StatusProcessing)
				}
				if !c.progress || !ask {
					close(told) // else the command says that it has heard
				}
				<-r.Context().Done()
			}))
			defer s.Close()
			o := cli.Options{Getenv: func(name string) string { return map[string]string{"NO_COLOR": "1", "TERM": c.term}[name] }}
			var stderr bytes.Buffer
			o.Stderr = &stderr
			term := newTerminal(t)
			if c.terminal {
				o.Stdin, o.Stderr = term.slave, term.slave
			}
			go func() {
				<-told
				cancel()
			}()
			if status := cli.Run(heard(ctx, func() { close(told) }), append(c.args, "--server", s.URL), o); status != 130 {
				t.Errorf("status %d", status)
			}
			if c.terminal && c.want != "" {
				term.await("\n")
			}
			if got := stderr.String() + term.shown(); got != c.want {
				t.Errorf("said %q, want %q", got, c.want)
			}
		})
	}
}
