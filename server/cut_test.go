package server

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
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
	"ctd/rpc/wire"
)

// talker is testdata/talk.py in a namespace.
type talker struct {
	t   *testing.T
	cmd *exec.Cmd

	stdin  io.WriteCloser
	mu     sync.Mutex
	events []string
	times  []time.Duration // of the events
	ended  chan struct{}
}

// monotonic is the time by which talk.py tells when something happened.
func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

func startTalker(t *testing.T, ns *conntracktest.NS, args ...string) *talker {
	t.Helper()
	k := &talker{t: t, cmd: exec.Command("python3", append([]string{"testdata/talk.py"}, args...)...), ended: make(chan struct{})}
	stdout, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if k.stdin, err = k.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	ns.Do(func() { err = k.cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(k.ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			at, event, _ := strings.Cut(lines.Text(), " ")
			ns, _ := strconv.ParseInt(at, 10, 64)
			k.mu.Lock()
			k.events, k.times = append(k.events, event), append(k.times, time.Duration(ns))
			k.mu.Unlock()
		}
		_ = k.cmd.Wait()
	}()
	t.Cleanup(k.end)
	return k
}

func (k *talker) end() {
	_ = k.cmd.Process.Kill()
	<-k.ended
}

// pause runs fn while the program does nothing, and nothing of its connection, which is from a port in
// the namespace client to one in server, is under way.
func (k *talker) pause(client, server *conntracktest.NS, sport int, fn func()) {
	k.t.Helper()
	if err := k.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		k.t.Fatal(err)
	}
	conntracktest.Eventually(k.t, "it is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", k.cmd.Process.Pid))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
	// All that it sent has come back (bytes_acked has the SYN too), and all that the server sent, to anybody,
	// is acknowledged.
	conntracktest.Eventually(k.t, "nothing is under way", func() bool {
		m := echoed.FindStringSubmatch(client.Exec("ss", "-Htin", "sport = :"+strconv.Itoa(sport)))
		if m == nil {
			return false
		}
		sent, _ := strconv.Atoi(m[1])
		received, _ := strconv.Atoi(m[2])
		return sent-1 == received && !strings.Contains(server.Exec("ss", "-Htin", "sport = :5000"), "unacked:")
	})
	fn()
	if err := k.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		k.t.Fatal(err)
	}
}

// echoed are the bytes of a connection, as ss tells them: those that were acknowledged, and those that came.
var echoed = regexp.MustCompile(`bytes_acked:(\d+) .*bytes_received:(\d+) `)

// count returns how many events there were so far.
func (k *talker) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.events)
}

// happens waits for an event, from the given one on.
func (k *talker) happens(event string, from int) {
	k.t.Helper()
	conntracktest.Eventually(k.t, strings.Join(k.cmd.Args[1:], " ")+": "+event, func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return slices.Contains(k.events[from:], event)
	})
}

// linesAfter returns how many lines had come back later than at a time.
func (k *talker) linesAfter(at time.Duration) (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, event := range k.events {
		if _, err := strconv.Atoi(event); err == nil && k.times[i] > at {
			n++
		}
	}
	return n
}

// goesOn waits until three more lines have come back.
func (k *talker) goesOn(what string) {
	k.t.Helper()
	from := k.count()
	conntracktest.Eventually(k.t, what, func() bool { return k.count() >= from+3 })
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, err := strconv.Atoi(k.events[len(k.events)-1]); err != nil {
		k.t.Fatalf("%s: %s", what, k.events[len(k.events)-1])
	}
}

