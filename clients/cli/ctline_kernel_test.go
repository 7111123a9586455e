//go:build linux

package cli

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ctd/rpc/wire"
)

// namespace makes a network namespace in which conntrack works, and returns a function that runs
// commands in it.
func namespace(t *testing.T) (name string, run func(args ...string) string) {
	t.Helper()
	if os.Getenv("CTD_KERNEL_TESTS") != "1" {
		t.Skip("CTD_KERNEL_TESTS=1 is not set")
	}
	name = fmt.Sprintf("ctd-cli-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	run = func(args ...string) string {
		t.Helper()
		var out, errs strings.Builder
		cmd := exec.Command("ip", append([]string{"netns", "exec", name}, args...)...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, errs.String())
		}
		return out.String()
	}
	run("ip", "link", "set", "lo", "up")
	run("nft", `add table inet t
add chain inet t c { type filter hook output priority 0; }
add rule inet t c ct state established accept
add ct helper inet t h { type "ftp" protocol tcp; }
add chain inet t d { type filter hook output priority -150; }
add rule inet t d tcp dport 2121 ct state new ct helper set "h"`)
	run("sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1", "net.netfilter.nf_conntrack_timestamp=1")
	return name, run
}

var (
	timeoutField = regexp.MustCompile(`^(\S+ +\d+) (\d+) `)
	deltaField   = regexp.MustCompile(`delta-time=\d+`)
)

// steady replaces what changes from second to second, and returns the timeout.
func steady(line string) (string, int) {
	timeout := -1
	if m := timeoutField.FindStringSubmatch(line); m != nil {
		timeout, _ = strconv.Atoi(m[2])
	}
	return deltaField.ReplaceAllString(timeoutField.ReplaceAllString(line, "$1 T "), "delta-time=T"), timeout
}

func ports(src, dst string, sport, dport uint16) *wire.Tuple {
	return &wire.Tuple{Src: src, Dst: dst, SPort: &sport, DPort: &dport, Packets: new(uint64(0)), Bytes: new(uint64(0))}
}

func icmp(src, dst string, typ uint8) *wire.Tuple {
	return &wire.Tuple{Src: src, Dst: dst, Type: &typ, Code: new(uint8(0)), ID: new(uint16(77)), Packets: new(uint64(0)), Bytes: new(uint64(0))}
}

func bare(src, dst string) *wire.Tuple {
	return &wire.Tuple{Src: src, Dst: dst, Packets: new(uint64(0)), Bytes: new(uint64(0))}
}

