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
	for limit := time.Now().Add(5 * time.Second); !strings.Contains(term.shown(), text); time.Sleep(5 * time.Millisecond) {
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
func (memory) NetNS() *os.File               { return nil }

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
	handler := server.New(server.Config{Version: "1.2.3"}, memory{conntracktest.NewFake()}, nil, "secret", nil).Handler()
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
	var err error
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
	case <-time.After(10 * time.Second):
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

func TestConfirmKill(t *testing.T) {
	p := newPerson(t, 3)
	for _, answer := range []string{"n\n", "\n", "yess\n", "\x04"} { // the last is Ctrl-D
		status, stdout := p.run(p.types(answer), "kill", "proto=udp")
		if status != int(wire.ExitRefused) || stdout != "" {
			t.Errorf("answer %q: status %d, %q", answer, status, stdout)
		}
		p.called("kill?")
		p.shows("PROTO", "10.0.0.2:5353", "Kill these 3 flows? [y/N] ", "nothing was changed\n")
	}
	// What comes in between is not killed, what ends is told.
	status, stdout := p.run(func() {
		p.create(7)
		if _, err := p.client.Kill(t.Context(), wire.KillParams{Filter: "src=10.0.0.1"}); err != nil {
			t.Fatal(err)
		}
		p.typed("y\n")
	}, "kill", "--all", "--expect-count", "3")
	if status != 0 || stdout != "killed 2 flows\n" {
		t.Errorf("status %d, %q\n%s", status, stdout, p.shown())
	}
	p.called("kill? kill kill")
	if p.from[0] != p.from[2] {
		t.Errorf("the kill came by another connection than the preview: %s", p.from)
	}
	p.shows("1 flow had ended already\n")
	if n := p.left(); n != 1 {
		t.Errorf("%d flows are left, want the one that came", n)
	}
	// One flow, by its id.
	if status, stdout := p.run(p.types("YES\n"), "kill", "4"); status != 0 || stdout != "killed 1 flow\n" {
		t.Errorf("status %d, %q", status, stdout)
	}
	p.shows("Kill this flow? [y/N] ")
	// Nothing matches: no question, and no kill.
	for _, args := range [][]string{{"kill", "--all"}, {"modify", "--all", "--mark", "1"}, {"flush", "--all"}} {
		if status, stdout := p.run(nil, args...); status != 0 || !strings.HasSuffix(stdout, " 0 flows\n") {
			t.Errorf("%q: status %d, %q", args, status, stdout)
		}
		p.called(args[0] + "?")
	}
	if status, _ := p.run(nil, "kill", "--all", "--fail-if-none"); status != int(wire.ExitNoMatch) {
		t.Errorf("--fail-if-none: status %d", status)
	}
}

// TestNoQuestion: nobody is asked who can't answer, or has said yes.
func TestNoQuestion(t *testing.T) {
	for name, c := range map[string]struct {
		o    func(p *person) cli.Options
		args []string
		want string // calls
	}{
		"--yes":             {nil, []string{"kill", "--all", "--yes"}, "kill"},
		"-y":                {nil, []string{"kill", "--all", "-y"}, "kill"},
		"modify -y":         {nil, []string{"modify", "--all", "--mark", "1", "-y"}, "modify"},
		"flush -y":          {nil, []string{"flush", "--all", "-y"}, "flush"},
		"--dry-run":         {nil, []string{"kill", "--all", "--dry-run"}, "kill?"},
		"flush --dry-run":   {nil, []string{"flush", "--all", "--dry-run"}, "flush?"},
		"-o json":           {nil, []string{"kill", "--all", "-o", "json"}, "kill"},
		"-o csv":            {nil, []string{"modify", "--all", "--mark", "1", "-o", "csv"}, "modify"},
		"no terminal":       {func(*person) cli.Options { return cli.Options{} }, []string{"kill", "--all"}, "kill"},
		"no terminal, -y":   {func(*person) cli.Options { return cli.Options{} }, []string{"flush", "--all", "-y"}, "flush"},
		"input elsewhere":   {func(p *person) cli.Options { return cli.Options{Stderr: p.slave} }, []string{"kill", "--all"}, "kill"},
		"errors elsewhere":  {func(p *person) cli.Options { return cli.Options{Stdin: p.slave} }, []string{"flush", "--all"}, "flush"},
		"a refused preview": {nil, []string{"kill", "--all", "--max", "1"}, "kill?"},
		"a wrong filter":    {nil, []string{"kill", "scr=10.0.0.1"}, "kill?"},
		"flush, no --all":   {nil, []string{"flush"}, ""},

		"expect kill -y":         {nil, []string{"expect", "kill", "--all", "-y"}, "expect.kill"},
		"expect kill --dry-run":  {nil, []string{"expect", "kill", "--all", "--dry-run"}, "expect.kill?"},
		"expect kill -o json":    {nil, []string{"expect", "kill", "--all", "-o", "json"}, "expect.kill"},
		"expect kill, too many":  {nil, []string{"expect", "kill", "--all", "--max", "1"}, "expect.kill?"},
		"expect flush -y":        {nil, []string{"expect", "flush", "--all", "-y"}, "expect.flush"},
		"expect flush, no --all": {nil, []string{"expect", "flush"}, ""},
		"expect, no terminal":    {func(*person) cli.Options { return cli.Options{} }, []string{"expect", "flush", "--all"}, "expect.flush"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, 2)
			p.expect(2)
			o := cli.Options{Stdin: p.slave, Stderr: p.slave}
			if c.o != nil {
				o = c.o(p)
			}
			p.runWith(t.Context(), o, nil, c.args...)
			p.called(c.want)
		})
	}
}

