package conntracktest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// RawConn is a pair of raw IP sockets for one protocol, at the beginning and the end of a path.
// While it is open, the hosts don't answer that the protocol is unreachable.
type RawConn struct {
	tp       *Topology
	from, to *net.IPConn
	proto    int
	target   netip.Addr

	// Peer is the source that the server saw last.
	Peer netip.Addr
}

// Raw opens a pair of raw sockets for a protocol.
func (tp *Topology) Raw(p Path, proto int) *RawConn {
	tp.t.Helper()
	from, to, src, dst := tp.ends(p)
	r := &RawConn{tp: tp, proto: proto, target: p.target(netip.AddrPortFrom(dst, 0)).Addr()}
	network := fmt.Sprintf("%s:%d", pick(p.V6, "ip6", "ip4"), proto)
	open := func(n *NS, a netip.Addr) (c *net.IPConn) {
		var err error
		n.Do(func() { c, err = net.ListenIP(network, &net.IPAddr{IP: a.AsSlice()}) })
		if err != nil {
			tp.t.Fatal(err)
		}
		tp.t.Cleanup(func() { c.Close() })
		return c
	}
	r.from, r.to = open(from, src), open(to, dst)
	return r
}

// Send sends a payload from the path's beginning to its end and returns what arrived, which a
// translation of ports may have changed.
func (r *RawConn) Send(payload []byte) []byte {
	r.tp.t.Helper()
	if _, err := r.from.WriteToIP(payload, &net.IPAddr{IP: r.target.AsSlice()}); err != nil {
		r.tp.t.Fatalf("send protocol %d: %v", r.proto, err)
	}
	got, peer := r.read(r.to, len(payload))
	r.Peer = peer
	return got
}

// Reply sends a payload back to the peer that Send noted and returns what arrived.
func (r *RawConn) Reply(payload []byte) []byte {
	r.tp.t.Helper()
	if _, err := r.to.WriteToIP(payload, &net.IPAddr{IP: r.Peer.AsSlice()}); err != nil {
		r.tp.t.Fatalf("send protocol %d back: %v", r.proto, err)
	}
	got, _ := r.read(r.from, len(payload))
	return got
}

// read returns the next packet of a length; others, e.g. of neighbour discovery, are passed by.
func (r *RawConn) read(c *net.IPConn, length int) ([]byte, netip.Addr) {
	r.tp.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(Patience())); err != nil {
		r.tp.t.Fatal(err)
	}
	for {
		buf := make([]byte, 2048)
		n, peer, err := c.ReadFromIP(buf)
		if err != nil {
			r.tp.t.Fatalf("receive protocol %d: %v", r.proto, err)
		}
		if n == length {
			addr, _ := netip.AddrFromSlice(peer.IP)
			return buf[:n], addr.Unmap()
		}
	}
}

// Protocol sends a packet of any protocol and an answer.
func (tp *Topology) Protocol(p Path, proto int) *RawConn {
	tp.t.Helper()
	r := tp.Raw(p, proto)
	r.Send([]byte("hello there"))
	r.Reply([]byte("hello again"))
	return r
}

// Ping sends an ICMP or ICMPv6 echo request with an id and waits for the host's reply.
func (tp *Topology) Ping(p Path, id uint16) {
	tp.t.Helper()
	from, _, src, dst := tp.ends(p)
	dst = p.target(netip.AddrPortFrom(dst, 0)).Addr()
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if p.V6 {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	var c *net.IPConn
	var err error
	from.Do(func() { c, err = net.ListenIP(network, &net.IPAddr{IP: src.AsSlice()}) })
	if err != nil {
		tp.t.Fatal(err)
	}
	defer c.Close()
	msg := []byte{request, 0, 0, 0, byte(id >> 8), byte(id), 0, 1, 'c', 't', 'd', 0}
	if !p.V6 { // the kernel fills in the checksum of ICMPv6
		binary.BigEndian.PutUint16(msg[2:], internetChecksum(msg))
	}
	if _, err := c.WriteToIP(msg, &net.IPAddr{IP: dst.AsSlice()}); err != nil {
		tp.t.Fatal(err)
	}
	r := &RawConn{tp: tp, proto: unix.IPPROTO_ICMP}
	for {
		got, _ := r.read(c, len(msg))
		if got[0] == reply && binary.BigEndian.Uint16(got[4:]) == id {
			return
		}
	}
}

// internetChecksum is the checksum of RFC 1071.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// GRE sends a packet of plain GRE (RFC 2784) and an answer.
func (tp *Topology) GRE(p Path) *RawConn {
	tp.t.Helper()
	r := tp.Raw(p, unix.IPPROTO_GRE)
	r.Send([]byte{0, 0, 0x88, 0xb5, 1, 2, 3, 4})
	r.Reply([]byte{0, 0, 0x88, 0xb5, 5, 6, 7, 8})
	return r
}

// PPTP sends a packet of PPTP's version of GRE (RFC 2637, section 4.1) with a call id. Without
// the control connection that the pptp helper follows, the kernel takes the answer for another
// flow, so none is sent.
func (tp *Topology) PPTP(p Path, callID uint16) *RawConn {
	tp.t.Helper()
	r := tp.Raw(p, unix.IPPROTO_GRE)
	b := []byte{0x30, 0x01, 0x88, 0x0b, 0, 4, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4}
	binary.BigEndian.PutUint16(b[6:], callID)
	r.Send(b)
	return r
}

// Chunk types of SCTP (RFC 9260, section 3.2).
const (
	sctpInit       = 1
	sctpInitAck    = 2
	sctpCookieEcho = 10
	sctpCookieAck  = 11
)

// Verification tags that the ends of an SCTP association ask for in SCTP.
const (
	SCTPClientTag = 0x80c11e01
	SCTPServerTag = 0x805e4e02
)

// SCTP sets up an association by packets of its own, since the kernel may lack the sockets. The
// client's port is SrcPort or 40000, the server's Port or 5000.
func (tp *Topology) SCTP(p Path) *RawConn {
	tp.t.Helper()
	src, dst := p.SrcPort, p.Port
	if src == 0 {
		src = 40000
	}
	if dst == 0 {
		dst = 5000
	}
	if p.Via.Port() != 0 {
		dst = p.Via.Port()
	}
	r := tp.Raw(p, unix.IPPROTO_SCTP)
	got := r.Send(sctpPacket(src, dst, 0, sctpInit, initBody(SCTPClientTag)))
	// The answers go to the ports that the server sees.
	seenSrc, seenDst := binary.BigEndian.Uint16(got), binary.BigEndian.Uint16(got[2:])
	r.Reply(sctpPacket(seenDst, seenSrc, SCTPClientTag, sctpInitAck, append(initBody(SCTPServerTag), 0, 7, 0, 8, 'c', 'o', 'o', 'k')))
	r.Send(sctpPacket(src, dst, SCTPServerTag, sctpCookieEcho, []byte("cook")))
	r.Reply(sctpPacket(seenDst, seenSrc, SCTPClientTag, sctpCookieAck, nil))
	return r
}

// initBody is what INIT and INIT ACK have in common: tag, window, streams, first number.
func initBody(tag uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, tag)
	b = binary.BigEndian.AppendUint32(b, 65536)
	b = append(b, 0, 1, 0, 1)
	return binary.BigEndian.AppendUint32(b, 1)
}

func sctpPacket(src, dst uint16, tag uint32, chunk byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0, chunk, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(body)))
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}
