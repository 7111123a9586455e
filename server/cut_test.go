package server

import (
	"bufio"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// talker is testdata/talk.py in a namespace.
type talker struct {
	t   *testing.T
	cmd *exec.Cmd

	mu     sync.Mutex
	events []string
	ended  chan struct{}
}

func startTalker(t *testing.T, ns *conntracktest.NS, args ...string) *talker {
	t.Helper()
	k := &talker{t: t, cmd: exec.Command("python3", append([]string{"testdata/talk.py"}, args...)...), ended: make(chan struct{})}
	stdout, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(func() { err = k.cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(k.ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			k.mu.Lock()
			k.events = append(k.events, lines.Text())
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

// pause runs fn while the program does nothing, and nothing of its connection is under way.
func (k *talker) pause(fn func()) {
	k.t.Helper()
	if err := k.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		k.t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	fn()
	if err := k.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		k.t.Fatal(err)
	}
}

// count returns how many events there were so far.
func (k *talker) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.events)
}

// happens waits for an event, from the given one on, and returns how many came before it.
func (k *talker) happens(event string, from int) int {
	k.t.Helper()
	at := -1
	conntracktest.Eventually(k.t, strings.Join(k.cmd.Args[1:], " ")+": "+event, func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		for i := from; i < len(k.events); i++ {
			if k.events[i] == event {
				at = i
				return true
			}
		}
		return false
	})
	return at - from
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
				cutOne(t, tp, daemon, server, client, role, sport)
				neighbour.goesOn("the neighbour goes on")
			}
		})
	}
}

// cutOne cuts the connection from a port, where one end talks or both are silent.
func cutOne(t *testing.T, tp *conntracktest.Topology, daemon *process, server *talker, client func(role string, sport int) *talker, role string, sport int) {
	t.Helper()
	victim := client(role, sport)
	victim.happens("1", 0)
	if role == "talk" { // the hole
		// Between two lines: an answer under way would find no translation, and be reset by the router.
		victim.pause(func() { tp.Router.Exec("conntrack", "-D", "-p", "tcp", "--orig-port-src", strconv.Itoa(sport)) })
		victim.goesOn("the connection goes on after conntrack -D")
	}

	before, talked := server.count(), victim.count()
	out, err := exec.Command(program(t), "--server", "unix://"+daemon.sock, "kill", fmt.Sprintf("port=%d", sport), "--cut=2s").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "killed 1 flow\n") || !strings.Contains(string(out), "cut for 2s") {
		t.Fatalf("ctd kill --cut: %v\n%s", err, out)
	}
	after := victim.count()
	if slipped := victim.happens("reset", talked); slipped-(after-talked) > 1 {
		t.Errorf("%d lines came back after the cut", slipped-(after-talked))
	}
	// The server sees the translated port.
	conntracktest.Eventually(t, "the server's reset", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.events) > before && strings.HasPrefix(server.events[len(server.events)-1], "reset ")
	})
	// With the same source port it is refused for as long as the cut lasts, and then not any more.
	client(role, sport).happens("refused", 0)
	time.Sleep(2 * time.Second)
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
	victimServer, victim := transfer("5201", "20")
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
		case <-time.After(3 * time.Second):
			t.Errorf("the %s goes on", name)
		}
	}
	select {
	case err := <-neighbour:
		if err != nil {
			t.Errorf("the neighbour: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the neighbour doesn't end")
	}
	if left, err := client.Count(t.Context(), wire.CountParams{Filter: "proto=tcp dport=5201"}); err != nil || left.Count != 0 {
		t.Errorf("left %+v, %v", left, err)
	}
}