// TestConntrackLines compares with conntrack(8) line by line.
func TestConntrackLines(t *testing.T) {
	_, run := namespace(t)
	zoned := ports("10.0.0.1", "10.0.0.4", 5353, 53)
	zoned.Zone = 5
	gre := bare("10.0.0.1", "10.0.0.2")
	gre.SrcKey, gre.Key = new(uint16(1)), new(uint16(0x20))
	greReply := bare("10.0.0.2", "10.0.0.1")
	greReply.SrcKey, greReply.Key = new(uint16(0x20)), new(uint16(1))
	const v4, v6 = "-s 10.0.0.1 -d 10.0.0.2", "-s fd00::1 -d fd00::2"
	cases := []struct {
		name, args string
		flow       wire.Flow
	}{
		{
			"tcp", "-p tcp " + v4 + " --sport 1025 --dport 80 --state ESTABLISHED -t 400000 -u SEEN_REPLY,ASSURED -m 4000000000",
			wire.Flow{
				ProtoNum: 6, State: "ESTABLISHED", Timeout: new(uint32(400000)), Status: []string{"seen_reply", "assured", "confirmed"}, Mark: new(uint32(4000000000)),
				Orig: ports("10.0.0.1", "10.0.0.2", 1025, 80), Reply: ports("10.0.0.2", "10.0.0.1", 80, 1025),
			},
		},
		{
			"tcp snat", "-p tcp " + v4 + " --sport 1026 --dport 80 --state SYN_SENT -t 120 --src-nat 192.0.2.1:4000",
			wire.Flow{
				ProtoNum: 6, State: "SYN_SENT", Timeout: new(uint32(120)), Status: []string{"confirmed", "src_nat"},
				Orig: ports("10.0.0.1", "10.0.0.2", 1026, 80), Reply: ports("10.0.0.2", "192.0.2.1", 80, 4000),
			},
		},
		{
			"tcp ipv6", "-p tcp " + v6 + " --sport 1025 --dport 80 --state CLOSE_WAIT -t 300 -u SEEN_REPLY",
			wire.Flow{
				ProtoNum: 6, State: "CLOSE_WAIT", Timeout: new(uint32(300)), Status: []string{"seen_reply"},
				Orig: ports("fd00::1", "fd00::2", 1025, 80), Reply: ports("fd00::2", "fd00::1", 80, 1025),
			},
		},
		{
			"udp", "-p udp " + v4 + " --sport 5353 --dport 53 -t 300",
			wire.Flow{
				ProtoNum: 17, Timeout: new(uint32(300)),
				Orig: ports("10.0.0.1", "10.0.0.2", 5353, 53), Reply: ports("10.0.0.2", "10.0.0.1", 53, 5353),
			},
		},
		{
			"udp zone", "-p udp -s 10.0.0.1 -d 10.0.0.3 --sport 5353 --dport 53 -t 300 -u SEEN_REPLY,ASSURED -w 7",
			wire.Flow{
				ProtoNum: 17, Timeout: new(uint32(300)), Status: []string{"seen_reply", "assured"}, Zone: 7,
				Orig: ports("10.0.0.1", "10.0.0.3", 5353, 53), Reply: ports("10.0.0.3", "10.0.0.1", 53, 5353),
			},
		},
		{
			"udp zone of one direction", "-p udp -s 10.0.0.1 -d 10.0.0.4 --sport 5353 --dport 53 -t 300 --orig-zone 5",
			wire.Flow{ProtoNum: 17, Timeout: new(uint32(300)), Orig: zoned, Reply: ports("10.0.0.4", "10.0.0.1", 53, 5353)},
		},
		{
			"icmp", "-p icmp " + v4 + " --icmp-type 8 --icmp-code 0 --icmp-id 77 -t 300",
			wire.Flow{ProtoNum: 1, Timeout: new(uint32(300)), Orig: icmp("10.0.0.1", "10.0.0.2", 8), Reply: icmp("10.0.0.2", "10.0.0.1", 0)},
		},
		{
			"icmpv6", "-p icmpv6 " + v6 + " --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 77 -t 300",
			wire.Flow{ProtoNum: 58, Timeout: new(uint32(300)), Orig: icmp("fd00::1", "fd00::2", 128), Reply: icmp("fd00::2", "fd00::1", 129)},
		},
		{
			"sctp", "-p sctp " + v4 + " --sport 9 --dport 10 --state COOKIE_ECHOED -t 1000 --orig-vtag 1 --reply-vtag 2",
			wire.Flow{
				ProtoNum: 132, State: "COOKIE_ECHOED", Timeout: new(uint32(1000)),
				Orig: ports("10.0.0.1", "10.0.0.2", 9, 10), Reply: ports("10.0.0.2", "10.0.0.1", 10, 9),
			},
		},
		{
			"gre", "-p gre " + v4 + " --srckey 1 --dstkey 0x20 -t 1000",
			wire.Flow{ProtoNum: 47, Timeout: new(uint32(1000)), Orig: gre, Reply: greReply},
		},
		{
			"udplite", "-p udplite " + v4 + " --sport 9 --dport 10 -t 1000",
			wire.Flow{
				ProtoNum: 136, Timeout: new(uint32(1000)),
				Orig: ports("10.0.0.1", "10.0.0.2", 9, 10), Reply: ports("10.0.0.2", "10.0.0.1", 10, 9),
			},
		},
		{
			"unknown protocol", "-p 200 " + v4 + " -t 1000",
			wire.Flow{ProtoNum: 200, Timeout: new(uint32(1000)), Orig: bare("10.0.0.1", "10.0.0.2"), Reply: bare("10.0.0.2", "10.0.0.1")},
		},
		{
			"ospf", "-p 89 " + v4 + " -t 1000",
			wire.Flow{ProtoNum: 89, Timeout: new(uint32(1000)), Orig: bare("10.0.0.1", "10.0.0.2"), Reply: bare("10.0.0.2", "10.0.0.1")},
		},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			run("conntrack", "-F")
			run(append([]string{"conntrack", "-I"}, strings.Fields(tc.args)...)...)
			want, wantTimeout := steady(strings.TrimSuffix(run("conntrack", "-L"), "\n"))
			tc.flow.Use, tc.flow.Start = new(uint32(1)), time.Now()
			if tc.flow.Mark == nil {
				tc.flow.Mark = new(uint32(0))
			}
			got, gotTimeout := steady(string(conntrackLine(nil, &tc.flow, time.Now())))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if gotTimeout < wantTimeout || gotTimeout > wantTimeout+10 {
				t.Errorf("timeout %d, conntrack says %d", gotTimeout, wantTimeout)
			}
		})
	}
}

