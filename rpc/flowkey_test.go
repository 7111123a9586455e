package rpc

import (
	"net/netip"
	"testing"

	"ctd/conntrack"
)

func TestFlowKey(t *testing.T) {
	v6 := udpFlow("fd00::1", 1)
	mapped := udpFlow("fd00::1", 1)
	mapped.Orig.Src = netip.MustParseAddr("::ffff:10.0.0.1")
	icmp := udpFlow("10.0.0.1", 0)
	icmp.Orig.Proto, icmp.Orig.DstPort = conntrack.ICMP, 0
	icmp.Orig.ICMPType, icmp.Orig.ICMPCode, icmp.Orig.ICMPID = 8, 3, 0x1234
	zoned := tcpFlow(1)
	zoned.ID, zoned.Zone, zoned.Orig.Zone = 1<<32-1, 65535, 7
	for name, f := range map[string]conntrack.Flow{
		"tcp": tcpFlow(1), "ipv6": v6, "ipv4 in ipv6": mapped, "icmp": icmp, "zone and id": zoned, "nothing": {},
	} {
		k := keyOf(&f)
		if got, want := k.key(), f.Key(); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		later := f
		later.Start++
		if keyOf(&later) == k {
			t.Errorf("%s: a flow with another start has the same key", name)
		}
	}
}
