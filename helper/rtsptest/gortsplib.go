package rtsptest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"

	"github.com/bluenviron/gortsplib/v4"
	"github.com/bluenviron/gortsplib/v4/pkg/base"
	"github.com/bluenviron/gortsplib/v4/pkg/description"
	"github.com/bluenviron/gortsplib/v4/pkg/format"
	"github.com/pion/rtp"
)

// GortsplibServer is a server made with gortsplib, whose streams come from the same two ports for all
// clients.
type GortsplibServer struct {
	server *gortsplib.Server
	stream *gortsplib.ServerStream
	ready  chan struct{} // closed once there is a stream
	v6     bool
}

// MediaPort is the port from which a GortsplibServer's RTP comes; the RTCP comes from the next.
const MediaPort = 8000

// StartGortsplibServer starts a server at an address that lives as long as the test. Its media come
// from another address where media is valid.
func StartGortsplibServer(t testing.TB, ns *conntracktest.NS, at netip.AddrPort, media netip.Addr) *GortsplibServer {
	t.Helper()
	if !media.IsValid() {
		media = at.Addr()
	}
	s := &GortsplibServer{ready: make(chan struct{}), v6: at.Addr().Is6()}
	s.server = &gortsplib.Server{
		Handler:        s,
		RTSPAddress:    at.String(),
		UDPRTPAddress:  netip.AddrPortFrom(media, MediaPort).String(),
		UDPRTCPAddress: netip.AddrPortFrom(media, MediaPort+1).String(),
		Listen: func(network, address string) (l net.Listener, err error) {
			ns.Do(func() { l, err = net.Listen(network, address) })
			return l, err
		},
		ListenPacket: func(network, address string) (c net.PacketConn, err error) {
			ns.Do(func() { c, err = net.ListenPacket(network, address) })
			return c, err
		},
	}
	if err := s.server.Start(); err != nil {
		t.Fatal(err)
	}
	sound := &description.Media{
		Type:    description.MediaTypeAudio,
		Formats: []format.Format{&format.G711{MULaw: true, SampleRate: 8000, ChannelCount: 1}},
	}
	s.stream = gortsplib.NewServerStream(s.server, &description.Session{Medias: []*description.Media{sound}})
	close(s.ready)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.send(ctx, sound) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		s.Close()
	})
	return s
}

// send sends a packet of silence every 20 ms to who plays the stream.
func (s *GortsplibServer) send(ctx context.Context, sound *description.Media) {
	p := &rtp.Packet{Header: rtp.Header{Version: 2, SSRC: 0x637464}, Payload: make([]byte, 160)}
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		p.SequenceNumber++
		p.Timestamp += 160
		_ = s.stream.WritePacketRTP(sound, p) // a reader that is too slow is its own affair
	}
}

// Close ends the server and its connections.
func (s *GortsplibServer) Close() {
	s.stream.Close()
	s.server.Close()
}

// OnDescribe implements gortsplib.ServerHandlerOnDescribe. Gortsplib's own description says IP4 always,
// which makes GStreamer's client wait for IPv4.
func (s *GortsplibServer) OnDescribe(*gortsplib.ServerHandlerOnDescribeCtx) (*base.Response, *gortsplib.ServerStream, error) {
	connection := pick(s.v6, "IP6 ::", "IP4 0.0.0.0")
	sdp := fmt.Sprintf("v=0\r\no=- 0 0 IN %[1]s\r\ns=Stream\r\nc=IN %[1]s\r\nt=0 0\r\n"+
		"m=audio 0 RTP/AVP 0\r\na=control:trackID=0\r\na=rtpmap:0 PCMU/8000\r\n", connection)
	return &base.Response{StatusCode: base.StatusOK, Body: []byte(sdp)}, nil, nil
}

// OnSetup implements gortsplib.ServerHandlerOnSetup.
func (s *GortsplibServer) OnSetup(*gortsplib.ServerHandlerOnSetupCtx) (*base.Response, *gortsplib.ServerStream, error) {
	<-s.ready
	return &base.Response{StatusCode: base.StatusOK}, s.stream, nil
}

// OnPlay implements gortsplib.ServerHandlerOnPlay.
func (s *GortsplibServer) OnPlay(*gortsplib.ServerHandlerOnPlayCtx) (*base.Response, error) {
	return &base.Response{StatusCode: base.StatusOK}, nil
}

// OnPause implements gortsplib.ServerHandlerOnPause.
func (s *GortsplibServer) OnPause(*gortsplib.ServerHandlerOnPauseCtx) (*base.Response, error) {
	return &base.Response{StatusCode: base.StatusOK}, nil
}

// StartGortsplib starts a client made with gortsplib that plays a server's streams by UDP or TCP until
// the test ends, or until it is closed. By UDP it makes holes for what is to come.
func StartGortsplib(t testing.TB, ns *conntracktest.NS, url string, transport gortsplib.Transport) (*gortsplib.Client, error) {
	t.Helper()
	c := &gortsplib.Client{
		Transport: &transport,
		// Media that come from elsewhere are taken, too.
		AnyPortEnable: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			ns.Do(func() { conn, err = new(net.Dialer).DialContext(ctx, network, address) })
			return conn, err
		},
		ListenPacket: func(network, address string) (conn net.PacketConn, err error) {
			ns.Do(func() { conn, err = net.ListenPacket(network, address) })
			return conn, err
		},
	}
	u, err := base.ParseURL(url)
	if err != nil {
		return nil, err
	}
	if err := c.Start(u.Scheme, u.Host); err != nil {
		return nil, err
	}
	t.Cleanup(c.Close)
	d, _, err := c.Describe(u)
	if err != nil {
		return nil, fmt.Errorf("describe: %w", err)
	}
	if err := c.SetupAll(d.BaseURL, d.Medias); err != nil {
		return nil, fmt.Errorf("setup: %w", err)
	}
	if _, err := c.Play(nil); err != nil {
		return nil, fmt.Errorf("play: %w", err)
	}
	return c, nil
}
