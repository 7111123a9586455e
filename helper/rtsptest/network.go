// Package rtsptest helps to test the RTSP helper from end to end: a network in namespaces with a
// router that drops what nobody asked for, real RTSP servers and clients on both sides of it
// (GStreamer's, ffmpeg, gortsplib), and a server and a client of its own for what those can't be
// made to do.
//
// What needs a kernel runs where conntracktest.Kernel lets it.
package rtsptest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

// Addresses that a Network has beyond those of its topology.
var (
	secondIPv4  = netip.MustParseAddr("10.3.0.2")
	secondIPv6  = netip.MustParseAddr("fd00:3::2")
	secondGate4 = netip.MustParseAddr("10.3.0.1")
	secondGate6 = netip.MustParseAddr("fd00:3::1")
	otherIPv4   = netip.MustParseAddr("10.2.0.3")
	otherIPv6   = netip.MustParseAddr("fd00:2::3")
)

// Network is a router with two hosts on its inside and one on its outside.
//
//	Client 10.1.0.2  -- 10.1.0.1  Router 10.2.0.1  -- 10.2.0.2  Server
//	       fd00:1::2 -- fd00:1::1        fd00:2::1 -- fd00:2::2
//	Second 10.3.0.2  -- 10.3.0.1                      10.2.0.3
//	       fd00:3::2 -- fd00:3::1                     fd00:2::3
//
// The router masquerades what leaves towards the server. It forwards what is established or related,
// what the inside begins, and TCP to forwarded ports; it accepts nothing for itself but TCP, ICMP and
// what is established or related.
type Network struct {
	*conntracktest.Topology
	// Second is another host on the inside: a second client, or a server behind a forwarded port.
	Second *conntracktest.NS

	t testing.TB
}

// routerRules are the router's. What is dropped is counted, for a look at tests that fail.
const routerRules = `
add rule inet ctd source oifname "server" masquerade
table inet e2e {
	chain inside {}
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		iifname { "client", "second" } jump inside
		iifname { "client", "second" } ct state new accept
		iifname "server" ct state new ct status dnat meta l4proto tcp accept
		counter
	}
	chain input {
		type filter hook input priority 0; policy drop;
		iifname "lo" accept
		ct state established,related accept
		meta l4proto { tcp, icmp, icmpv6 } accept
		counter
	}
}`

// NewNetwork makes a network that lives as long as the test.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	n := &Network{Topology: conntracktest.NewTopology(t), Second: conntracktest.NewNS(t), t: t}
	n.Second.Sysctl("net.ipv6.conf.default.accept_dad", "0")
	n.batch(n.Router, fmt.Sprintf(`link add second type veth peer name router netns %s
addr add %s/24 dev second
addr add %s/64 dev second nodad
link set second up
`, n.Second.Name(), secondGate4, secondGate6))
	n.batch(n.Second, fmt.Sprintf(`addr add %s/24 dev router
addr add %s/64 dev router nodad
link set router up
route add default via %s
route add default via inet6 %s
`, secondIPv4, secondIPv6, secondGate4, secondGate6))
	n.batch(n.Server, fmt.Sprintf(`addr add %s/24 dev router
addr add %s/64 dev router nodad preferred_lft 0
`, otherIPv4, otherIPv6))
	n.Router.Nft(routerRules)
	return n
}

func (n *Network) batch(ns *conntracktest.NS, script string) {
	n.t.Helper()
	if _, err := ns.Run(script, "ip", "-batch", "-"); err != nil {
		n.t.Fatal(err)
	}
}

// SecondAddr returns the address of the second host on the inside.
func (n *Network) SecondAddr(v6 bool) netip.Addr { return pick(v6, secondIPv6, secondIPv4) }

// OtherAddr returns the server's other address, which it uses only where a program binds to it.
func (n *Network) OtherAddr(v6 bool) netip.Addr { return pick(v6, otherIPv6, otherIPv4) }

func pick[T any](v6 bool, six, four T) T {
	if v6 {
		return six
	}
	return four
}

