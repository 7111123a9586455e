package server

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLimitListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const most = 2
	l := newLimitListener(inner, most)
	type accepted struct {
		net.Conn
		err error
	}
	got := make(chan accepted)
	go func() {
		for {
			c, err := l.Accept()
			got <- accepted{c, err}
			if err != nil {
				return
			}
		}
	}()
	for range most + 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	none := func(when string) {
		t.Helper()
		select {
		case a := <-got:
			t.Fatalf("%s: accepted %v, %v", when, a.Conn, a.err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	first := <-got
	second := <-got
	none("at the limit")
	first.Close()
	third := <-got
	first.Close() // a connection gives its place back only once
	none("at the limit again")
	// Who waits for a place is told that the listener ends.
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if a := <-got; !errors.Is(a.err, net.ErrClosed) {
		t.Errorf("closed: %v, want %v", a.err, net.ErrClosed)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closed a second time: %v", err)
	}
	second.Close()
	third.Close()
}

// TestMaxConnections: strangers who take all of TCP's connections keep nobody from the Unix
// socket, and the next one over TCP is answered once there is a place.
func TestMaxConnections(t *testing.T) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Max < 4*maxConnections {
		t.Fatalf("this test needs %d descriptors, has %d, %v", 4*maxConnections, files.Max, err)
	}
	f := newFixture(t, Config{}, tcpFlow(1))
	f.timing.readHeader = time.Minute // none of the strangers is cut meanwhile
	r := f.start(t)
	var strangers []net.Conn
	for range maxConnections {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.tcp, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		strangers = append(strangers, c)
	}
	// The last one within the limit is served.
	ask := func(c net.Conn, wait time.Duration) error {
		t.Helper()
		if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	last := strangers[maxConnections-1]
	if err := jsonCall(t, r.tcp+"/rpc", "conntrack.count", "").Write(last); err != nil {
		t.Fatal(err)
	}
	if err := ask(last, 10*time.Second); err != nil {
		t.Errorf("connection %d: %v", maxConnections, err)
	}
	next, err := net.Dial("tcp", strings.TrimPrefix(r.tcp, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := jsonCall(t, r.tcp+"/rpc", "conntrack.count", "").Write(next); err != nil {
		t.Fatal(err)
	}
	if err := ask(next, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("connection %d: %v, want no answer", maxConnections+1, err)
	}
	if status, body := do(t, unixClient(t, r.sock), jsonCall(t, "http://ctd/rpc", "conntrack.count", "")); status != 200 {
		t.Errorf("over the Unix socket: %d %s", status, body)
	}
	strangers[0].Close()
	if err := ask(next, 10*time.Second); err != nil {
		t.Errorf("connection %d after one ended: %v", maxConnections+1, err)
	}
}

// strangeListener accepts connections from the addresses that it is given.
type strangeListener struct {
	net.Listener
	from chan net.Addr
}

type strangeConn struct {
	net.Conn
	from   net.Addr
	closed *bool
}

func (l *strangeListener) Accept() (net.Conn, error) {
	a, ok := <-l.from
	if !ok {
		return nil, net.ErrClosed
	}
	return &strangeConn{from: a, closed: new(bool)}, nil
}

func (l *strangeListener) Close() error      { return nil }
func (c *strangeConn) RemoteAddr() net.Addr  { return c.from }
func (c *strangeConn) Close() error          { *c.closed = true; return nil }
func address(text string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(text), Port: port} }
func accept(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestConnectionsPerAddress: one host takes no more than its part of the connections, and what it takes
// beyond is closed at once.
func TestConnectionsPerAddress(t *testing.T) {
	for name, c := range map[string]struct {
		first, another, beyond string // beyond counts with first; empty where first has no limit
	}{
		"IPv4":           {"192.0.2.1", "192.0.2.2", "192.0.2.1"},
		"IPv4 in IPv6":   {"::ffff:192.0.2.1", "::ffff:192.0.2.2", "192.0.2.1"},
		"IPv6":           {"2001:db8::1", "2001:db8:0:1::1", "2001:db8::ffff:2"},
		"loopback":       {"127.0.0.1", "127.0.0.1", ""},
		"loopback, IPv6": {"::1", "::1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			inner := &strangeListener{from: make(chan net.Addr, maxConnections)}
			l := newLimitListener(inner, maxConnections)
			var open []net.Conn
			for i := range maxConnectionsPerAddress {
				inner.from <- address(c.first, i)
				open = append(open, accept(t, l))
			}
			if c.beyond != "" {
				inner.from <- address(c.beyond, 999)
			}
			inner.from <- address(c.another, 1)
			got := accept(t, l)
			if got.RemoteAddr().String() != address(c.another, 1).String() {
				t.Errorf("accepted %v", got.RemoteAddr())
			}
			open[0].Close()
			open[0].Close() // gives its place back only once
			inner.from <- address(c.first, 1000)
			open = append(open, accept(t, l))
			for _, c := range append(open, got) {
				c.Close()
			}
			if len(l.from) != 0 || len(l.slots) != 0 {
				t.Errorf("left: %v, %d", l.from, len(l.slots))
			}
		})
	}
}
