package cut

import (
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
// other end, and returns how many it sent. Addresses that are good on one link alone are left out:
// nothing says which link.
func probe(ctx context.Context, table Table, flows []conntrack.Flow, local addrSet, mark [2]uint32) (int, error) {
	var sockets rawSockets
	defer sockets.close()
	sent := 0
	var first error
	for i := range flows {
		if !answersProbe(&flows[i]) {
			continue
		}
		if ctx.Err() != nil {
			return sent, ctx.Err()
		}
		for _, t := range []*conntrack.Tuple{&flows[i].Orig, &flows[i].Reply} {
			if local.has(t.Src) || t.Src.IsLinkLocalUnicast() {
				continue
			}
			err := sockets.send(table, t, mark)
			switch {
			case err == nil:
				sent++
			case errors.Is(err, os.ErrPermission), errors.Is(err, errNoSocket):
				return sent, err // the others would fail as well
			case first == nil:
				first = err
			}
		}
	}
	return sent, first
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

var errNoSocket = errors.New("open raw socket")

// rawSockets are the sockets for both families, opened when needed.
type rawSockets struct {
	fds  [2]int
	open [2]bool
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
	if !s.open[i] {
		err := table.InNetNS(func() (err error) {
			// IPPROTO_RAW: the header is in what is sent (raw(7); of IPv6 since Linux 4.5).
			s.fds[i], err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
			return err
		})
		if err != nil {
			return fmt.Errorf("%w: %w", errNoSocket, err)
		}
		s.open[i] = true
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

// segment returns an IP packet with an ACK of these numbers.
func segment(from, to netip.AddrPort, mark [2]uint32) []byte {
	tcp := make([]byte, 0, tcpHeaderLen)
	tcp = binary.BigEndian.AppendUint16(tcp, from.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, to.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, mark[0])
	tcp = binary.BigEndian.AppendUint32(tcp, mark[1])
	tcp = append(tcp, tcpHeaderLen/4<<4, tcpACK)
	tcp = binary.BigEndian.AppendUint16(tcp, 1024) // window; nobody will use it
	tcp = append(tcp, 0, 0, 0, 0)                  // checksum, urgent pointer
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	binary.BigEndian.PutUint16(tcp[16:], checksum(src, dst, tcp))

	if to.Addr().Is4() {
		ip := make([]byte, ipv4HeaderLen, ipv4HeaderLen+tcpHeaderLen)
		ip[0] = 4<<4 | ipv4HeaderLen/4
		binary.BigEndian.PutUint16(ip[2:], ipv4HeaderLen+tcpHeaderLen)
		ip[8], ip[9] = probeTTL, unix.IPPROTO_TCP // the kernel adds id and checksum
		copy(ip[12:], src)
		copy(ip[16:], dst)
		return append(ip, tcp...)
	}
	ip := make([]byte, 8, ipv6HeaderLen+tcpHeaderLen)
	ip[0] = 6 << 4
	binary.BigEndian.PutUint16(ip[4:], tcpHeaderLen)
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
