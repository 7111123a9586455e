package cut

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctd/conntrack"
)

// DefaultName is the name of the nftables table, of family inet.
const DefaultName = "ctd_cut"

// MaxFlows is how many flows of a zone and a kind may be kept out at a time. Each takes about 400
// bytes of the kernel's memory.
const MaxFlows = 1 << 16

// Errors of Cut and Prepare that a caller may branch on.
var (
	// ErrFull says that more flows or addresses would be kept out at a time than MaxFlows.
	ErrFull = errors.New("too many connections are kept out")
	// ErrUnsupported says that the kernel lacks a part of nf_tables that is needed.
	ErrUnsupported = errors.New("the kernel's nf_tables can't cut connections")
)

// Table is what is needed of conntrack.Table: its network namespace.
type Table interface {
	InNetNS(fn func() error) error
	NetNS() *os.File
	LocalAddrs(ctx context.Context) ([]netip.Addr, error)
}

var _ Table = (*conntrack.Table)(nil)

// Config says where connections are cut.
type Config struct {
	Table Table
	// Name is the nftables table's; DefaultName where empty. Processes that share a network
	// namespace need names of their own.
	Name   string
	Logger *slog.Logger // nil is silent
}

// Cutter cuts connections. Its methods may be called from many goroutines.
type Cutter struct {
	table  Table
	name   string
	logger *slog.Logger

	mu     sync.Mutex
	timer  *time.Timer // deletes the nftables table once it is empty
	until  time.Time   // when it is
	closed bool
	zones  []zone // that the nftables table has sets for
}

// New returns a Cutter.
func New(cfg Config) *Cutter {
	c := &Cutter{table: cfg.Table, name: cfg.Name, logger: cfg.Logger}
	if c.name == "" {
		c.name = DefaultName
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Clear deletes what a predecessor of the same name left behind, and ends all that c keeps out.
func (c *Cutter) Clear() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, err := c.remove()
	if found && err == nil {
		c.logger.Info("deleted an nftables table that was left behind", "table", c.name)
	}
	return err
}

// Close deletes the nftables table: connections that were kept out are so no longer.
func (c *Cutter) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.timer == nil {
		return nil // there is none
	}
	c.timer.Stop()
	_, err := c.remove()
	return err
}

// Options say how connections are cut.
type Options struct {
	// For is how long the tuples are kept out, from a second on.
	For time.Duration
	// Block is how long the addresses are kept apart: packets from the source to the destination
	// of each flow's original direction. 0 doesn't.
	Block time.Duration
	// Reject answers packets other than TCP's with ICMP port unreachable.
	Reject bool
	// Comment is kept with the blocks: who and why. What is longer than 100 bytes is cut off.
	Comment string
	// Spare are pairs of addresses that are not blocked, in either direction.
	Spare []Pair
}

// Result is what Cut did.
type Result struct {
	Blocks  int // pairs of addresses that are kept apart
	Sockets int // sockets of the router itself that were closed
	Probed  int // ends of TCP connections that were made to notice
}

// Prepare makes sure that connections can be cut.
func (c *Cutter) Prepare() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.declare(nil, time.Second)
}

// Cut keeps the packets of flows out that were just deleted, and lets their ends know.
//
// Where it returns an error the result tells how far it came.
func (c *Cutter) Cut(ctx context.Context, flows []conntrack.Flow, o Options) (Result, error) {
	blocks := pairsOf(flows, o)
	if err := c.keepOut(flows, blocks, o); err != nil {
		return Result{}, fmt.Errorf("cut connections: %w", err)
	}
	r := Result{Blocks: len(blocks)}
	local, err := localAddrs(ctx, c.table)
	if err == nil {
		r.Sockets, err = destroySockets(ctx, c.table, flows, local)
	}
	if err != nil { // they learn of it at their next packet, like everybody
		c.logger.Warn("sockets of the router were not closed", "error", err)
	}
	r.Probed, err = probe(ctx, c.table, flows, local)
	if err != nil {
		c.logger.Debug("silent ends were not told", "error", err)
	}
	return r, ctx.Err()
}

func (c *Cutter) keepOut(flows []conntrack.Flow, blocks []Block, o Options) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := elementsOf(flows, blocks, o)
	zones := slices.Collect(maps.Keys(e))
	lasts := max(o.For, o.Block)
	if c.has(zones) { // as it mostly is after Prepare: to make the rules again takes the kernel long
		c.keep(lasts)
		if err := c.add(e); !errors.Is(err, unix.ENOENT) {
			return err
		}
		// Somebody has just flushed the ruleset.
	}
	if err := c.declare(zones, lasts); err != nil {
		return err
	}
	return c.add(e)
}

// keep puts off the end of the nftables table.
func (c *Cutter) keep(d time.Duration) {
	// A little longer than the elements, whose time begins when the kernel adds them.
	until := time.Now().Add(d + 2*time.Second)
	if until.After(c.until) {
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
	if _, err := c.remove(); err != nil {
		c.logger.Warn("the nftables table is left behind", "table", c.name, "error", err)
	}
	c.timer = nil
}
