package conntrack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// Multicast groups of ctnetlink, in which the kernel tells of new flows and of those that ended
// (enum nfnetlink_groups, linux/netfilter/nfnetlink.h).
const (
	groupNew     = 1 // NFNLGRP_CONNTRACK_NEW
	groupDestroy = 3 // NFNLGRP_CONNTRACK_DESTROY
)

// eventBuffer is how many bytes of events wait in the kernel while nobody reads. It is taken only as
// they come; an event of a few hundred bytes counts for some 800 to 1,200.
const eventBuffer = 16 << 20

// Errors of a stream of events.
var (
	// ErrLost stands where the kernel left events out because they came faster than they were read
	// (ENOBUFS); it can't say how many. The stream goes on after it. Whoever must know of every flow
	// lists the table now: what is lost had happened before.
	ErrLost = errors.New("the kernel left events out, which came faster than they were read")
	// ErrNoEvents says that the kernel tells of no flows in this namespace:
	// net.netfilter.nf_conntrack_events is 0 or not there.
	ErrNoEvents = errors.New("the kernel tells nobody of flows that begin or end: net.netfilter.nf_conntrack_events is off")
)

// NewFlows gives each flow that begins from now on, when its first packet has left the machine or
// reached a socket of it. When NewFlows returns, the kernel has begun to gather; the sequence, which
// may be ranged over once, gives them as they come. It ends with ctx.Err() within milliseconds of
// ctx's end, with an error where the stream broke, and where the range is left; ErrLost doesn't end it.
// The socket is closed then. A sequence that nobody ranges over keeps it until ctx ends.
//
// A flow is as it was at its first packet: addresses are translated, and a mark or labels are there
// where a rule set them on that packet. Counters, the start and the use aren't told.
//
// It fails with ErrNoEvents where the kernel would tell nothing.
func (t *Table) NewFlows(ctx context.Context) (iter.Seq2[Flow, error], error) {
	return t.newFlows(ctx, eventBuffer)
}

func (t *Table) newFlows(ctx context.Context, buffer int) (iter.Seq2[Flow, error], error) {
	return t.watch(ctx, "watch new flows", buffer, groupNew, msgNew)
}

// EndedFlows gives each flow that ends from now on, as NewFlows gives those that begin: by its timeout,
// by a request, or because the table was full. Counters and the stop time are told where the kernel
// keeps them. One whose time is over is told of when the kernel next comes by its entry, which can take
// a minute. The socket costs the kernel work for every flow of the namespace that ends.
func (t *Table) EndedFlows(ctx context.Context) (iter.Seq2[Flow, error], error) {
	return t.watch(ctx, "watch ended flows", eventBuffer, groupDestroy, msgDelete)
}

// watch gives the flows of a group's messages of one type.
func (t *Table) watch(ctx context.Context, op string, buffer int, group uint32, typ uint16) (iter.Seq2[Flow, error], error) {
	e, err := t.subscribe(ctx, buffer, group)
	if err != nil {
		return nil, opError(op, err)
	}
	return func(yield func(Flow, error) bool) {
		var f Flow
		err := e.each(ctx, func(m *message, data []byte, err error) (more bool, _ error) {
			switch {
			case err != nil:
				return yield(Flow{}, opError(op, err)), nil
			case m.typ != typ:
				return true, nil
			}
			if err := e.dec.decodeFlow(&f, data); err != nil {
				return false, err
			}
			return yield(f, nil), nil
		})
		if err != nil {
			yield(Flow{}, opError(op, err))
		}
	}, nil
}

// events is a socket that gets what the kernel tells of its own accord.
type events struct {
	conn *conn
	stop func() bool // of the end of ctx
	dec  decoder

	buffer int  // what the kernel counts against, see lost
	lost   bool // events were left out, which nobody was told yet
	since  int  // bytes received since then
}

