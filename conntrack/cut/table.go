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
	// setSize is how many elements the kernel takes into a set: more than room lets in.
	setSize = 4 * MaxFlows
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
	return &nftables.Table{Name: c.claim.Name(), Family: nftables.TableFamilyINet}
}

// set returns a set of the table.
func (c *Cutter) set(z zone, place setPlace) *nftables.Set {
	set := z.set(place)
	set.Table = c.nftTable()
	return set
}

// declare makes the table with the sets of some zones and those that it had, or makes it whole
// again. Where what is there by its name isn't what we make, it is deleted first. before is the ruleset's generation as
// of which it is known what is kept out.
func (c *Cutter) declare(zones []zone, before uint32) error {
	if c.closed {
		return ErrClosed
	}
	zones = merged(c.zones, zones)
	if len(zones) > MaxZones {
		return fmt.Errorf("%w: it would be of more than %d zones", ErrFull, MaxZones)
	}
	err := c.make(zones, before)
	if is(err, unix.EEXIST, unix.EINVAL, unix.EOPNOTSUPP, unix.EBUSY, unix.ENOENT) {
		// Others may have restored a saved one, which nft(8) makes a little different, or have a chain
		// where ours is to be.
		if found, rerr := c.removeTable(c.claim.Name()); rerr == nil && found {
			c.logger.Warn("an nftables table was not what it should be, and is made anew", "table", c.claim.Name(), "error", err)
			err = c.make(zones, before)
		}
	}
	if is(err, unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EINVAL) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return err
	}
	c.zones = zones
	return nil
}

// make makes the table, or makes it whole again, in one transaction.
func (c *Cutter) make(zones []zone, before uint32) error {
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
	chains := ruleset(zones, c.loose())
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
	return c.transact(before, func() error { return flush(conn) })
}

// loose tells whether the kernel makes entries of packets in the middle of a TCP connection.
func (c *Cutter) loose() bool {
	value, err := c.table.Sysctl("nf_conntrack_tcp_loose")
	return err != nil || value != "0"
}

// flush sends a transaction. Of an error it keeps what the kernel said, and that once.
func flush(conn *nftables.Conn) error {
	err := conn.Flush()
	var errno unix.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("nf_tables: %w", errno)
	}
	return err
}

func is(err error, errnos ...unix.Errno) bool {
	return slices.ContainsFunc(errnos, func(errno unix.Errno) bool { return errors.Is(err, errno) })
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

// removeTable deletes a table, if it is there.
func (c *Cutter) removeTable(name string) (found bool, err error) {
	if name == c.claim.Name() {
		c.forget()
	}
	conn, err := c.conn()
	if err != nil {
		return false, err
	}
	if found, err = c.isThere(name); !found || err != nil {
		return false, err
	}
	conn.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	if err := flush(conn); err != nil && !errors.Is(err, unix.ENOENT) {
		return true, fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return true, nil
}

func (c *Cutter) isThere(name string) (bool, error) {
	conn, err := c.conn()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }), nil
}

// forget takes it that nothing is kept out.
func (c *Cutter) forget() {
	c.zones, c.whole = nil, unknown
	c.tuples = room{}
	clear(c.blocked)
}

// recall learns what of ours is left when others have changed the ruleset.
func (c *Cutter) recall() error {
	there, err := c.isThere(c.claim.Name())
	if err != nil {
		return err
	}
	if !there {
		c.forget()
		return nil
	}
	blocks, err := c.listBlocks()
	if err != nil {
		return fmt.Errorf("list blocks: %w", err)
	}
	c.tuples.epoch++
	before := c.blocked
	c.blocked = make(map[place]kept, len(blocks))
	for i := range blocks {
		at := blocks[i].place()
		c.blocked[at] = kept{until: time.Now().Add(blocks[i].Left), by: before[at].by}
	}
	return nil
}

// editTries is how often elements are listed and changed again because one of them ended meanwhile.
const editTries = 4

// add adds elements, in the place of old ones.
func (c *Cutter) add(e, old elements) error {
	err := c.edit(e, old)
	for try := 0; is(err, unix.EEXIST, unix.ENOENT) && try < editTries; try++ {
		// One that is there is answered otherwise, rejected and not dropped; or an old one has ended.
		var there elements
		if there, err = c.existing(e); err == nil {
			err = c.edit(e, there)
		}
	}
	if errors.Is(err, unix.ENFILE) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// edit deletes elements and adds others in one transaction.
func (c *Cutter) edit(add, del elements) error {
	if len(add) == 0 && len(del) == 0 {
		return nil
	}
	conn, err := c.conn()
	if err != nil {
		return err
	}
	for _, change := range []struct {
		elements elements
		message  func(*nftables.Set, []nftables.SetElement) error
	}{{del, conn.SetDeleteElements}, {add, conn.SetAddElements}} {
		for z, sets := range change.elements {
			for place, list := range sets {
				for part := range slices.Chunk(list, maxElements) {
					if err := change.message(c.set(z, setPlace(place)), part); err != nil {
						return err
					}
				}
			}
		}
	}
	return c.transact(c.whole, func() error { return flush(conn) })
}

// existing returns those of e that are there, by their keys.
func (c *Cutter) existing(e elements) (elements, error) {
	there := elements{}
	for z, sets := range e {
		for place, list := range sets {
			if len(list) == 0 {
				continue
			}
			have, err := c.elements(z, setPlace(place))
			if err != nil {
				return nil, err
			}
			keys := make(map[string]bool, len(have))
			for i := range have {
				keys[string(have[i].Key)] = true
			}
			for i := range list {
				if key := string(list[i].Key); keys[key] {
					delete(keys, key) // once, if it is in the list twice
					there.put(z, setPlace(place), nftables.SetElement{Key: list[i].Key})
				}
			}
		}
	}
	return there, nil
}

// zonesThere returns the zones that the table in the kernel has sets for.
func (c *Cutter) zonesThere() ([]zone, error) {
	conn, err := c.conn()
	if err != nil {
		return nil, err
	}
	sets, err := conn.GetSets(c.nftTable())
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var zones []zone
	for _, set := range sets {
		if z, ok := zoneOfSet(set.Name); ok {
			zones = append(zones, z)
		}
	}
	return zones, nil
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
