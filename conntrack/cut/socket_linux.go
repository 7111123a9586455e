package cut

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
)

// addrSet are the addresses of the router itself.
type addrSet map[netip.Addr]bool

func (s addrSet) has(a netip.Addr) bool { return s[a] || a.IsLoopback() }

func localAddrs(ctx context.Context, table Table) (addrSet, error) {
	addrs, err := table.LocalAddrs(ctx)
	set := make(addrSet, len(addrs))
	for _, a := range addrs {
		set[a] = true
	}
	return set, err
}

// Messages of inet_diag (linux/sock_diag.h, linux/inet_diag.h).
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	sockDestroy      = 21 // SOCK_DESTROY

	diagRequestLen = 56 // struct inet_diag_req_v2
	diagMessageLen = 72 // struct inet_diag_msg
	diagIDLen      = 48 // struct inet_diag_sockid, 8 bytes into the request, 4 into the message
)

// stateListen and stateTimeWait are TCP_LISTEN and TCP_TIME_WAIT (net/tcp_states.h).
const (
	stateTimeWait = 6
	stateListen   = 10
)

// socketKey is what tells connected sockets apart: a tuple of what they send.
type socketKey struct {
	proto    conntrack.Protocol
	src, dst netip.AddrPort
}

// destroySockets closes the connected sockets of the router itself whose flows were cut, and
// returns how many: both its program and the other end learn of it at once.
//
// They are looked for in a dump. To ask for one by its tuple would give a socket that listens on the
// same port where there is no such connection, or an unconnected one of UDP; and none that is bound
// to an interface.
func destroySockets(ctx context.Context, table Table, flows []conntrack.Flow, local addrSet) (int, error) {
	wanted := make(map[socketKey]bool)
	protocols := make(map[conntrack.Protocol]bool)
	for i := range flows {
		f := &flows[i]
		switch f.Proto() {
		case conntrack.TCP, conntrack.UDP, conntrack.UDPLite:
		default:
			continue
		}
		for _, t := range []*conntrack.Tuple{&f.Orig, &f.Reply} {
			// A socket sends what has one of the tuples before any translation.
			if local.has(t.Src) {
				wanted[socketKey{t.Proto, netip.AddrPortFrom(t.Src, t.SrcPort), netip.AddrPortFrom(t.Dst, t.DstPort)}] = true
				protocols[t.Proto] = true
			}
		}
	}
	if len(wanted) == 0 {
		return 0, nil
	}
	diag, err := dial(table, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("open inet_diag: %w", err)
	}
	defer diag.Close()
	closed := 0
	for proto := range protocols {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			if err := ctx.Err(); err != nil {
				return closed, err
			}
			n, err := destroyAll(diag, family, proto, wanted)
			closed += n
			if err != nil {
				return closed, err
			}
		}
	}
	return closed, nil
}

// dial opens a netlink socket of a protocol (NETLINK_*) in the table's network namespace.
func dial(table Table, protocol int) (*netlink.Conn, error) {
	var cfg netlink.Config
	if ns := table.NetNS(); ns != nil {
		cfg.NetNS = int(ns.Fd())
	}
	return netlink.Dial(protocol, &cfg)
}

// destroyAll closes those of the sockets of a family and protocol that are wanted.
func destroyAll(diag *netlink.Conn, family byte, proto conntrack.Protocol, wanted map[socketKey]bool) (int, error) {
	found, err := diag.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   diagRequest(family, proto, make([]byte, diagIDLen)),
	})
	if errors.Is(err, unix.ENOENT) { // a kernel without this protocol
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("list sockets: %w", err)
	}
	closed := 0
	for _, m := range found {
		if len(m.Data) < diagMessageLen {
			return closed, errors.New("list sockets: a message is too short")
		}
		id := m.Data[4 : 4+diagIDLen]
		if !wanted[keyOf(m.Data[0], proto, id)] {
			continue
		}
		_, err := diag.Execute(netlink.Message{
			Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
			Data:   diagRequest(m.Data[0], proto, id), // with its interface and cookie
		})
		switch {
		case err == nil:
			closed++
		case !errors.Is(err, unix.ENOENT): // it has ended by itself
			return closed, fmt.Errorf("close socket: %w", err)
		}
	}
	return closed, nil
}

// keyOf reads a struct inet_diag_sockid: ports and addresses in network order, of IPv4 in the first
// 4 of 16 bytes. A socket for both families has IPv4 addresses as mapped ones.
func keyOf(family byte, proto conntrack.Protocol, id []byte) socketKey {
	size := 4
	if family == unix.AF_INET6 {
		size = 16
	}
	src, _ := netip.AddrFromSlice(id[4 : 4+size])
	dst, _ := netip.AddrFromSlice(id[20 : 20+size])
	return socketKey{
		proto,
		netip.AddrPortFrom(src.Unmap(), binary.BigEndian.Uint16(id[0:])),
		netip.AddrPortFrom(dst.Unmap(), binary.BigEndian.Uint16(id[2:])),
	}
}

// diagRequest returns a struct inet_diag_req_v2 for sockets that are neither listening nor over.
func diagRequest(family byte, proto conntrack.Protocol, id []byte) []byte {
	b := make([]byte, 8, diagRequestLen)
	b[0], b[1] = family, uint8(proto)
	binary.NativeEndian.PutUint32(b[4:], ^uint32(1<<stateListen|1<<stateTimeWait))
	return append(b, id...)
}
