package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
	"ctd/helper"
	"ctd/helper/rtsptest"
	"ctd/rpc/wire"
)

// serveEnv is the environment variable with the Config, in JSON, of which the test's own program becomes a
// daemon.
const serveEnv = "CTD_TEST_SERVE"

const nobody = 65534

// serveAsTold runs the daemon as run does, and returns the exit status.
func serveAsTold(text string) int {
	var cfg Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cfg, nil, slog.New(slog.NewJSONHandler(os.Stderr, nil)), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// privileges are what /proc/PID/status says of a thread.
type privileges struct{ Uid, Groups, CapInh, CapPrm, CapEff, CapBnd, CapAmb, NoNewPrivs string }

// threads returns the privileges of a process's threads, each kind once, and how many threads there are.
func threads(t *testing.T, pid int) (kinds []privileges, n int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads of %d: %v", pid, err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.Join(strings.Fields(value), " ")
		}
		n++
		p := privileges{
			fields["Uid"], fields["Groups"], fields["CapInh"], fields["CapPrm"], fields["CapEff"], fields["CapBnd"], fields["CapAmb"],
			fields["NoNewPrivs"],
		}
		if !slices.Contains(kinds, p) {
			kinds = append(kinds, p)
		}
	}
	return kinds, n
}

// capSet is how /proc shows a set.
func capSet(caps ...int) string {
	var set uint64
	for _, c := range caps {
		set |= 1 << c
	}
	return fmt.Sprintf("%016x", set)
}

// foldersFor makes the folders of a daemon, which other users can reach but not write to.
func foldersFor(t *testing.T) (socket, state string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctd-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "run", "ctd.sock"), filepath.Join(dir, "state")
}

// launched is a daemon that was started, and waits for its end.
type launched struct {
	cmd    *exec.Cmd
	output logBuffer // what it says and logs, by one pipe: in its order
}

// launch starts a daemon in a namespace and waits until it is ready.
func launch(t *testing.T, ns *conntracktest.NS, c *exec.Cmd) *launched {
	t.Helper()
	l := &launched{cmd: c}
	c.Stdout, c.Stderr = &l.output, &l.output
	var err error
	ns.Do(func() { err = c.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.ProcessState == nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	})
	conntracktest.Eventually(t, "the daemon is ready", func() bool {
		return strings.Contains(l.output.String(), "is ready") || strings.Contains(l.output.String(), "started") ||
			unix.Kill(c.Process.Pid, 0) != nil
	})
	return l
}

