package rtsptest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

// ServerConfig says how a Server behaves. The zero value is a plain server.
type ServerConfig struct {
	// MediaAddr is where media come from; the address that the client connected to where it isn't
	// valid.
	MediaAddr netip.Addr
	// MediaPort is the port of all sessions' RTP, the next is their RTCP's; each has its own where 0.
	MediaPort uint16
	// OmitServerPort leaves server_port (2.0: src_addr) out of the responses.
	OmitServerPort bool
	// NameSource names the address of the media with source= in the response.
	NameSource bool
	// Respond changes a response before it goes out; nil sends it as it is.
	Respond func(req Message, response string) string
}

// Server is an RTSP server that does as it is told. A session's media begin with PLAY and end with
// PAUSE, TEARDOWN or the connection; they are sent to the client's address, or where destination or
// dest_addr says.
type Server struct {
	cfg ServerConfig
	t   testing.TB
	ns  *conntracktest.NS
	l   *net.TCPListener
	wg  sync.WaitGroup

	mu       sync.Mutex
	messages []Message
	conns    []*serverConn
	sessions map[string]*session
	shared   []*net.UDPConn // the sockets of MediaPort
	received map[string]int
	closed   bool
}

// serverConn is a control connection.
type serverConn struct {
	*net.TCPConn
	mu sync.Mutex // of writing
}

func (c *serverConn) send(raw string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.Write([]byte(raw))
	return err
}

// StartServer starts a server that lives as long as the test.
func StartServer(t testing.TB, ns *conntracktest.NS, at netip.AddrPort, cfg ServerConfig) *Server {
	t.Helper()
	s := &Server{cfg: cfg, t: t, ns: ns, sessions: map[string]*session{}, received: map[string]int{}}
	var err error
	ns.Do(func() { s.l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)) })
	if err != nil {
		t.Fatal(err)
	}
	if cfg.MediaPort != 0 {
		addr := cfg.MediaAddr
		if !addr.IsValid() {
			addr = at.Addr()
		}
		if s.shared, err = listenPair(ns, addr, cfg.MediaPort); err != nil {
			t.Fatal(err)
		}
		s.hear(s.shared)
	}
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		s.Finish()
		for _, c := range s.shared {
			c.Close()
		}
		s.wg.Wait()
		if t.Failed() {
			for _, m := range s.Messages() {
				t.Logf("the server got %q", m.Raw)
			}
		}
	})
	return s
}

func (s *Server) accept() {
	for {
		c, err := s.l.AcceptTCP()
		if err != nil {
			return // closed
		}
		conn := &serverConn{TCPConn: c}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			c.Close()
			return
		}
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(conn) })
	}
}

// serve reads a connection to its end. Then its sessions end.
func (s *Server) serve(c *serverConn) {
	var mine []*session
	defer func() {
		c.Close()
		for _, ss := range mine {
			s.end(ss)
		}
	}()
	r := bufio.NewReader(c)
	for {
		m, err := readMessage(r, func(byte, []byte) {})
		if err != nil {
			return
		}
		s.mu.Lock()
		s.messages = append(s.messages, m)
		s.mu.Unlock()
		if m.Status() != 0 {
			continue // to a request of ours
		}
		response, ss := s.handle(c, m)
		if ss != nil && !slices.Contains(mine, ss) {
			mine = append(mine, ss)
		}
		if s.cfg.Respond != nil {
			response = s.cfg.Respond(m, response)
		}
		if err := c.send(response); err != nil {
			return
		}
		if ss != nil && (m.Method() == "PLAY" || m.Method() == "RECORD") {
			ss.play(c)
		}
	}
}

