package conntrack

import (
	"net/netip"

	"github.com/google/go-cmp/cmp"
)

func v4(a, b, c, d byte) netip.Addr { return netip.AddrFrom4([4]byte{a, b, c, d}) }

func pushdownOpts() []cmp.Option {
	return []cmp.Option{cmp.AllowUnexported(pushdown{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}
}
