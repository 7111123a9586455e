package cut

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/claim"
)

// Errors of Prepare and Cut that a caller may branch on.
var (
	// ErrFull says that more flows or addresses would be kept out at a time than MaxFlows or
	// MaxBlocks, or flows of more than MaxZones zones.
	ErrFull = errors.New("too much is kept out")
	// ErrUnsupported says that the kernel lacks a part of nf_tables that is needed.
	ErrUnsupported = errors.New("the kernel's nf_tables can't cut connections")
	// ErrClosed says that the Cutter was closed.
	ErrClosed = errors.New("the cutter is closed")
)

// Table is what is needed of conntrack.Table: its network namespace.
type Table interface {
	InNetNS(fn func() error) error
	NetNS() *os.File
	LocalAddrs(ctx context.Context) ([]netip.Addr, error)
	Sysctl(name string) (string, error)
}

var _ Table = (*conntrack.Table)(nil)

// Config says where connections are cut.
type Config struct {
	Table  Table
	Logger *slog.Logger // nil is silent
}

// Cutter cuts connections. Its methods may be called from many goroutines.
type Cutter struct {
	table  Table
	logger *slog.Logger
	claim  *claim.Claim // of a name for the nftables table

	mu      sync.Mutex
	zones   []zone         // that the nftables table has sets for
	whole   uint32         // generation of the ruleset in which it was whole
	tuples  room           // the elements of flows
	blocked map[place]kept // addresses that are kept apart
	timer   *time.Timer
	until   time.Time // when the timer deletes the table, as nothing is kept out any more
	closed  bool

	probing sync.WaitGroup
	stop    context.CancelFunc // of probing
	stopped context.Context
	turn    sync.Mutex // one after the other probes in the background
}

// Open returns a Cutter with a name of its own for its nftables table, and deletes the tables of
// predecessors that were killed.
func Open(cfg Config) (*Cutter, error) {
	c := &Cutter{table: cfg.Table, logger: cfg.Logger, blocked: map[place]kept{}}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	c.stopped, c.stop = context.WithCancel(context.Background())
	var err error
	if c.claim, err = claim.Take(cfg.Table, TablePrefix, maxTables); err != nil {
		return nil, fmt.Errorf("open nf_tables: %w", err)
	}
	var dead []string
	err = c.claim.EachDead(func(name string) error {
		found, err := c.removeTable(name)
		if found {
			dead = append(dead, name)
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open nf_tables: %w", err), c.claim.Close())
	}
	if len(dead) > 0 {
		c.logger.Info("deleted nftables tables that were left behind", "tables", dead)
	}
	return c, nil
}

// Name returns the name of the nftables table, of family inet.
func (c *Cutter) Name() string { return c.claim.Name() }

// Close deletes the nftables table: what was kept out is so no longer.
func (c *Cutter) Close() error {
	c.stop()
	c.probing.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
	_, err := c.removeTable(c.claim.Name())
	return errors.Join(err, c.claim.Close())
}

// Options say how connections are cut.
type Options struct {
	// For is how long the tuples are kept out, from a second on.
	For time.Duration
	// Most is the longest that a tuple may be kept out; nil is no bound.
	Most func(t *conntrack.Tuple) time.Duration
	// Block is how long the addresses are kept apart: packets from the source to the destination
	// of each flow's original direction. 0 doesn't. Two addresses of the router itself are never
	// kept apart.
	Block time.Duration
	// Reject answers packets other than TCP's with ICMP port unreachable.
	Reject bool
	// Comment is kept with the blocks: who and why. What is longer than 100 bytes is cut off.
	Comment string
	// Spare are pairs of addresses that are not blocked, in either direction.
	Spare []Pair
}

// Lasts returns how long a tuple is kept out.
func (o *Options) Lasts(t *conntrack.Tuple) time.Duration {
	if o.Most == nil {
		return o.For
	}
	return min(o.For, o.Most(t))
}

// Result is what Cut did.
type Result struct {
	Blocks  int // pairs of addresses that are kept apart from now on, or for longer than before
	Sockets int // sockets of the router itself that were closed
	Probed  int // ends of TCP connections that were sent a segment, to notice
	Untold  int // those that could not be sent one
}

// Prepare sees to it that what is planned can be cut. What is cut before the flows are deleted can no
// longer fail for want of room.
func (c *Cutter) Prepare(p *Plan, o Options) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ready(p.zoneList()); err != nil { // which notices what others have flushed
		return err
	}
	if err := c.tuples.check(2*p.flows, "flows"); err != nil {
		return err
	}
	if o.Block > 0 {
		return c.checkBlocks(p.pairs)
	}
	return nil
}

// Cut keeps the packets of flows out that were just deleted, and lets their ends know. What is kept out
// already, and for longer, stays as it is. In the background it goes on for a moment to send the ends
// what stateful firewalls on the way let through.
//
// Where it returns an error, nothing was cut.
func (c *Cutter) Cut(ctx context.Context, flows []conntrack.Flow, o Options) (Result, error) {
	local, err := localAddrs(ctx, c.table)
	if err != nil { // sockets of the router learn of it at their next packet, like everybody
		c.logger.Warn("the router's addresses can't be read", "error", err)
	}
	blocks := blocksOf(flows, o, local)
	r := Result{}
	if r.Blocks, err = c.keepOut(flows, blocks, o); err != nil {
		return Result{}, fmt.Errorf("cut connections: %w", err)
	}
	if r.Sockets, err = destroySockets(ctx, c.table, flows, local); err != nil {
		c.logger.Warn("sockets of the router were not closed", "error", err)
	}
	r.Probed, r.Untold, err = probe(ctx, c.table, flows, local, probeMarks[0])
	if err != nil {
		c.logger.Debug("silent ends were not told", "ends", r.Untold, "error", err)
	}
	if r.Probed > 0 {
		c.probing.Go(func() { c.probeMore(flows, local) })
	}
	return r, nil
}

// moreAfter is how long the segments wait that only firewalls on the way need, so that they don't
// hold up what comes next of a kill of many parts.
const moreAfter = 300 * time.Millisecond

// probeMore sends the segments whose numbers other firewalls on the way want.
func (c *Cutter) probeMore(flows []conntrack.Flow, local addrSet) {
	select {
	case <-time.After(moreAfter):
	case <-c.stopped.Done():
		return
	}
	c.turn.Lock()
	defer c.turn.Unlock()
	for _, mark := range probeMarks[1:] {
		if _, _, err := probe(c.stopped, c.table, flows, local, mark); errors.Is(err, context.Canceled) {
			return
		}
	}
}

// keepOut returns how many blocks are new, or last longer than before.
func (c *Cutter) keepOut(flows []conntrack.Flow, blocks []Block, o Options) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh, err := c.extend(flows, blocks, o)
	if errors.Is(err, unix.ENOENT) { // somebody has just flushed the ruleset
		fresh, err = c.extend(flows, blocks, o)
	}
	if err != nil {
		return 0, err
	}
	for i := range fresh {
		c.blocked[fresh[i].place()] = kept{until: time.Now().Add(o.Block), by: o.answer()}
	}
	c.keep(max(o.For, o.Block))
	return len(fresh), nil
}

