package rpc

import (
	"context"
	"iter"
	"net/netip"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

// Table is what the methods need of conntrack.Table.
type Table interface {
	Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error]
	Count(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) (int, error)
	Get(ctx context.Context, k conntrack.Key) (conntrack.Flow, error)
	GetMany(ctx context.Context, keys []conntrack.Key) ([]conntrack.Flow, []error)
	Kill(ctx context.Context, keys []conntrack.Key) []error
	Modify(ctx context.Context, keys []conntrack.Key, c conntrack.Change) []error
	CanModify(ctx context.Context, keys []conntrack.Key, c conntrack.Change) []error
	Replace(ctx context.Context, k conntrack.Key, nat conntrack.NAT) (conntrack.Flow, error)
	CanReplace(ctx context.Context, k conntrack.Key, nat conntrack.NAT) error
	Create(ctx context.Context, f conntrack.Flow) (conntrack.Flow, error)
	CanCreate(ctx context.Context, f conntrack.Flow) (conntrack.Flow, error)
	Import(ctx context.Context, flows []conntrack.Flow, on conntrack.OnConflict) []conntrack.Imported
	CanImport(ctx context.Context, flows []conntrack.Flow, on conntrack.OnConflict) []conntrack.Imported
	Flush(ctx context.Context, family conntrack.Family, zone *uint16) (int, error)
	NewFlows(ctx context.Context) (iter.Seq2[conntrack.Flow, error], error)

	Expects(ctx context.Context) iter.Seq2[conntrack.Expect, error]
	GetExpect(ctx context.Context, id uint32) (conntrack.Expect, error)
	CreateExpect(ctx context.Context, e conntrack.Expect) (conntrack.Expect, error)
	KillExpects(ctx context.Context, es []conntrack.Expect) []error
	FlushExpects(ctx context.Context) (int, error)

	Stats(ctx context.Context) (conntrack.Stats, error)
	PerCPU(ctx context.Context) ([]conntrack.CPUStats, error)
	LocalAddrs(ctx context.Context) ([]netip.Addr, error)
}

var _ Table = (*conntrack.Table)(nil)

// Cutter is what the methods need of cut.Cutter.
type Cutter interface {
	Prepare(p *cut.Plan, o cut.Options) error
	Cut(ctx context.Context, flows []conntrack.Flow, o cut.Options) (cut.Result, error)
	Blocks() ([]cut.Block, error)
	Unblock(blocks []cut.Block) ([]cut.Block, error)
}

var _ Cutter = (*cut.Cutter)(nil)

// Service is what the methods are made of.
type Service struct {
	Table Table

	// Cutter ends connections; nil can't.
	Cutter Cutter

	// Info and Doctor answer server.info and server.doctor; the server knows what they need.
	Info   func(ctx context.Context) (wire.InfoResult, error)
	Doctor func(ctx context.Context) (wire.DoctorResult, error)

	// Auditor records changes and refusals, and Audit answers server.audit.
	Auditor Auditor
	Audit   Audit

	// Scope says by which addresses a flow is inside a caller's networks: either, orig or reply. nil is
	// either.
	Scope func(ctx context.Context) string

	// HelperStatus, HelperSessions and HelperRules answer helper.*, HelperRules for a form that the
	// contract has.
	HelperStatus   func(ctx context.Context) (wire.HelperStatusResult, error)
	HelperSessions func(ctx context.Context) (wire.HelperSessionsResult, error)
	HelperRules    func(ctx context.Context, form string) (wire.HelperRulesResult, error)

	// Login recognises a user by name and password, for pyctd's login. nil recognises nobody.
	Login func(ctx context.Context, user, password string) (Principal, error)
	Pyctd PyctdConfig

	// Stopping is closed when the daemon begins to stop, which ends what would take long; nil: never.
	Stopping <-chan struct{}

	holders *turns
	watches *turns
	pyctd   *pyctd

	// For tests; the real ones where nil or 0.
	now        func() time.Time
	afterFunc  func(d time.Duration, fn func())
	maxHandles int
}

// Register adds all methods of s to r.
func (s *Service) Register(r *Registry) {
	s.holders = newTurns(maxHolding, maxHoldingEach)
	s.watches = newTurns(maxWatches, maxWatchesEach)
	r.SetAuditor(s.Auditor)
	s.registerFlows(r)
	s.registerChanges(r)
	s.registerBlocks(r)
	s.registerExport(r)
	s.registerReconcile(r)
	s.registerExpects(r)
	s.registerHelper(r)
	s.registerServer(r)
	s.registerPyctd(r)
}
