// Package claim gives the things that a process makes in a network namespace, such as nftables
// tables, names that no other living process of ours has, and tells which names were left behind by
// dead ones.
package claim

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// NetNS is the network namespace in which names are claimed.
type NetNS interface {
	InNetNS(fn func() error) error
}

// Claim is a name that nobody else of ours has. It is held by an abstract Unix socket of that name
// (unix(7)) in the network namespace: it goes with the process, however that ends, so that whose
// names are free is dead.
//
// Anybody may take such names. Where all are taken, the claim has a name of this process alone, which
// isn't held: its Held is false. HolderOf tells whether one that is taken is ours.
type Claim struct {
	ns     NetNS
	prefix string
	names  int
	name   string
	socket *os.File // nil where the name isn't held
}

// Take claims the first free one of as many names as given: the prefix itself, then prefix_2 and so
// on. The prefix needs to be short enough for a socket's name (107 bytes).
func Take(ns NetNS, prefix string, names int) (*Claim, error) {
	c := &Claim{ns: ns, prefix: prefix, names: names, name: fmt.Sprintf("%s_pid%d", prefix, os.Getpid())}
	for i := range names {
		fd, err := bind(ns, c.numbered(i))
		switch {
		case errors.Is(err, unix.EADDRINUSE):
			continue
		case err != nil:
			return nil, err
		}
		c.name, c.socket = c.numbered(i), os.NewFile(uintptr(fd), c.numbered(i))
		go answer(c.socket)
		break
	}
	return c, nil
}

// numbered returns the name with a number, from 0 on.
func (c *Claim) numbered(i int) string {
	if i == 0 {
		return c.prefix
	}
	return fmt.Sprintf("%s_%d", c.prefix, i+1)
}

// Name returns the name that was claimed.
func (c *Claim) Name() string { return c.name }

// Held tells whether the name is one of those that were to be had, and not yet given back.
func (c *Claim) Held() bool { return c.socket != nil }

// EachDead calls fn with each name that nobody lives for, and with ours. Meanwhile the name is held, so
// that nobody takes it; who tries just then takes another.
func (c *Claim) EachDead(fn func(name string) error) error {
	errs := []error{fn(c.name)}
	for i := range c.names {
		name := c.numbered(i)
		if name == c.name {
			continue
		}
		fd, err := bind(c.ns, name)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err == nil {
			err = errors.Join(fn(name), unix.Close(fd))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Close gives the name back. It may be called again.
func (c *Claim) Close() error {
	if c.socket == nil {
		return nil
	}
	socket := c.socket
	c.socket = nil
	// A process that is being started may have the socket for a moment longer. It must not pass for ours.
	if raw, err := socket.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
	return socket.Close()
}

// bind holds a name in the network namespace, and listens by it, so that others can ask who does.
func bind(ns NetNS, name string) (fd int, err error) {
	if fd, err = open(ns, unix.SOCK_NONBLOCK); err != nil {
		return -1, err
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}); err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("claim the name %s: %w", name, err), unix.Close(fd))
	}
	return fd, nil
}

// open returns a socket in the network namespace.
func open(ns NetNS, flags int) (fd int, err error) {
	err = ns.InNetNS(func() (err error) {
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open Unix socket: %w", err)
	}
	return fd, nil
}

// answer ends the connections of those who ask who holds a name, so that there is always room for the
// next, until the socket is closed.
func answer(socket *os.File) {
	raw, err := socket.SyscallConn()
	for err == nil {
		err = raw.Read(func(fd uintptr) (done bool) {
			conn, _, err := unix.Accept4(int(fd), unix.SOCK_CLOEXEC)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil: // such as no more files
				time.Sleep(pause)
			default:
				_ = unix.Close(conn)
			}
			return true
		})
	}
}
