package helper

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"ctd/conntrack"
	"ctd/helper/rtsp"

	"golang.org/x/time/rate"
)

// Directions of a connection, as indexes.
const (
	fromClient = 0 // the original direction
	fromServer = 1 // the reply direction
)

// States of a TCP connection in its entry (enum tcp_conntrack, linux/netfilter/nf_conntrack_tcp.h).
const (
	tcpEstablished = 3 // TCP_CONNTRACK_ESTABLISHED
	tcpFinWait     = 4 // TCP_CONNTRACK_FIN_WAIT: from here on one end or both have closed
	tcpClose       = 8 // TCP_CONNTRACK_CLOSE
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

	plans   *rate.Limiter     // of SETUP requests
	tuples  []conntrack.Tuple // under which it is found
	closing [2]bool           // each side's FIN was seen
	left    bool              // taken out of the queue
	seen    time.Time
	timer   *time.Timer // of segments that wait
}

func (h *Helper) newConnection(flow conntrack.Flow, known bool) *connection {
	c := &connection{helper: h, flow: flow, known: known, seen: time.Now()}
	for dir := range c.dirs {
		c.dirs[dir] = direction{reader: side{c, dir}, sink: h.verdicts, count: &h.counters, seqAdj: flow.SeqAdj[dir], begun: known, strict: dir == fromClient}
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
	if errors.Is(err, conntrack.ErrNotFound) && !c.known {
		f, err = c.helper.inZone(ctx, c.flow.Orig)
	}
	if err != nil {
		return err
	}
	if f.Orig != c.flow.Orig || c.known && (f.ID != c.flow.ID || f.Start != c.flow.Start) { // another connection
		return conntrack.ErrNotFound
	}
	moved := !c.known || f.Reply != c.flow.Reply
	c.flow, c.known = f, true
	if moved && c.helper.conns[f.Orig].connection == c {
		c.helper.index(c)
	}
	return nil
}

// over tells whether the connection's entry is gone, so that a SYN begins another. While it is there, the
// ends don't heed a SYN, whoever sent it, and the kernel doesn't. One in its handshake has no entry yet
// either, and nothing to lose.
func (c *connection) over() bool { return errors.Is(c.lookup(), conntrack.ErrNotFound) }

// inState tells whether the entry is in a state from first to last, or gone. The kernel has seen the segment
// before the queue, and knows whether the ends heed it.
func (c *connection) inState(first, last uint8) bool {
	switch err := c.lookup(); {
	case errors.Is(err, conntrack.ErrNotFound):
		return true
	case err != nil:
		return false
	}
	return c.flow.State >= first && c.flow.State <= last
}

// segment reads a segment of one direction and gives it its verdict.
func (c *connection) segment(dir int, id uint32, seg *segment) {
	c.seen = time.Now()
	s, other := &c.dirs[dir], &c.dirs[1-dir]
	switch {
	case seg.flags&flagRST != 0:
		c.helper.verdicts.accept(id)
		if c.inState(tcpClose, tcpClose) {
			c.helper.drop(c, "reset")
		}
		return
	case seg.flags&flagSYN != 0 && !s.begun: // else it is sent again, or by somebody else
		s.begin(seg.first())
	}
	if seg.flags&flagACK != 0 {
		other.acknowledged(seg.ack)
	}
	s.take(id, seg)
	c.watchHeld()
	if seg.flags&flagFIN != 0 {
		s.ends(seg.last())
	}
	switch unread := !s.synced || s.alien; {
	case c.closing[dir]:
	case s.ended(), seg.flags&flagFIN != 0 && unread && c.inState(tcpFinWait, tcpClose):
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
			c.helper.guarded(func() {
				c.timer = nil
				c.releaseHeld()
			})
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

func (r side) kept(more int) bool { return r.c.helper.keep(r.c.client(), more) }

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
	c.left = c.helper.passBy(&c.flow)
}

// passBy marks a connection so that its packets no longer come by the queue.
func (h *Helper) passBy(f *conntrack.Flow) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	err := h.cfg.Table.Modify(ctx, []conntrack.Key{f.Key()}, conntrack.Change{
		Mark: &conntrack.MaskedMark{Value: h.cfg.MarkBit, Mask: h.cfg.MarkBit},
	})[0]
	if err != nil && !errors.Is(err, conntrack.ErrNotFound) {
		h.cfg.Logger.Log(ctx, level(h.remarks), "a connection that needs no help stays in the queue", "connection", f.Orig, "error", err)
		return false
	}
	return true
}
