package conntrack_test

import (
	"errors"
	"math"
	"net/netip"
	"os/exec"
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
	negative, zero := -time.Second, time.Duration(0)
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
		{"timeout that ends it", conntrack.Change{Mark: mark9, Timeout: &zero}, syscall.ERANGE},
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
			if d := f.Timeout - got.Timeout; d < 0 || d > 20*time.Second {
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
		began := time.Now()
		_, err := table.Create(t.Context(), f)
		if errors.Is(err, conntrack.ErrNotFound) && time.Since(began) >= tt.timeout {
			continue // it was over before it was read back
		}
		if !errors.Is(err, tt.want) {
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
	if _, err := table.Replace(t.Context(), f.Key(), nat); !errors.Is(err, conntrack.ErrNoPort) {
		t.Errorf("replace: %v, want ErrNoPort", err)
	}
	if err := table.CanReplace(t.Context(), f.Key(), nat); !errors.Is(err, conntrack.ErrNoPort) {
		t.Errorf("can replace: %v, want ErrNoPort", err)
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

// TestKernelExpectLimit makes one expectation more than the ftp helper allows: the one there is
// stays, with its time.
func TestKernelExpectLimit(t *testing.T) {
	ns, table := tracking(t)
	f := flowTo(false, 1)
	f.Helper = "ftp"
	master := create(t, table, f)
	e := conntrack.Expect{Master: master.Orig, Timeout: 77 * time.Second}
	e.Tuple = conntrack.Tuple{Dst: master.Orig.Src, Proto: conntrack.TCP, DstPort: 41000}
	first, err := table.CreateExpect(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	e.Tuple.DstPort = 41001
	if _, err := table.CreateExpect(t.Context(), e); !errors.Is(err, conntrack.ErrExpectLimit) {
		t.Errorf("second: %v, want ErrExpectLimit", err)
	}
	es := agreeExpects(t, ns, table)
	if len(es) != 1 || es[0].Tuple != first.Tuple || first.Timeout-es[0].Timeout > 20*time.Second {
		t.Errorf("left: %+v, want %+v", es, first)
	}
}

func TestKernelExpectRefused(t *testing.T) {
	_, table := tracking(t)
	f := flowTo(false, 1)
	f.Helper = "Q.931"
	master := create(t, table, f)
	for name, tt := range map[string]struct {
		change func(e *conntrack.Expect)
		want   error
	}{
		"longest timeout":         {func(e *conntrack.Expect) { e.Timeout = 4294967 * time.Second }, nil},
		"timeout that wraps":      {func(e *conntrack.Expect) { e.Timeout = 4294968 * time.Second }, syscall.ERANGE},
		"part of a destination":   {func(e *conntrack.Expect) { e.Mask.Dst = netip.MustParseAddr("255.0.0.0") }, syscall.EINVAL},
		"part of a port":          {func(e *conntrack.Expect) { e.Mask.DstPort = 0xfff0 }, syscall.EINVAL},
		"flag of the kernel's":    {func(e *conntrack.Expect) { e.Flags = conntrack.ExpectUserspace }, syscall.EINVAL},
		"nothing of the kernel's": {func(*conntrack.Expect) {}, nil},
	} {
		e := conntrack.Expect{Master: master.Orig}
		e.Tuple = conntrack.Tuple{Dst: master.Orig.Src, Proto: conntrack.UDP, DstPort: uint16(7000 + len(name))}
		tt.change(&e)
		made, err := table.CreateExpect(t.Context(), e)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if err == nil && e.Timeout != 0 && e.Timeout-made.Timeout > 20*time.Second {
			t.Errorf("%s: timeout %v, want %v", name, made.Timeout, e.Timeout)
		}
	}
}

// TestKernelCan holds that what can't be done is known beforehand, and nothing is changed by that.
func TestKernelCan(t *testing.T) {
	_, table := tracking(t)
	udp := func(port uint16) conntrack.Flow {
		f := conntrack.Flow{Timeout: time.Minute}
		f.Orig = conntrack.Tuple{
			Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("198.51.100.1"), Proto: conntrack.UDP, SrcPort: port, DstPort: 53,
		}
		return f
	}
	one, other := create(t, table, udp(1000)), create(t, table, udp(1001))
	state := uint8(3)
	if err := table.CanModify(t.Context(), []conntrack.Key{one.Key()}, conntrack.Change{State: &state})[0]; !errors.Is(err, conntrack.ErrNotTCP) {
		t.Errorf("TCP state: %v", err)
	}
	for addrPort, want := range map[string]error{
		"192.0.2.1:1001":     conntrack.ErrNATTaken, // other's
		"192.0.2.1:1002":     nil,
		"[2001:db8::1]:1002": conntrack.ErrIncomplete,
	} {
		if err := table.CanReplace(t.Context(), one.Key(), conntrack.NAT{Src: netip.MustParseAddrPort(addrPort)}); !errors.Is(err, want) {
			t.Errorf("replace by %s: %v, want %v", addrPort, err, want)
		}
	}
	if _, err := table.CanCreate(t.Context(), udp(1001)); !errors.Is(err, conntrack.ErrExists) {
		t.Errorf("create again: %v", err)
	}
	if _, err := table.CanCreate(t.Context(), udp(1002)); err != nil {
		t.Errorf("create: %v", err)
	}
	for _, f := range []conntrack.Flow{one, other} {
		if got, err := table.Get(t.Context(), f.Key()); err != nil || got.Reply != f.Reply || got.Start != f.Start {
			t.Errorf("flow is %+v, %v; was %+v", got, err, f)
		}
	}
}

// TestKernelNetNSGone deletes the namespace of an open table and makes another of the same name.
func TestKernelNetNSGone(t *testing.T) {
	ns := conntracktest.NewNS(t)
	name := ns.Name() + "-x"
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	ip("netns", "add", name)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	table, err := conntrack.Open(conntrack.Config{NetNS: name})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	stats := func(want error) {
		t.Helper()
		if _, err := table.Stats(t.Context()); !errors.Is(err, want) {
			t.Errorf("stats: %v, want %v", err, want)
		}
		if _, err := table.Count(t.Context(), conntrack.Filter{}); !errors.Is(err, want) {
			t.Errorf("count: %v, want %v", err, want)
		}
	}
	stats(nil)
	ip("netns", "del", name)
	stats(conntrack.ErrNetNSGone)
	ip("netns", "add", name)
	stats(conntrack.ErrNetNSGone)
}
