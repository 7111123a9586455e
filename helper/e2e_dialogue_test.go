package helper_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
	"ctd/helper"
	"ctd/helper/rtsptest"
)

// TestKernelRTSPTransports asks for streams in all the ways that are seen, and ends each. All go
// through one helper.
func TestKernelRTSPTransports(t *testing.T) {
	for _, tt := range []struct {
		name      string
		server    rtsptest.ServerConfig
		transport string // {rtp} and {rtcp} are the ports, {addr} and {host} the client's address
		version   string
		write     func(c *rtsptest.Client, raw string)
		noRTCP    bool
	}{
		{name: "two ports", transport: "Transport: RTP/AVP;unicast;client_port={rtp}-{rtcp}"},
		{name: "two ports with a slash", transport: "Transport: RTP/AVP;unicast;client_port={rtp}/{rtcp}"},
		{name: "one port", transport: "Transport: RTP/AVP;unicast;client_port={rtp}", noRTCP: true},
		{name: "odd case and spaces", transport: "TRANSPORT:  rtp/avp/udp ; Unicast ; Client_Port = {rtp}-{rtcp}"},
		{name: "alternatives", transport: "Transport: RTP/AVP;unicast;client_port={rtp}-{rtcp},RTP/AVP/TCP;unicast;interleaved=0-1"},
		{name: "own address", transport: "Transport: RTP/AVP;unicast;destination={addr};client_port={rtp}-{rtcp}"},
		{
			name:      "a server port for all",
			server:    rtsptest.ServerConfig{MediaPort: 7000},
			transport: "Transport: RTP/AVP;unicast;client_port={rtp}-{rtcp}",
		},
		{
			name:      "no server port",
			server:    rtsptest.ServerConfig{OmitServerPort: true},
			transport: "Transport: RTP/AVP;unicast;client_port={rtp}-{rtcp}",
		},
		{
			name:      "source named",
			server:    rtsptest.ServerConfig{NameSource: true},
			transport: "Transport: RTP/AVP;unicast;client_port={rtp}-{rtcp}",
		},
		{name: "2.0", version: "RTSP/2.0", transport: `Transport: RTP/AVP/UDP;unicast;dest_addr=":{rtp}"/":{rtcp}"`},
		{name: "2.0 as GStreamer", version: "RTSP/2.0", transport: "Transport: RTP/AVP;unicast;client_port={rtp}-{rtcp}"},
		{
			name: "2.0 without source", version: "RTSP/2.0",
			server:    rtsptest.ServerConfig{OmitServerPort: true},
			transport: `Transport: RTP/AVP/UDP;unicast;dest_addr=":{rtp}"/":{rtcp}"`,
		},
		{
			name: "2.0 with own address", version: "RTSP/2.0",
			transport: `Transport: RTP/AVP/UDP;unicast;dest_addr="{host}:{rtp}"/"{host}:{rtcp}"`,
		},
		{
			name: "one byte a segment", transport: "Transport: RTP/AVP;unicast;client_port={rtp}-{rtcp}",
			write: (*rtsptest.Client).WriteBytes,
		},
		{
			name: "split in the port", transport: "Transport: RTP/AVP;unicast;client_port={rtp}-{rtcp}",
			write: func(c *rtsptest.Client, raw string) {
				at := strings.Index(raw, "client_port=") + len("client_port=") + 2
				c.Write(raw[:at])
				time.Sleep(50 * time.Millisecond)
				c.Write(raw[at:])
			},
		},
		{
			name: "pipelined", transport: "Transport: RTP/AVP;unicast;client_port={rtp}-{rtcp}",
			write: func(c *rtsptest.Client, raw string) {
				body := "packets_received\r\n"
				c.Write(c.Request("GET_PARAMETER", fmt.Sprintf("Content-Length: %d", len(body))) + body + raw)
				if m := c.Response(); m.Status() != 200 {
					c.Close()
				}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothFamilies(t, func(t *testing.T, v6 bool) {
				n := rtsptest.NewNetwork(t)
				n.NoPunching()
				startHelper(t, n, helper.Config{})
				rtsptest.StartServer(t, n.Server, serverAt(n, v6), tt.server)
				c := dial(t, n, n.Client, v6)
				if tt.version != "" {
					c.Version = tt.version
				}
				// Two ports that don't follow each other, where there is a way to say so.
				p, q := c.Listen(0), c.Listen(0)
				if strings.Contains(tt.transport, "{rtp}-{rtcp}") {
					q = p
				}
				addr := c.Addr().Addr().String()
				transport := strings.NewReplacer("{addr}", addr, "{host}", choose(v6, "["+addr+"]", addr),
					"{rtp}", fmt.Sprint(p.RTP), "{rtcp}", fmt.Sprint(q.RTCP)).Replace(tt.transport)
				write := tt.write
				if write == nil {
					write = (*rtsptest.Client).Write
				}
				write(c, c.Request("SETUP", transport))
				if m := c.Response(); m.Status() != 200 {
					t.Fatalf("SETUP: %q", m.Raw)
				}
				c.Must("PLAY")
				conntracktest.Eventually(t, "the stream", func() bool {
					rtp, _ := p.Got(c.Session)
					_, rtcp := q.Got(c.Session)
					return rtp >= 10 && (tt.noRTCP || rtcp >= 2)
				})
				hasMedia(t, n)
				c.Must("TEARDOWN")
				noMedia(t, n)
			})
		})
	}
}

