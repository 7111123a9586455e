package helper_test

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
	"ctd/helper"
	"ctd/helper/rtsptest"

	"github.com/google/go-cmp/cmp"
)

// TestKernelRTSPEnds ends a stream in every way. Each time what was registered for it goes, and what
// was for the other one stays.
func TestKernelRTSPEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(c *rtsptest.Client)
	}{
		{"TEARDOWN", func(c *rtsptest.Client) { c.Must("TEARDOWN") }},
		{"FIN", (*rtsptest.Client).Close},
		{"RST", (*rtsptest.Client).Reset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothFamilies(t, func(t *testing.T, v6 bool) {
				n := rtsptest.NewNetwork(t)
				n.NoPunching()
				startHelper(t, n, helper.Config{})
				rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
				stays, goes := dial(t, n, n.Second, v6), dial(t, n, n.Client, v6)
				p, q := stays.Listen(0), goes.Listen(0)
				plays(t, stays, p)
				before := media(t, n)
				plays(t, goes, q)
				if len(media(t, n)) <= len(before) {
					t.Fatal("nothing is registered for the second stream")
				}
				tt.end(goes)
				conntracktest.Eventually(t, "only the other stream is registered", func() bool {
					return len(media(t, n)) <= len(before)
				})
				streams(t, stays, p)
				stays.Must("TEARDOWN")
				noMedia(t, n)
			})
		})
	}
}

func media(t *testing.T, n *rtsptest.Network) []string {
	t.Helper()
	lines, err := rtsptest.Media(n.Router)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestKernelRTSPServerEnds ends the server while it streams.
func TestKernelRTSPServerEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(s *rtsptest.Server)
	}{
		{"FIN", (*rtsptest.Server).Finish},
		{"RST", (*rtsptest.Server).Reset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothFamilies(t, func(t *testing.T, v6 bool) {
				n := rtsptest.NewNetwork(t)
				n.NoPunching()
				startHelper(t, n, helper.Config{})
				s := rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
				c := dial(t, n, n.Client, v6)
				plays(t, c, c.Listen(0))
				hasMedia(t, n)
				tt.end(s)
				noMedia(t, n)
			})
		})
	}
}

// TestKernelRTSPProgramsKilled ends real programs: what the kernel does for them then is all that the
// router sees.
func TestKernelRTSPProgramsKilled(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(server, client *rtsptest.Program)
	}{
		{"client interrupted", func(_, client *rtsptest.Program) { client.Interrupt() }},
		{"client killed", func(_, client *rtsptest.Program) { client.Kill() }},
		{"server killed", func(server, _ *rtsptest.Program) { server.Kill() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothFamilies(t, func(t *testing.T, v6 bool) {
				n := rtsptest.NewNetwork(t)
				n.NoPunching()
				startHelper(t, n, helper.Config{})
				server := rtsptest.StartGstServer(t, n.Server, rtspPort)
				client := rtsptest.StartGst(t, n.Client, rtsptest.URL(serverAt(n, v6)), "1-0")
				if got := n.Streams(n.Client, aStream, patience); got < aStream {
					t.Fatalf("%d datagrams arrived, want %d", got, aStream)
				}
				hasMedia(t, n)
				tt.end(server, client)
				noMedia(t, n)
			})
		})
	}
}

// TestKernelRTSPRefusedSetup holds that nothing is left of a stream that the server doesn't give.
func TestKernelRTSPRefusedSetup(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		startHelper(t, n, helper.Config{})
		rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{
			Respond: func(req rtsptest.Message, response string) string {
				if req.Method() != "SETUP" {
					return response
				}
				return "RTSP/1.0 453 Not Enough Bandwidth\r\nCSeq: " + req.Header("CSeq") + "\r\n\r\n"
			},
		})
		c := dial(t, n, n.Client, v6)
		p := c.Listen(0)
		if m := c.Do("SETUP", p.Transport()); m.Status() != 453 {
			t.Errorf("the response is %q", m.Raw)
		}
		noMedia(t, n)
		c.Must("OPTIONS") // the connection goes on
	})
}

// TestKernelRTSPExit ends the helper while it has streams: nothing of it may remain. The connection
// goes on, and the next helper takes it up.
func TestKernelRTSPExit(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		before := rules(t, n)
		h := startHelper(t, n, helper.Config{})
		rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
		c := dial(t, n, n.Client, v6)
		plays(t, c, c.Listen(0))
		hasMedia(t, n)
		if rules(t, n) == before {
			t.Fatal("the helper has no rules")
		}
		h.stop()
		noMedia(t, n)
		if d := cmp.Diff(before, rules(t, n)); d != "" {
			t.Errorf("rules (-before +after):\n%s", d)
		}
		c.Must("OPTIONS")
		startHelper(t, n, helper.Config{})
		c.Session = ""
		plays(t, c, c.Listen(0))
	})
}

