package helper

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// tcpPacket makes an IP packet with a TCP segment, its checksums right.
func tcpPacket(src, dst netip.AddrPort, seq, ack uint32, flags uint8, payload string) []byte {
	head := 20
	if src.Addr().Is6() {
		head = 40
	}
	p := make([]byte, head+tcpMinHeader)
	if src.Addr().Is6() {
		p[0], p[6], p[7] = 0x60, protocolTCP, 64
		copy(p[8:], src.Addr().AsSlice())
		copy(p[24:], dst.Addr().AsSlice())
	} else {
		p[0], p[8], p[9] = 0x45, 64, protocolTCP
		copy(p[12:], src.Addr().AsSlice())
		copy(p[16:], dst.Addr().AsSlice())
	}
	tcp := p[head:]
	binary.BigEndian.PutUint16(tcp[0:], src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = 5<<4, flags
	s := segment{packet: p, src: src, dst: dst, tcp: head, data: len(p), end: len(p)}
	out, err := s.withPayload([]byte(payload))
	if err != nil {
		panic(err)
	}
	return out
}

// endpoints are the ends of test packets.
func endpoints(v6 bool) (client, server netip.AddrPort) {
	if v6 {
		return netip.MustParseAddrPort("[2001:db8::2]:40000"), netip.MustParseAddrPort("[2001:db8:1::3]:554")
	}
	return netip.MustParseAddrPort("192.0.2.2:40000"), netip.MustParseAddrPort("198.51.100.3:554")
}

// valid tells whether the checksums of a packet are right: with them, everything sums to nothing.
func valid(t *testing.T, packet []byte) bool {
	t.Helper()
	s, err := parseSegment(packet)
	if err != nil {
		t.Fatal(err)
	}
	tcp := packet[s.tcp:s.end]
	ok := checksum(s.pseudoHeader(len(tcp)), tcp) == 0
	if packet[0]>>4 == 4 {
		ok = ok && checksum(0, packet[:20]) == 0
	}
	return ok
}

func TestSegment(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		client, server := endpoints(v6)
		for _, payload := range []string{"", "a", "ab", "OPTIONS * RTSP/1.0\r\n\r\n"} {
			packet := tcpPacket(client, server, 1<<32-3, 7, flagACK, payload)
			s, err := parseSegment(packet)
			if err != nil {
				t.Fatal(err)
			}
			if s.src != client || s.dst != server || s.seq != 1<<32-3 || s.ack != 7 || s.flags != flagACK || string(s.payload()) != payload {
				t.Errorf("%+v of %q", s, payload)
			}
			if s.last() != uint32(len(payload))-3 || !valid(t, packet) {
				t.Errorf("ends at %d, valid %v", s.last(), valid(t, packet))
			}
			for _, other := range []string{"", "x", "longer than what there was before"} {
				out, err := s.withPayload([]byte(other))
				if err != nil || !valid(t, out) {
					t.Errorf("%q for %q: %v, or an invalid packet", other, payload, err)
				}
				got, err := parseSegment(out)
				if err != nil || string(got.payload()) != other || !bytes.Equal(out[s.tcp:s.tcp+16], packet[s.tcp:s.tcp+16]) {
					t.Errorf("%q for %q gives %q, %v", other, payload, got.payload(), err)
				}
			}
		}
	}
}

// TestSegmentReal: a packet as a kernel sent it, whose checksums it counted.
func TestSegmentReal(t *testing.T) {
	packet := []byte("\x45\x00\x00\x2c\x1c\x46\x40\x00\x40\x06\x00\x00\xac\x10\x0a\x63\xac\x10\x0a\x0c" +
		"\x9c\x40\x02\x2a\x00\x00\x00\x01\x00\x00\x00\x02\x50\x10\x10\x00\x00\x00\x00\x00abcd")
	s, err := parseSegment(packet)
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.withPayload([]byte("abcd"))
	if err != nil {
		t.Fatal(err)
	}
	// RFC 1071's method on this header by hand: 0xb1e2 for IP.
	if got := binary.BigEndian.Uint16(out[10:]); got != onesComplement(packet[:20]) {
		t.Errorf("IP checksum %#x, want %#x", got, onesComplement(packet[:20]))
	}
}

// onesComplement is the checksum in the plainest way.
func onesComplement(b []byte) uint16 {
	var n uint64
	for i := 0; i < len(b); i += 2 {
		n += uint64(b[i])<<8 | uint64(b[i+1])
	}
	for n > 0xffff {
		n = n&0xffff + n>>16
	}
	return ^uint16(n)
}

func TestSegmentMalformed(t *testing.T) {
	client, server := endpoints(false)
	client6, server6 := endpoints(true)
	four := tcpPacket(client, server, 1, 2, flagACK, "abc")
	six := tcpPacket(client6, server6, 1, 2, flagACK, "abc")
	with := func(p []byte, at int, b ...byte) []byte {
		p = bytes.Clone(p)
		copy(p[at:], b)
		return p
	}
	for name, p := range map[string][]byte{
		"nothing": nil, "version 5": with(four, 0, 0x55), "short header": with(four, 0, 0x44), "fragment": with(four, 6, 0x20),
		"later fragment": with(four, 6, 0, 1), "UDP": with(four, 9, 17), "length beyond": with(four, 2, 0xff), "length within the header": with(four, 2, 0, 30),
		"offset beyond": with(four, 32, 0xf0), "offset too small": with(four, 32, 0x40), "IPv6 with UDP": with(six, 6, 17),
		"IPv6 with routing header": with(six, 6, 43), "IPv6 fragment": with(six, 6, 44),
		"IPv6 with an extension beyond": with(six, 6, 0, 64, 0, 0), "IPv6 length beyond": with(six, 4, 0xff),
	} {
		if name == "IPv6 with an extension beyond" {
			p[40], p[41] = protocolTCP, 255
		}
		if s, err := parseSegment(p); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
	for n := range len(four) {
		if _, err := parseSegment(four[:n]); err == nil {
			t.Errorf("%d bytes of %d are a segment", n, len(four))
		}
	}
}

func FuzzSegment(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		client, server := endpoints(v6)
		f.Add(tcpPacket(client, server, 1, 2, flagACK, "abc"))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		s, err := parseSegment(packet)
		if err != nil {
			return
		}
		out, err := s.withPayload(s.payload())
		if err != nil {
			t.Fatal(err)
		}
		if !valid(t, out) || !bytes.Equal(out[s.data:], s.payload()) {
			t.Errorf("%x becomes %x", packet, out)
		}
	})
}