// TestKernelRTSPUnchanged holds that what needn't be rewritten passes byte for byte, both ways.
func TestKernelRTSPUnchanged(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		startHelper(t, n, helper.Config{})
		var sent []string
		answered := make(chan string, 100) // a test that fails leaves some unread
		s := rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{
			Respond: func(_ rtsptest.Message, response string) string {
				answered <- response
				return response
			},
		})
		c := dial(t, n, n.Client, v6)
		p := c.Listen(0)
		do := func(raw string) {
			t.Helper()
			sent = append(sent, raw)
			c.Write(raw)
			if got, want := c.Response().Raw, <-answered; got != want {
				t.Errorf("the client got %q, want %q", got, want)
			}
		}
		do(c.Request("OPTIONS", "User-Agent:odd  spaces\t", "Require: x"))
		body := "a: b\r\n\r\nc"
		do(c.Request("SET_PARAMETER", fmt.Sprintf("content-length : %d", len(body))) + body)
		do(c.Request("SETUP", "x-pad:"+strings.Repeat("x", 2000), p.Transport()))
		do(c.Request("PLAY", "Range: npt=0-"))
		streams(t, c, p)
		do(c.Request("GET_PARAMETER"))
		do(c.Request("PAUSE"))
		redirect := "REDIRECT rtsp://elsewhere/stream RTSP/1.0\r\nCSeq: 7\r\nLocation: rtsp://elsewhere:554\r\n\r\n"
		if err := s.Send(redirect); err != nil {
			t.Fatal(err)
		}
		if m, err := c.Next(); err != nil || m.Raw != redirect {
			t.Errorf("the client got %q (%v), want %q", m.Raw, err, redirect)
		}
		response := "RTSP/1.0 200 OK\r\nCSeq: 7\r\n\r\n"
		sent = append(sent, response)
		c.Write(response)
		do(c.Request("TEARDOWN"))
		for i, m := range s.Messages() {
			if m.Raw != sent[i] {
				t.Errorf("the server got %q, want %q", m.Raw, sent[i])
			}
		}
		if got := len(s.Messages()); got != len(sent) {
			t.Errorf("the server got %d messages, want %d", got, len(sent))
		}
	})
}

// TestKernelRTSPOtherSource has media come from another address than the server's, named in the
// response or not.
func TestKernelRTSPOtherSource(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		for _, tt := range []struct {
			name           string
			named, allowed bool
		}{
			{"named and allowed", true, true},
			{"allowed", false, true},
			{"named and not allowed", true, false},
			{"not allowed", false, false},
		} {
			t.Run(tt.name, func(t *testing.T) {
				n := rtsptest.NewNetwork(t)
				n.NoPunching()
				startHelper(t, n, helper.Config{AllowOtherSource: tt.allowed})
				rtsptest.StartServer(t, n.Server, serverAt(n, v6),
					rtsptest.ServerConfig{MediaAddr: n.OtherAddr(v6), NameSource: tt.named})
				c := dial(t, n, n.Client, v6)
				p := c.Listen(0)
				c.Must("SETUP", p.Transport())
				c.Must("PLAY")
				if !tt.allowed {
					receivesNothing(t, p)
					return
				}
				streams(t, c, p)
				if !p.From(n.OtherAddr(v6)) {
					t.Error("the media didn't come from the address that sent them")
				}
			})
		}
	})
}

