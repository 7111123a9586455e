package conntrack_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"ctd/conntrack/conntracktest"
)

// TestKernelLocalAddrs: the addresses are those of the table's namespace.
func TestKernelLocalAddrs(t *testing.T) {
	conntracktest.Kernel(t)
	tp := conntracktest.NewTopology(t)
	table := open(t, tp.Router)
	got, err := table.LocalAddrs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Addr{
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"),
		tp.GateAddr(false), tp.GateAddr(true), tp.RouterAddr(false), tp.RouterAddr(true),
	}
	for _, a := range want {
		if !slices.Contains(got, a) {
			t.Errorf("%s is missing of %s", a, got)
		}
	}
	for _, a := range got {
		if !slices.Contains(want, a) && !a.IsLinkLocalUnicast() {
			t.Errorf("%s is none of the router's", a)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := table.LocalAddrs(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
