package conntracktest

import (
	"net/netip"
	"strings"
	"testing"
)

// TestTopology sends one of everything through the router, where the kernel must have tracked it.
func TestTopology(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(pick(v6, "ipv6", "ipv4"), func(t *testing.T) {
			t.Parallel()
			tp := NewTopology(t)
			p := Path{V6: v6}
			tp.Masquerade("udp dport 7101")
			tp.DNAT("tcp dport 7102", netip.AddrPortFrom(tp.ServerAddr(v6), 7103))
			tp.Zone("tcp dport 7104", "original", 5)
			tp.Zone("udp dport 7105", "", 6)
			tp.Mark("tcp dport 7102", 7)
			tp.Label("tcp dport 7102", 3)
			tp.Helper("tcp dport 7106", "q931")

			tp.TCP(Path{V6: v6, Port: 7103, Via: netip.AddrPortFrom(tp.GateAddr(v6), 7102)})
			tp.TCP(Path{V6: v6, Port: 7104})
			tp.TCP(Path{V6: v6, Port: 7106})
			c := tp.UDP(Path{V6: v6, Port: 7101})
			if c.Peer.Addr() != tp.RouterAddr(v6) {
				t.Errorf("masqueraded peer: got %s, want the router", c.Peer)
			}
			tp.UDPLite(p)
			tp.Ping(p, 77)
			tp.SCTP(p)
			tp.GRE(p)
			tp.PPTP(p, 9)
			tp.Protocol(p, 253)
			tp.FTPControl(p, 2100)
			tp.FTPData(p, 2100)
			tp.UDP(Path{V6: v6, Port: 7105})
			out, err := tp.Router.Conntrack8("-L", "-o", "labels")
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{
				"dport=7101", "mark=7", "labels=label-3", "zone-orig=5", "zone=6", "helper=Q.931", "udplite",
				"id=77", "sctp     132 209 ESTABLISHED", "dstkey=0x0", "dstkey=0x9", "unknown  253", "dport=2100",
			} {
				if !strings.Contains(out, want) {
					t.Errorf("conntrack -L: no %s in\n%s", want, out)
				}
			}
			out, err = tp.Router.Conntrack8("-L", "expect", "-f", pick(v6, "ipv6", "ipv4"))
			if err != nil || strings.Contains(out, "dport=2100") {
				t.Errorf("conntrack -L expect: %v, want no expectation that was met:\n%s", err, out)
			}
		})
	}
}
