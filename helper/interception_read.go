package helper

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often a dump is begun again because the ruleset changed meanwhile.
const dumpTries = 5

var errInterrupted = errors.New("the ruleset changes all the time")

// read returns the tables as the kernel shows them, with the handles that it gave to everything. It
// asks for what is ours only: others' rulesets may be large. The error is ENOENT where something
// isn't there.
func (i *interception) read() ([]byte, error) {
	conn, err := dial(i.table)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var all []byte
	for _, family := range i.families() {
		for _, q := range i.rules.queries() {
			b, err := q.ask(conn, family)
			if err != nil {
				return nil, fmt.Errorf("read nftables table %s: %w", TableName, err)
			}
			all = append(all, b...)
		}
	}
	return all, nil
}

// query asks nf_tables for something of ours.
type query struct {
	typ   int // NFT_MSG_GET*, linux/netfilter/nf_tables.h
	dump  netlink.HeaderFlags
	attrs []netlink.Attribute
}

// queries returns what shows everything of a table.
func (r rules) queries() []query {
	of := func(typ int, dump netlink.HeaderFlags, attrs ...netlink.Attribute) query {
		return query{typ, dump, append([]netlink.Attribute{tableAttr()}, attrs...)}
	}
	queries := []query{of(unix.NFT_MSG_GETTABLE, 0)}
	for _, s := range r.sets() {
		queries = append(queries, of(unix.NFT_MSG_GETSET, 0, text(unix.NFTA_SET_NAME, s.name)),
			of(unix.NFT_MSG_GETSETELEM, netlink.Dump, text(unix.NFTA_SET_ELEM_LIST_SET, s.name)))
	}
	if r.helper != "" {
		queries = append(queries, of(unix.NFT_MSG_GETOBJ, 0, text(unix.NFTA_OBJ_NAME, objectHelper),
			number(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_CT_HELPER)))
	}
	for _, c := range r.chains(nil) {
		queries = append(queries, of(unix.NFT_MSG_GETCHAIN, 0, text(unix.NFTA_CHAIN_NAME, c.name)),
			of(unix.NFT_MSG_GETRULE, netlink.Dump, text(unix.NFTA_RULE_CHAIN, c.name)))
	}
	return queries
}

// ask returns the answers without what differs from one time to the next.
func (q query) ask(conn *netlink.Conn, family nftables.TableFamily) ([]byte, error) {
	request := nfMessage(unix.NFNL_SUBSYS_NFTABLES, q.typ, q.dump, byte(family), q.attrs...)
	for range dumpTries {
		answers, err := conn.Execute(request)
		if err != nil {
			return nil, err
		}
		var all []byte
		interrupted := false
		for _, m := range answers {
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
			if len(m.Data) >= nfgenmsgLen {
				all = binary.NativeEndian.AppendUint16(all, uint16(m.Header.Type))
				all = append(all, m.Data[nfgenmsgLen:]...)
			}
		}
		if !interrupted {
			return all, nil
		}
	}
	return nil, errInterrupted
}

// isThere tells whether there is a table of family inet by a name.
func (i *interception) isThere(name string) bool {
	conn, err := dial(i.table)
	if err != nil {
		return false
	}
	defer conn.Close()
	_, err = conn.Execute(nfMessage(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETTABLE, 0, unix.NFPROTO_INET, text(unix.NFTA_TABLE_NAME, name)))
	return err == nil
}
