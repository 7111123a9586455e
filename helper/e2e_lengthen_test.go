package helper_test

import (
	"fmt"
	"strings"
	"testing"

	"ctd/helper"
	"ctd/helper/rtsptest"
)

// TestKernelRTSPLengthened has a client name its own address, for which the server must be told a longer
// one: the kernel corrects the sequence numbers of all that follows. Every message is lost once, and
// those that make the request longer come again.
func TestKernelRTSPLengthened(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		for _, lossy := range []bool{false, true} {
			t.Run(choose(lossy, "lossy", "lossless"), func(t *testing.T) {
				n := rtsptest.NewNetwork(t)
				n.NoPunching()
				public := choose(v6, "fd00:2::1:2003", "10.2.0.203")
				n.Router.Exec("ip", "addr", "add", public+choose(v6, "/64", "/24"), "dev", "server")
				n.Router.Nft(fmt.Sprintf("insert rule inet ctd source oifname \"server\" meta nfproto %s snat %s to %s",
					choose(v6, "ipv6", "ipv4"), choose(v6, "ip6", "ip"), public))
				h := startHelper(t, n, helper.Config{})
				s := rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
				if lossy {
					n.LoseFirst(n.Server, rtspPort)
				}
				c := dial(t, n, n.Client, v6)
				p := c.Listen(5000)
				own := c.Addr().Addr().String()
				c.Must("SETUP", p.Transport()+";destination="+own)
				if got := s.Requests("SETUP")[0].Param("destination"); got != public {
					t.Errorf("the server was told to send to %s, want %s", got, public)
				}
				c.Must("PLAY")
				streams(t, c, p)
				// What follows has other numbers on both sides of the router.
				for range 5 {
					c.Must("GET_PARAMETER")
				}
				if list := n.Router.Exec("conntrack", "-L", "-p", "tcp"); !strings.Contains(list, public) {
					t.Errorf("not translated as meant: %s", list)
				}
				c.Must("TEARDOWN")
				noMedia(t, n)
				if got := h.Status().Counters; got.Unwritable > 0 || lossy && got.Rerewritten == 0 {
					t.Errorf("%+v", got)
				}
			})
		}
	})
}