// TestConntrackExpectLines lets the kernel's own FTP helper make an expectation and compares its
// line, and that of its master.
func TestConntrackExpectLines(t *testing.T) {
	name, run := namespace(t)
	port := make(chan uint16, 1)
	errs := make(chan error, 1)
	end := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		if err := ftpDialogue(name, port, end); err != nil {
			errs <- err
		}
	}()
	defer func() { close(end); <-finished }()
	var client uint16
	select {
	case client = <-port:
	case err := <-errs:
		t.Fatal(err)
	}

	lines := strings.Split(strings.TrimSpace(run("conntrack", "-L", "expect")), "\n")
	if len(lines) != 1 || lines[0] == "" {
		t.Fatalf("expectations: %q", lines)
	}
	timeout, err := strconv.ParseUint(strings.Fields(lines[0])[0], 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	e := wire.Expect{
		ProtoNum: 6, Protocol: "tcp", Timeout: new(uint32(timeout)), Helper: "ftp",
		Tuple:  &wire.Tuple{Src: "127.0.0.1", Dst: "127.0.0.1", SPort: new(uint16(0)), DPort: new(uint16(51210))},
		Mask:   &wire.Tuple{Src: "255.255.255.255", Dst: "255.255.255.255", SPort: new(uint16(0)), DPort: new(uint16(65535))},
		Master: &wire.Tuple{Protocol: "tcp", Src: "127.0.0.1", Dst: "127.0.0.1", SPort: &client, DPort: new(uint16(2121))},
	}
	if diff := cmp.Diff(lines[0], string(expectLine(nil, &e))); diff != "" {
		t.Errorf("expectation: -want +got\n%s", diff)
	}

	fields := strings.Fields(run("conntrack", "-L", "-p", "tcp", "--dport", "2121"))
	counter := func(nth int, name string) *uint64 {
		for _, f := range fields {
			if text, ok := strings.CutPrefix(f, name+"="); ok {
				if nth--; nth < 0 {
					n, _ := strconv.ParseUint(text, 10, 64)
					return &n
				}
			}
		}
		return nil
	}
	orig, reply := ports("127.0.0.1", "127.0.0.1", client, 2121), ports("127.0.0.1", "127.0.0.1", 2121, client)
	orig.Packets, orig.Bytes = counter(0, "packets"), counter(0, "bytes")
	reply.Packets, reply.Bytes = counter(1, "packets"), counter(1, "bytes")
	master := wire.Flow{
		ProtoNum: 6, State: "ESTABLISHED", Timeout: new(uint32(0)), Status: []string{"seen_reply", "assured"},
		Mark: new(uint32(0)), Helper: "ftp", Orig: orig, Reply: reply, Start: time.Now(),
	}
	// Use changes while packets are under way.
	use := slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, "use=") })
	n, _ := strconv.ParseUint(strings.TrimPrefix(fields[use], "use="), 10, 32)
	master.Use = new(uint32(n))
	want, _ := steady(strings.Join(fields, " "))
	got, _ := steady(strings.Join(strings.Fields(string(conntrackLine(nil, &master, time.Now()))), " "))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("master: -want +got\n%s", diff)
	}
}

// ftpDialogue says in the namespace what an FTP client says before active data comes, and stays
// connected until end is closed.
func ftpDialogue(name string, port chan<- uint16, end <-chan struct{}) error {
	runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
	ns, err := os.Open("/run/netns/" + name)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:2121")
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("tcp4", "127.0.0.1:2121")
	if err != nil {
		return err
	}
	defer c.Close()
	server, err := l.Accept()
	if err != nil {
		return err
	}
	defer server.Close()
	_ = server.SetDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 100)
	for _, line := range []string{"USER x\r\n", "PORT 127,0,0,1,200,10\r\n"} {
		if _, err := c.Write([]byte(line)); err != nil {
			return err
		}
		if _, err := server.Read(buf); err != nil {
			return err
		}
	}
	port <- uint16(c.LocalAddr().(*net.TCPAddr).Port)
	<-end
	return nil
}
