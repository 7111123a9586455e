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

	stateListen = 10 // TCP_LISTEN
)

// destroySockets closes the connected sockets of the router itself whose flows were cut, and
// returns how many: both its program and the other end learn of it at once.
func destroySockets(ctx context.Context, table Table, flows []conntrack.Flow, local addrSet) (int, error) {
	var diag *netlink.Conn
	defer func() {
		if diag != nil {
			_ = diag.Close()
		}
	}()
	closed := 0
	for i := range flows {
		f := &flows[i]
		if proto := f.Proto(); proto != conntrack.TCP && proto != conntrack.UDP && proto != conntrack.UDPLite {
			continue
		}
		for _, t := range []conntrack.Tuple{f.Orig, f.Reply} {
			// A socket sends what has one of the tuples before any translation.
			if !local[t.Src] {
				continue
			}
			if ctx.Err() != nil {
				return closed, ctx.Err()
			}
			if diag == nil {
				var err error
				if diag, err = dialDiag(table); err != nil {
					return closed, err
				}
			}
			ok, err := destroySocket(diag, &t)
			if err != nil {
				return closed, err
			}
			if ok {
				closed++
			}
		}
	}
	return closed, nil
}

func dialDiag(table Table) (*netlink.Conn, error) {
	var cfg netlink.Config
	if ns := table.NetNS(); ns != nil {
		cfg.NetNS = int(ns.Fd())
	}
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &cfg)
	if err != nil {
		return nil, fmt.Errorf("open inet_diag: %w", err)
	}
	return c, nil
}

// destroySocket closes the socket that sends packets with a tuple. It is looked up first: where
// there is no such connection the kernel takes a socket that listens on the same port, or an
// unconnected one of UDP, which others use as well.
func destroySocket(diag *netlink.Conn, t *conntrack.Tuple) (bool, error) {
	family := byte(unix.AF_INET)
	if t.Src.Is6() {
		family = unix.AF_INET6
	}
	found, err := diag.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request},
		Data:   diagRequest(family, t.Proto, socketID(t)),
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look up socket: %w", err)
	case len(found) == 0 || len(found[0].Data) < diagMessageLen:
		return false, errors.New("look up socket: the answer is too short")
	}
	answer := found[0].Data
	family, id := answer[0], answer[4:4+diagIDLen]
	if answer[1] == stateListen || !isSocket(family, id, t) {
		return false, nil
	}
	_, err = diag.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   diagRequest(family, t.Proto, id), // with its cookie
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("close socket: %w", err)
	}
	return true, nil
}

// isSocket tells whether a struct inet_diag_sockid is that of the socket that sends packets with a
// tuple. A socket for both families has IPv4 addresses as mapped ones.
func isSocket(family byte, id []byte, t *conntrack.Tuple) bool {
	size := 4
	if family == unix.AF_INET6 {
		size = 16
	}
	src, _ := netip.AddrFromSlice(id[4 : 4+size])
	dst, _ := netip.AddrFromSlice(id[20 : 20+size])
	return src.Unmap() == t.Src && dst.Unmap() == t.Dst &&
		binary.BigEndian.Uint16(id[0:]) == t.SrcPort && binary.BigEndian.Uint16(id[2:]) == t.DstPort
}

// diagRequest returns a struct inet_diag_req_v2.
func diagRequest(family byte, proto conntrack.Protocol, id []byte) []byte {
	b := make([]byte, 8, diagRequestLen)
	b[0], b[1] = family, uint8(proto)
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // sockets of every state
	return append(b, id...)
}

// socketID returns a struct inet_diag_sockid of any interface and cookie.
func socketID(t *conntrack.Tuple) []byte {
	id := make([]byte, diagIDLen)
	binary.BigEndian.PutUint16(id[0:], t.SrcPort)
	binary.BigEndian.PutUint16(id[2:], t.DstPort)
	copy(id[4:20], t.Src.AsSlice())
	copy(id[20:36], t.Dst.AsSlice())
	binary.NativeEndian.PutUint64(id[40:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	return id
}
