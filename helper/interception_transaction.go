package helper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// transaction are messages to nf_tables that take effect together, or not at all.
type transaction struct {
	messages []netlink.Message
	err      error // of rules that can't be sent
}

// add adds a message about a table of ours, or about something in it.
func (t *transaction) add(typ int, flags netlink.HeaderFlags, family nftables.TableFamily, attrs ...netlink.Attribute) {
	attrs = append([]netlink.Attribute{tableAttr()}, attrs...)
	t.messages = append(t.messages, nfMessage(unix.NFNL_SUBSYS_NFTABLES, typ, flags|netlink.Acknowledge, byte(family), attrs...))
}

// tableAttr names the table. It is the first attribute of every message: NFTA_TABLE_NAME,
// NFTA_CHAIN_TABLE, NFTA_SET_TABLE and so on are one number.
func tableAttr() netlink.Attribute { return text(unix.NFTA_TABLE_NAME, TableName) }

func (t *transaction) addTable(family nftables.TableFamily) {
	t.add(unix.NFT_MSG_NEWTABLE, netlink.Create, family)
}

func (t *transaction) deleteTable(family nftables.TableFamily) {
	t.add(unix.NFT_MSG_DELTABLE, 0, family)
}

func (t *transaction) addSet(family nftables.TableFamily, s *set) {
	t.add(unix.NFT_MSG_NEWSET, netlink.Create, family,
		text(unix.NFTA_SET_NAME, s.name), number(unix.NFTA_SET_ID, s.id), number(unix.NFTA_SET_FLAGS, 0),
		number(unix.NFTA_SET_KEY_TYPE, s.key.GetNFTMagic()), number(unix.NFTA_SET_KEY_LEN, s.key.Bytes),
		netlink.Attribute{Type: unix.NFTA_SET_USERDATA, Data: userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, s.byteOrder)})
	var elements []netlink.Attribute
	for _, key := range s.elements {
		elements = append(elements, nest(unix.NFTA_LIST_ELEM,
			marshal(nest(unix.NFTA_SET_ELEM_KEY, marshal(netlink.Attribute{Type: unix.NFTA_DATA_VALUE, Data: key})))))
	}
	t.add(unix.NFT_MSG_NEWSETELEM, netlink.Create, family,
		text(unix.NFTA_SET_ELEM_LIST_SET, s.name), number(unix.NFTA_SET_ELEM_LIST_SET_ID, s.id),
		nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, marshal(elements...)))
}

// addHelper adds the object that assigns a helper of the kernel's, for the table's family.
func (t *transaction) addHelper(family nftables.TableFamily, helper string) {
	data, err := expr.MarshalExprData(byte(family), &expr.CtHelper{Name: helper + "\x00", L4Proto: unix.IPPROTO_TCP})
	t.err = errors.Join(t.err, err)
	t.add(unix.NFT_MSG_NEWOBJ, netlink.Create, family,
		text(unix.NFTA_OBJ_NAME, objectHelper), number(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_CT_HELPER), nest(unix.NFTA_OBJ_DATA, data))
}

func (t *transaction) addChain(family nftables.TableFamily, c *chain) {
	hook := marshal(number(unix.NFTA_HOOK_HOOKNUM, uint32(*c.hook)), number(unix.NFTA_HOOK_PRIORITY, uint32(*nftables.ChainPriorityMangle)))
	t.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, family,
		text(unix.NFTA_CHAIN_NAME, c.name), nest(unix.NFTA_CHAIN_HOOK, hook),
		number(unix.NFTA_CHAIN_POLICY, uint32(nftables.ChainPolicyAccept)), text(unix.NFTA_CHAIN_TYPE, string(nftables.ChainTypeFilter)))
	for _, rule := range c.rules {
		var list []netlink.Attribute
		for _, e := range rule {
			data, err := e(byte(family))
			t.err = errors.Join(t.err, err)
			list = append(list, nest(unix.NFTA_LIST_ELEM, data))
		}
		t.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, family,
			text(unix.NFTA_RULE_CHAIN, c.name), nest(unix.NFTA_RULE_EXPRESSIONS, marshal(list...)))
	}
}

// answerPatience is how long an answer of the kernel's may take. It is there at once where the machine
// isn't busy.
const answerPatience = 30 * time.Second

// send sends the messages and returns what the kernel said first.
func (t *transaction) send(table Table) error {
	if t.err != nil {
		return t.err
	}
	conn, err := dial(table)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.SendMessages(t.batch()); err != nil { // which takes as long as the transaction does
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(answerPatience)); err != nil {
		return err
	}
	var first error
	for range t.messages { // each has an answer
		_, err := conn.Receive()
		if err != nil && first == nil {
			first = err
		}
		var errno unix.Errno
		if err != nil && (!errors.As(err, &errno) || is(err, unix.EPERM, unix.ENOBUFS, unix.ENOMEM)) {
			break // which comes once for all
		}
	}
	var errno unix.Errno
	if errors.As(first, &errno) {
		return fmt.Errorf("nf_tables: %w", errno)
	}
	return first
}

// batch puts the messages between those that begin and end a transaction.
func (t *transaction) batch() []netlink.Message {
	mark := func(typ netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: typ, Flags: netlink.Request},
			Data:   binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	all := append([]netlink.Message{mark(unix.NFNL_MSG_BATCH_BEGIN)}, t.messages...)
	return append(all, mark(unix.NFNL_MSG_BATCH_END))
}
