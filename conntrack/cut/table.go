package cut

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// setSize is how many elements a set holds at most: two for each flow.
	setSize = 2 * MaxFlows
	// maxZones is how many zones may have sets at a time.
	maxZones = 256
	// maxElements is how many elements are sent in one message, whose list is an attribute of at
	// most 64 KiB.
	maxElements = 256
	// answersSize is room for all messages of a transaction, and for their answers.
	answersSize = 4 << 20
)

// conn returns a connection to nf_tables in the namespace; it has no socket yet.
func (c *Cutter) conn() (*nftables.Conn, error) {
	opts := []nftables.ConnOption{nftables.WithSockOptions(roomForAnswers)}
	if ns := c.table.NetNS(); ns != nil {
		opts = append(opts, nftables.WithNetNSFd(int(ns.Fd())))
	}
	return nftables.New(opts...)
}

// roomForAnswers sees to it that the kernel's answers, one to each rule or list of elements, and all
// before the first is read, fit into the socket's buffer.
func roomForAnswers(conn *netlink.Conn) error {
	return errors.Join(conn.SetOption(netlink.CapAcknowledge, true), conn.SetReadBuffer(answersSize), conn.SetWriteBuffer(answersSize))
}

func (c *Cutter) nftTable() *nftables.Table {
	return &nftables.Table{Name: c.name, Family: nftables.TableFamilyINet}
}

// set returns a set of the table.
func (c *Cutter) set(z zone, place setPlace) *nftables.Set {
	set := z.set(place)
	set.Table = c.nftTable()
	return set
}

// declare makes the table with the sets of some zones and those that it had, or makes it whole
// again, in one transaction, and puts its end off by d.
func (c *Cutter) declare(zones []zone, d time.Duration) error {
	if c.closed {
		return errors.New("closed")
	}
	zones = merged(c.zones, zones)
	if len(zones) > maxZones {
		return fmt.Errorf("%w: of more than %d zones", ErrFull, maxZones)
	}
	conn, err := c.conn()
	if err != nil {
		return err
	}
	table := conn.AddTable(c.nftTable())
	for _, z := range zones {
		for place := range numSets {
			if err := conn.AddSet(c.set(z, place), nil); err != nil {
				return err
			}
		}
	}
	chains := ruleset(zones)
	for _, chain := range chains {
		chain.Table = table
		conn.AddChain(&chain.Chain)
	}
	conn.FlushTable(table) // of its rules: the sets keep their elements
	for _, chain := range chains {
		for _, exprs := range chain.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: &chain.Chain, Exprs: exprs})
		}
	}
	if err := conn.Flush(); err != nil {
		return unsupported(err)
	}
	c.zones = zones
	c.keep(d)
	return nil
}

// has tells whether the table was made with the sets of zones.
func (c *Cutter) has(zones []zone) bool {
	return len(c.zones) > 0 && !slices.ContainsFunc(zones, func(z zone) bool { return !slices.Contains(c.zones, z) })
}

// merged returns the zones of both lists, and zone 0.
func merged(a, b []zone) []zone {
	all := slices.Concat([]zone{0}, a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// unsupported adds what the kernel's answers to new rules mean.
func unsupported(err error) error {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EINVAL} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
	}
	return err
}

// remove deletes the table, if it is there.
func (c *Cutter) remove() (found bool, err error) {
	c.zones = nil
	conn, err := c.conn()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == c.name }) {
		return false, nil
	}
	conn.DelTable(c.nftTable())
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return true, fmt.Errorf("delete nftables table %s: %w", c.name, err)
	}
	return true, nil
}

// add adds elements. Those that are there already get the new time, from Linux 6.12 on; before,
// they keep the one they have.
func (c *Cutter) add(e elements) error {
	conn, err := c.conn()
	if err != nil {
		return err
	}
	for z, sets := range e {
		for place, rest := range sets {
			for len(rest) > 0 {
				n := min(len(rest), maxElements)
				if err := conn.SetAddElements(c.set(z, setPlace(place)), rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
		}
	}
	err = conn.Flush()
	if errors.Is(err, unix.ENFILE) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// delete deletes an element, and tells whether it was there.
func (c *Cutter) delete(z zone, place setPlace, key []byte) (bool, error) {
	conn, err := c.conn()
	if err != nil {
		return false, err
	}
	if err := conn.SetDeleteElements(c.set(z, place), []nftables.SetElement{{Key: key}}); err != nil {
		return false, err
	}
	err = conn.Flush()
	if errors.Is(err, unix.ENOENT) { // ended by itself, or the table was flushed
		return false, nil
	}
	return err == nil, err
}

// elements returns the elements of a set; none where there is no table.
func (c *Cutter) elements(z zone, place setPlace) ([]nftables.SetElement, error) {
	conn, err := c.conn()
	if err != nil {
		return nil, err
	}
	elements, err := conn.GetSetElements(c.set(z, place))
	if isGone(err) {
		return nil, nil
	}
	return elements, err
}

// isGone tells whether an error says that there is no such table or set. The library hides the
// errno of a dump in its text.
func isGone(err error) bool {
	return err != nil && (errors.Is(err, unix.ENOENT) || strings.HasSuffix(err.Error(), unix.ENOENT.Error()))
}