func TestConfirmMany(t *testing.T) {
	p := newPerson(t, 25)
	if status, _ := p.run(p.types("n\n"), "kill", "--all"); status != int(wire.ExitRefused) {
		t.Errorf("status %d", status)
	}
	p.shows("10.0.0.19:5353", "and 5 more\n", "Kill these 25 flows?")
	if strings.Contains(p.shown(), "10.0.0.20:5353") {
		t.Errorf("more than 20 are shown:\n%s", p.shown())
	}
	// More than a preview holds: no more of them go than were counted.
	p = newPerson(t, 1002)
	status, stdout := p.run(func() { p.create(2000); p.typed("y\n") }, "kill", "--all", "--max", "5000")
	p.called("kill? kill kill?") // the last counts again
	if status != int(wire.ExitRefused) || stdout != "" || p.left() != 1003 {
		t.Errorf("status %d, %q, %d left\n%s", status, stdout, p.left(), p.shown())
	}
	p.shows("and 982 more\n", "1 flow came since you were asked about 1002; nothing was changed", "hint: run it again")
	if status, stdout := p.run(p.types("y\n"), "kill", "--all", "--max", "5000"); status != 0 || stdout != "killed 1003 flows\n" || p.left() != 0 {
		t.Errorf("status %d, %q, %d left\n%s", status, stdout, p.left(), p.shown())
	}
}

func TestConfirmModify(t *testing.T) {
	p := newPerson(t, 2)
	if status, _ := p.run(p.types("n\n"), "modify", "--all", "--timeout", "10m", "--mark", "0x10/0xff"); status != int(wire.ExitRefused) {
		t.Errorf("status %d", status)
	}
	p.called("modify?")
	p.shows("to be changed: --timeout 10m --mark 0x10/0xff\n", "Modify these 2 flows? [y/N] ")
	status, stdout := p.run(func() { p.create(7); p.typed("y\n") }, "modify", "--all", "--mark", "7")
	if status != 0 || !strings.HasSuffix(stdout, "modified 2 flows\n") || !strings.Contains(stdout, "0x7") {
		t.Errorf("status %d, %q", status, stdout)
	}
	r, err := p.client.Count(t.Context(), wire.CountParams{Filter: "mark=7"})
	if err != nil || r.Count != 2 {
		t.Errorf("%+v, %v, want the two that were seen changed", r, err)
	}
	// What can't be changed is said before; where nothing can, there is nothing to ask.
	if status, _ := p.run(nil, "modify", "--all", "--state", "CLOSE"); status != int(wire.ExitRefused) {
		t.Errorf("status %d", status)
	}
	p.called("modify?")
}

func TestConfirmFlush(t *testing.T) {
	p := newPerson(t, 3)
	if status, _ := p.run(p.types("no\n"), "flush", "--all", "--family", "ipv4", "--zone", "0"); status != int(wire.ExitRefused) || p.left() != 3 {
		t.Errorf("status %d, %d left", status, p.left())
	}
	p.shows("Delete 3 flows of ipv4 in zone 0? [y/N] ", "nothing was changed\n")
	if status, stdout := p.run(p.types("y\n"), "flush", "--all"); status != 0 || stdout != "deleted 3 flows\n" || p.left() != 0 {
		t.Errorf("status %d, %q, %d left", status, stdout, p.left())
	}
}

// TestConfirmExpects: expectations are asked about by their number, and those that come in between stay.
func TestConfirmExpects(t *testing.T) {
	p := newPerson(t, 0)
	p.expect(3)
	for question, args := range map[string][]string{
		"Kill these 3 expectations? [y/N] ": {"expect", "kill", "helper=ftp"},
		"Delete 3 expectations? [y/N] ":     {"expect", "flush", "--all"},
	} {
		if status, stdout := p.run(p.types("n\n"), args...); status != int(wire.ExitRefused) || stdout != "" || p.expected() != 3 {
			t.Errorf("%q: status %d, %q, %d left", args, status, stdout, p.expected())
		}
		p.shows(question, "nothing was changed\n")
	}
	status, stdout := p.run(func() { p.expect(1); p.typed("y\n") }, "expect", "kill", "--all")
	if status != 0 || !strings.HasSuffix(stdout, "killed 3 expectations\n") || p.expected() != 1 {
		t.Errorf("status %d, %q, %d left", status, stdout, p.expected())
	}
	p.called("expect.kill? expect.kill")
	if status, stdout := p.run(p.types("y\n"), "expect", "kill", "dport=5003"); status != 0 || p.expected() != 0 {
		t.Errorf("status %d, %q, %d left", status, stdout, p.expected())
	}
	p.shows("Kill this expectation? [y/N] ")
	p.expect(2)
	if status, stdout := p.run(p.types("y\n"), "expect", "flush", "--all"); status != 0 || stdout != "deleted 2 expectations\n" || p.expected() != 0 {
		t.Errorf("status %d, %q, %d left", status, stdout, p.expected())
	}
	for _, args := range [][]string{{"expect", "kill", "--all"}, {"expect", "flush", "--all"}} {
		if status, stdout := p.run(nil, args...); status != 0 || !strings.HasSuffix(stdout, " 0 expectations\n") {
			t.Errorf("%q: status %d, %q", args, status, stdout)
		}
	}
}

