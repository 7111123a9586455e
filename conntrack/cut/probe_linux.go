package cut

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"ctd/conntrack"
)

const (
	ipv4HeaderLen = 20 // RFC 791 section 3.1
	ipv6HeaderLen = 40 // RFC 8200 section 3
	tcpHeaderLen  = 20 // RFC 9293 section 3.1

	tcpRST = 0x04
	tcpACK = 0x10

	// probeTTL is that of hosts; the router that sends the segment doesn't count it down.
	probeTTL = 64
)

// probeNumber is what sequence and acknowledgment number of the segments are but for their highest
// bits, by which our own rules know them: "ctd\0".
const probeNumber = 0x63746400

// probeMarks are the sequence and acknowledgment numbers. Any of them makes the end of a connection
// answer, if none is in its window. But a firewall on the way that keeps windows itself lets only
// those pass that it takes for old: of each number the one or the other half of what there is.
var probeMarks = [...][2]uint32{
	{probeNumber, probeNumber},
	{probeNumber | 1<<31, probeNumber | 1<<31},
	{probeNumber, probeNumber | 1<<31},
	{probeNumber | 1<<31, probeNumber},
}

// probe sends a segment to each end of TCP connections that is not the router itself, as if by the
// other end, and returns to how many it did and didn't. Addresses that are good on one link alone get
// none: nothing says which link.
func probe(ctx context.Context, table Table, flows []conntrack.Flow, local addrSet, mark [2]uint32) (sent, unsent int, first error) {
	var sockets rawSockets
	defer sockets.close()
	for i := range flows {
		if !answersProbe(&flows[i]) {
			continue
		}
		for _, t := range []*conntrack.Tuple{&flows[i].Orig, &flows[i].Reply} {
			if local.has(t.Src) {
				continue
			}
			err := ctx.Err()
			if err == nil {
				err = sockets.send(table, t, mark)
			}
			if err == nil {
				sent++
				continue
			}
			unsent++
			first = cmp.Or(first, err)
		}
	}
	return sent, unsent, first
}

// answersProbe tells whether the ends of a flow answer to a segment outside of their windows.
func answersProbe(f *conntrack.Flow) bool {
	if f.Proto() != conntrack.TCP {
		return false
	}
	switch f.StateName() {
	case "SYN_SENT", "SYN_SENT2", "TIME_WAIT", "CLOSE":
		return false // they have no window yet, or no connection any more
	}
	return true
}

var errNoScope = errors.New("nothing says on which link the address is")

// sendBuffer is room for segments to neighbours that don't answer: the kernel keeps some for each
// until it gives up, and the others must not wait for that.
const sendBuffer = 64 << 20

// rawSockets are the sockets for both families, opened when needed.
type rawSockets struct {
	fds  [2]int
	open [2]bool
	errs [2]error // why it can't be opened
}

func (s *rawSockets) close() {
	for i, fd := range s.fds {
		if s.open[i] {
			_ = unix.Close(fd)
		}
	}
}

// send sends the segment to the source of a tuple, from its destination.
func (s *rawSockets) send(table Table, t *conntrack.Tuple, mark [2]uint32) error {
	i, domain := 0, unix.AF_INET
	if t.Src.Is6() {
		i, domain = 1, unix.AF_INET6
	}
	if !s.open[i] && s.errs[i] == nil {
		s.fds[i], s.errs[i] = openRaw(table, domain)
		s.open[i] = s.errs[i] == nil
	}
	switch {
	case s.errs[i] != nil:
		return s.errs[i]
	case t.Src.IsLinkLocalUnicast():
		return errNoScope
	}
	from, to := netip.AddrPortFrom(t.Dst, t.DstPort), netip.AddrPortFrom(t.Src, t.SrcPort)
	packet := segment(from, to, mark)
	var addr unix.Sockaddr
	if domain == unix.AF_INET6 {
		addr = &unix.SockaddrInet6{Addr: to.Addr().As16()}
	} else {
		addr = &unix.SockaddrInet4{Addr: to.Addr().As4()}
	}
	return os.NewSyscallError("sendto", unix.Sendto(s.fds[i], packet, 0, addr))
}

func openRaw(table Table, domain int) (fd int, err error) {
	err = table.InNetNS(func() error {
		// IPPROTO_RAW: the header is in what is sent (raw(7); of IPv6 since Linux 4.5).
		fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open raw socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) // else it is as it is
	return fd, nil
}

// payload is what the segments carry: without any they would count as pure acknowledgments, of which
// Linux answers one in half a second (net.ipv4.tcp_invalid_ratelimit).
var payload = [2]byte{}

// segment returns an IP packet with an ACK of these numbers.
func segment(from, to netip.AddrPort, mark [2]uint32) []byte {
	const tcpLen = tcpHeaderLen + len(payload)
	tcp := make([]byte, 0, tcpLen)
	tcp = binary.BigEndian.AppendUint16(tcp, from.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, to.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, mark[0])
	tcp = binary.BigEndian.AppendUint32(tcp, mark[1])
	tcp = append(tcp, tcpHeaderLen/4<<4, tcpACK)
	tcp = binary.BigEndian.AppendUint16(tcp, 1024) // window; nobody will use it
	tcp = append(tcp, 0, 0, 0, 0)                  // checksum, urgent pointer
	tcp = append(tcp, payload[:]...)
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	binary.BigEndian.PutUint16(tcp[16:], checksum(src, dst, tcp))

	if to.Addr().Is4() {
		ip := make([]byte, ipv4HeaderLen, ipv4HeaderLen+tcpLen)
		ip[0] = 4<<4 | ipv4HeaderLen/4
		binary.BigEndian.PutUint16(ip[2:], uint16(ipv4HeaderLen+tcpLen))
		ip[8], ip[9] = probeTTL, unix.IPPROTO_TCP // the kernel adds id and checksum
		copy(ip[12:], src)
		copy(ip[16:], dst)
		return append(ip, tcp...)
	}
	ip := make([]byte, 8, ipv6HeaderLen+tcpLen)
	ip[0] = 6 << 4
	binary.BigEndian.PutUint16(ip[4:], uint16(tcpLen))
	ip[6], ip[7] = unix.IPPROTO_TCP, probeTTL
	ip = append(append(ip, src...), dst...)
	return append(ip, tcp...)
}

// checksum returns TCP's checksum with the pseudo-header of either family (RFC 9293 section 3.1,
// RFC 8200 section 8.1).
func checksum(src, dst, tcp []byte) uint16 {
	sum := uint32(unix.IPPROTO_TCP + len(tcp))
	for _, part := range [][]byte{src, dst, tcp} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