// Open makes the router let everything through and translate nothing: then a stream needs no
// helper.
func (n *Network) Open() {
	n.t.Helper()
	n.Router.Nft("flush chain inet ctd source\nflush table inet e2e\n" +
		"chain inet e2e forward { policy accept; }\nchain inet e2e input { policy accept; }")
}

// NoPunching drops UDP that the inside begins, as clients do to make holes for what is to come, or to
// send RTCP. Then every UDP flow in the router's table is the helper's, or was let in by it.
func (n *Network) NoPunching() {
	n.t.Helper()
	n.Router.Nft(`add rule inet e2e inside meta l4proto udp ct state new drop`)
}

// Forward forwards a TCP port of the router's address towards the server to a host on the inside.
func (n *Network) Forward(v6 bool, public uint16, to netip.AddrPort) {
	n.t.Helper()
	n.DNAT(fmt.Sprintf("%s daddr %s tcp dport %d", pick(v6, "ip6", "ip"), n.RouterAddr(v6), public), to)
}

// LoseFirst makes a host lose every TCP segment with a message in it that comes from or goes to a
// port, when it arrives for the first time: it gets the retransmission.
func (n *Network) LoseFirst(ns *conntracktest.NS, port uint16) {
	n.t.Helper()
	// Longer than a segment without payload: 60 bytes of IPv4, or 80 of IPv6.
	ns.Nft(fmt.Sprintf(`table inet lossy {
	set seen {
		typeof tcp sport . tcp sequence
		timeout 1m
		flags dynamic
	}
	chain lose {
		tcp sport . tcp sequence @seen return
		add @seen { tcp sport . tcp sequence } counter drop
	}
	chain in {
		type filter hook prerouting priority -400
		meta length > 100 tcp dport %[1]d jump lose
		meta length > 100 tcp sport %[1]d jump lose
	}
}`, port))
}

// Lost returns how many segments a host lost by LoseFirst.
func (n *Network) Lost(ns *conntracktest.NS) int {
	n.t.Helper()
	m := regexp.MustCompile(`counter packets (\d+)`).FindStringSubmatch(ns.Exec("nft", "list", "table", "inet", "lossy"))
	if m == nil {
		n.t.Fatal("no counter in table lossy")
	}
	lost, _ := strconv.Atoi(m[1])
	return lost
}

// Datagrams returns how many UDP datagrams programs in a namespace have received (/proc/net/snmp and
// snmp6, InDatagrams). Those for which there was no socket don't count.
func Datagrams(ns *conntracktest.NS) (count int, err error) {
	ns.Do(func() {
		four, err4 := os.ReadFile("/proc/thread-self/net/snmp")
		six, err6 := os.ReadFile("/proc/thread-self/net/snmp6")
		if err = errors.Join(err4, err6); err != nil {
			return
		}
		var names []string
		for line := range strings.Lines(string(four)) {
			fields := strings.Fields(line)
			switch {
			case fields[0] != "Udp:":
			case names == nil:
				names = fields
			default:
				for i, name := range names {
					if name == "InDatagrams" {
						v, _ := strconv.Atoi(fields[i])
						count += v
					}
				}
			}
		}
		for line := range strings.Lines(string(six)) {
			if fields := strings.Fields(line); fields[0] == "Udp6InDatagrams" {
				v, _ := strconv.Atoi(fields[1])
				count += v
			}
		}
	})
	return count, err
}

// Received returns what Datagrams does and fails the test where it can't be read.
func (n *Network) Received(ns *conntracktest.NS) int {
	n.t.Helper()
	count, err := Datagrams(ns)
	if err != nil {
		n.t.Fatal(err)
	}
	return count
}

// Streams waits until programs in a namespace have received so many more datagrams, for as long
// as is given, and returns how many it were.
func (n *Network) Streams(ns *conntracktest.NS, want int, limit time.Duration) int {
	n.t.Helper()
	before := n.Received(ns)
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if got := n.Received(ns) - before; got >= want || time.Now().After(deadline) {
			return got
		}
	}
}
