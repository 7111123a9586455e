package server

import (
	"context"
	"net"
	"sync"

	"ctd/auth"
)

// maxConnections is how many connections a listener holds at a time. Others wait in the kernel's
// queue, so that strangers don't use up the descriptors that netlink needs, and those of one
// listener don't keep the callers of another out.
const maxConnections = 512

// limitListener is a listener with at most so many open connections.
type limitListener struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	close  func() error
}

func newLimitListener(l net.Listener, most int) *limitListener {
	ll := &limitListener{Listener: l, slots: make(chan struct{}, most), closed: make(chan struct{})}
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
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return newConnection(c, func() { <-l.slots }), nil
}

// Close is net.Listener's.
func (l *limitListener) Close() error { return l.close() }

// connection is an accepted connection.
type connection struct {
	net.Conn
	release func()
	// peer returns who is at the other end of a Unix socket, which stays the same as long as
	// the connection; nil for anybody of no rights, and over TCP.
	peer func() (*auth.Principal, error)
}

func newConnection(c net.Conn, release func()) *connection {
	return &connection{
		Conn: c, release: sync.OnceFunc(release),
		peer: sync.OnceValues(func() (*auth.Principal, error) {
			if u, ok := c.(*net.UnixConn); ok {
				return auth.Peer(u)
			}
			return nil, nil
		}),
	}
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

// unixConnection returns the connection of a request if it came over a Unix socket.
func unixConnection(ctx context.Context) (*connection, bool) {
	c, ok := ctx.Value(connectionKey{}).(*connection)
	return c, ok && c.LocalAddr().Network() == "unix"
}