// TestKernelRTSPSamePort has two clients ask one server for the same ports.
func TestKernelRTSPSamePort(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		h := startHelper(t, n, helper.Config{})
		s := rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{MediaPort: 7000})
		for _, ns := range []*conntracktest.NS{n.Client, n.Second} {
			c := dial(t, n, ns, v6)
			p := c.Listen(5000)
			m := c.Must("SETUP", p.Transport())
			if got := m.Param("client_port"); got != "5000-5001" {
				t.Errorf("client_port in the response: %s, want the client's own", got)
			}
			c.Must("PLAY")
			streams(t, c, p)
			// Nobody else's stream: all that came is of its own session.
			all := p.All()
			if rtp, rtcp := p.Got(c.Session); all > rtp+rtcp {
				t.Errorf("%d datagrams arrived, %d of them of its own session", all, rtp+rtcp)
			}
		}
		requests := s.Requests("SETUP")
		if len(requests) != 2 || requests[0].Param("client_port") == requests[1].Param("client_port") {
			t.Errorf("the server got SETUPs %+v, want two with different ports", requests)
		}
		if got := h.Status().Counters.Rewritten; got == 0 {
			t.Error("no message counts as rewritten")
		}
	})
}

// TestKernelRTSPPrivateDestination has a client name its own address, which the server can't reach:
// it must get one that it can, and the client its own back.
func TestKernelRTSPPrivateDestination(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		startHelper(t, n, helper.Config{})
		s := rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
		c := dial(t, n, n.Client, v6)
		p := c.Listen(0)
		own := c.Addr().Addr().String()
		m := c.Must("SETUP", p.Transport()+";destination="+own)
		c.Must("PLAY")
		streams(t, c, p)
		if got := s.Requests("SETUP")[0].Param("destination"); got == own {
			t.Errorf("the server was told to send to %s", got)
		}
		if got := m.Param("destination"); got != "" && got != own {
			t.Errorf("the client was told that the server sends to %s", got)
		}
	})
}

// TestKernelRTSPRefuses asks for what isn't given.
func TestKernelRTSPRefuses(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		h := startHelper(t, n, helper.Config{MaxSessionsPerClient: 2})
		rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
		refused := uint64(0)
		for _, tt := range []struct{ name, transport string }{
			{"ports below 1024", "Transport: RTP/AVP;unicast;client_port=500-501"},
			{"another host's address", "Transport: RTP/AVP;unicast;client_port=5000-5001;destination=" + n.SecondAddr(v6).String()},
		} {
			c := dial(t, n, n.Client, v6)
			c.Do("SETUP", tt.transport)
			if media, err := rtsptest.Media(n.Router); err != nil || len(media) != 0 {
				t.Errorf("%s: registered (%v):\n%s", tt.name, err, strings.Join(media, "\n"))
			}
			refused++
			if got := h.Status().Counters.Refused; got != refused {
				t.Errorf("%s: %d streams refused, want %d", tt.name, got, refused)
			}
			c.Close()
		}
		// A client gets as many streams as the limit says, and not one more.
		c := dial(t, n, n.Client, v6)
		for i := range 3 {
			c.Session = ""
			p := c.Listen(0)
			c.Must("SETUP", p.Transport())
			c.Must("PLAY")
			if i < 2 {
				streams(t, c, p)
			} else {
				receivesNothing(t, p)
			}
		}
		if got := h.Status().Counters.Limited; got != 1 {
			t.Errorf("%d streams were over the limit, want 1", got)
		}
	})
}

// TestKernelRTSPOlderConnection asks on a connection that is older than the helper.
func TestKernelRTSPOlderConnection(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
		c := dial(t, n, n.Client, v6)
		c.Must("OPTIONS")
		startHelper(t, n, helper.Config{})
		c.Must("GET_PARAMETER")
		p := c.Listen(0)
		plays(t, c, p)
		hasMedia(t, n)
		c.Must("TEARDOWN")
		noMedia(t, n)
	})
}