// subscribe opens a socket that is in multicast groups. It is closed when ctx ends.
func (t *Table) subscribe(ctx context.Context, buffer int, groups ...uint32) (*events, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	if err := t.checkNetNS(); err != nil {
		return nil, err
	}
	if err := t.checkEvents(); err != nil {
		return nil, err
	}
	c, err := dial(t.netns)
	if err != nil {
		return nil, err
	}
	e := &events{conn: c}
	if e.buffer, err = c.join(buffer, groups); err != nil {
		return nil, errors.Join(err, c.close())
	}
	e.stop = context.AfterFunc(ctx, func() { _ = c.close() })
	return e, nil
}

// checkEvents tells whether the kernel tells of anything. 2 is on while somebody listens.
func (t *Table) checkEvents() error {
	value, err := t.Sysctl("nf_conntrack_events")
	switch {
	case errors.Is(err, os.ErrNotExist): // built without CONFIG_NF_CONNTRACK_EVENTS
		return ErrNoEvents
	case err == nil && value == "0":
		return ErrNoEvents
	}
	return nil // where it can't be read, nothing says that it is off
}

// join makes room for what the kernel tells and enters groups. It returns the size that the kernel
// gave the buffer: it doubles what is asked for, and without CAP_NET_ADMIN in the first user
// namespace gives no more than net.core.rmem_max.
func (c *conn) join(buffer int, groups []uint32) (size int, err error) {
	if err := c.nl.SetReadBuffer(buffer); err != nil { // SO_RCVBUFFORCE, else SO_RCVBUF
		return 0, fmt.Errorf("set receive buffer: %w", err)
	}
	if size, err = c.nl.ReadBuffer(); err != nil {
		return 0, fmt.Errorf("get receive buffer: %w", err)
	}
	for _, g := range groups {
		if err := c.nl.JoinGroup(g); err != nil {
			return 0, fmt.Errorf("join multicast group %d: %w", g, err)
		}
	}
	return size, nil
}

// close gives the socket back.
func (e *events) close() {
	if e.stop() {
		_ = e.conn.close()
	}
}

// each gives every message to fn, or ErrLost in place of one, until ctx ends, fn wants no more or
// something fails. It closes the socket.
func (e *events) each(ctx context.Context, fn func(m *message, data []byte, err error) (more bool, _ error)) error {
	defer e.close() // also when a consumer panics
	for {
		n, err := e.receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrLost):
			if more, err := fn(nil, nil, err); err != nil || !more {
				return err
			}
		case err != nil:
			return err
		}
		for datagram := e.conn.buf[:n]; len(datagram) > 0; {
			var m message
			if m, datagram, err = nextMessage(datagram); err != nil {
				return err
			}
			data, err := m.attributes()
			if err != nil {
				return err
			}
			if more, err := fn(&m, data, nil); err != nil || !more {
				return err
			}
		}
	}
}

// receive waits for the next datagram, and returns its length or ErrLost.
//
// The kernel says ENOBUFS at the first event that it leaves out, before those that wait already, and
// goes on to leave out what comes until these are read (NETLINK_S_CONGESTED). So ErrLost is given
// when nothing waits any more, or as much has been read as can have waited: a list of the table that
// begins then misses nothing.
func (e *events) receive() (n int, err error) {
	if e.lost && e.since >= e.buffer {
		e.lost = false
		return 0, ErrLost
	}
	var from unix.Sockaddr
	rerr := e.conn.raw.Read(func(fd uintptr) bool {
		for {
			n, from, err = unix.Recvfrom(int(fd), e.conn.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			switch err {
			case unix.EINTR:
			case unix.ENOBUFS:
				e.lost, e.since = true, 0
			case unix.EAGAIN:
				return e.lost
			default:
				return true
			}
		}
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case err == unix.EAGAIN:
		e.lost = false
		return 0, ErrLost
	case err != nil:
		return 0, os.NewSyscallError("recvfrom", err)
	case n > len(e.conn.buf):
		return 0, fmt.Errorf("%w: datagram of %d bytes was cut", errMalformed, n)
	}
	if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
		return 0, nil // not from the kernel: whoever it is has nothing to say here
	}
	e.since += n
	return n, nil
}