// TestPrivilegesDropped: whoever starts the daemon, none of its threads has more than it needs, and it works.
func TestPrivilegesDropped(t *testing.T) {
	net, sys := capSet(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW), capSet(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN)
	none, ids := capSet(), func(uid int) string { return strings.TrimSpace(strings.Repeat(strconv.Itoa(uid)+" ", 4)) }
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, bounds, _ := strings.Cut(string(own), "CapBnd:\t")
	bounds, _, _ = strings.Cut(bounds, "\n")
	ambient := []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_ADMIN}

	for _, tt := range []struct {
		name  string
		runAs string
		netns bool                // manage another namespace
		as    *syscall.Credential // nil is root
		uid   int                 // at last
		want  privileges
	}{
		{"root", "", false, nil, 0, privileges{ids(0), "", none, net, net, net, none, "1"}},
		{"root, another namespace", "", true, nil, 0, privileges{ids(0), "", none, sys, sys, sys, none, "1"}},
		{"run_as", "nobody", false, nil, nobody, privileges{ids(nobody), "65534", none, net, net, net, none, "1"}},
		{"run_as, another namespace", "nobody", true, nil, nobody, privileges{ids(nobody), "65534", none, sys, sys, sys, none, "1"}},
		// Who isn't root can't reduce the bounding set, which no_new_privs makes good for nothing.
		{
			"ambient capabilities", "", false, &syscall.Credential{Uid: 41001, Gid: 41001}, 41001,
			privileges{ids(41001), "", none, net, net, bounds, none, "1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := conntracktest.NewNS(t)
			ns.Conntrack()
			socket, state := foldersFor(t)
			managed := ""
			if tt.netns {
				managed = ns.Name()
			}
			var c *exec.Cmd
			if tt.runAs != "" {
				text, err := json.Marshal(Config{Socket: socket, StateDir: state, RunAs: tt.runAs, NetNS: managed, Version: "test"})
				if err != nil {
					t.Fatal(err)
				}
				c = exec.Command("/proc/self/exe")
				c.Env = append(os.Environ(), serveEnv+"="+string(text))
				// As root's commands leave them.
				if err := os.MkdirAll(state, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(state, "tokens.toml"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			} else {
				c = exec.Command(program(t), "serve", "--config", os.DevNull, "--no-listen", "--socket", socket, "--state-dir", state, "--netns", managed)
			}
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{}}
			if tt.as != nil {
				c.SysProcAttr = &syscall.SysProcAttr{Credential: tt.as, AmbientCaps: ambient}
				if err := os.Mkdir(filepath.Dir(socket), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(state, 0o700); err != nil {
					t.Fatal(err)
				}
				for _, dir := range []string{filepath.Dir(socket), state} {
					if err := os.Chown(dir, int(tt.as.Uid), int(tt.as.Gid)); err != nil {
						t.Fatal(err)
					}
				}
			}
			l := launch(t, ns, c)
			client, err := ctdclient.New(ctdclient.Config{Server: "unix://" + socket})
			if err != nil {
				t.Fatal(err)
			}
			// Calls make threads, in either namespace.
			var calls sync.WaitGroup
			for range 20 {
				calls.Go(func() {
					if d, err := client.Doctor(t.Context()); err != nil || d.Findings[0].Severity != severityOK {
						t.Errorf("%+v, %v\n%s", d, err, l.output.String())
					}
					if _, err := client.Count(t.Context(), wire.CountParams{}); err != nil {
						t.Error(err)
					}
				})
			}
			calls.Wait()
			kinds, n := threads(t, c.Process.Pid)
			if n < 2 || len(kinds) != 1 || kinds[0] != tt.want {
				t.Errorf("%d threads: %+v\nwant %+v", n, kinds, tt.want)
			}
			files := []string{filepath.Dir(socket), socket, filepath.Join(filepath.Dir(socket), "token"), filepath.Join(filepath.Dir(socket), "token.lock")}
			if tt.runAs != "" {
				files = append(files, state, filepath.Join(state, "tokens.toml"))
			}
			for _, name := range files {
				if fi, err := os.Lstat(name); err != nil || int(fi.Sys().(*syscall.Stat_t).Uid) != tt.uid {
					t.Errorf("%s isn't user %d's: %v", name, tt.uid, err)
				}
			}
			// Another program of the user's may not look into it.
			if fi, err := os.Stat(fmt.Sprintf("/proc/%d/mem", c.Process.Pid)); err != nil || fi.Sys().(*syscall.Stat_t).Uid != 0 {
				t.Errorf("its memory is its user's: %v", err)
			}
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := c.Wait(); err != nil {
				t.Errorf("exit: %v\n%s", err, l.output.String())
			}
			if left, _ := os.ReadDir(filepath.Dir(socket)); len(left) > 0 {
				t.Errorf("left behind: %v\n%s", left, l.output.String())
			}
		})
	}
}

// TestRunAsRefused: what the user couldn't use is said at the start.
func TestRunAsRefused(t *testing.T) {
	for _, tt := range []struct{ name, runAs, beside, want string }{
		{"nobody by that name", "ctd-no-such", "", "run as ctd-no-such"},
		{"a folder with other things", "nobody", "other", "write to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := conntracktest.NewNS(t)
			socket, _ := foldersFor(t)
			if err := os.Mkdir(filepath.Dir(socket), 0o755); err != nil {
				t.Fatal(err)
			}
			if tt.beside != "" {
				if err := os.WriteFile(filepath.Join(filepath.Dir(socket), tt.beside), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := json.Marshal(Config{Socket: socket, RunAs: tt.runAs})
			if err != nil {
				t.Fatal(err)
			}
			c := exec.Command("/proc/self/exe")
			c.Env = append(os.Environ(), serveEnv+"="+string(text))
			var out []byte
			ns.Do(func() { out, err = c.CombinedOutput() })
			if c.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), tt.want) {
				t.Errorf("%v: %s", err, out)
			}
			if fi, err := os.Stat(filepath.Dir(socket)); err != nil || tt.beside != "" && fi.Sys().(*syscall.Stat_t).Uid != 0 {
				t.Errorf("the folder was given away: %v", err)
			}
		})
	}
}