// TestKernelRTSPForwarded has a client outside call a server inside, by a forwarded port.
func TestKernelRTSPForwarded(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		for _, tt := range []struct {
			name             string
			public, internal uint16
		}{
			{"the same port", 554, 554},
			{"another port", 8554, 554},
			{"a public port that isn't RTSP's", 9000, 554},
			{"an internal port that isn't RTSP's", 554, 9000},
		} {
			t.Run(tt.name, func(t *testing.T) {
				n := rtsptest.NewNetwork(t)
				n.NoPunching()
				inside := netip.AddrPortFrom(n.SecondAddr(v6), tt.internal)
				n.Forward(v6, tt.public, inside)
				startHelper(t, n, helper.Config{})
				s := rtsptest.StartServer(t, n.Second, inside, rtsptest.ServerConfig{})
				c := rtsptest.Dial(t, n.Server, netip.AddrPortFrom(n.RouterAddr(v6), tt.public))
				p := c.Listen(0)
				m := c.Must("SETUP", p.Transport())
				c.Must("PLAY")
				streams(t, c, p)
				if !p.From(n.RouterAddr(v6)) {
					t.Error("the media didn't come from the address that the client called")
				}
				// The client's reports find the server, too.
				var first, second uint16
				if _, err := fmt.Sscanf(m.Param("server_port"), "%d-%d", &first, &second); err != nil {
					t.Fatalf("server_port %q: %v", m.Param("server_port"), err)
				}
				conntracktest.Eventually(t, "the client's datagrams at the server", func() bool {
					p.Send("hello", netip.AddrPortFrom(n.RouterAddr(v6), first))
					return s.Received("hello") > 0
				})
				hasMedia(t, n)
				c.Must("TEARDOWN")
				noMedia(t, n)
			})
		}
	})
}

// TestKernelRTSPHairpin has a client inside call a server inside by the router's address outside.
func TestKernelRTSPHairpin(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		inside := netip.AddrPortFrom(n.SecondAddr(v6), rtspPort)
		n.Forward(v6, rtspPort, inside)
		startHelper(t, n, helper.Config{})
		rtsptest.StartServer(t, n.Second, inside, rtsptest.ServerConfig{})
		c := rtsptest.Dial(t, n.Client, netip.AddrPortFrom(n.RouterAddr(v6), rtspPort))
		p := c.Listen(0)
		plays(t, c, p)
		hasMedia(t, n)
		c.Must("TEARDOWN")
		noMedia(t, n)
	})
}

// TestKernelRTSPRecord has a client send to the server, which sends back.
func TestKernelRTSPRecord(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		startHelper(t, n, helper.Config{})
		s := rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
		c := dial(t, n, n.Client, v6)
		sdp := "v=0\r\nm=audio 0 RTP/AVP 0\r\n"
		c.Write(c.Request("ANNOUNCE", "Content-Type: application/sdp", fmt.Sprintf("Content-Length: %d", len(sdp))) + sdp)
		c.Response()
		p := c.Listen(0)
		m := c.Must("SETUP", p.Transport()+";mode=record")
		c.Must("RECORD")
		var first, second uint16
		if _, err := fmt.Sscanf(m.Param("server_port"), "%d-%d", &first, &second); err != nil {
			t.Fatalf("server_port %q: %v", m.Param("server_port"), err)
		}
		conntracktest.Eventually(t, "the recording at the server", func() bool {
			p.Send("hello", netip.AddrPortFrom(n.ServerAddr(v6), first))
			return s.Received("hello") > 0
		})
		streams(t, c, p)
		c.Must("TEARDOWN")
		noMedia(t, n)
	})
}

// TestKernelRTSPInterleaved asks for media inside of the connection.
func TestKernelRTSPInterleaved(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		n := rtsptest.NewNetwork(t)
		n.NoPunching()
		h := startHelper(t, n, helper.Config{})
		rtsptest.StartServer(t, n.Server, serverAt(n, v6), rtsptest.ServerConfig{})
		c := dial(t, n, n.Client, v6)
		c.Must("SETUP", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
		c.Must("PLAY")
		leavesQueue(t, n, h)
		c.Must("TEARDOWN")
		if c.Frames() < 20 {
			t.Errorf("%d frames arrived, want 20", c.Frames())
		}
		noMedia(t, n)
	})
}