// TestCut cuts connections between real programs by `ctd kill --cut`, after it has shown that the
// kernel's own way, conntrack -D, ends nothing.
func TestCut(t *testing.T) {
	conntracktest.Kernel(t)
	for _, c := range []struct {
		name   string
		v6     bool
		port   int
		nat    func(tp *conntracktest.Topology)
		router bool // the client's connection ends at the router itself
	}{
		{name: "masquerade", nat: func(tp *conntracktest.Topology) { tp.Masquerade(`oifname "server"`) }},
		{name: "snat", nat: func(tp *conntracktest.Topology) {
			tp.SNAT(`oifname "server" tcp sport 1111`, netip.AddrPortFrom(tp.RouterAddr(false), 7777))
			tp.SNAT(`oifname "server" tcp sport 1112`, netip.AddrPortFrom(tp.RouterAddr(false), 7778))
		}},
		{name: "dnat", port: 8080, nat: func(tp *conntracktest.Topology) {
			tp.DNAT(`iifname "client" tcp dport 8080`, netip.AddrPortFrom(tp.ServerAddr(false), 5000))
		}},
		{name: "no nat"},
		{name: "ipv6", v6: true},
		{name: "ipv6 masquerade", v6: true, nat: func(tp *conntracktest.Topology) { tp.Masquerade(`oifname "server"`) }},
		{name: "router", router: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tp := conntracktest.NewTopology(t)
			if c.nat != nil {
				c.nat(tp)
			}
			daemon := startProcess(t, tp.Router, t.TempDir())
			host, address := tp.Server, tp.ServerAddr(c.v6)
			target := address
			if c.router {
				host, address, target = tp.Router, tp.GateAddr(c.v6), tp.GateAddr(c.v6)
			}
			port := "5000"
			if c.port != 0 {
				target, port = tp.GateAddr(c.v6), strconv.Itoa(c.port)
			}
			server := startTalker(t, host, "serve", address.String(), "5000")
			server.happens("listening", 0)
			client := func(role string, sport int) *talker {
				return startTalker(t, tp.Client, role, target.String(), port, strconv.Itoa(sport))
			}
			neighbour := client("talk", 2222)
			neighbour.goesOn("the neighbour talks")

			for sport, role := range map[int]string{1111: "talk", 1112: "wait"} {
				cutOne(t, tp, daemon, host, server, client, role, sport)
				neighbour.goesOn("the neighbour goes on")
			}
		})
	}
}

// cutOne cuts the connection from a port, where one end talks or both are silent.
func cutOne(t *testing.T, tp *conntracktest.Topology, daemon *process, host *conntracktest.NS, server *talker, client func(role string, sport int) *talker, role string, sport int) {
	t.Helper()
	const cut = 3 * time.Second
	victim := client(role, sport)
	victim.happens("1", 0)
	if role == "talk" { // the hole
		// Between two lines: an answer under way would find no translation, and be reset by the router.
		victim.pause(tp.Client, host, sport, func() { tp.Router.Exec("conntrack", "-D", "-p", "tcp", "--orig-port-src", strconv.Itoa(sport)) })
		victim.goesOn("the connection goes on after conntrack -D")
	}

	again := client("late", sport)
	again.happens("ready", 0)
	before, talked := server.count(), victim.count()
	out, err := exec.Command(program(t), "--server", "unix://"+daemon.sock, "kill", fmt.Sprintf("port=%d", sport), "--cut=3s").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "killed 1 flow\n") || !strings.Contains(string(out), "cut for 3s") {
		t.Fatalf("ctd kill --cut: %v\n%s", err, out)
	}
	after := monotonic(t)
	victim.happens("reset", talked)
	if slipped := victim.linesAfter(after); slipped > 1 {
		t.Errorf("%d lines came back after the cut", slipped)
	}
	// The server sees the translated port.
	conntracktest.Eventually(t, "the server's reset", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.events) > before && strings.HasPrefix(server.events[len(server.events)-1], "reset ")
	})
	// With the same source port it is refused for as long as the cut lasts, and then not any more.
	if _, err := again.stdin.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	again.happens("refused", 0)
	time.Sleep(after + cut + 100*time.Millisecond - monotonic(t))
	client(role, sport).happens("1", 0)
}