// TestTypedAhead: what was typed before the question was shown is no answer to it.
func TestTypedAhead(t *testing.T) {
	p := newPerson(t, 2)
	p.typed("y\n")
	p.await("y\n") // it is in the terminal's buffer
	if status, _ := p.run(p.types("n\n"), "kill", "--all"); status != int(wire.ExitRefused) || p.left() != 2 {
		t.Errorf("status %d, %d left\n%s", status, p.left(), p.shown())
	}
}

// TestAnswerWithoutEnd: a yes counts when its line has ended.
func TestAnswerWithoutEnd(t *testing.T) {
	p := newPerson(t, 2)
	if status, _ := p.run(p.types("y\x04\x04"), "kill", "--all"); status != int(wire.ExitRefused) || p.left() != 2 {
		t.Errorf("status %d, %d left\n%s", status, p.left(), p.shown())
	}
	p.shows("nothing was changed\n")
}

// TestConfirmMoreModify: flows that came since the preview of a modification are told as such.
func TestConfirmMoreModify(t *testing.T) {
	p := newPerson(t, 1001)
	args := []string{"modify", "--all", "--mark", "7", "--max", "5000"}
	status, stdout := p.run(func() { p.create(2000); p.create(2001); p.typed("y\n") }, args...)
	if status != int(wire.ExitRefused) || stdout != "" {
		t.Errorf("status %d, %q", status, stdout)
	}
	p.called("modify? modify modify?")
	p.shows("2 flows came since you were asked about 1001; nothing was changed", "hint: run it again")
}

// TestConfirmInterrupted: Ctrl-C ends the question.
func TestConfirmInterrupted(t *testing.T) {
	p := newPerson(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	if status, _ := p.runWith(ctx, cli.Options{Stdin: p.slave, Stderr: p.slave}, cancel, "kill", "--all"); status != 130 || p.left() != 1 {
		t.Errorf("status %d, %d left", status, p.left())
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

// TestProgressBar: a call that takes longer than a second shows how far it is, on a terminal.
func TestProgressBar(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(wire.ProgressHeader) != "" {
			for i := range 5 {
				w.Header().Set(wire.ProgressHeader, wire.Progress{Done: i * 1000, Total: 4000}.String())
				w.WriteHeader(http.StatusProcessing)
				time.Sleep(300 * time.Millisecond)
			}
		}
		fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":{"killed":4000,"matched":4000,"flows":[]}}`)
	}))
	defer s.Close()
	term := newTerminal(t)
	getenv := func(name string) string { return map[string]string{"NO_COLOR": "1"}[name] }
	var stdout bytes.Buffer
	if status := cli.Run(t.Context(), []string{"kill", "--all", "--server", s.URL}, cli.Options{Stdout: &stdout, Stderr: term.slave, Getenv: getenv}); status != 0 {
		t.Errorf("status %d", status)
	}
	term.await("\r\x1b[K")
	if want := "\rdone 4000 of 4000 [" + strings.Repeat("#", 40) + "]\x1b[K" + "\r\x1b[K"; term.shown() != want {
		t.Errorf("shown %q, want %q", term.shown(), want)
	}
	if stdout.String() != "killed 4000 flows\n" {
		t.Errorf("stdout %q", &stdout)
	}
	// Nobody at a terminal: nothing is asked for.
	began := time.Now()
	var stderr bytes.Buffer
	cli.Run(t.Context(), []string{"kill", "--all", "--server", s.URL}, cli.Options{Stderr: &stderr, Getenv: getenv})
	if time.Since(began) > time.Second || stderr.Len() > 0 {
		t.Errorf("after %v: %q", time.Since(began), &stderr)
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
				if c.progress && r.Header.Get(wire.ProgressHeader) != "" {
					w.Header().Set(wire.ProgressHeader, wire.Progress{Done: 71808, Total: 120000}.String())
					w.WriteHeader(http.StatusProcessing)
				}
				close(told)
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
				time.Sleep(100 * time.Millisecond)
				cancel()
			}()
			if status := cli.Run(ctx, append(c.args, "--server", s.URL), o); status != 130 {
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
