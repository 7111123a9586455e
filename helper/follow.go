package helper

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"ctd/conntrack"
)

// conn is a connection, and which of its directions a tuple is.
type conn struct {
	*connection
	dir int
}

// each gives the connections that are followed, each once.
func (h *Helper) each() iter.Seq[*connection] {
	return func(yield func(*connection) bool) {
		for t, c := range h.conns {
			if t == c.flow.Orig && !yield(c.connection) {
				return
			}
		}
	}
}

// find returns the connection of a segment, which may have begun with it. A connection whose entry
// can't be had isn't followed.
func (h *Helper) find(seg *segment, ct []byte) conn {
	t := seg.tuple()
	begins := seg.flags&(flagSYN|flagACK) == flagSYN
	if c, ok := h.conns[t]; ok {
		if !begins || c.dir == fromClient && c.dirs[fromClient].isn == seg.seq || !c.over() {
			return c
		}
		h.drop(c.connection, "begun anew")
	}
	if begins {
		// Its entry isn't in the table before it has left the router.
		return h.follow(h.newConnection(conntrack.Flow{Orig: t, Zone: zoneOf(ct)}, false))
	}
	f, err := h.entry(t, ct)
	if err != nil {
		return conn{}
	}
	if f.Mark&h.cfg.MarkBit != 0 { // it has left, and is here by rules that don't heed that
		return conn{}
	}
	if f.Orig != t && f.Reply != t { // with a zone for each direction tuples don't tell whose they are
		return conn{}
	}
	if c, ok := h.conns[f.Orig]; ok && c.dir == fromClient {
		c.flow, c.known = f, true
		h.index(c.connection)
		return h.conns[t]
	}
	return h.pickUp(seg, t, f)
}

// pickUp takes up a connection whose SYN wasn't seen: where this is the answer to it, which says where both
// sides begin, or where the connection is older than the helper. Any other had its beginning unread: what
// its segments begin with may be anything.
func (h *Helper) pickUp(seg *segment, t conntrack.Tuple, f conntrack.Flow) conn {
	// The kernel lets a SYN-ACK by in any state, which the other end doesn't heed. Only in this one it is the
	// answer, and says where the client begins.
	answer := seg.flags&(flagSYN|flagACK) == flagSYN|flagACK && f.Reply == t && f.State == tcpSynRecv
	key := olderKey(&f)
	if !answer && (!h.older[key] || f.State != tcpEstablished) {
		if len(seg.payload()) > 0 {
			h.passBy(&f)
		}
		return conn{}
	}
	delete(h.older, key)
	c := h.newConnection(f, true)
	if answer {
		c.dirs[fromServer].begun = false
		c.dirs[fromClient].begin(seg.ack)
	}
	h.follow(c)
	return h.conns[t]
}

// olderKey names a connection in Helper.older.
func olderKey(f *conntrack.Flow) conntrack.Key {
	return conntrack.Key{Orig: f.Orig, Zone: f.Zone, ID: f.ID}
}

// maxOlder bounds them.
const maxOlder = 64 << 10

// findOlder notes the connections that are there already.
func (h *Helper) findOlder(ctx context.Context) error {
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(h.cfg.Ports), " ", ","), "[]")
	filter, err := conntrack.ParseFilter(fmt.Sprintf("proto=tcp state=ESTABLISHED dport=%[1]s or proto=tcp state=ESTABLISHED reply_sport=%[1]s", list))
	if err != nil {
		return err
	}
	for f, err := range h.cfg.Table.Flows(ctx, filter) {
		switch {
		case errors.Is(err, conntrack.ErrInterrupted): // some may be missing, which aren't helped then
			return nil
		case err != nil:
			return err
		case len(h.older) < maxOlder:
			h.older[olderKey(&f)] = true
		}
	}
	return nil
}

// entry returns the flow that a packet's tuple is a direction of: as it came with the packet, or from
// the table.
func (h *Helper) entry(t conntrack.Tuple, ct []byte) (conntrack.Flow, error) {
	if ct != nil {
		return conntrack.ParseFlow(ct)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	f, err := h.cfg.Table.Get(ctx, conntrack.Key{Orig: t})
	if !errors.Is(err, conntrack.ErrNotFound) {
		return f, err
	}
	return h.inZone(ctx, t)
}

// inZone looks for a flow in the zones that are known. Where several have the tuple, none is the one.
func (h *Helper) inZone(ctx context.Context, t conntrack.Tuple) (conntrack.Flow, error) {
	var found []conntrack.Flow
	for _, zone := range h.zones {
		if f, err := h.cfg.Table.Get(ctx, conntrack.Key{Orig: t, Zone: zone}); err == nil {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		h.zoneless = true
		h.search.wake()
		return conntrack.Flow{}, conntrack.ErrNotFound
	}
	return found[0], nil
}

func zoneOf(ct []byte) uint16 {
	if ct == nil {
		return 0
	}
	f, err := conntrack.ParseFlow(ct)
	if err != nil {
		return 0
	}
	return f.Zone
}

// follow takes up a connection.
func (h *Helper) follow(c *connection) conn {
	client := c.client()
	if h.clients[client] >= maxConnectionsPerClient || h.followed >= maxConnections && !h.forgetOne() {
		h.counters.Limited++
		return conn{}
	}
	h.clients[client]++
	h.followed++
	h.index(c)
	return h.conns[c.flow.Orig]
}

// index has a connection found by the tuples of its entry, and no longer by those that it had.
func (h *Helper) index(c *connection) {
	h.unindex(c)
	c.tuples = c.tuples[:0]
	h.place(c, fromClient, c.flow.Orig)
	if c.known && c.flow.Reply != c.flow.Orig {
		h.place(c, fromServer, c.flow.Reply)
	}
}

// place has a connection found by a tuple. One that was found by it is over: the table has no two flows of
// one tuple.
func (h *Helper) place(c *connection, dir int, t conntrack.Tuple) {
	if other := h.conns[t].connection; other != nil && other != c {
		h.drop(other, "its place was taken")
	}
	h.conns[t] = conn{c, dir}
	c.tuples = append(c.tuples, t)
}

func (h *Helper) unindex(c *connection) {
	for _, t := range c.tuples {
		if h.conns[t].connection == c {
			delete(h.conns, t)
		}
	}
}

// roomTries is how many connections are looked at to make room for another.
const roomTries = 64

// forgetOne makes room at the cost of a connection that may never come about, or that is idle and has no
// streams: of those, a random one.
func (h *Helper) forgetOne() bool {
	tries := 0
	for _, c := range h.conns {
		if !c.known || c.streamCount() == 0 && time.Since(c.seen) > idleCheck {
			h.forget(c.connection)
			return true
		}
		if tries++; tries == roomTries {
			break
		}
	}
	return false
}

// drop ends what a connection registered and follows it no more.
func (h *Helper) drop(c *connection, reason string) {
	c.endAll(reason)
	h.forget(c)
}

// forget follows a connection no more.
func (h *Helper) forget(c *connection) {
	c.releaseHeld()
	if c.timer != nil {
		c.timer.Stop()
	}
	if len(c.tuples) == 0 { // it isn't followed
		return
	}
	h.unindex(c)
	c.tuples = nil
	h.followed--
	if h.clients[c.client()]--; h.clients[c.client()] == 0 {
		delete(h.clients, c.client())
	}
	for dir := range c.dirs {
		c.dirs[dir].drop()
	}
}
