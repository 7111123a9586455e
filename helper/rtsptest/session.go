package rtsptest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// session is a session of a Server.
type session struct {
	id      string
	streams []*stream

	mu   sync.Mutex
	stop context.CancelFunc // of the media; nil while there are none
	wg   sync.WaitGroup
}

// stream is a stream of a session: by UDP from two sockets, or interleaved.
type stream struct {
	socks   []*net.UDPConn
	to      []netip.AddrPort // as many as the client has ports
	channel int              // of interleaved data; -1 by UDP
}

// setup makes the stream that a SETUP asks for, in a session of its own or another one, and returns
// the response's transport.
func (s *Server) setup(c *serverConn, m Message, ss *session) (transport string, _ *session, err error) {
	local := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	peer := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if s.cfg.MediaAddr.IsValid() {
		local = s.cfg.MediaAddr
	}
	transport, _, _ = strings.Cut(m.Header("Transport"), ",")
	st := &stream{channel: -1}
	if channels := m.Param("interleaved"); channels != "" {
		first, _, _ := strings.Cut(channels, "-")
		if st.channel, err = strconv.Atoi(first); err != nil {
			return "", nil, err
		}
	} else {
		if st.to, err = destinations(m, peer); err != nil {
			return "", nil, err
		}
		if st.socks = s.shared; st.socks == nil {
			if st.socks, err = listenPair(s.ns, local, 0); err != nil {
				return "", nil, err
			}
			s.hear(st.socks)
		}
		transport += s.transportEnd(m, local, st)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss == nil {
		// The session's id is in its media: see Ports.
		ss = &session{id: fmt.Sprintf("session-%d", len(s.messages))}
		s.sessions[ss.id] = ss
	}
	ss.streams = append(ss.streams, st)
	return transport, ss, nil
}

// transportEnd is what the server adds to a transport.
func (s *Server) transportEnd(m Message, local netip.Addr, st *stream) (end string) {
	if s.cfg.NameSource {
		end += ";source=" + local.String()
	}
	port := func(i int) uint16 { return st.socks[i].LocalAddr().(*net.UDPAddr).AddrPort().Port() }
	switch {
	case s.cfg.OmitServerPort:
	case m.Param("dest_addr") != "":
		end += fmt.Sprintf(`;src_addr="%s"/"%s"`, netip.AddrPortFrom(local, port(0)), netip.AddrPortFrom(local, port(1)))
	case len(st.to) == 1:
		end += fmt.Sprintf(";server_port=%d", port(0))
	default:
		end += fmt.Sprintf(";server_port=%d%c%d", port(0), separator(m.Param("client_port")), port(1))
	}
	return end
}

func separator(ports string) byte {
	if strings.Contains(ports, "/") {
		return '/'
	}
	return '-'
}

// destinations returns where a SETUP wants its stream.
func destinations(m Message, peer netip.Addr) ([]netip.AddrPort, error) {
	if list := m.Param("dest_addr"); list != "" {
		var to []netip.AddrPort
		for name := range strings.SplitSeq(list, "/") {
			name = strings.Trim(name, `"`)
			if strings.HasPrefix(name, ":") {
				name = net.JoinHostPort(peer.String(), name[1:])
			}
			a, err := netip.ParseAddrPort(name)
			if err != nil {
				return nil, err
			}
			to = append(to, a)
		}
		return to, nil
	}
	if d := m.Param("destination"); d != "" {
		var err error
		if peer, err = netip.ParseAddr(d); err != nil {
			return nil, err
		}
	}
	ports := m.Param("client_port")
	if ports == "" {
		return nil, errors.New("no ports")
	}
	var to []netip.AddrPort
	for port := range strings.FieldsFuncSeq(ports, func(r rune) bool { return r == '-' || r == '/' }) {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, err
		}
		to = append(to, netip.AddrPortFrom(peer, uint16(n)))
	}
	return to, nil
}

// play sends the session's media until it is paused: RTP all the time, RTCP with every tenth. Both
// have the session's id in them.
func (ss *session) play(c *serverConn) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ss.stop = cancel
	ss.wg.Go(func() {
		every(ctx, 10*time.Millisecond, func(i int) {
			for _, st := range ss.streams {
				st.send(c, 0, ss.id)
				if i%10 == 0 {
					st.send(c, 1, ss.id)
				}
			}
		})
	})
}

// pause ends the session's media.
func (ss *session) pause() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.stop != nil {
		ss.stop()
		ss.wg.Wait()
		ss.stop = nil
	}
}

// send sends a datagram of RTP (0) or RTCP (1). That it can't be sent shows where it doesn't arrive.
func (st *stream) send(c *serverConn, which int, text string) {
	head := []byte{0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // RTP of type 0
	if which == 1 {
		head = []byte{0x80, 200, 0, 0} // a sender report
	}
	data := append(head, text...)
	switch {
	case st.channel >= 0:
		_ = c.send(string([]byte{'$', byte(st.channel + which), 0, byte(len(data))}) + string(data))
	case which < len(st.to):
		_, _ = st.socks[which].WriteToUDPAddrPort(data, st.to[which])
	}
}
