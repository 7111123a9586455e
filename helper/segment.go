package helper

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"ctd/conntrack"
)

// Numbers of the headers that are read (RFC 791, RFC 8200, RFC 9293).
const (
	protocolTCP = 6

	ipv4MinHeader = 20
	ipv6Header    = 40
	tcpMinHeader  = 20

	extHopByHop    = 0
	extDestination = 60

	maxExtensions = 8 // IPv6 extension headers; a packet has at most four in practice

	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// errNotTCP says that a packet isn't a whole TCP segment.
var errNotTCP = errors.New("not a whole TCP segment")

// segment is a TCP segment in its IP packet, as the queue gives it. The kernel has put fragments
// together and cut large packets (GSO) to the size of the wire before.
type segment struct {
	packet   []byte // from the IP header on
	src, dst netip.AddrPort
	tcp      int // where the TCP header begins
	data     int // where the payload begins
	end      int // where the packet ends by its own header
	seq, ack uint32
	flags    uint8
}

// parseSegment reads the headers of an IPv4 or IPv6 packet.
func parseSegment(packet []byte) (segment, error) {
	s := segment{packet: packet}
	if len(packet) == 0 {
		return s, errNotTCP
	}
	var src, dst netip.Addr
	var ok bool
	switch packet[0] >> 4 {
	case 4:
		src, dst, ok = s.ipv4()
	case 6:
		src, dst, ok = s.ipv6()
	}
	if !ok || s.end > len(packet) || s.end-s.tcp < tcpMinHeader {
		return s, errNotTCP
	}
	h := packet[s.tcp:s.end]
	length := int(h[12]>>4) * 4
	if length < tcpMinHeader || length > len(h) {
		return s, errNotTCP
	}
	s.data = s.tcp + length
	s.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(h[0:]))
	s.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(h[2:]))
	s.seq, s.ack, s.flags = binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:]), h[13]
	return s, nil
}

func (s *segment) ipv4() (src, dst netip.Addr, ok bool) {
	p := s.packet
	if len(p) < ipv4MinHeader {
		return src, dst, false
	}
	s.tcp, s.end = int(p[0]&0xf)*4, int(binary.BigEndian.Uint16(p[2:]))
	fragment := binary.BigEndian.Uint16(p[6:])&0x3fff != 0 // more fragments, or an offset
	if s.tcp < ipv4MinHeader || p[9] != protocolTCP || fragment {
		return src, dst, false
	}
	return netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:])), true
}

func (s *segment) ipv6() (src, dst netip.Addr, ok bool) {
	p := s.packet
	if len(p) < ipv6Header {
		return src, dst, false
	}
	s.tcp, s.end = ipv6Header, ipv6Header+int(binary.BigEndian.Uint16(p[4:]))
	next := p[6]
	for range maxExtensions {
		switch next {
		case protocolTCP:
			return netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:])), true
		case extHopByHop, extDestination:
			if s.tcp+2 > len(p) {
				return src, dst, false
			}
			next, s.tcp = p[s.tcp], s.tcp+8+8*int(p[s.tcp+1])
		default: // with a routing header the checksum covers another destination
			return src, dst, false
		}
	}
	return src, dst, false
}

// payload returns the bytes of the stream that the segment carries.
func (s *segment) payload() []byte { return s.packet[s.data:s.end] }

// first returns the sequence number of the first byte of the payload: a SYN takes one before it.
func (s *segment) first() uint32 {
	if s.flags&flagSYN != 0 {
		return s.seq + 1
	}
	return s.seq
}

// last returns the sequence number after the payload.
func (s *segment) last() uint32 { return s.first() + uint32(s.end-s.data) }

// tuple returns the direction of the connection that the segment takes.
func (s *segment) tuple() conntrack.Tuple {
	return conntrack.Tuple{
		Src: s.src.Addr(), Dst: s.dst.Addr(), SrcPort: s.src.Port(), DstPort: s.dst.Port(), Proto: conntrack.TCP,
	}
}

// withPayload returns the packet with another payload, its lengths and checksums right. A packet that
// would be longer than its headers can say is errNotTCP.
func (s *segment) withPayload(payload []byte) ([]byte, error) {
	p := make([]byte, 0, s.data+len(payload))
	p = append(append(p, s.packet[:s.data]...), payload...)
	v6 := p[0]>>4 == 6
	length := len(p)
	if v6 {
		length -= ipv6Header
	}
	if length > 0xffff {
		return nil, errNotTCP
	}
	if v6 {
		binary.BigEndian.PutUint16(p[4:], uint16(length))
	} else {
		binary.BigEndian.PutUint16(p[2:], uint16(length))
		binary.BigEndian.PutUint16(p[10:], 0)
		header := p[:int(p[0]&0xf)*4]
		binary.BigEndian.PutUint16(p[10:], checksum(0, header))
	}
	tcp := p[s.tcp:]
	binary.BigEndian.PutUint16(tcp[16:], 0)
	binary.BigEndian.PutUint16(tcp[16:], checksum(s.pseudoHeader(len(tcp)), tcp))
	return p, nil
}

// pseudoHeader sums what TCP's checksum covers beside the segment (RFC 9293 section 3.1, RFC 8200
// section 8.1).
func (s *segment) pseudoHeader(length int) uint32 {
	src, dst := s.src.Addr().AsSlice(), s.dst.Addr().AsSlice()
	return sum(sum(uint32(protocolTCP)+uint32(length), src), dst)
}

// sum adds the 16-bit words of b, the last one filled up with zero.
func sum(n uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		n += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) > 0 {
		n += uint32(b[0]) << 8
	}
	return n
}

// checksum is the Internet checksum (RFC 1071) of b on top of a sum.
func checksum(n uint32, b []byte) uint16 {
	n = sum(n, b)
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return ^uint16(n)
}
