package conntrack

import (
	"context"
	"strconv"

	"github.com/mdlayher/netlink"
	timo "github.com/ti-mo/conntrack"
)

// Stats is the state of the table as a whole. A member that the kernel doesn't tell is 0.
type Stats struct {
	Entries   uint32 // flows in the table
	Max       uint32 // net.netfilter.nf_conntrack_max
	Buckets   uint32 // net.netfilter.nf_conntrack_buckets
	ExpectMax uint32 // net.netfilter.nf_conntrack_expect_max: of the whole machine
}

// Stats returns how full the table is.
func (t *Table) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	err := t.withTimo(ctx, func(c *timo.Conn) error {
		g, err := c.StatsGlobal()
		s.Entries, s.Max = g.Entries, g.MaxEntries
		return err
	})
	if err != nil {
		return Stats{}, opError("get statistics", err)
	}
	s.Buckets = t.sysctlNumber("nf_conntrack_buckets")
	s.ExpectMax = t.sysctlNumber("nf_conntrack_expect_max")
	if s.Max == 0 { // a kernel before 4.18 doesn't tell it by netlink
		s.Max = t.sysctlNumber("nf_conntrack_max")
	}
	return s, nil
}

// sysctlNumber returns a number of net.netfilter, 0 where there is none.
func (t *Table) sysctlNumber(name string) uint32 {
	s, err := t.Sysctl(name)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(s, 10, 32)
	return uint32(n)
}

// withTimo runs fn with a connection of ti-mo/conntrack, which is what statistics need and no
// more; closing it ends a request whose ctx ends.
func (t *Table) withTimo(ctx context.Context, fn func(c *timo.Conn) error) error {
	if err := t.checkNetNS(); err != nil {
		return err
	}
	cfg := &netlink.Config{}
	if t.netns != nil {
		cfg.NetNS = int(t.netns.Fd())
	}
	c, err := timo.Dial(cfg)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	err = fn(c)
	if stop() {
		_ = c.Close()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// CPUStats are the counters of one processor since the namespace was made (ctattr_stats_cpu,
// linux/netfilter/nfnetlink_conntrack.h).
type CPUStats struct {
	CPU           uint16
	Found         uint32 // CTA_STATS_FOUND: lookups that found an entry
	Invalid       uint32 // CTA_STATS_INVALID: packets that can't be tracked
	Insert        uint32 // CTA_STATS_INSERT
	InsertFailed  uint32 // CTA_STATS_INSERT_FAILED
	Drop          uint32 // CTA_STATS_DROP: packets dropped because no entry could be made
	EarlyDrop     uint32 // CTA_STATS_EARLY_DROP: entries dropped because the table was full
	Error         uint32 // CTA_STATS_ERROR
	SearchRestart uint32 // CTA_STATS_SEARCH_RESTART
	ClashResolve  uint32 // CTA_STATS_CLASH_RESOLVE
	ChainTooLong  uint32 // CTA_STATS_CHAIN_TOOLONG
	Unknown       []Attribute
}

// PerCPU returns the counters of each processor.
func (t *Table) PerCPU(ctx context.Context) ([]CPUStats, error) {
	var all []CPUStats
	err := t.dump(ctx, msgGetStatsCPU, FamilyAny, noAttributes, func(m *message, data []byte) (bool, error) {
		s := CPUStats{CPU: m.resource()}
		err := s.decode(data)
		all = append(all, s)
		return true, err
	})
	return all, opError("get statistics", err)
}

func (s *CPUStats) decode(data []byte) error {
	// By CTA_STATS_*; nil is a counter that the kernel no longer uses.
	fields := [...]*uint32{
		2: &s.Found, 4: &s.Invalid, 8: &s.Insert, 9: &s.InsertFailed, 10: &s.Drop, 11: &s.EarlyDrop,
		12: &s.Error, 13: &s.SearchRestart, 14: &s.ClashResolve, 15: &s.ChainTooLong,
	}
	a := attrs{rest: data}
	for a.next() {
		known := int(a.typ) < len(fields) && fields[a.typ] != nil
		if !known || !a.be32(fields[a.typ]) {
			s.Unknown = append(s.Unknown, a.unknown())
		}
	}
	return a.err
}
