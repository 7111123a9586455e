package conntrack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// LocalAddrs returns the addresses of all interfaces in the table's namespace, without zones.
func (t *Table) LocalAddrs(ctx context.Context) ([]netip.Addr, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	err := t.InNetNS(func() error {
		nets, err := net.InterfaceAddrs()
		for _, n := range nets {
			if n, ok := n.(*net.IPNet); ok {
				if a, ok := netip.AddrFromSlice(n.IP); ok {
					addrs = append(addrs, a.Unmap())
				}
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list local addresses: %w", err)
	}
	return addrs, nil
}