// TestKernelRTSPPause pauses for longer than the router remembers UDP, and resumes.
func TestKernelRTSPPause(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		n.Router.Sysctl("net.netfilter.nf_conntrack_udp_timeout", "3")
		n.Router.Sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", "5")
		pauses(t, n, v6, 8*time.Second, 8*time.Second)
	})
}

// longEnv lets tests run that take minutes.
const longEnv = "CTD_LONG_TESTS"

// TestKernelRTSPLongPause is TestKernelRTSPPause with the kernel's own timeouts.
func TestKernelRTSPLongPause(t *testing.T) {
	if os.Getenv(longEnv) != "1" {
		t.Skipf("two minutes and more, with %s=1", longEnv)
	}
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		pauses(t, n, v6, 130*time.Second, 45*time.Second)
	})
}

// pauses plays a stream, pauses it, with a keep-alive now and then, and resumes.
func pauses(t *testing.T, n *rtsptest.Network, v6 bool, pause, keepalive time.Duration) {
	t.Helper()
	startHelper(t, n, helper.Config{})
	rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
	c := dial(t, n, n.Client, v6)
	p := c.Listen(0)
	plays(t, c, p)
	c.Must("PAUSE")
	before := p.All()
	conntracktest.Eventually(t, "nothing is under way any more", func() bool {
		last := before
		time.Sleep(100 * time.Millisecond)
		before = p.All()
		return before == last
	})
	for end := time.Now().Add(pause); time.Now().Before(end); {
		time.Sleep(min(keepalive, time.Until(end)))
		c.Must("GET_PARAMETER")
	}
	if got := p.All() - before; got != 0 {
		t.Fatalf("%d datagrams came during the pause", got)
	}
	c.Must("PLAY")
	streams(t, c, p)
	c.Must("TEARDOWN")
	noMedia(t, n)
}

// TestKernelRTSPLoss loses every message once on each side of the router, after the helper has seen
// it. The second client's ports are taken by the first, so that its messages are rewritten.
func TestKernelRTSPLoss(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		h := startHelper(t, n, helper.Config{})
		rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
		first := dial(t, n, n.Client, v6)
		plays(t, first, first.Listen(5000))

		n.LoseFirst(n.Server, rtspPort)
		n.LoseFirst(n.Second, rtspPort)
		c := dial(t, n, n.Second, v6)
		p := c.Listen(5000)
		m := c.Must("SETUP", p.Transport())
		if got := m.Param("client_port"); got != "5000-5001" {
			t.Errorf("client_port in the response: %s, want the client's own", got)
		}
		c.Must("PLAY")
		streams(t, c, p)
		// What follows a segment of another length still fits.
		c.Must("GET_PARAMETER")
		c.Must("TEARDOWN")
		if there, back := n.Lost(n.Server), n.Lost(n.Second); there < 3 || back < 1 {
			t.Fatalf("%d segments were lost on the way there and %d back: nothing is shown", there, back)
		}
		if got := h.Status().Counters.Rerewritten; got == 0 {
			t.Error("no segment counts as rewritten again")
		}
	})
}

// TestKernelRTSPOwnHelper streams with a helper of our own in the kernel, where that can have one, to clients
// behind NAT and from servers behind a forwarded port.
func TestKernelRTSPOwnHelper(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		h := startHelperWith(t, n, helper.Config{}, helper.OpenOwn)
		t.Logf("strategy %s, conntrack with packets: %v", h.Status().Strategy, h.Status().ConntrackQueued)
		s := rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{MediaPort: 7000})
		c := dial(t, n, n.Client, v6)
		plays(t, c, c.Listen(5000))
		// The second is rewritten, which needs NAT seen right.
		second := dial(t, n, n.Second, v6)
		p := second.Listen(5000)
		if m := second.Must("SETUP", p.Transport()+";destination="+second.Addr().Addr().String()); m.Param("client_port") != "5000-5001" {
			t.Errorf("the client is told %s", m.Param("client_port"))
		}
		second.Must("PLAY")
		streams(t, second, p)
		requests := s.Requests("SETUP")
		if got := requests[1].Param("client_port"); got == "5000-5001" || requests[1].Param("destination") == second.Addr().Addr().String() {
			t.Errorf("the server is told %s and %s", got, requests[1].Param("destination"))
		}
		c.Must("TEARDOWN")
		second.Must("TEARDOWN")
		noMedia(t, n)

		inside := netip.AddrPortFrom(n.SecondAddr(v6), rtspPort)
		rtsptest.StartServer(t, n.Second, inside, rtsptest.ServerConfig{})
		n.Forward(v6, 8554, inside)
		outer := rtsptest.Dial(t, n.Server, netip.AddrPortFrom(n.RouterAddr(v6), 8554))
		plays(t, outer, outer.Listen(0))
	})
}
