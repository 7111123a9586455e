package conntracktest

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"testing"
)

// Pair is a client and a server with two routers of the same addresses between them, of which one
// at a time is connected: A at first.
//
//	Client 10.1.0.2  -- 10.1.0.1  A or B 10.2.0.1  -- 10.2.0.2  Server
//	       fd00:1::2 -- fd00:1::1        fd00:2::1 -- fd00:2::2
//
// The routers' rules are those of NS.Conntrack and masquerade what goes to the server. They drop
// what is new or invalid, but for what the client begins at the router that is connected first.
type Pair struct {
	Client, A, B, Server *NS

	t testing.TB
}

// NewPair makes a pair that lives as long as the test.
func NewPair(t testing.TB) *Pair {
	t.Helper()
	p := &Pair{t: t, Client: NewNS(t), A: NewNS(t), B: NewNS(t), Server: NewNS(t)}
	p.host(p.Client, clientIPv4.String()+"/24", clientIPv6.String()+"/64")
	p.host(p.Server, serverIPv4.String()+"/24", serverIPv6.String()+"/64")
	for _, r := range []*NS{p.A, p.B} {
		p.router(r)
		p.wire(r, "client", p.Client, "02:00:00:00:01:01", clientGate4.String()+"/24", clientGate6.String()+"/64")
		p.wire(r, "server", p.Server, "02:00:00:00:02:01", serverGate4.String()+"/24", serverGate6.String()+"/64")
	}
	p.up(p.A)
	p.batch(p.Client, fmt.Sprintf("route add default via %s\nroute add default via inet6 %s\n", clientGate4, clientGate6))
	p.A.Nft("insert rule inet pair forward ct state new accept")
	return p
}

// Switch takes A's links down and brings B's up. Packets that are under way are lost.
func (p *Pair) Switch() {
	p.t.Helper()
	for _, name := range []string{"client", "server"} {
		p.A.Exec("ip", "link", "del", name)
	}
	p.up(p.B)
}

func (p *Pair) batch(n *NS, script string) {
	p.t.Helper()
	if _, err := n.Run(script, "ip", "-batch", "-"); err != nil {
		p.t.Fatal(err)
	}
}

// host gives a host a bridge with its addresses, to which both routers are joined.
func (p *Pair) host(n *NS, addr4, addr6 string) {
	p.t.Helper()
	n.Sysctl("net.ipv6.conf.all.accept_dad", "0")
	n.Sysctl("net.ipv6.conf.default.accept_dad", "0")
	p.batch(n, fmt.Sprintf(`link add routers type bridge forward_delay 0
addr add %s dev routers
addr add %s dev routers nodad
link set routers up
`, addr4, addr6))
}

func (p *Pair) router(n *NS) {
	p.t.Helper()
	n.Sysctl("net.ipv4.ip_forward", "1")
	n.Sysctl("net.ipv6.conf.all.forwarding", "1")
	n.Sysctl("net.ipv6.conf.default.accept_dad", "0")
	n.Conntrack()
	n.Nft(`add rule inet ctd source oifname "server" masquerade
table inet pair {
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
	}
}`)
}

// wire joins a router to a host. Its end has the same hardware address in both routers, so that no
// neighbour has to be learnt anew.
func (p *Pair) wire(r *NS, name string, host *NS, mac, addr4, addr6 string) {
	p.t.Helper()
	port := "router-a"
	if r == p.B {
		port = "router-b"
	}
	p.batch(r, fmt.Sprintf(`link add %[1]s address %[2]s type veth peer name %[3]s netns %[4]s
addr add %[5]s dev %[1]s
addr add %[6]s dev %[1]s nodad
`, name, mac, port, host.Name(), addr4, addr6))
	p.batch(host, fmt.Sprintf("link set %[1]s master routers\nlink set %[1]s up\n", port))
}

func (p *Pair) up(r *NS) {
	p.t.Helper()
	p.batch(r, "link set client up\nlink set server up\n")
	if r == p.B {
		// The addresses of IPv6 that a link has while it is down go when it comes up.
		p.batch(r, fmt.Sprintf("addr replace %s/64 dev client nodad\naddr replace %s/64 dev server nodad\n", clientGate6, serverGate6))
	}
}

// Dial opens a TCP connection from the client to the server. Both ends close when the test ends.
func (p *Pair) Dial(v6 bool) (client, server net.Conn) {
	p.t.Helper()
	client, server, err := p.Dialling(v6)()
	if err != nil {
		p.t.Fatal(err)
	}
	return client, server
}

// Dialling begins to open a TCP connection and returns a function that waits until it is open.
func (p *Pair) Dialling(v6 bool) func() (client, server net.Conn, err error) {
	p.t.Helper()
	var l net.Listener
	var err error
	p.Server.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(pick(v6, serverIPv6, serverIPv4), 0).String()) })
	if err != nil {
		p.t.Fatal(err)
	}
	type end struct {
		conn net.Conn
		err  error
	}
	dialled := make(chan end, 1)
	go func() {
		var e end
		p.Client.Do(func() { e.conn, e.err = net.DialTimeout("tcp", l.Addr().String(), Patience()) })
		dialled <- e
	}()
	return func() (client, server net.Conn, err error) {
		defer l.Close()
		e := <-dialled
		if e.err != nil {
			return nil, nil, e.err
		}
		p.t.Cleanup(func() { e.conn.Close() })
		if server, err = l.Accept(); err != nil {
			return nil, nil, err
		}
		p.t.Cleanup(func() { server.Close() })
		return e.conn, server, nil
	}
}

// Invalid returns how many packets a router took for invalid.
func (p *Pair) Invalid(r *NS) int {
	p.t.Helper()
	out := r.Exec("nft", "list", "chain", "inet", "ctd", "flows")
	m := regexp.MustCompile(`invalid counter packets (\d+)`).FindStringSubmatch(out)
	if m == nil {
		p.t.Fatalf("no counter in\n%s", out)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}
