package conntrack

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"time"
)

// Config says which table to open. The zero value is the table of the caller's own network
// namespace.
type Config struct {
	// NetNS is a network namespace: a name in /run/netns or a path such as /proc/123/ns/net.
	NetNS string
}

// Table is the connection tracking table of one network namespace. Its methods may be called
// from many goroutines at once.
type Table struct{}

// Open opens the table.
func Open(cfg Config) (*Table, error) { return nil, errors.ErrUnsupported }

// Close ends what is under way and gives back the sockets.
func (t *Table) Close() error { return nil }

// ListOption changes what Flows does.
type ListOption func(*listConfig)

type listConfig struct{}

// Source is one of the kernel's tables of flows.
type Source uint8

// The tables.
const (
	Main        Source = iota // flows that are confirmed: the table that conntrack -L lists
	Dying                     // flows that were deleted but are still referenced
	Unconfirmed               // flows whose first packet has not left the machine yet
)

// From lists another table than Main.
func From(s Source) ListOption { return nil }

// Zeroing resets the counters of the flows that are listed. Every other reader loses these counts.
func Zeroing() ListOption { return nil }

// CountScanned adds to *n the number of entries that the kernel sent.
func CountScanned(n *int) ListOption { return nil }

// Flows dumps the table.
func (t *Table) Flows(ctx context.Context, f Filter, opts ...ListOption) iter.Seq2[Flow, error] {
	return nil
}

// Count returns how many flows match.
func (t *Table) Count(ctx context.Context, f Filter) (int, error) { return 0, nil }

// Get returns one flow; ErrNotFound where there is none.
func (t *Table) Get(ctx context.Context, k Key) (Flow, error) { return Flow{}, nil }

// Kill deletes flows. The result has an error for each key: nil for a flow that was deleted,
// ErrNotFound for one that was gone already.
func (t *Table) Kill(ctx context.Context, keys []Key) []error { return nil }

// Modify changes flows, with an error for each key as Kill.
func (t *Table) Modify(ctx context.Context, keys []Key, c Change) []error { return nil }

// Replace makes the same flow anew with other NAT: old is deleted, a flow with the addresses of
// reply is made, and old is put back if that fails.
func (t *Table) Replace(ctx context.Context, k Key, nat NAT) (Flow, error) { return Flow{}, nil }

// Create makes a flow and returns it as the kernel holds it.
func (t *Table) Create(ctx context.Context, f Flow) (Flow, error) { return Flow{}, nil }

// Flush deletes all flows of a family (FamilyAny: all) and zone (nil: all) and returns how many.
func (t *Table) Flush(ctx context.Context, family Family, zone *uint16) (int, error) { return 0, nil }

// Expects dumps the expectations.
func (t *Table) Expects(ctx context.Context) iter.Seq2[Expect, error] { return nil }

// CreateExpect makes an expectation and returns it as the kernel holds it.
func (t *Table) CreateExpect(ctx context.Context, e Expect) (Expect, error) { return Expect{}, nil }

// KillExpects deletes expectations, with an error for each as Kill.
func (t *Table) KillExpects(ctx context.Context, es []Expect) []error { return nil }

// FlushExpects deletes all expectations and returns how many there were.
func (t *Table) FlushExpects(ctx context.Context) (int, error) { return 0, nil }

// Change is what Modify changes; what is nil stays.
type Change struct {
	Timeout      *time.Duration
	FixedTimeout bool // packets no longer refresh the timeout; can't be taken back
	Mark         *MaskedMark
	Status       Status // bits to set: seen reply, assured, fixed timeout; none can be cleared
	Labels       *MaskedLabels
	Helper       *string // "" takes it away
	State        *uint8  // TCP state
}

// MaskedMark is a mark and which of its bits count; a Mask of 0 stands for all.
type MaskedMark struct{ Value, Mask uint32 }

// MaskedLabels is a set of labels and which of them to change.
type MaskedLabels struct{ Value, Mask Labels }

// NAT is where a flow is translated to; a zero address or port keeps the original's.
type NAT struct {
	Src, Dst netip.AddrPort // either half may be zero: netip.Addr{} or port 0
}

// ErrNotFound is returned where there is no such flow or expectation (ENOENT).
var ErrNotFound = errors.New("no such entry")
