package conntrack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
)

// Config says which table to open. The zero value is the table of the caller's own network
// namespace.
type Config struct {
	// NetNS is a network namespace: a name in /run/netns or a path such as /proc/123/ns/net. To
	// enter one needs CAP_SYS_ADMIN.
	NetNS string
}

// idleConns is how many sockets are kept for the next request: one to a processor of a large
// router. More may be open at a time.
const idleConns = 16

// Table is the connection tracking table of one network namespace. Its methods may be called
// from many goroutines at once; each request has a socket of its own meanwhile.
type Table struct {
	netns *os.File // nil: the caller's own
	path  string   // by which it was opened

	mu     sync.Mutex
	closed bool
	idle   []*conn
}

// Open opens the table. It fails where the namespace or the kernel's netlink interface to the
// table can't be reached; it needs CAP_NET_ADMIN for anything to be answered later.
func Open(cfg Config) (*Table, error) {
	path := netnsPath(cfg.NetNS)
	netns, err := openNetNS(path)
	if err != nil {
		return nil, err
	}
	t := &Table{netns: netns, path: path}
	c, err := dial(netns)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	t.idle = append(t.idle, c)
	return t, nil
}

// Close gives back the sockets that are idle; those in use close when their request ends.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, c := range t.idle {
		errs = append(errs, c.close())
	}
	t.idle = nil
	if t.netns != nil && !t.closed {
		errs = append(errs, t.netns.Close())
	}
	t.closed = true
	return errors.Join(errs...)
}

// InNetNS runs fn on an operating system thread that is in the table's network namespace.
func (t *Table) InNetNS(fn func() error) error { return inNetNS(t.netns, fn) }

// NetNS returns the file of the table's network namespace, or nil for the caller's own.
func (t *Table) NetNS() *os.File { return t.netns }

