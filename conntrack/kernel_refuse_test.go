package conntrack_test

import (
	"errors"
	"math"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// TestKernelModifyIsWhole holds that a change of which the kernel refuses a part leaves the flow as
// it was, although the kernel makes the other parts first.
func TestKernelModifyIsWhole(t *testing.T) {
	_, table := tracking(t)
	minute, ftp := time.Minute, "ftp"
	f := flowTo(false, 1)
	f.Mark, f.Labels = 5, labels(1)
	f.Set(conntrack.AttrLabels)
	f = create(t, table, f)
	set7 := &conntrack.MaskedLabels{Value: labels(7), Mask: labels(7)}
	mark9 := &conntrack.MaskedMark{Value: 9, Mask: math.MaxUint32}
	long, nul, day := strings.Repeat("x", 16), "ft\x00p", 1<<33*time.Second
	negative := -time.Second
	tests := []struct {
		name   string
		change conntrack.Change
		want   error
	}{
		// A flow without a helper extension can't get one.
		{"helper", conntrack.Change{Labels: set7, Mark: mark9, Timeout: &minute, Helper: &ftp}, syscall.EOPNOTSUPP},
		{"helper's name too long", conntrack.Change{Labels: set7, Mark: mark9, Helper: &long}, syscall.EINVAL},
		{"helper's name with a NUL", conntrack.Change{Mark: mark9, Helper: &nul}, syscall.EINVAL},
		{"timeout beyond 32 bits", conntrack.Change{Mark: mark9, Timeout: &day}, syscall.ERANGE},
		{"negative timeout", conntrack.Change{Mark: mark9, Timeout: &negative}, syscall.ERANGE},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := table.Modify(t.Context(), []conntrack.Key{f.Key()}, tt.change)[0]; !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			got, err := table.Get(t.Context(), f.Key())
			if err != nil {
				t.Fatal(err)
			}
			if d := f.Timeout - got.Timeout; d < 0 || d > 5*time.Second {
				t.Errorf("timeout %v, was %v", got.Timeout, f.Timeout)
			}
			got.Timeout = f.Timeout
			if diff := cmp.Diff(f, got, compare...); diff != "" {
				t.Errorf("changed (-was +is):\n%s", diff)
			}
		})
	}
}

var compare = []cmp.Option{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.AllowUnexported(conntrack.Flow{})}

// TestKernelNamesCannotCarryAttributes gives a name that would fill an attribute's length and go on
// with an attribute of its own.
func TestKernelNamesCannotCarryAttributes(t *testing.T) {
	_, table := tracking(t)
	f := create(t, table, flowTo(false, 1))
	mark := "\x08\x00\x08\x00\x00\x00\x00\x4d" // CTA_MARK 77, as a little-endian machine has it
	for _, n := range []int{16, 1 << 10, 1<<16 - 16, 1 << 16, 1<<16 + 16} {
		name := strings.Repeat("x", max(0, n-len(mark))) + mark
		if err := table.Modify(t.Context(), []conntrack.Key{f.Key()}, conntrack.Change{Helper: &name})[0]; !errors.Is(err, syscall.EINVAL) {
			t.Errorf("modify with a name of %d bytes: %v, want EINVAL", n, err)
		}
		g := flowTo(false, 2)
		g.Helper = name
		if _, err := table.Create(t.Context(), g); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("create with a name of %d bytes: %v, want EINVAL", n, err)
		}
		e := conntrack.Expect{Master: f.Orig, Tuple: g.Orig, Function: name}
		if _, err := table.CreateExpect(t.Context(), e); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("expect with a name of %d bytes: %v, want EINVAL", n, err)
		}
	}
	got, err := table.Get(t.Context(), f.Key())
	if err != nil {
		t.Fatal(err)
	}
	if got.Mark != f.Mark {
		t.Errorf("mark %d, want %d", got.Mark, f.Mark)
	}
}

func TestKernelCreateTimeout(t *testing.T) {
	_, table := tracking(t)
	for i, tt := range []struct {
		timeout time.Duration
		want    error
	}{
		{time.Second, nil},
		{math.MaxInt32 * time.Second, nil}, // the kernel makes more of it INT_MAX ticks
		{(math.MaxUint32 + 1) * time.Second, syscall.ERANGE},
		{time.Second - 1, conntrack.ErrIncomplete},
		{-time.Second, conntrack.ErrIncomplete},
	} {
		f := flowTo(false, 10+i)
		f.Timeout = tt.timeout
		if _, err := table.Create(t.Context(), f); !errors.Is(err, tt.want) {
			t.Errorf("%v: %v, want %v", tt.timeout, err, tt.want)
		}
	}
}

// TestKernelCreateLabelsWithoutRoom asks for labels where no rule uses any.
func TestKernelCreateLabelsWithoutRoom(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Nft("table inet t { chain c { type filter hook input priority 0; ct state new; }; }")
	table := open(t, ns)
	f := flowTo(false, 1)
	f.Labels = labels(3)
	f.Set(conntrack.AttrLabels)
	if _, err := table.Create(t.Context(), f); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("create: %v, want ENOSPC", err)
	}
	if n, err := table.Count(t.Context(), conntrack.Filter{}); n != 0 || err != nil {
		t.Errorf("%d flows left, %v", n, err)
	}
}

// TestKernelReplacePortOfNothing gives a port to a protocol that has none: the flow is not touched.
func TestKernelReplacePortOfNothing(t *testing.T) {
	_, table := tracking(t)
	f := conntrack.Flow{Timeout: time.Minute}
	f.Orig = conntrack.Tuple{
		Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("198.51.100.1"), Proto: conntrack.ICMP, ICMPType: 8, ICMPID: 5,
	}
	f = create(t, table, f)
	nat := conntrack.NAT{Dst: netip.MustParseAddrPort("198.51.100.9:80")}
	if _, err := table.Replace(t.Context(), f.Key(), nat); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("replace: %v, want EINVAL", err)
	}
	got, err := table.Get(t.Context(), f.Key())
	if err != nil || got.Start != f.Start {
		t.Errorf("%v, started %v, was %v", err, got.StartTime(), f.StartTime())
	}
	// Without a port the address is translated.
	nat = conntrack.NAT{Dst: netip.MustParseAddrPort("198.51.100.9:0")}
	got, err = table.Replace(t.Context(), f.Key(), nat)
	if err != nil || got.Reply.Src != nat.Dst.Addr() {
		t.Errorf("%v, reply %v", err, got.Reply)
	}
}
