package rtsptest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"

	"golang.org/x/sys/unix"
)

// clientPatience is how long a response may take: a segment that is lost is sent again a few times.
const clientPatience = 30 * time.Second

// Client is an RTSP client that does as it is told.
type Client struct {
	Version string // "RTSP/1.0" where it isn't changed
	Session string // of the last response that named one

	t      testing.TB
	ns     *conntracktest.NS
	url    string
	conn   *net.TCPConn
	r      *bufio.Reader
	cseq   int
	frames int
}

// Dial connects to a server.
func Dial(t testing.TB, ns *conntracktest.NS, server netip.AddrPort) *Client {
	t.Helper()
	c := &Client{Version: "RTSP/1.0", t: t, ns: ns, url: URL(server)}
	var conn net.Conn
	var err error
	ns.Do(func() {
		d := net.Dialer{Timeout: clientPatience}
		conn, err = d.DialContext(context.Background(), "tcp", server.String())
	})
	if err != nil {
		t.Fatal(err)
	}
	c.conn = conn.(*net.TCPConn)
	c.r = bufio.NewReader(conn)
	t.Cleanup(c.Close)
	return c
}

// Addr returns the client's own address and port.
func (c *Client) Addr() netip.AddrPort {
	a := c.conn.LocalAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Request returns the next request, with CSeq and, where there is one, Session.
func (c *Client) Request(method string, headers ...string) string {
	c.cseq++
	lines := []string{fmt.Sprintf("%s %s %s", method, c.url, c.Version), fmt.Sprintf("CSeq: %d", c.cseq)}
	if c.Session != "" {
		lines = append(lines, "Session: "+c.Session)
	}
	return strings.Join(append(lines, headers...), "\r\n") + "\r\n\r\n"
}

// Write sends something as it is.
func (c *Client) Write(raw string) {
	c.t.Helper()
	if _, err := c.conn.Write([]byte(raw)); err != nil {
		c.t.Fatal(err)
	}
}

// WriteBytes sends something one byte a segment: each waits until the one before was acknowledged, or
// a moment where who holds it back doesn't let that come.
func (c *Client) WriteBytes(raw string) {
	c.t.Helper()
	rc, err := c.conn.SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range raw {
		c.Write(raw[i : i+1])
		for deadline := time.Now().Add(5 * time.Millisecond); time.Now().Before(deadline); {
			unacknowledged := 0
			if err := rc.Control(func(fd uintptr) {
				unacknowledged, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
			}); err != nil {
				c.t.Fatal(err)
			}
			if unacknowledged == 0 {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
}

// Next reads the next message: a response, or a request of the server's.
func (c *Client) Next() (Message, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(clientPatience)); err != nil {
		return Message{}, err
	}
	m, err := readMessage(c.r, func(byte, []byte) { c.frames++ })
	if err == nil && m.Session() != "" {
		c.Session = m.Session()
	}
	return m, err
}

// Response reads the next message, which must be a response.
func (c *Client) Response() Message {
	c.t.Helper()
	m, err := c.Next()
	if err != nil {
		c.t.Fatalf("instead of a response: %v", err)
	}
	if m.Status() == 0 {
		c.t.Fatalf("instead of a response: %q", m.Raw)
	}
	return m
}

// Do sends a request and returns the response, of whatever status.
func (c *Client) Do(method string, headers ...string) Message {
	c.t.Helper()
	c.Write(c.Request(method, headers...))
	return c.Response()
}

// Must is Do for a request that must succeed.
func (c *Client) Must(method string, headers ...string) Message {
	c.t.Helper()
	m := c.Do(method, headers...)
	if m.Status() != 200 {
		c.t.Fatalf("%s: %q", method, m.Raw)
	}
	return m
}

// Frames returns how many frames of interleaved data came between the messages that were read.
func (c *Client) Frames() int { return c.frames }

// Close ends the connection with FIN.
func (c *Client) Close() { c.conn.Close() }

// Reset ends the connection with RST.
func (c *Client) Reset() {
	_ = c.conn.SetLinger(0) // the error is that it has ended
	c.conn.Close()
}

// Ports are two UDP ports of a client, for RTP and RTCP.
type Ports struct {
	RTP, RTCP uint16

	t     testing.TB
	socks []*net.UDPConn

	mu   sync.Mutex
	got  map[string]int
	from map[netip.AddrPort]int
}

// Listen opens two ports until the test ends: one that is given and the next, or any two where it
// is 0.
func (c *Client) Listen(rtp uint16) *Ports {
	c.t.Helper()
	p := &Ports{t: c.t, got: map[string]int{}, from: map[netip.AddrPort]int{}}
	var err error
	if p.socks, err = listenPair(c.ns, c.Addr().Addr(), rtp); err != nil {
		c.t.Fatal(err)
	}
	p.RTP = p.socks[0].LocalAddr().(*net.UDPAddr).AddrPort().Port()
	p.RTCP = p.RTP + 1
	var wg sync.WaitGroup
	for i, sock := range p.socks {
		wg.Go(func() { p.hear(i, sock) })
	}
	c.t.Cleanup(func() {
		p.Close()
		wg.Wait()
	})
	return p
}

// Close closes the ports: what comes then is answered with ICMP.
func (p *Ports) Close() {
	for _, sock := range p.socks {
		sock.Close()
	}
}

func (p *Ports) hear(which int, sock *net.UDPConn) {
	head := []int{12, 4}[which] // see stream.send
	buf := make([]byte, 2048)
	for {
		n, from, err := sock.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil || n < head {
			continue
		}
		p.mu.Lock()
		p.got[[]string{"rtp ", "rtcp "}[which]+string(buf[head:n])]++
		p.from[netip.AddrPortFrom(from.Addr().Unmap(), from.Port())]++
		p.mu.Unlock()
	}
}

// Got returns how many datagrams of a session's RTP and RTCP have come.
func (p *Ports) Got(session string) (rtp, rtcp int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got["rtp "+session], p.got["rtcp "+session]
}

// All returns how many datagrams have come.
func (p *Ports) All() (count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.got {
		count += n
	}
	return count
}

// From tells whether a datagram has come from an address.
func (p *Ports) From(addr netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for from := range p.from {
		if from.Addr() == addr {
			return true
		}
	}
	return false
}

// Send sends a text from the port of RTP.
func (p *Ports) Send(text string, to netip.AddrPort) {
	p.t.Helper()
	if _, err := p.socks[0].WriteToUDPAddrPort([]byte(text), to); err != nil {
		p.t.Fatal(err)
	}
}

// Transport is the header by which a client asks for its two ports with RTSP/1.0.
func (p *Ports) Transport() string {
	return fmt.Sprintf("Transport: RTP/AVP;unicast;client_port=%d-%d", p.RTP, p.RTCP)
}
