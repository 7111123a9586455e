package conntracktest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long what is to come about may take before the test fails: much longer than it ever
// does, as the machine may be busy with other things. What must not come about is not waited for so long.
func Patience() time.Duration { return Slow(30 * time.Second) }

// Path says which way traffic goes. The zero value is IPv4 from the client to the server, on
// ports that the kernel chooses.
type Path struct {
	V6 bool
	// Port is the server's port; 0 takes a free one.
	Port uint16
	// SrcPort is the client's port; 0 takes a free one.
	SrcPort uint16
	// Via is where the client sends to where that is not the server itself: an address and
	// port that the router translates. A zero half stands for the server's.
	Via netip.AddrPort
	// Back lets the server begin and the client answer.
	Back bool
}

// Conn is traffic between two hosts. It is closed when the test ends.
type Conn struct {
	tp *Topology

	// Client and Server are the sockets of both ends. The server's is nil for ICMP, and of a UDP
	// exchange it is not connected.
	Client, Server net.Conn

	// Local and Remote are the addresses that the client's packets bear, Peer the source that
	// the server sees.
	Local, Remote, Peer netip.AddrPort
}

// Close closes both ends.
func (c *Conn) Close() {
	if c.Client != nil {
		c.Client.Close()
	}
	if c.Server != nil {
		c.Server.Close()
	}
}

// ends returns the hosts and addresses that a path begins and ends at.
func (tp *Topology) ends(p Path) (from, to *NS, src, dst netip.Addr) {
	from, to, src, dst = tp.Client, tp.Server, tp.ClientAddr(p.V6), tp.ServerAddr(p.V6)
	if p.Back {
		from, to, src, dst = to, from, dst, src
	}
	return from, to, src, dst
}

// target returns where the packets of a path are sent, given where its server listens.
func (p Path) target(server netip.AddrPort) netip.AddrPort {
	addr, port := p.Via.Addr(), p.Via.Port()
	if !addr.IsValid() {
		addr = server.Addr()
	}
	if port == 0 {
		port = server.Port()
	}
	return netip.AddrPortFrom(addr, port)
}

// TCP opens a connection, sends a few bytes each way and leaves it open.
func (tp *Topology) TCP(p Path) *Conn {
	tp.t.Helper()
	c, err := tp.DialTCP(p)
	if err != nil {
		tp.t.Fatal(err)
	}
	c.Exchange("hello")
	return c
}

// DialTCP opens a connection, on which nothing is sent yet.
func (tp *Topology) DialTCP(p Path) (*Conn, error) { return tp.DialTCPWithin(p, Patience()) }

// DialTCPWithin is DialTCP in the time given: for connections that should not come about.
func (tp *Topology) DialTCPWithin(p Path, limit time.Duration) (*Conn, error) {
	from, to, src, dst := tp.ends(p)
	c := &Conn{tp: tp}
	tp.t.Cleanup(c.Close)
	var l *net.TCPListener
	var err error
	to.Do(func() {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(dst, p.Port)))
	})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	remote := p.target(l.Addr().(*net.TCPAddr).AddrPort())
	from.Do(func() {
		d := net.Dialer{Timeout: limit, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, p.SrcPort))}
		c.Client, err = d.DialContext(context.Background(), "tcp", remote.String())
	})
	if err != nil {
		return nil, err
	}
	if err := l.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	server, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	c.Server = server
	c.Local = c.Client.LocalAddr().(*net.TCPAddr).AddrPort()
	c.Remote = remote
	c.Peer = server.RemoteAddr().(*net.TCPAddr).AddrPort()
	return c, nil
}

// Exchange sends a text from the client to the server of a TCP connection and back.
func (c *Conn) Exchange(text string) {
	c.tp.t.Helper()
	if err := c.Try(text, Patience()); err != nil {
		c.tp.t.Fatal(err)
	}
}

// Try is Exchange that may fail, in the time given.
func (c *Conn) Try(text string, limit time.Duration) error {
	for _, way := range [][2]net.Conn{{c.Client, c.Server}, {c.Server, c.Client}} {
		if err := send(way[0], way[1], text, limit); err != nil {
			return err
		}
	}
	return nil
}

