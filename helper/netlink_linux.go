package helper

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nfgenmsgLen is the length of struct nfgenmsg (linux/netfilter/nfnetlink.h), which every message
// of nfnetlink begins with: the family, a version, and a number that nf_tables counts up.
const nfgenmsgLen = 4

// dial opens a netlink socket to nfnetlink in the table's network namespace.
func dial(table Table) (*netlink.Conn, error) {
	var cfg netlink.Config
	if ns := table.NetNS(); ns != nil {
		cfg.NetNS = int(ns.Fd())
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &cfg)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return conn, nil
}

// nfMessage is a message to a subsystem of nfnetlink (NFNL_SUBSYS_*).
func nfMessage(subsystem, typ int, flags netlink.HeaderFlags, family byte, attrs ...netlink.Attribute) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(subsystem<<8 | typ), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, marshal(attrs...)...),
	}
}

// marshal returns attributes as they are sent. The library's error is one of an attribute that is too
// long: none of ours can be.
func marshal(attrs ...netlink.Attribute) []byte {
	b, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		panic(fmt.Sprintf("netlink attributes: %v", err))
	}
	return b
}

// number is an attribute with a number in network order.
func number(typ uint16, n uint32) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: binary.BigEndian.AppendUint32(nil, n)}
}

// nest is an attribute that others are in.
func nest(typ uint16, data []byte) netlink.Attribute {
	return netlink.Attribute{Type: typ | unix.NLA_F_NESTED, Data: data}
}

// text is an attribute with a string, as the kernel wants it.
func text(typ uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: append([]byte(s), 0)}
}
