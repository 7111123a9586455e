package conntrack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// receiveBuffer is twice what the kernel puts into one answer of a dump, so that no message
	// is ever cut.
	receiveBuffer = 64 << 10
	// netnsDir is where ip-netns(8) keeps namespaces by name.
	netnsDir = "/run/netns/"
)

// conn is a netlink socket in the table's namespace, used by one goroutine at a time.
type conn struct {
	nl  *netlink.Conn
	raw syscall.RawConn
	seq uint32
	buf []byte // what was received last
	out []byte // what is sent next
}

// openNetNS opens a namespace by name or path; an empty name is the caller's own: nil.
func openNetNS(name string) (*os.File, error) {
	if name == "" {
		return nil, nil
	}
	path := name
	if !strings.Contains(name, "/") {
		path = netnsDir + name
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", name, err)
	}
	return f, nil
}

// dial opens a socket in a namespace (nil: the caller's own).
func dial(netns *os.File) (*conn, error) {
	cfg := &netlink.Config{}
	if netns != nil {
		cfg.NetNS = int(netns.Fd())
	}
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, cfg)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	// Without it an error carries the whole request back, and the errors of a batch might not fit
	// into the socket's buffer.
	if err := nl.SetOption(netlink.CapAcknowledge, true); err != nil {
		return nil, errors.Join(fmt.Errorf("set NETLINK_CAP_ACK: %w", err), nl.Close())
	}
	raw, err := nl.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, nl.Close())
	}
	return &conn{nl: nl, raw: raw, buf: make([]byte, receiveBuffer)}, nil
}

func (c *conn) close() error { return c.nl.Close() }

// cancelWith makes every wait of c end when ctx does. The function it returns ends that and says
// whether c is still good for another request.
func (c *conn) cancelWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		// A deadline in the past ends a wait that is under way and every later one.
		_ = c.nl.SetDeadline(time.Unix(1, 0))
	})
}

// send sends c.out in one piece.
func (c *conn) send() error {
	var err error
	werr := c.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), c.out, unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(err, unix.EAGAIN)
	})
	if werr != nil {
		return werr
	}
	if err != nil {
		return os.NewSyscallError("sendto", err)
	}
	return nil
}

// receive waits for the next datagram; it is good until the next call.
func (c *conn) receive() ([]byte, error) {
	var (
		n    int
		from unix.Sockaddr
		err  error
	)
	rerr := c.raw.Read(func(fd uintptr) bool {
		for {
			// MSG_TRUNC makes n the datagram's own length, so that a cut one is noticed.
			n, from, err = unix.Recvfrom(int(fd), c.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	switch {
	case rerr != nil:
		return nil, rerr
	case err != nil:
		return nil, os.NewSyscallError("recvfrom", err)
	case n > len(c.buf):
		return nil, fmt.Errorf("%w: datagram of %d bytes was cut", errMalformed, n)
	}
	if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
		return nil, nil // not from the kernel: whoever it is has nothing to say here
	}
	return c.buf[:n], nil
}

// inNetNS runs fn on a thread that is in the namespace (nil: the caller's own).
func inNetNS(netns *os.File, fn func() error) error {
	if netns == nil {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		// The thread is never given back, so it ends with the goroutine and nothing else can
		// find itself in the wrong namespace.
		runtime.LockOSThread()
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", os.NewSyscallError("setns", err))
			return
		}
		done <- fn()
	}()
	return <-done
}
