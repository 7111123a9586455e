package helper

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"ctd/conntrack"
	"ctd/helper/rtsp"
)

// Directions of a connection, as indexes.
const (
	fromClient = 0 // the original direction
	fromServer = 1 // the reply direction
)

// callTime bounds one request to the kernel, which answers within microseconds: a packet waits for it.
const callTime = 2 * time.Second

// connection is a control connection.
type connection struct {
	helper *Helper
	flow   conntrack.Flow // as last looked up; its original direction alone before known
	known  bool           // the flow was looked up

	dirs     [2]direction
	pending  [2]map[uint64]*request // requests of each side that await their reply, by CSeq
	sessions []*session
	agent    string // the client's User-Agent

	closing [2]bool // each side's FIN was seen
	left    bool    // taken out of the queue
	seen    time.Time
	timer   *time.Timer // of segments that wait
}

func (h *Helper) newConnection(flow conntrack.Flow, known bool) *connection {
	c := &connection{helper: h, flow: flow, known: known, seen: time.Now()}
	for dir := range c.dirs {
		c.dirs[dir] = direction{reader: side{c, dir}, sink: h.verdicts, count: &h.counters, buffered: &h.buffered, seqAdj: flow.SeqAdj[dir]}
		c.pending[dir] = make(map[uint64]*request)
	}
	return c
}

// client and server are the ends of the connection as the client has them; serverReal is the server
// behind a forwarded port, and public the client as the server has it.
func (c *connection) client() netip.Addr     { return c.flow.Orig.Src }
func (c *connection) server() netip.Addr     { return c.flow.Orig.Dst }
func (c *connection) serverReal() netip.Addr { return c.flow.Reply.Src }
func (c *connection) public() netip.Addr     { return c.flow.Reply.Dst }

// clientNAT and serverNAT tell whether an end has another address on the other side of the router.
func (c *connection) clientNAT() bool { return c.client() != c.public() }
func (c *connection) serverNAT() bool { return c.server() != c.serverReal() }

// lookup reads the connection's entry again: marks change, and NAT is decided after its first packet.
func (c *connection) lookup() error {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	f, err := c.helper.cfg.Table.Get(ctx, conntrack.Key{Orig: c.flow.Orig, Zone: c.flow.Zone})
	if err != nil {
		return err
	}
	if f.Orig != c.flow.Orig { // the tuple is the other direction of another connection now
		return conntrack.ErrNotFound
	}
	c.flow, c.known = f, true
	return nil
}

// segment reads a segment of one direction and gives it its verdict.
func (c *connection) segment(dir int, id uint32, seg *segment) {
	c.seen = time.Now()
	s, other := &c.dirs[dir], &c.dirs[1-dir]
	switch {
	case seg.flags&flagRST != 0:
		c.helper.verdicts.accept(id)
		c.helper.drop(c, "reset")
		return
	case seg.flags&flagSYN != 0 && !(s.synced && !before(s.next, seg.first())): // else it is sent again
		s.begin(seg.first())
	}
	if seg.flags&flagACK != 0 {
		other.acknowledged(seg.ack)
	}
	s.take(id, seg)
	c.watchHeld()
	if seg.flags&flagFIN != 0 {
		c.finish(dir)
	}
	if s.alien || other.alien || s.blind > maxBlind { // most likely media inside an older connection
		c.leave()
	}
	if c.left {
		c.helper.drop(c, "interleaved")
	}
}

// finish ends the sessions: what a side has still to say after the end of its stream concerns none.
func (c *connection) finish(dir int) {
	c.closing[dir] = true
	c.endAll("closed")
	if c.closing[1-dir] {
		c.helper.forget(c)
	}
}

// watchHeld lets waiting segments out after a while.
func (c *connection) watchHeld() {
	waiting := len(c.dirs[fromClient].held)+len(c.dirs[fromServer].held) > 0
	switch {
	case waiting && c.timer == nil:
		c.timer = time.AfterFunc(holdTime, func() {
			c.helper.mu.Lock()
			defer c.helper.mu.Unlock()
			c.timer = nil
			c.releaseHeld()
		})
	case !waiting && c.timer != nil:
		c.timer.Stop()
		c.timer = nil
	}
}

// releaseHeld lets all out that waits.
func (c *connection) releaseHeld() {
	for dir := range c.dirs {
		if s := &c.dirs[dir]; len(s.held) > 0 {
			s.giveUp()
		}
	}
}

// side reads one direction of a connection.
type side struct {
	c   *connection
	dir int
}

func (r side) message(m *rtsp.Message, change changer) {
	if r.c.closing != [2]bool{} {
		return
	}
	r.c.message(r.dir, m, change)
}

func (r side) interleaved(uint8) { r.c.interleaved() }

// mayRewrite: of a request it is the SETUP of a client behind NAT, of a reply the one to such a SETUP
// or of a server behind NAT.
func (r side) mayRewrite(head []byte) bool {
	c := r.c
	if !c.known && r.dir == fromClient && c.lookup() != nil {
		return false
	}
	const setup = rtsp.MethodSetup + " "
	if r.dir == fromClient {
		return c.clientNAT() && strings.HasPrefix(setup, string(head[:min(len(head), len(setup))]))
	}
	if !strings.HasPrefix("RTSP/", string(head[:min(len(head), 5)])) {
		return false
	}
	for _, q := range c.pending[fromClient] {
		if q.setup != nil && (q.setup.rewritten || c.serverNAT()) {
			return true
		}
	}
	return false
}

func (r side) lengthen(s conntrack.SeqAdj) error {
	c := r.c
	if c.flow.Status&(conntrack.StatusSNAT|conntrack.StatusDNAT) == 0 || c.flow.Helper == "" {
		return conntrack.ErrNoSeqAdj
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	return c.helper.cfg.Table.AdjustSeq(ctx, c.flow.Key(), r.dir == fromServer, s)
}

// interleaved ends the search: the media of the connection go inside it. It stays in the queue where
// it has streams beside it as well.
func (c *connection) interleaved() {
	if c.streamCount() > 0 || c.left {
		return
	}
	c.helper.counters.Interleaved++
	c.leave()
}

// leave takes the connection out of the queue.
func (c *connection) leave() {
	if c.left || c.streamCount() > 0 || c.lookup() != nil {
		return
	}
	bit := c.helper.cfg.MarkBit
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	err := c.helper.cfg.Table.Modify(ctx, []conntrack.Key{c.flow.Key()}, conntrack.Change{
		Mark: &conntrack.MaskedMark{Value: bit, Mask: bit},
	})[0]
	if err != nil && !errors.Is(err, conntrack.ErrNotFound) {
		c.helper.remark(c, "a connection that needs no help stays in the queue", "error", err)
		return
	}
	c.left = true
}
