package cut

import (
	"encoding/binary"
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// unknown is a generation that the ruleset never has.
const unknown = 0

// generation returns the number of the namespace's ruleset, which counts the transactions of all
// (NFTA_GEN_ID, linux/netfilter/nf_tables.h). The library can't ask for it.
func (c *Cutter) generation() (uint32, error) {
	conn, err := dial(c.table, unix.NETLINK_NETFILTER)
	if err != nil {
		return unknown, err
	}
	defer conn.Close()
	attrs, err := ask(conn, unix.NFT_MSG_GETGEN, unix.NFPROTO_UNSPEC, nil)
	if err != nil {
		return unknown, err
	}
	id := uint32(unknown)
	for attrs.Next() {
		if attrs.Type() == unix.NFTA_GEN_ID {
			id = attrs.Uint32()
		}
	}
	return id, attrs.Err()
}

// ask sends a request to nf_tables (NFT_MSG_*, linux/netfilter/nf_tables.h) and returns the attributes of the answer,
// numbers being big-endian.
func ask(conn *netlink.Conn, message netlink.HeaderType, family byte, attrs []byte) (*netlink.AttributeDecoder, error) {
	const nfgenmsg = 4 // struct nfgenmsg: the family, and zeros
	answer, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | message, Flags: netlink.Request},
		Data:   append([]byte{family, 0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, err
	}
	if len(answer) == 0 || len(answer[0].Data) < nfgenmsg {
		return nil, errors.New("the answer is too short")
	}
	found, err := netlink.NewAttributeDecoder(answer[0].Data[nfgenmsg:])
	if err == nil {
		found.ByteOrder = binary.BigEndian
	}
	return found, err
}

// transact runs fn, which makes one transaction of ours, and keeps the generation if nobody else has
// changed the ruleset since the one given.
func (c *Cutter) transact(since uint32, fn func() error) error {
	c.whole = unknown
	if err := fn(); err != nil {
		return err
	}
	if now, err := c.generation(); err == nil && since != unknown && now == since+1 {
		c.whole = now
	}
	return nil
}
