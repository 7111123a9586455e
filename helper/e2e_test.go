package helper_test

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
	"ctd/helper/rtsptest"
)

// The tests in e2e_*_test.go let real programs stream through a router, in network namespaces; see
// conntracktest.Kernel for when.

const (
	// rtspPort is where the servers listen. The helper looks there by default.
	rtspPort = 554
	// aStream is how many datagrams make a stream: more than reports (RTCP) alone would be.
	aStream = 20
	// patience is how long a stream may take to begin: programs start slowly on a busy machine.
	patience = time.Minute
)

// bothFamilies runs a test for IPv4 and for IPv6.
func bothFamilies(t *testing.T, fn func(t *testing.T, v6 bool)) {
	t.Helper()
	conntracktest.Kernel(t)
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(choose(v6, "ipv6", "ipv4"), func(t *testing.T) {
			t.Parallel()
			fn(t, v6)
		})
	}
}

func choose[T any](v6 bool, six, four T) T {
	if v6 {
		return six
	}
	return four
}

// serverAt returns where the server listens.
func serverAt(n *rtsptest.Network, v6 bool) netip.AddrPort {
	return netip.AddrPortFrom(n.ServerAddr(v6), rtspPort)
}

// dial connects a host to the server.
func dial(t *testing.T, n *rtsptest.Network, ns *conntracktest.NS, v6 bool) *rtsptest.Client {
	t.Helper()
	return rtsptest.Dial(t, ns, serverAt(n, v6))
}

// pair is a server and a client that get on with each other.
type pair struct {
	name   string
	server func(t *testing.T, n *rtsptest.Network, v6 bool)
	client func(t *testing.T, n *rtsptest.Network, v6 bool)
}

func gstServer(t *testing.T, n *rtsptest.Network, _ bool) {
	t.Helper()
	rtsptest.StartGstServer(t, n.Server, rtspPort)
}

func gortsplibServer(t *testing.T, n *rtsptest.Network, v6 bool) {
	t.Helper()
	rtsptest.StartGortsplibServer(t, n.Server, serverAt(n, v6), netip.Addr{})
}

func gstClient(version string) func(t *testing.T, n *rtsptest.Network, v6 bool) {
	return func(t *testing.T, n *rtsptest.Network, v6 bool) {
		t.Helper()
		rtsptest.StartGst(t, n.Client, rtsptest.URL(serverAt(n, v6)), version)
	}
}

// ffmpegClient is ffmpeg, which makes holes for its streams where the router lets it.
func ffmpegClient(t *testing.T, n *rtsptest.Network, v6 bool) {
	t.Helper()
	n.NoPunching()
	rtsptest.StartFFmpeg(t, n.Client, rtsptest.URL(serverAt(n, v6)), "udp")
}

func ourServer(t *testing.T, n *rtsptest.Network, v6 bool) {
	t.Helper()
	rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
}

func ourClient(t *testing.T, n *rtsptest.Network, v6 bool) {
	t.Helper()
	c := dial(t, n, n.Client, v6)
	c.Must("SETUP", c.Listen(0).Transport())
	c.Must("PLAY")
}

// pairs are those of which each must stream through the router.
var pairs = []pair{
	{"GStreamer 1.0 from GStreamer", gstServer, gstClient("1-0")},
	{"GStreamer 2.0 from GStreamer", gstServer, gstClient("2-0")},
	{"GStreamer 1.0 from gortsplib", gortsplibServer, gstClient("1-0")},
	{"ffmpeg from GStreamer", gstServer, ffmpegClient},
	{"ffmpeg from gortsplib", gortsplibServer, ffmpegClient},
	{"ours from ours", ourServer, ourClient},
}

// TestKernelRTSPOpenRouter shows that the programs stream and that it is seen, where no router is in
// the way.
func TestKernelRTSPOpenRouter(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		for _, p := range pairs {
			t.Run(p.name, func(t *testing.T) {
				n := rtsptest.NewNetwork(t)
				n.Open()
				p.server(t, n, v6)
				p.client(t, n, v6)
				if got := n.Streams(n.Client, aStream, conntracktest.Slow(patience)); got < aStream {
					t.Errorf("%d datagrams arrived, want %d", got, aStream)
				}
			})
		}
	})
}

// TestKernelRTSPWithout shows that nothing arrives without the helper.
func TestKernelRTSPWithout(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		for _, p := range pairs {
			t.Run(p.name, func(t *testing.T) {
				n := rtsptest.NewNetwork(t)
				p.server(t, n, v6)
				p.client(t, n, v6)
				// Not before the server sends: the router has to drop some of it.
				conntracktest.Eventually(t, "media at the router", func() bool { return dropped(n) > aStream })
				if got := n.Streams(n.Client, 1, time.Second); got != 0 {
					t.Errorf("%d datagrams arrived without the helper", got)
				}
			})
		}
	})
}

// dropped returns how many packets the router dropped that were for itself or the inside.
func dropped(n *rtsptest.Network) int {
	count := 0
	for line := range strings.Lines(n.Router.Exec("nft", "list", "table", "inet", "e2e")) {
		if fields := strings.Fields(line); len(fields) == 5 && fields[0] == "counter" {
			packets, _ := strconv.Atoi(fields[2])
			count += packets
		}
	}
	return count
}
