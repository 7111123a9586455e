package helper

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"

	"ctd/conntrack"
)

// The defaults of Config.
const (
	DefaultQueue                = 554
	DefaultMarkBit              = 1 << 30
	DefaultMaxSessions          = 4096
	DefaultMaxSessionsPerClient = 32
)

// DefaultPorts are the TCP ports at which RTSP servers listen: IANA's rtsp and rtsp-alt, and 7070,
// which RealServer used.
func DefaultPorts() []uint16 { return []uint16{554, 8554, 7070} }

// maxPorts and maxInterfaces bound what becomes rules.
const (
	maxPorts      = 64
	maxInterfaces = 64
)

// Table is what the helper needs of conntrack.Table.
type Table interface {
	Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error]
	Get(ctx context.Context, k conntrack.Key) (conntrack.Flow, error)
	Kill(ctx context.Context, keys []conntrack.Key) []error
	Modify(ctx context.Context, keys []conntrack.Key, c conntrack.Change) []error
	Create(ctx context.Context, f conntrack.Flow) (conntrack.Flow, error)
	AdjustSeq(ctx context.Context, k conntrack.Key, reply bool, s conntrack.SeqAdj) error
	EndedFlows(ctx context.Context) (iter.Seq2[conntrack.Flow, error], error)

	Expects(ctx context.Context) iter.Seq2[conntrack.Expect, error]
	CreateExpect(ctx context.Context, e conntrack.Expect) (conntrack.Expect, error)
	AddExpect(ctx context.Context, e conntrack.Expect) (conntrack.Expect, error)
	KillExpects(ctx context.Context, es []conntrack.Expect) []error

	InNetNS(fn func() error) error
	NetNS() *os.File
}

var _ Table = (*conntrack.Table)(nil)

// Config says how the helper works. The zero value of each field but Table is a default.
type Config struct {
	Table Table

	// Ports are those that RTSP servers listen at, as clients connect to them or as the server has
	// them behind a forwarded port; DefaultPorts where there are none.
	Ports []uint16
	// Queue is the number of the packet queue; DefaultQueue where 0.
	Queue uint16
	// Families are IPv4, IPv6 or both; both where there are none.
	Families []conntrack.Family
	// Interfaces are those that RTSP packets come in by, or go out by where they are the router's
	// own: of both sides. All where there are none.
	Interfaces []string
	// Manual installs no rules: the administrator does, with those that Rules prints.
	Manual bool
	// MarkBit is the bit of the connection mark that takes a connection out of the queue once its
	// media go inside it; DefaultMarkBit where 0.
	MarkBit uint32

	// AllowOtherSource lets media in from another address than the server's.
	AllowOtherSource bool
	// MaxSessions and MaxSessionsPerClient bound the streams that are registered, in all and for
	// one client's address; the defaults where 0.
	MaxSessions, MaxSessionsPerClient int

	Logger *slog.Logger // nil is silent
}

// complete puts the defaults where nothing is said.
func (c *Config) complete() {
	if len(c.Ports) == 0 {
		c.Ports = DefaultPorts()
	}
	if c.Queue == 0 {
		c.Queue = DefaultQueue
	}
	if len(c.Families) == 0 {
		c.Families = []conntrack.Family{conntrack.FamilyIPv4, conntrack.FamilyIPv6}
	}
	if c.MarkBit == 0 {
		c.MarkBit = DefaultMarkBit
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = DefaultMaxSessions
	}
	if c.MaxSessionsPerClient == 0 {
		c.MaxSessionsPerClient = DefaultMaxSessionsPerClient
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Check says what is wrong with c, by the names that the settings have in the configuration.
func (c *Config) Check() error {
	switch {
	case len(c.Ports) > maxPorts:
		return fmt.Errorf("ports: %d are given; at most %d", len(c.Ports), maxPorts)
	case slices.Contains(c.Ports, 0):
		return errors.New("ports: 0 is none")
	case len(c.Interfaces) > maxInterfaces:
		return fmt.Errorf("interfaces: %d are given; at most %d", len(c.Interfaces), maxInterfaces)
	case c.MarkBit&(c.MarkBit-1) != 0:
		return fmt.Errorf("mark_bit: %#x has more than one bit", c.MarkBit)
	case c.MaxSessions < 0:
		return fmt.Errorf("max_sessions: %d is below 0", c.MaxSessions)
	case c.MaxSessionsPerClient < 0:
		return fmt.Errorf("max_sessions_per_client: %d is below 0", c.MaxSessionsPerClient)
	}
	for _, f := range c.Families {
		if f != conntrack.FamilyIPv4 && f != conntrack.FamilyIPv6 {
			return fmt.Errorf("families: %s is neither ipv4 nor ipv6", f)
		}
	}
	for _, name := range c.Interfaces {
		if err := checkInterface(name); err != nil {
			return fmt.Errorf("interfaces: %w", err)
		}
	}
	return nil
}

// checkInterface tells whether a name can be an interface's (dev_valid_name, net/core/dev.c), and one
// that can be written into rules, where + and * would stand for more than themselves, and ! for the rest.
func checkInterface(name string) error {
	if name == "" || len(name) >= 16 || name == "." || name == ".." {
		return fmt.Errorf("%q is no name of an interface", name)
	}
	for _, r := range name {
		if r <= ' ' || r > '~' || r == '/' || r == ':' || r == '"' || r == '\'' || r == '\\' || r == '*' || r == '+' || r == '!' {
			return fmt.Errorf("%q is no name of an interface", name)
		}
	}
	return nil
}
