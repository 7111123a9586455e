package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// reloadFixture is a server whose configuration is in a file.
type reloadFixture struct {
	*fixture
	file    string
	signals chan os.Signal
}

func newReloadFixture(t testing.TB, text string, flags ...string) *reloadFixture {
	t.Helper()
	dir := t.TempDir()
	f := &reloadFixture{file: filepath.Join(dir, "ctd.toml"), signals: make(chan os.Signal, 1)}
	f.write(t, text)
	args := append([]string{"--config", f.file, "--socket", filepath.Join(dir, "ctd.sock"), "--state-dir", dir}, flags...)
	g, err := parse(args, t.Output(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	read, wrong := g.load()
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	level := &slog.LevelVar{}
	level.Set(read.cfg.level())
	f.fixture = newFixture(t, read.cfg, tcpFlows(3)...)
	f.reloads = newReloads(f.signals, g.load, read, level)
	return f
}

func (f *reloadFixture) write(t testing.TB, text string) {
	t.Helper()
	if err := os.WriteFile(f.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// reloadWith writes the file and reads it.
func (f *reloadFixture) reloadWith(t testing.TB, text string) {
	t.Helper()
	f.write(t, text)
	f.reload(t.Context())
}

// finding returns what the doctor says of the configuration.
func (f *reloadFixture) finding(t testing.TB) wire.Finding {
	t.Helper()
	result, err := f.doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(result.Findings, func(f wire.Finding) bool { return f.Check == "configuration" })
	if at < 0 {
		t.Fatalf("no finding: %+v", result.Findings)
	}
	return result.Findings[at]
}

func TestReload(t *testing.T) {
	f := newReloadFixture(t, "hosts = [\"a\"]\n", "--log-level", "warn")
	f.reloadWith(t, `hosts = ["b"]
scope = "orig"
log_level = "debug"
[cors]
origins = ["https://noc.example.org"]
[limits]
rate = 5
requests = 7
[[user]]
name = "jane"
role = "operator"
[[unix]]
user = "root"
role = "viewer"
`)
	cfg := f.policy.Load().cfg
	if !slices.Equal(cfg.Hosts, []string{"b"}) || cfg.Scope != "orig" || len(cfg.Origins) != 1 || cfg.Limits.Calls != 5 || cfg.Limits.Requests != 7 ||
		len(cfg.Auth.Users) != 1 || len(cfg.Auth.Peers) != 1 || cfg.Version != "1.2.3" {
		t.Errorf("%+v", cfg)
	}
	if level := f.reloads.level.Level(); level != slog.LevelWarn {
		t.Errorf("the log has level %v, and no flag wins", level)
	}
	if n := len(f.log.events(t, "the configuration was read again")); n != 1 {
		t.Errorf("log: %s", f.log)
	}
	if got := f.finding(t); got.Severity != severityOK {
		t.Errorf("doctor: %+v", got)
	}

	f = newReloadFixture(t, "")
	f.reloadWith(t, `log_level = "debug"`)
	if level := f.reloads.level.Level(); level != slog.LevelDebug {
		t.Errorf("the log has level %v, want debug", level)
	}
}

// TestReloadWrong: where anything is wrong with the file, all stays, and log and doctor say what is wrong and
// where, until it is right again.
func TestReloadWrong(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want string // after the file's name
	}{
		"unknown key":    {"hosts = [\"b\"]\nlog_levle = \"debug\"", ":2: log_levle: there is no such setting; did you mean log_level?"},
		"in a list":      {"hosts = [\"b\"]\n[[user]]\nname = \"a\"\nrole = \"boss\"", `:4: user[0].role: "boss" is none of viewer, operator, admin`},
		"syntax":         {"hosts = [\"b\"]\nlog_level = ", ":2: "},
		"needs restart":  {"hosts = [\"b\"]\nlisten = [\"nowhere\"]", ":2: listen: nowhere: want host:port"},
		"two that wrong": {"hosts = [\"b\"]\nmax_body = -1\nscope = \"all\"", ":2: max_body: "},
	} {
		f := newReloadFixture(t, "hosts = [\"a\"]\nlog_level = \"warn\"\n")
		before := f.policy.Load()
		f.reloadWith(t, c.text)
		if f.policy.Load() != before || f.reloads.level.Level() != slog.LevelWarn {
			t.Errorf("%s: something of it counts", name)
		}
		logged := f.log.events(t, "the configuration is wrong and stays as it was")
		if len(logged) == 0 || !strings.HasPrefix(logged[0]["error"].(string), f.file+c.want) {
			t.Errorf("%s: log: %s", name, f.log)
		}
		if got := f.finding(t); got.Severity != severityWarning || !strings.Contains(got.Message, "is wrong") || !strings.Contains(got.Message, f.file+c.want) ||
			strings.Contains(got.Message, "(and 1 more)") != (name == "two that wrong") {
			t.Errorf("%s: doctor: %+v", name, got)
		}
		f.reloadWith(t, "hosts = [\"b\"]")
		if got := f.finding(t); got.Severity != severityOK || !slices.Equal(f.policy.Load().cfg.Hosts, []string{"b"}) {
			t.Errorf("%s: mended: %+v", name, got)
		}
	}
	f := newReloadFixture(t, "hosts = [\"a\"]")
	if err := os.Remove(f.file); err != nil {
		t.Fatal(err)
	}
	f.reload(t.Context())
	if got := f.finding(t); got.Severity != severityWarning || !slices.Equal(f.policy.Load().cfg.Hosts, []string{"a"}) {
		t.Errorf("without the file that was named: %+v", got)
	}
}

// TestReloadUnreadable: what root alone may read, the daemon can't read again once it is another user.
func TestReloadUnreadable(t *testing.T) {
	f := newReloadFixture(t, "hosts = [\"a\"]")
	f.reloads.load = func() (*loaded, []error) {
		return nil, []error{&fs.PathError{Op: "open", Path: f.file, Err: syscall.EACCES}}
	}
	f.reload(t.Context())
	if got := f.finding(t); got.Severity != severityWarning || !strings.Contains(got.Message, "the user that the daemon runs as must be able to read it") {
		t.Errorf("%+v", got)
	}
}

// TestReloadRestart: a setting that needs a restart stays as it is and is named, and the rest counts.
func TestReloadRestart(t *testing.T) {
	f := newReloadFixture(t, "max_body = 1000\n[helper.rtsp]\nqueue = 7\n")
	was := f.policy.Load().cfg
	// The flag wins over socket, so that it isn't changed.
	text := "hosts = [\"b\"]\nmax_body = 2000\nlisten = []\nrun_as = \"nobody\"\nsocket = \"/elsewhere\"\naudit.to = \"none\"\n[helper.rtsp]\nqueue = 8\nports = [1]\n"
	for range 2 {
		f.reloadWith(t, text)
	}
	cfg := f.policy.Load().cfg
	if !slices.Equal(cfg.Hosts, []string{"b"}) || cfg.MaxBody != was.MaxBody || !slices.Equal(cfg.Listen, was.Listen) || cfg.RunAs != "" ||
		cfg.Socket != was.Socket || cfg.Audit != was.Audit || cfg.RTSP.Helper.Queue != 7 {
		t.Errorf("%+v", cfg)
	}
	var got []string
	for _, e := range f.log.events(t, "a setting was changed that needs a restart") {
		got = append(got, e["setting"].(string))
	}
	want := []string{"listen", "run_as", "max_body", "audit.to", "helper.rtsp.ports", "helper.rtsp.queue"}
	if !slices.Equal(got, append(want, want...)) {
		t.Errorf("named: %q, want %q twice", got, want)
	}
}

// TestReloadTLS: listeners stay as they are, with or without TLS, and all else of the file counts.
func TestReloadTLS(t *testing.T) {
	pair := newAuthority(t, "ca").server(t, "server", "localhost")
	table := fmt.Sprintf("[tls]\ncert = %q\nkey = %q\n", pair.cert, pair.key)
	for name, tt := range map[string]struct{ was, now string }{
		"on":               {"", table},
		"off":              {table, ""},
		"off with listen":  {"listen = [\"http://127.0.0.1:1\", \"https://127.0.0.1:2\"]\n" + table, "listen = [\"http://127.0.0.1:1\"]\n"},
		"on with a client": {"", "[[user]]\nname = \"jane\"\nrole = \"viewer\"\n" + table},
	} {
		t.Run(name, func(t *testing.T) {
			f := newReloadFixture(t, tt.was)
			before := f.policy.Load().cfg
			f.reloadWith(t, "hosts = [\"b\"]\n"+tt.now)
			cfg := f.policy.Load().cfg
			if !slices.Equal(cfg.Hosts, []string{"b"}) || cfg.TLS != before.TLS || !slices.Equal(cfg.Listen, before.Listen) {
				t.Errorf("%+v\n%s", cfg, f.log)
			}
			if got := f.finding(t); got.Severity != severityInfo || !strings.Contains(got.Message, "tls.cert") || got.Mend == "" {
				t.Errorf("doctor: %+v", got)
			}
			f.reloadWith(t, tt.was)
			if got := f.finding(t); got.Severity != severityOK {
				t.Errorf("as it was: %+v", got)
			}
		})
	}
	// What can't go with a setting that stays says so.
	f := newReloadFixture(t, "")
	f.reloadWith(t, table+"client_ca = \""+pair.cert+"\"\n[[user]]\nname = \"jane\"\nrole = \"viewer\"\ncertificates = [\"CN=jane\"]\n")
	if got := f.finding(t); got.Severity != severityWarning || !strings.Contains(got.Message, "needs a restart") {
		t.Errorf("doctor: %+v", got)
	}
}

// TestReloadWhoMay: from a reload on a caller may do what the file says then, on connections and by
// credentials that were there before.
func TestReloadWhoMay(t *testing.T) {
	const shown = "a-token-of-the-tests"
	hash := sha256.Sum256([]byte(shown))
	token := func(grant string) string {
		return "audit.to = \"none\"\n[[token]]\nname = \"t\"\nhash = \"" + hex.EncodeToString(hash[:]) + "\"\n" + grant
	}
	f := newReloadFixture(t, token(`role = "operator"`))
	r := f.start(t)
	c := tcpClient(t)
	ask := func(method, params string) string {
		t.Helper()
		call := jsonCall(t, r.tcp+"/rpc", method, params)
		call.Header.Set("Authorization", "Bearer "+shown)
		_, text := do(t, c, call)
		return text
	}
	for _, step := range []struct {
		name, text          string // of the file
		count, change, tell string // in what is answered to count, kill and whoami
	}{
		{"operator", "", `"count":3`, `"matched":3`, `"role":"operator"`},
		{"viewer", token(`role = "viewer"`), `"count":3`, "permission_denied", `"role":"viewer"`},
		{"wrong file", token(`role = "admin"`) + "\nnetwork = []", `"count":3`, "permission_denied", `"role":"viewer"`},
		{"one network", token("role = \"operator\"\nnetworks = [\"10.0.0.1\"]"), `"count":1`, `"matched":1`, `"role":"operator"`},
		{"other scope", "scope = \"reply\"\n" + token("role = \"operator\"\nnetworks = [\"10.99.0.0/16\"]"), `"count":0`, `"matched":0`, `"role":"operator"`},
		{"nobody", `audit.to = "none"`, "unauthenticated", "unauthenticated", "unauthenticated"},
		{"again", token(`role = "operator"`), `"count":3`, `"matched":3`, `"role":"operator"`},
	} {
		if step.text != "" {
			f.reloadWith(t, step.text)
		}
		for _, one := range []struct{ method, params, want string }{
			{"conntrack.count", "", step.count},
			{"conntrack.kill", `{"all": true, "dry_run": true}`, step.change},
			{"server.whoami", "", step.tell},
		} {
			if got := ask(one.method, one.params); !strings.Contains(got, one.want) {
				t.Errorf("%s: %s: %s, want %s", step.name, one.method, got, one.want)
			}
		}
	}
}

// TestReloadedPolicy: a request has the policy that it began with to its end, and what was replaced
// ends with the last request that has it.
func TestReloadedPolicy(t *testing.T) {
	f := newReloadFixture(t, "hosts = [\"a\"]")
	first := f.policy.Load()
	var inner, second *policy
	handler := f.underPolicy(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		f.reloadWith(t, "hosts = [\"b\"]")
		inner, second = f.policyOf(r.Context()), f.policy.Load()
		if !first.replaced || first.requests != 1 || second.replaced {
			t.Errorf("in a request: %d, replaced %v", first.requests, first.replaced)
		}
		nested, release := f.take()
		if nested != second || nested.requests != 1 {
			t.Error("the next request has another policy than the new one")
		}
		release()
	}))
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	if inner != first || second == first || first.requests != 0 || second.requests != 0 {
		t.Errorf("first %p with %d requests, in the request %p, then %p with %d", first, first.requests, inner, second, second.requests)
	}
	if got := f.policyOf(context.Background()); got != second {
		t.Error("outside of a request it isn't the present one")
	}
}

// TestReloadUnderLoad: clients see nothing of a hundred reloads, good and bad ones, which leave nothing
// behind.
func TestReloadUnderLoad(t *testing.T) {
	const reloads, clients = 100, 4
	f := newReloadFixture(t, "")
	r := f.start(t)
	var calls atomic.Int64
	var stop atomic.Bool
	var group sync.WaitGroup
	call := func(c *http.Client) {
		status, text := do(t, c, jsonCall(t, r.tcp+"/rpc", "conntrack.count", ""))
		var reply struct{ Result wire.CountResult }
		if err := json.Unmarshal([]byte(text), &reply); status != http.StatusOK || err != nil || reply.Result.Count != 3 {
			t.Errorf("status %d, %s", status, text)
		}
		calls.Add(1)
	}
	var httpClients []*http.Client
	for range clients {
		httpClients = append(httpClients, tcpClient(t))
	}
	// Connections that are kept are there before and after.
	warm := func() {
		for _, c := range httpClients {
			call(c)
		}
	}
	warm()
	// And so is the task that reloads.
	f.signals <- syscall.SIGHUP
	readAgain := func(n int) func() bool {
		return func() bool { return len(f.log.events(t, "the configuration was read again")) == n }
	}
	conntracktest.Eventually(t, "the first reload", readAgain(1))
	goroutines, fds := runtime.NumGoroutine(), openFiles(t)
	for _, c := range httpClients {
		group.Go(func() {
			for !stop.Load() && !t.Failed() {
				call(c)
			}
		})
	}
	texts := []string{"hosts = [\"a\"]", "log_level = \"debug\"\n[limits]\nrequests = 32", "hosts = [", "[[unix]]\nuser = \"nobody\"\nrole = \"viewer\""}
	for i := range reloads {
		f.write(t, texts[i%len(texts)])
		before, bad := f.policy.Load(), i%len(texts) == 2
		f.signals <- syscall.SIGHUP
		conntracktest.Eventually(t, "the file is read", func() bool {
			f.reloads.mu.Lock()
			defer f.reloads.mu.Unlock()
			return (f.reloads.wrong != nil) == bad && (f.policy.Load() == before) == bad
		})
	}
	conntracktest.Eventually(t, "enough calls to show anything", func() bool { return calls.Load() >= reloads/4 })
	stop.Store(true)
	group.Wait()
	conntracktest.Eventually(t, "the reloads that count are in the log", readAgain(1+reloads*3/4))
	warm()
	conntracktest.Eventually(t, "nothing is left behind", func() bool {
		return runtime.NumGoroutine() <= goroutines && openFiles(t) <= fds
	})
	t.Logf("%d calls", calls.Load())
}

// openFiles counts the process's descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestHangup: SIGHUP has the daemon read its file again and tell systemd, and does no harm while it ends.
func TestHangup(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	dir := t.TempDir()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	t.Setenv("NOTIFY_SOCKET", notify.LocalAddr().String())
	told := func() string {
		t.Helper()
		b := make([]byte, 4096)
		if err := notify.SetReadDeadline(time.Now().Add(conntracktest.Slow(10 * time.Second))); err != nil {
			t.Fatal(err)
		}
		n, err := notify.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	file := filepath.Join(dir, "ctd.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log_level = \"warn\"\n")
	p := startProcess(t, ns, dir, "--config", file)
	if got := told(); got != "READY=1" {
		t.Errorf("at start: %q", got)
	}
	hangup := func(want string) {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if got := told(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
			t.Errorf("at a reload: %q", got)
		}
		if got := told(); !strings.HasPrefix(got, "READY=1\nSTATUS=") || !strings.Contains(got, want) {
			t.Errorf("after it: %q, want %q", got, want)
		}
	}
	c := p.client(ctdclient.Config{})
	count := func() {
		t.Helper()
		if _, err := c.Count(t.Context(), wire.CountParams{}); err != nil {
			t.Error(err)
		}
	}
	count()
	if strings.Contains(p.log.String(), `"msg":"request"`) {
		t.Error("requests are logged before log_level says so")
	}
	write("log_level = \"info\"\nmax_body = 5\n")
	hangup("")
	count()
	logged := func(text string) {
		t.Helper()
		conntracktest.Eventually(t, "it is in the log: "+text, func() bool { return strings.Contains(p.log.String(), text) })
	}
	logged(`"msg":"request"`)
	logged(`"setting":"max_body"`)
	write("log_level = \"info\"\n\nlog_frmat = \"text\"\n")
	hangup("wrong")
	logged(file + ":3: log_frmat: there is no such setting; did you mean log_format?")
	result, err := c.Doctor(t.Context())
	if err != nil || !slices.ContainsFunc(result.Findings, func(f wire.Finding) bool {
		return f.Check == "configuration" && f.Severity == severityWarning && strings.Contains(f.Message, file+":3: ")
	}) {
		t.Errorf("doctor: %+v, %v", result, err)
	}
	// As logrotate does. The file that is wrong still is no reason to go on with the old one.
	record := filepath.Join(dir, "state", auditFile)
	if err := os.Rename(record, record+".old"); err != nil {
		t.Fatal(err)
	}
	hangup("wrong")
	if _, err := os.Stat(record); err != nil {
		t.Errorf("the audit file wasn't opened anew: %v", err)
	}
	// As systemd does, somebody reads all that it tells: few messages wait (net.unix.max_dgram_qlen).
	if err := notify.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, notify) }() // until the test ends
	for range 20 {
		_ = p.cmd.Process.Signal(syscall.SIGHUP)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	for range 20 {
		_ = p.cmd.Process.Signal(syscall.SIGHUP)
	}
	p.end(syscall.SIGHUP)
	if p.status != nil {
		t.Errorf("it ended with %v\n%s", p.status, p.log.String())
	}
}

// TestReloadAudit: the audit file is opened anew, also where the configuration is wrong.
func TestReloadAudit(t *testing.T) {
	f := newReloadFixture(t, "")
	openAudit(t, f.fixture)
	path := f.cfg.Audit.File
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	f.reloadWith(t, "wrong = 1")
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}