func send(from, to net.Conn, text string, limit time.Duration) error {
	if _, err := from.Write([]byte(text)); err != nil {
		return err
	}
	if err := to.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	got := make([]byte, 0, len(text))
	for len(got) < len(text) {
		n, err := to.Read(got[len(got):cap(got)])
		if err != nil {
			return err
		}
		got = got[:len(got)+n]
	}
	if string(got) != text {
		return fmt.Errorf("sent %q, received %q", text, got)
	}
	return nil
}

// UDP sends a datagram and an answer, twice, and leaves the sockets open.
func (tp *Topology) UDP(p Path) *Conn {
	tp.t.Helper()
	return tp.datagrams(p, unix.IPPROTO_UDP)
}

// UDPLite is UDP with UDP-Lite's protocol number (RFC 3828). It turns off the router's test of
// checksums: the kernel computes UDP-Lite's with UDP's protocol number (udplite_error in
// nf_conntrack_proto_udp.c) and so takes every packet as invalid.
func (tp *Topology) UDPLite(p Path) *Conn {
	tp.t.Helper()
	tp.Router.Sysctl("net.netfilter.nf_conntrack_checksum", "0")
	return tp.datagrams(p, unix.IPPROTO_UDPLITE)
}

func (tp *Topology) datagrams(p Path, proto int) *Conn {
	tp.t.Helper()
	c := tp.DatagramPair(p, proto)
	for range 2 {
		if err := c.Datagram("hello", Patience()); err != nil {
			tp.t.Fatal(err)
		}
	}
	return c
}

// DatagramPair makes two sockets of UDP or UDP-Lite (IPPROTO_*) between which nothing was sent
// yet: the client's is connected to the path's target.
func (tp *Topology) DatagramPair(p Path, proto int) *Conn {
	tp.t.Helper()
	from, to, src, dst := tp.ends(p)
	c := &Conn{tp: tp}
	tp.t.Cleanup(c.Close)
	server := tp.datagramSocket(to, proto, netip.AddrPortFrom(dst, p.Port), netip.AddrPort{})
	c.Server = server
	c.Remote = p.target(server.LocalAddr().(*net.UDPAddr).AddrPort())
	c.Client = tp.datagramSocket(from, proto, netip.AddrPortFrom(src, p.SrcPort), c.Remote)
	c.Local = c.Client.LocalAddr().(*net.UDPAddr).AddrPort()
	return c
}

// Datagram sends a text to the server and back, and notes which peer the server saw.
func (c *Conn) Datagram(text string, limit time.Duration) error {
	if _, err := c.Client.Write([]byte(text)); err != nil {
		return err
	}
	return c.Answer(text, limit)
}

// Answer receives a datagram at the server and sends it back.
func (c *Conn) Answer(text string, limit time.Duration) error {
	server := c.Server.(*net.UDPConn)
	deadline := time.Now().Add(limit)
	if err := server.SetReadDeadline(deadline); err != nil {
		return err
	}
	buf := make([]byte, 2048)
	n, peer, err := server.ReadFromUDPAddrPort(buf)
	if err != nil {
		return err
	}
	if string(buf[:n]) != text {
		return fmt.Errorf("sent %q, received %q", text, buf[:n])
	}
	c.Peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	if _, err := server.WriteToUDPAddrPort(buf[:n], peer); err != nil {
		return err
	}
	if err := c.Client.SetReadDeadline(deadline); err != nil {
		return err
	}
	n, err = c.Client.Read(buf)
	if err == nil && string(buf[:n]) != text {
		return fmt.Errorf("sent %q back, received %q", text, buf[:n])
	}
	return err
}

// datagramSocket opens a socket by hand, because package net knows no UDP-Lite.
func (tp *Topology) datagramSocket(n *NS, proto int, local, remote netip.AddrPort) net.Conn {
	tp.t.Helper()
	family := pick(local.Addr().Is6(), unix.AF_INET6, unix.AF_INET)
	var fd int
	var err error
	n.Do(func() {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	})
	if err != nil {
		tp.t.Fatalf("socket of protocol %d: %v", proto, err)
	}
	f := os.NewFile(uintptr(fd), "datagrams")
	defer f.Close()
	if err := unix.Bind(fd, sockaddr(local)); err != nil {
		tp.t.Fatalf("bind %s: %v", local, err)
	}
	if remote.IsValid() {
		if err := unix.Connect(fd, sockaddr(remote)); err != nil {
			tp.t.Fatalf("connect %s: %v", remote, err)
		}
	}
	c, err := net.FileConn(f)
	if err != nil {
		tp.t.Fatal(err)
	}
	return c
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}
