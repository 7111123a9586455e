package conntracktest

import (
	"fmt"
	"net/netip"
	"testing"
)

// Addresses of a Topology.
var (
	clientIPv4  = netip.MustParseAddr("10.1.0.2")
	clientIPv6  = netip.MustParseAddr("fd00:1::2")
	clientGate4 = netip.MustParseAddr("10.1.0.1")
	clientGate6 = netip.MustParseAddr("fd00:1::1")
	serverIPv4  = netip.MustParseAddr("10.2.0.2")
	serverIPv6  = netip.MustParseAddr("fd00:2::2")
	serverGate4 = netip.MustParseAddr("10.2.0.1")
	serverGate6 = netip.MustParseAddr("fd00:2::1")
)

// Topology is a client and a server with a router between them that tracks connections.
//
//	Client 10.1.0.2  -- 10.1.0.1  Router 10.2.0.1  -- 10.2.0.2  Server
//	       fd00:1::2 -- fd00:1::1        fd00:2::1 -- fd00:2::2
type Topology struct {
	Client, Router, Server *NS

	t testing.TB
}

// NewTopology makes a topology that lives as long as the test.
func NewTopology(t testing.TB) *Topology {
	t.Helper()
	tp := &Topology{t: t, Client: NewNS(t), Router: NewNS(t), Server: NewNS(t)}
	for _, n := range []*NS{tp.Client, tp.Router, tp.Server} {
		n.Sysctl("net.ipv6.conf.all.accept_dad", "0")
		n.Sysctl("net.ipv6.conf.default.accept_dad", "0")
	}
	tp.Router.Sysctl("net.ipv4.ip_forward", "1")
	tp.Router.Sysctl("net.ipv6.conf.all.forwarding", "1")
	tp.link("client", tp.Client, clientGate4, clientGate6, clientIPv4, clientIPv6)
	tp.link("server", tp.Server, serverGate4, serverGate6, serverIPv4, serverIPv6)
	tp.Router.Conntrack()
	return tp
}

// link joins the router to a host, which gets its default routes through it.
func (tp *Topology) link(name string, host *NS, gate4, gate6, addr4, addr6 netip.Addr) {
	tp.t.Helper()
	batch := func(n *NS, script string) {
		tp.t.Helper()
		if _, err := n.Run(script, "ip", "-batch", "-"); err != nil {
			tp.t.Fatal(err)
		}
	}
	batch(tp.Router, fmt.Sprintf(`link add %[1]s type veth peer name router netns %[2]s
addr add %[3]s/24 dev %[1]s
addr add %[4]s/64 dev %[1]s nodad
link set %[1]s up
`, name, host.Name(), gate4, gate6))
	batch(host, fmt.Sprintf(`addr add %s/24 dev router
addr add %s/64 dev router nodad
link set router up
route add default via %s
route add default via inet6 %s
`, addr4, addr6, gate4, gate6))
}

// ClientAddr returns the client's address.
func (tp *Topology) ClientAddr(v6 bool) netip.Addr { return pick(v6, clientIPv6, clientIPv4) }

// ServerAddr returns the server's address.
func (tp *Topology) ServerAddr(v6 bool) netip.Addr { return pick(v6, serverIPv6, serverIPv4) }

// RouterAddr returns the router's address towards the server: what masqueraded clients have.
func (tp *Topology) RouterAddr(v6 bool) netip.Addr { return pick(v6, serverGate6, serverGate4) }

// GateAddr returns the router's address towards the client: what clients of a forwarded port
// connect to.
func (tp *Topology) GateAddr(v6 bool) netip.Addr { return pick(v6, clientGate6, clientGate4) }

func pick[T any](v6 bool, six, four T) T {
	if v6 {
		return six
	}
	return four
}

// rule appends a rule to a chain of the router's table.
func (tp *Topology) rule(chain, rule string) {
	tp.t.Helper()
	tp.Router.Nft("add rule inet ctd " + chain + " " + rule)
}

// SNAT translates the source of what matches, e.g. "udp dport 53", to an address, or an address
// and port where to has one.
func (tp *Topology) SNAT(match string, to netip.AddrPort) {
	tp.t.Helper()
	tp.rule("source", match+" snat "+natTarget(to))
}

// DNAT translates the destination of what matches.
func (tp *Topology) DNAT(match string, to netip.AddrPort) {
	tp.t.Helper()
	tp.rule("destination", match+" dnat "+natTarget(to))
}

func natTarget(to netip.AddrPort) string {
	family := pick(to.Addr().Is6(), "ip6", "ip")
	if to.Port() == 0 {
		return family + " to " + to.Addr().String()
	}
	return family + " to " + to.String()
}

// Masquerade gives what matches the router's own address as its source.
func (tp *Topology) Masquerade(match string) {
	tp.t.Helper()
	tp.rule("source", match+" masquerade")
}

// Zone puts what matches into a zone: of both directions where direction is "", else of
// "original" or "reply" alone. The match sees packets before they are tracked, of either
// direction.
func (tp *Topology) Zone(match, direction string, zone uint16) {
	tp.t.Helper()
	if direction != "" {
		direction += " "
	}
	tp.rule("zones", fmt.Sprintf("%s ct %szone set %d", match, direction, zone))
}

// Mark marks the flows of what matches.
func (tp *Topology) Mark(match string, mark uint32) {
	tp.t.Helper()
	tp.rule("flows", fmt.Sprintf("%s ct mark set %#x", match, mark))
}

// Label sets a label (0 to 127) on the flows of what matches.
func (tp *Topology) Label(match string, label int) {
	tp.t.Helper()
	tp.rule("flows", fmt.Sprintf("%s ct label set %d", match, label))
}

// Helper assigns a helper, "ftp" or "q931" (Q.931), to the new TCP flows of what matches.
func (tp *Topology) Helper(match, helper string) {
	tp.t.Helper()
	tp.rule("flows", fmt.Sprintf("%s ct state new ct helper set %q", match, helper))
}
