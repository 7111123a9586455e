package cut

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// confirm asks the kernel for those of e that are remembered, but that others may have taken out since.
func (c *Cutter) confirm(e elements) error {
	doubtful := c.tuples.doubtful(e)
	if len(doubtful) == 0 {
		return nil
	}
	conn, err := dial(c.table, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer conn.Close()
	for z, sets := range doubtful {
		for place, list := range sets {
			set := c.set(z, setPlace(place)).Name
			for i := range list {
				until := time.Now()
				left, err := c.left(conn, set, list[i].Key)
				switch {
				case errors.Is(err, unix.ENOENT):
					until = time.Time{}
				case err != nil:
					return fmt.Errorf("ask for what is kept out: %w", err)
				}
				c.tuples.put(z, setPlace(place), list[i].Key, until.Add(left))
			}
		}
	}
	return nil
}

// left returns for how long an element of a set is there yet (NFT_MSG_GETSETELEM,
// linux/netfilter/nf_tables.h). The library can only list whole sets.
func (c *Cutter) left(conn *netlink.Conn, set string, key []byte) (time.Duration, error) {
	attrs := netlink.NewAttributeEncoder()
	attrs.String(unix.NFTA_SET_ELEM_LIST_TABLE, c.claim.Name())
	attrs.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	attrs.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
		list.Nested(unix.NFTA_LIST_ELEM, func(element *netlink.AttributeEncoder) error {
			element.Nested(unix.NFTA_SET_ELEM_KEY, func(data *netlink.AttributeEncoder) error {
				data.Bytes(unix.NFTA_DATA_VALUE, key)
				return nil
			})
			return nil
		})
		return nil
	})
	body, err := attrs.Encode()
	if err != nil {
		return 0, err
	}
	found, err := ask(conn, unix.NFT_MSG_GETSETELEM, unix.NFPROTO_INET, body)
	if err != nil {
		return 0, err
	}
	var left time.Duration
	for found.Next() {
		if found.Type() == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			found.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(element *netlink.AttributeDecoder) error {
						for element.Next() {
							if element.Type() == unix.NFTA_SET_ELEM_EXPIRATION {
								left = time.Duration(element.Uint64()) * time.Millisecond
							}
						}
						return nil
					})
				}
				return nil
			})
		}
	}
	return left, found.Err()
}
