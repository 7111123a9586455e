package claim

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Holder is who holds a name.
type Holder struct {
	// Stranger says that it is no process of ours: its user is neither root nor this process's, or it holds
	// the name without listening, as none of ours does.
	Stranger bool
	PID      int // 0 where that isn't known, as of a process in a PID namespace beside this one
	UID      int // -1 where that isn't known
}

// String is the process in words.
func (h Holder) String() string {
	switch {
	case h.UID < 0:
		return "a process that answers nobody"
	case h.PID == 0:
		return fmt.Sprintf("a process of user %d", h.UID)
	}
	return fmt.Sprintf("process %d of user %d", h.PID, h.UID)
}

// HolderOf returns who holds a name in the network namespace; none where nobody does. What the kernel
// says is who made the socket listen (SO_PEERCRED, unix(7)), which nobody can feign.
func HolderOf(ns NetNS, name string) (h Holder, held bool, err error) {
	for deadline := time.Now().Add(patience); ; {
		h, err = ask(ns, name)
		if err == nil {
			return h, true, nil
		}
		if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EAGAIN) {
			return Holder{}, false, err
		}
		// Either nobody has the name, or who has it doesn't listen: one of ours is just about to.
		free, ferr := isFree(ns, name)
		if free || ferr != nil {
			return Holder{}, false, ferr
		}
		if !time.Now().Before(deadline) {
			return Holder{Stranger: true, UID: -1}, true, nil
		}
		time.Sleep(pause)
	}
}

// patience is how long a holder may take that doesn't listen yet, or whose connections are too many at the
// moment.
const (
	patience = 500 * time.Millisecond
	pause    = 20 * time.Millisecond
)

// ask connects to a name and returns who listens there. The error is ECONNREFUSED where nobody does, and
// EAGAIN where too many others connect.
func ask(ns NetNS, name string) (Holder, error) {
	fd, err := open(ns, 0)
	if err != nil {
		return Holder{}, err
	}
	defer unix.Close(fd)
	// connect(2) waits while others' connections fill the listener's queue, and each has its turn.
	wait := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait); err != nil {
		return Holder{}, fmt.Errorf("ask who holds the name %s: %w", name, err)
	}
	if err := retry(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: "@" + name}) }); err != nil {
		return Holder{}, fmt.Errorf("ask who holds the name %s: %w", name, err)
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Holder{}, fmt.Errorf("ask who holds the name %s: %w", name, err)
	}
	return Holder{Stranger: cred.Uid != 0 && int(cred.Uid) != os.Geteuid(), PID: int(cred.Pid), UID: int(cred.Uid)}, nil
}

// isFree tells whether nobody has the name. It doesn't listen while it tries, so that nobody takes it for
// a holder.
func isFree(ns NetNS, name string) (bool, error) {
	fd, err := open(ns, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name})
	if err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return false, fmt.Errorf("ask who holds the name %s: %w", name, err)
	}
	return err == nil, nil
}

// retry calls fn again where a signal interrupted it.
func retry(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