// TestCutAfterKill: what a daemon leaves that is killed in the middle of cuts, its next start
// clears, and what ends normally leaves nothing.
func TestCutAfterKill(t *testing.T) {
	tp := conntracktest.NewTopology(t)
	before := tp.Router.Exec("nft", "list", "ruleset")
	dir := t.TempDir()
	daemon := startProcess(t, tp.Router, dir)
	client := daemon.client(ctdclient.Config{})
	for i := range 40 {
		tp.UDP(conntracktest.Path{Port: uint16(5000 + i)})
	}
	// It is killed while cuts are being made.
	var killing sync.WaitGroup
	for i := range 40 {
		killing.Go(func() {
			_, _ = client.Kill(t.Context(), wire.KillParams{
				Filter: fmt.Sprintf("dport=%d", 5000+i), Cutting: wire.Cutting{Cut: 600, Block: "1h"},
			})
		})
	}
	conntracktest.Eventually(t, "the first cut", func() bool {
		return strings.Contains(tp.Router.Exec("nft", "list", "ruleset"), "5000")
	})
	daemon.end(syscall.SIGKILL)
	killing.Wait()
	if left := tp.Router.Exec("nft", "list", "ruleset"); left == before {
		t.Fatal("a killed daemon leaves nothing: the test shows nothing")
	}
	daemon = startProcess(t, tp.Router, dir)
	if left := tp.Router.Exec("nft", "list", "ruleset"); left != before {
		t.Errorf("after the next start there is\n%s\nbefore there was\n%s", left, before)
	}
	tp.UDP(conntracktest.Path{Port: 6000})
	client = daemon.client(ctdclient.Config{})
	if r, err := client.Kill(t.Context(), wire.KillParams{Filter: "dport=6000", Cutting: wire.Cutting{Block: "1h"}}); err != nil || r.Cut.Blocks != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	daemon.end(syscall.SIGTERM)
	if left := tp.Router.Exec("nft", "list", "ruleset"); left != before {
		t.Errorf("after its end there is\n%s\nbefore there was\n%s", left, before)
	}
}

// TestCutLoad cuts transfers at full speed, and leaves one to another port of the same server alone.
func TestCutLoad(t *testing.T) {
	tp := conntracktest.NewTopology(t)
	tp.Masquerade(`oifname "server"`)
	daemon := startProcess(t, tp.Router, t.TempDir())
	start := func(ns *conntracktest.NS, args ...string) (ended chan error) {
		t.Helper()
		c := exec.Command("iperf3", args...)
		var err error
		ns.Do(func() { err = c.Start() })
		if err != nil {
			t.Fatal(err)
		}
		ended = make(chan error, 1)
		go func() { ended <- c.Wait() }()
		t.Cleanup(func() { _ = c.Process.Kill() })
		return ended
	}
	// Each bounded in time and in rate.
	transfer := func(port, seconds string) (server, client chan error) {
		t.Helper()
		server = start(tp.Server, "-s", "-1", "-p", port)
		conntracktest.Eventually(t, "iperf3 listens", func() bool {
			return strings.Contains(tp.Server.Exec("ss", "-Htln", "sport = :"+port), port)
		})
		return server, start(tp.Client, "-c", tp.ServerAddr(false).String(), "-p", port, "-t", seconds, "-P", "4", "-b", "200M")
	}
	victimServer, victim := transfer("5201", "60")
	_, neighbour := transfer("5202", "3")
	client := daemon.client(ctdclient.Config{})
	conntracktest.Eventually(t, "transfers", func() bool {
		r, err := client.Count(t.Context(), wire.CountParams{Filter: "proto=tcp dport=5201 bytes=>1M"})
		return err == nil && r.Count == 4
	})
	r, err := client.Kill(t.Context(), wire.KillParams{Filter: "proto=tcp dport=5201", Cutting: wire.Cutting{Cut: true}})
	if err != nil || r.Killed != 5 || r.Cut.Probed != 10 { // four streams and the connection that controls them
		t.Errorf("%+v, %v", r, err)
	}
	for name, ended := range map[string]chan error{"client": victim, "server": victimServer} {
		select {
		case err := <-ended:
			if err == nil && name == "client" { // the server ends well in any case
				t.Errorf("the %s of what was cut ended well", name)
			}
		case <-time.After(15 * time.Second):
			t.Errorf("the %s goes on", name)
		}
	}
	select {
	case err := <-neighbour:
		if err != nil {
			t.Errorf("the neighbour: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the neighbour doesn't end")
	}
	if left, err := client.Count(t.Context(), wire.CountParams{Filter: "proto=tcp dport=5201"}); err != nil || left.Count != 0 {
		t.Errorf("left %+v, %v", left, err)
	}
}