// TestLowPortRefused: who may not listen on a port is told what that takes.
func TestLowPortRefused(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	socket, state := foldersFor(t)
	c := exec.Command(program(t), "serve", "--config", os.DevNull, "--listen", "127.0.0.1:80", "--socket", socket, "--state-dir", state)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 41001, Gid: 41001}, AmbientCaps: []uintptr{unix.CAP_NET_ADMIN}}
	for _, dir := range []string{filepath.Dir(socket), state} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, 41001, 41001); err != nil {
			t.Fatal(err)
		}
	}
	var out []byte
	var err error
	ns.Do(func() { out, err = c.CombinedOutput() })
	if err == nil || !strings.Contains(string(out), "127.0.0.1:80") || !strings.Contains(string(out), "hint: "+lowPortHint) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestRootAmongOthers: who stays root is told which folders it can't write to any more.
func TestRootAmongOthers(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	socket, state := foldersFor(t)
	if err := os.Mkdir(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Dir(socket), 41001, 41001); err != nil {
		t.Fatal(err)
	}
	l := launch(t, ns, exec.Command(program(t), "serve", "--config", os.DevNull, "--no-listen", "--socket", socket, "--state-dir", state))
	if !strings.Contains(l.output.String(), "chown root "+filepath.Dir(socket)) {
		t.Errorf("log: %s", l.output.String())
	}
	client, err := ctdclient.New(ctdclient.Config{Server: "unix://" + socket})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Info(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAccountOf(t *testing.T) {
	for name, want := range map[string]int{"root": 0, "0": 0, "nobody": nobody, "65534": nobody} {
		if a, err := accountOf(name); err != nil || a.uid != want || !slices.Contains(a.groups, a.gid) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	if a, err := accountOf(""); a != nil || err != nil {
		t.Errorf("none: %+v, %v", a, err)
	}
	for _, name := range []string{"ctd-no-such", "4294967295", "-1"} {
		if a, err := accountOf(name); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// TestPrivilegesRTSP: a daemon that has become another user lets media in.
func TestPrivilegesRTSP(t *testing.T) {
	n := rtsptest.NewNetwork(t)
	socket, state := foldersFor(t)
	text, err := json.Marshal(Config{
		Socket: socket, StateDir: state, RunAs: "nobody", NetNS: n.Router.Name(),
		RTSP: RTSPConfig{Enabled: true, Helper: helper.Config{Ports: []uint16{554}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), serveEnv+"="+string(text))
	l := launch(t, conntracktest.NewNS(t), c)
	if kinds, _ := threads(t, c.Process.Pid); len(kinds) != 1 || !strings.HasPrefix(kinds[0].Uid, "65534 ") {
		t.Fatalf("%+v\n%s", kinds, l.output.String())
	}
	at := netip.AddrPortFrom(n.ServerAddr(false), 554)
	rtsptest.StartGortsplibServer(t, n.Server, at, netip.Addr{})
	rtsptest.StartGst(t, n.Client, rtsptest.URL(at), "1-0")
	const aStream = 20
	if got := n.Streams(n.Client, aStream, conntracktest.Slow(20*time.Second)); got < aStream {
		t.Errorf("%d datagrams arrived\n%s", got, l.output.String())
	}
	client, err := ctdclient.New(ctdclient.Config{Server: "unix://" + socket})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := client.HelperSessions(t.Context()); err != nil || len(s.Sessions) != 1 {
		t.Errorf("sessions %+v, %v", s, err)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("exit: %v\n%s", err, l.output.String())
	}
	if rules := n.Router.Exec("nft", "list", "ruleset"); strings.Contains(rules, "ctd_rtsp") {
		t.Errorf("rules are left behind: %s\n%s", rules, l.output.String())
	}
}
