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

// netnsPath returns the path of a namespace that is given by name or path.
func netnsPath(name string) string {
	if name == "" || strings.Contains(name, "/") {
		return name
	}
	return netnsDir + name
}

// openNetNS opens a namespace; an empty path is the caller's own: nil.
func openNetNS(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
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
	return context.AfterFunc(ctx, c.interrupt)
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

// interrupt ends the wait that is under way and every later one: a deadline in the past does.
func (c *conn) interrupt() { _ = c.nl.SetDeadline(time.Unix(1, 0)) }

// receive waits for the next datagram; it is good until the next call.
func (c *conn) receive() ([]byte, error) {
	n, err := c.receiveInto(c.buf)
	return c.buf[:n], err
}

// receiveInto waits for the next datagram and returns its length.
func (c *conn) receiveInto(buf []byte) (n int, err error) {
	var from unix.Sockaddr
	rerr := c.raw.Read(func(fd uintptr) bool {
		for {
			// MSG_TRUNC makes n the datagram's own length, so that a cut one is noticed.
			n, from, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case err != nil:
		return 0, os.NewSyscallError("recvfrom", err)
	case n > len(buf):
		return 0, fmt.Errorf("%w: datagram of %d bytes was cut", errMalformed, n)
	}
	if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
		return 0, nil // not from the kernel: whoever it is has nothing to say here
	}
	return n, nil
}

// inNetNS runs fn on a thread that is in the namespace (nil: the caller's own).
func inNetNS(netns *os.File, fn func() error) error {
	if netns == nil {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		// The thread goes back where it came from. If it can't, it stays locked and ends with the
		// goroutine, so that nothing else finds itself in the wrong namespace. To let it end
		// always won't do: the main thread never ends, and would stay in the namespace for good,
		// where ip-netns(8) takes the whole process for one of the namespace.
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", os.NewSyscallError("setns", err))
			return
		}
		err = fn()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