// handle does what a request says and returns the response.
func (s *Server) handle(c *serverConn, m Message) (response string, ss *session) {
	respond := func(status string, more ...string) string {
		head := []string{m.Version() + " " + status, "CSeq: " + m.Header("CSeq")}
		return strings.Join(append(head, more...), "\r\n") + "\r\n\r\n"
	}
	s.mu.Lock()
	ss = s.sessions[m.Session()]
	s.mu.Unlock()
	switch m.Method() {
	case "SETUP":
		transport, ss, err := s.setup(c, m, ss)
		if err != nil {
			return respond("461 Unsupported Transport", "X-Why: "+err.Error()), nil
		}
		return respond("200 OK", "Session: "+ss.id+";timeout=60", "Transport: "+transport), ss
	case "PLAY", "RECORD", "PAUSE", "TEARDOWN":
		if ss == nil {
			return respond("454 Session Not Found"), nil
		}
		switch m.Method() {
		case "PAUSE":
			ss.pause()
		case "TEARDOWN":
			s.end(ss)
		}
		return respond("200 OK", "Session: "+ss.id), ss
	case "OPTIONS":
		return respond("200 OK", "Public: OPTIONS, SETUP, PLAY, PAUSE, RECORD, TEARDOWN, GET_PARAMETER"), ss
	case "GET_PARAMETER", "SET_PARAMETER", "ANNOUNCE":
		return respond("200 OK"), ss
	}
	return respond("501 Not Implemented"), nil
}

// Messages returns what the server has got, requests and responses, as they came.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Requests returns the requests of a method that the server has got.
func (s *Server) Requests(method string) []Message {
	return slices.DeleteFunc(s.Messages(), func(m Message) bool { return m.Method() != method })
}

// Send sends something on all connections, e.g. a request.
func (s *Server) Send(raw string) error {
	s.mu.Lock()
	conns := slices.Clone(s.conns)
	s.mu.Unlock()
	var errs []error
	for _, c := range conns {
		errs = append(errs, c.send(raw))
	}
	return errors.Join(errs...)
}

// Received returns how many datagrams have come from clients with a text in them.
func (s *Server) Received(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received[text]
}

// Finish ends the server as one that is told to: its connections end with FIN.
func (s *Server) Finish() { s.close(-1) }

// Reset ends the server as one that crashes: its connections end with RST.
func (s *Server) Reset() { s.close(0) }

func (s *Server) close(linger int) {
	s.mu.Lock()
	conns, was := s.conns, s.closed
	s.conns, s.closed = nil, true
	s.mu.Unlock()
	if !was {
		s.l.Close()
	}
	for _, c := range conns {
		_ = c.SetLinger(linger) // the error is that the client has closed it
		c.Close()
	}
}

// end ends a session.
func (s *Server) end(ss *session) {
	s.mu.Lock()
	delete(s.sessions, ss.id)
	s.mu.Unlock()
	ss.pause()
	for _, st := range ss.streams {
		if s.shared == nil {
			for _, c := range st.socks {
				c.Close()
			}
		}
	}
}

// hear counts what comes to sockets until they are closed.
func (s *Server) hear(socks []*net.UDPConn) {
	for _, c := range socks {
		s.wg.Go(func() {
			buf := make([]byte, 2048)
			for {
				n, err := c.Read(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					s.mu.Lock()
					s.received[string(buf[:n])]++
					s.mu.Unlock()
				}
			}
		})
	}
}

// listenPair opens two UDP sockets at consecutive ports, the first of them even; at any such where
// port is 0.
func listenPair(ns *conntracktest.NS, addr netip.Addr, port uint16) (socks []*net.UDPConn, err error) {
	listen := func(port uint16) (c *net.UDPConn) {
		ns.Do(func() { c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port))) })
		return c
	}
	for range 50 {
		first := listen(port)
		if err != nil {
			return nil, err
		}
		at := first.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		if port != 0 || at%2 == 0 {
			second := listen(at + 1)
			if err == nil {
				return []*net.UDPConn{first, second}, nil
			}
		}
		first.Close()
		if port != 0 {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no two ports at %s", addr)
}

// every calls fn at an interval until ctx ends.
func every(ctx context.Context, interval time.Duration, fn func(i int)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for i := 0; ; i++ {
		fn(i)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