// extend adds what isn't there already for as long or longer, and returns the blocks of it.
func (c *Cutter) extend(flows []conntrack.Flow, blocks []Block, o Options) ([]Block, error) {
	if err := c.ready(zonesOf(flows, blocks)); err != nil {
		return nil, err
	}
	blocks, replaced := c.longer(blocks, o)
	e := elementsOf(flows, blocks, o)
	if err := c.confirm(e); err != nil {
		return nil, err
	}
	now := time.Now() // before the kernel counts, so that what is remembered ends no later than what is there
	e, old := c.tuples.longer(e, now)
	old.join(keysOfBlocks(replaced))
	if err := c.add(e, old); err != nil {
		return nil, err
	}
	c.tuples.take(e, now)
	return blocks, nil
}

// ready makes the table with the sets of zones, or makes it whole again, which takes the kernel some
// 20 ms, unless nobody has touched the ruleset since that was done.
func (c *Cutter) ready(zones []zone) error {
	if c.whole != unknown && c.has(zones) {
		if now, err := c.generation(); err == nil && now == c.whole {
			return nil
		}
	}
	// As of before it is listed what there is: what others flush meanwhile is noticed the next time.
	before, err := c.generation()
	if err != nil {
		return err
	}
	if err := c.recall(); err != nil {
		return err
	}
	if err := c.declare(zones, before); err != nil {
		return err
	}
	c.keep(0)
	return nil
}

// keep puts off the end of the nftables table.
func (c *Cutter) keep(d time.Duration) {
	// A little longer than the elements, whose time begins when the kernel adds them.
	if until := time.Now().Add(d + 2*time.Second); until.After(c.until) {
		c.until = until
	}
	if c.timer == nil {
		c.timer = time.AfterFunc(time.Until(c.until), c.expire)
		return
	}
	c.timer.Reset(time.Until(c.until))
}

// expire deletes the nftables table when nothing is kept out any more.
func (c *Cutter) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.timer == nil {
		return
	}
	if rest := time.Until(c.until); rest > 0 { // put off meanwhile
		c.timer.Reset(rest)
		return
	}
	if _, err := c.removeTable(c.claim.Name()); err != nil {
		c.logger.Warn("an nftables table is left behind", "table", c.claim.Name(), "error", err)
	}
	c.timer = nil
}
