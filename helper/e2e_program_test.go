package helper_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"ctd/conntrack/conntracktest"
	"ctd/helper"
	"ctd/helper/rtsptest"

	"github.com/bluenviron/gortsplib/v4"
)

// TestKernelRTSPStreams shows that what TestKernelRTSPWithout lacks arrives with the helper.
func TestKernelRTSPStreams(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		for _, p := range pairs {
			t.Run(p.name, func(t *testing.T) {
				n := rtsptest.NewNetwork(t)
				startHelper(t, n, helper.Config{})
				p.server(t, n, v6)
				p.client(t, n, v6)
				if got := n.Streams(n.Client, aStream, patience); got < aStream {
					t.Errorf("%d datagrams arrived, want %d", got, aStream)
				}
			})
		}
	})
}

// TestKernelRTSPOtherSourcePrograms lets gortsplib's media come from another address than it has been
// called at. Its responses say nothing of it.
func TestKernelRTSPOtherSourcePrograms(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		for _, allowed := range []bool{true, false} {
			t.Run(fmt.Sprintf("allowed %v", allowed), func(t *testing.T) {
				n := rtsptest.NewNetwork(t)
				startHelper(t, n, helper.Config{AllowOtherSource: allowed})
				rtsptest.StartGortsplibServer(t, n.Server, serverAt(n, v6), n.OtherAddr(v6))
				rtsptest.StartGst(t, n.Client, rtsptest.URL(serverAt(n, v6)), "1-0")
				if allowed {
					if got := n.Streams(n.Client, aStream, patience); got < aStream {
						t.Errorf("%d datagrams arrived, want %d", got, aStream)
					}
					return
				}
				conntracktest.Eventually(t, "media at the router", func() bool { return dropped(n) > aStream })
				if got := n.Received(n.Client); got != 0 {
					t.Errorf("%d datagrams arrived from an address that isn't allowed", got)
				}
			})
		}
	})
}

// TestKernelRTSPSamePortPrograms has two clients ask one server for the same ports.
func TestKernelRTSPSamePortPrograms(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		for _, p := range []pair{
			{name: "GStreamer", server: gstServer},
			{name: "gortsplib", server: gortsplibServer},
		} {
			t.Run(p.name, func(t *testing.T) {
				n := rtsptest.NewNetwork(t)
				n.NoPunching()
				startHelper(t, n, helper.Config{})
				p.server(t, n, v6)
				hosts := []*conntracktest.NS{n.Client, n.Second}
				// One after the other: gortsplib's sessions look at each other's ports without a lock.
				for _, ns := range hosts {
					rtsptest.StartGst(t, ns, rtsptest.URL(serverAt(n, v6)), "1-0", "port-range=5000-5003")
					if got := n.Streams(ns, aStream, patience); got < aStream {
						t.Fatalf("%d datagrams arrived, want %d", got, aStream)
					}
				}
				if got := n.Streams(hosts[0], aStream, patience); got < aStream {
					t.Errorf("%d datagrams arrived at the first client beside the second, want %d", got, aStream)
				}
			})
		}
	})
}

// TestKernelRTSPInterleavedPrograms shows that media inside of the connection get through, and that
// the connection leaves the queue.
func TestKernelRTSPInterleavedPrograms(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		h := startHelper(t, n, helper.Config{})
		gstServer(t, n, v6)
		rtsptest.StartFFmpeg(t, n.Client, rtsptest.URL(serverAt(n, v6)), "tcp")
		leavesQueue(t, n, h)
	})
}

// leavesQueue waits until a connection bears the mark of those whose media go inside them, and goes on
// without its packets being read.
func leavesQueue(t *testing.T, n *rtsptest.Network, h *running) {
	t.Helper()
	packets := func() (count int) { return flowPackets(t, n, fmt.Sprintf("mark=%d", helper.DefaultMarkBit)) }
	conntracktest.Eventually(t, "a marked connection with traffic", func() bool { return packets() > 50 })
	if got := h.Status().Counters.Interleaved; got != 1 {
		t.Errorf("%d connections left the queue, want 1", got)
	}
	// What was in the queue before is read yet, and so may be what the client says.
	var read, sent int
	conntracktest.Eventually(t, "a connection of which hardly anything is read", func() bool {
		before, first := h.Status().Counters.Packets, packets()
		conntracktest.Eventually(t, "more traffic", func() bool { return packets() > first+20 })
		read, sent = int(h.Status().Counters.Packets-before), packets()-first
		return read <= sent/2+10
	})
	t.Logf("%d packets were read, while the server sent %d", read, sent)
}

// flowPackets returns how many packets the server has sent on the connections that conntrack(8) shows
// with a text.
func flowPackets(t *testing.T, n *rtsptest.Network, text string) (count int) {
	t.Helper()
	for _, family := range []string{"ipv4", "ipv6"} {
		out, err := n.Router.Conntrack8("-L", "-p", "tcp", "-f", family)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			if _, reply, ok := strings.Cut(line, "packets="); ok && strings.Contains(line, text) {
				var packets int
				_, reply, _ = strings.Cut(reply, "packets=")
				fmt.Sscan(reply, &packets)
				count += packets
			}
		}
	}
	return count
}

// TestKernelRTSPForwardedPrograms has a client outside call a server inside, whose port is forwarded
// under another number.
func TestKernelRTSPForwardedPrograms(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		inside := netip.AddrPortFrom(n.SecondAddr(v6), rtspPort)
		n.Forward(v6, 8554, inside)
		startHelper(t, n, helper.Config{})
		rtsptest.StartGstServer(t, n.Second, rtspPort)
		rtsptest.StartGst(t, n.Server, rtsptest.URL(netip.AddrPortFrom(n.RouterAddr(v6), 8554)), "1-0")
		if got := n.Streams(n.Server, aStream, patience); got < aStream {
			t.Errorf("%d datagrams arrived, want %d", got, aStream)
		}
	})
}

// TestKernelRTSPGortsplib plays with a client that makes holes of its own where it can: here it can't.
func TestKernelRTSPGortsplib(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		h := startHelper(t, n, helper.Config{})
		gortsplibServer(t, n, v6)
		c, err := rtsptest.StartGortsplib(t, n.Client, rtsptest.URL(serverAt(n, v6)), gortsplib.TransportUDP)
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Streams(n.Client, aStream, patience); got < aStream {
			t.Errorf("%d datagrams arrived, want %d", got, aStream)
		}
		sessions := h.Sessions()
		if len(sessions) != 1 || sessions[0].State != "playing" || len(sessions[0].Streams) != 1 {
			t.Errorf("sessions: %+v, want one that plays one stream", sessions)
		}
		hasMedia(t, n)
		c.Close()
		noMedia(t, n)
	})
}
