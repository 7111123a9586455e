package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"ctd/auth"
)

// maxConnections is how many connections a listener holds at a time. Others wait in the kernel's
// queue, so that strangers don't use up the descriptors that netlink needs, and those of one
// listener don't keep the callers of another out.
const maxConnections = 512

// maxConnectionsPerAddress is how many of them one address beyond the daemon's own machine may have, and
// of IPv6 one network of 64 bits, so that no single host takes them all. More are closed at once. From
// loopback come all that is local, and what is forwarded.
const maxConnectionsPerAddress = 128

// limitListener is a listener with at most so many open connections.
type limitListener struct {
	net.Listener
	https  bool // its callers speak TLS; see Server.withTLS
	slots  chan struct{}
	closed chan struct{}
	close  func() error

	mu   sync.Mutex
	from map[netip.Prefix]int // open connections, by address
}

func newLimitListener(l net.Listener, most int) *limitListener {
	ll := &limitListener{Listener: l, slots: make(chan struct{}, most), closed: make(chan struct{}), from: make(map[netip.Prefix]int)}
	ll.close = sync.OnceValue(func() error {
		close(ll.closed)
		return l.Close()
	})
	return ll
}

// Accept is net.Listener's. It waits while there are as many connections as there may be.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		leave, ok := l.enter(c.RemoteAddr())
		if !ok {
			c.Close()
			continue
		}
		boundUnsent(c)
		return newConnection(c, func() { leave(); <-l.slots }), nil
	}
}

// maxUnsent is how many bytes of an answer the kernel takes that it can't send yet.
const maxUnsent = 256 << 10

// boundUnsent has the kernel ask for more of an answer as what it can't send yet grows less (TCP_NOTSENT_LOWAT,
// linux/tcp.h, tcp(7)). It would take megabytes at once otherwise, and ask again only when a third of its buffer is
// free: a caller who reads slowly, but steadily, would look like one who reads nothing. The buffer of a Unix
// socket is too small for that. Where it can't be set, such callers are cut.
func boundUnsent(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	})
}

// enter counts a connection, unless there are as many from its address as there may be.
func (l *limitListener) enter(remote net.Addr) (leave func(), ok bool) {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return func() {}, true
	}
	a := plain(tcp.AddrPort()).Addr()
	if !a.IsValid() || a.IsLoopback() {
		return func() {}, true
	}
	from := auth.NetworkOf(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.from[from] >= maxConnectionsPerAddress {
		return nil, false
	}
	l.from[from]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.from[from]--; l.from[from] == 0 {
			delete(l.from, from)
		}
	}, true
}

// Close is net.Listener's.
func (l *limitListener) Close() error { return l.close() }

// connection is an accepted connection.
type connection struct {
	net.Conn
	release func()

	// With TLS: the daemon's present keyring, and the authorities by which the caller's certificate was
	// verified.
	keys        func() *keyring
	authorities *x509.CertPool
	// handshake are the bytes that may come yet until the handshake is over; 0 is no bound.
	handshake int
}

func newConnection(c net.Conn, release func()) *connection {
	return &connection{Conn: c, release: sync.OnceFunc(release)}
}

// errLongHandshake ends a handshake.
var errLongHandshake = errors.New("the handshake is too long")

// boundHandshake sets how many bytes may come until it is called again; 0 is no bound.
func (c *connection) boundHandshake(most int) { c.handshake = most }

// Read is net.Conn's.
func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.handshake > 0 {
		if c.handshake -= n; c.handshake <= 0 {
			return 0, errLongHandshake
		}
	}
	return n, err
}

// Close is net.Conn's.
func (c *connection) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}

// connectionKey is the context key of the connection of a request.
type connectionKey struct{}

// withConnection keeps the connection in the context of its requests.
func withConnection(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, c)
}

// connectionOf returns the connection of a request as it was accepted, below TLS; nil where it isn't
// one of the daemon's listeners'.
func connectionOf(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(net.Conn)
	if over, ok := c.(*tls.Conn); ok {
		c = over.NetConn()
	}
	accepted, _ := c.(*connection)
	return accepted
}

// unixConnection returns the connection of a request if it came over a Unix socket.
func unixConnection(ctx context.Context) (*net.UnixConn, bool) {
	c := connectionOf(ctx)
	if c == nil {
		return nil, false
	}
	u, ok := c.Conn.(*net.UnixConn)
	return u, ok
}