// Sysctl returns a setting of net.netfilter in the table's namespace, e.g. "nf_conntrack_acct".
func (t *Table) Sysctl(name string) (string, error) {
	var value string
	err := t.InNetNS(func() error {
		b, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
		value = strings.TrimSpace(string(b))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read net.netfilter.%s: %w", name, err)
	}
	return value, nil
}

// checkNetNS tells whether another namespace has the name of the one that was opened: whoever
// speaks of it by name means that one. A path that has gone says nothing: it may have been that of
// a process.
func (t *Table) checkNetNS() error {
	if t.netns == nil {
		return nil
	}
	now, err := os.Stat(t.path)
	gone := errors.Is(err, os.ErrNotExist) && strings.HasPrefix(t.path, netnsDir)
	if err != nil && !gone {
		return nil
	}
	if !gone {
		opened, err := t.netns.Stat()
		if err != nil || os.SameFile(opened, now) {
			return err
		}
	}
	return fmt.Errorf("network namespace %s: %w", t.path, ErrNetNSGone)
}

func (t *Table) acquire() (*conn, error) {
	if err := t.checkNetNS(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, ErrClosed
	}
	if n := len(t.idle); n > 0 {
		c := t.idle[n-1]
		t.idle = t.idle[:n-1]
		t.mu.Unlock()
		return c, nil
	}
	t.mu.Unlock()
	return dial(t.netns)
}

func (t *Table) release(c *conn, reusable bool) {
	t.mu.Lock()
	keep := reusable && !t.closed && len(t.idle) < idleConns
	if keep {
		t.idle = append(t.idle, c)
	}
	t.mu.Unlock()
	if !keep {
		_ = c.close()
	}
}

// with runs fn with a socket whose waits end with ctx. An error of fn is taken to have left the
// socket in the middle of an answer unless it is the kernel's own.
func (t *Table) with(ctx context.Context, fn func(c *conn) (reusable bool, err error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := t.acquire()
	if err != nil {
		return err
	}
	stop := c.cancelWith(ctx)
	reusable := false
	defer func() { t.release(c, stop() && reusable) }() // also when a consumer panics
	reusable, err = fn(c)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// roundTrip sends one request and gives the answer's attributes to fn, where there is an answer
// with attributes. flags must hold flagAck where there is none.
func (t *Table) roundTrip(ctx context.Context, typ, flags uint16, family Family,
	build func(b []byte) []byte, fn func(data []byte) error,
) error {
	return t.with(ctx, func(c *conn) (bool, error) {
		c.seq++
		c.out = build(beginMessage(c.out[:0], typ, flags, c.seq, family))
		endMessage(c.out, 0)
		if err := c.send(); err != nil {
			return false, err
		}
		var answer error
		err := c.answers(func(m *message) (ended bool, err error) {
			switch {
			case m.seq != c.seq:
				return false, nil
			case m.typ == nlmsgError:
				answer = m.errno()
				return true, nil
			case flags&flagAck != 0:
				return false, nil
			}
			data, err := m.attributes()
			if err != nil {
				return false, err
			}
			answer = fn(data)
			return true, nil
		})
		if err != nil {
			return false, err
		}
		return true, answer
	})
}

// dump sends a request for a dump and gives each entry to fn, until it wants no more.
func (t *Table) dump(ctx context.Context, typ uint16, family Family,
	build func(b []byte) []byte, fn func(m *message, data []byte) (more bool, err error),
) error {
	return t.with(ctx, func(c *conn) (reusable bool, err error) {
		c.seq++
		c.out = build(beginMessage(c.out[:0], typ, flagDump, c.seq, family))
		endMessage(c.out, 0)
		if err := c.send(); err != nil {
			return false, err
		}
		ahead := readAhead(c)
		defer func() {
			if !reusable {
				c.interrupt() // in the middle of a dump
			}
			ahead.stop()
		}()
		d := dump{seq: c.seq, fn: fn}
		for !d.ended {
			datagram, err := ahead.next()
			if err != nil {
				return false, err
			}
			if err := d.datagram(datagram); err != nil || d.stopped {
				return d.ended, err
			}
		}
		return true, nil
	})
}

// batchSize is how many requests go to the kernel in one datagram. It works them off before
// sendto(2) returns, so that larger ones gain little and hold up cancelling.
const batchSize = 64

// batch sends n requests without answers of their own and returns an error for each. build
// appends the attributes of request i and returns its message type and family; an error keeps it
// from being sent.
func (t *Table) batch(ctx context.Context, n int, typ, flags uint16,
	build func(b []byte, i int) ([]byte, Family, error),
) []error {
	return t.batchAnswers(ctx, n, typ, flags, build, nil)
}

// batchAnswers is batch for requests that the kernel answers: answer gets the attributes of each
// request's answer.
func (t *Table) batchAnswers(ctx context.Context, n int, typ, flags uint16,
	build func(b []byte, i int) ([]byte, Family, error), answer func(i int, data []byte) error,
) []error {
	errs := make([]error, n)
	for start := 0; start < n; start += batchSize {
		end := min(start+batchSize, n)
		err := t.with(ctx, func(c *conn) (bool, error) {
			return c.batch(errs[start:end], typ, flags, func(b []byte, i int) ([]byte, Family, error) {
				return build(b, start+i)
			}, func(i int, data []byte) error {
				if answer == nil {
					return nil
				}
				return answer(start+i, data)
			})
		})
		if err != nil {
			// Whether the kernel has worked off the requests of this datagram isn't known.
			for i := start; i < n; i++ {
				if errs[i] == nil {
					errs[i] = err
				}
			}
			break
		}
	}
	return errs
}

func (c *conn) batch(errs []error, typ, flags uint16,
	build func(b []byte, i int) ([]byte, Family, error), answer func(i int, data []byte) error,
) (bool, error) {
	c.out = c.out[:0]
	base := c.seq + 1
	last, lastStart := -1, 0
	for i := range errs {
		start := len(c.out)
		b, family, err := build(beginMessage(c.out, typ, flags, base+uint32(i), FamilyAny), i)
		if err != nil {
			errs[i] = err
			continue
		}
		b[start+nlHeaderLen] = uint8(family) // nfgenmsg.nfgen_family
		c.out = endMessage(b, start)
		last, lastStart = i, start
	}
	c.seq += uint32(len(errs))
	if last < 0 {
		return true, nil
	}
	orFlags(c.out[lastStart:], flagAck) // the kernel works in order: this answer is the last
	if err := c.send(); err != nil {
		return false, err
	}
	err := c.answers(func(m *message) (ended bool, err error) {
		i := int(m.seq - base)
		if i < 0 || i >= len(errs) {
			return false, nil
		}
		if m.typ != nlmsgError {
			data, err := m.attributes()
			if err == nil {
				err = answer(i, data)
			}
			return false, err
		}
		errs[i] = m.errno()
		return i == last, nil
	})
	return err == nil, err
}

// answers receives messages and gives each to fn, until fn says that the answer has ended.
func (c *conn) answers(fn func(m *message) (ended bool, err error)) error {
	for {
		datagram, err := c.receive()
		if err != nil {
			return err
		}
		for len(datagram) > 0 {
			var m message
			if m, datagram, err = nextMessage(datagram); err != nil {
				return err
			}
			if ended, err := fn(&m); ended || err != nil {
				return err
			}
		}
	}
}
