package helper

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"ctd/conntrack"
)

// adopt takes over what a predecessor registered that was killed: the streams of connections that
// still live go on and end with them. What has no connection any more is deleted.
func (h *Helper) adopt(ctx context.Context) error {
	for f, err := range h.cfg.Table.Flows(ctx, expectedFlows) {
		if err != nil {
			return err
		}
		if !h.isRTSP(f.Master, f.Zone) {
			continue
		}
		c := h.adoptConnection(f.Master, f.Zone)
		if c == nil {
			h.killFlows([]conntrack.Flow{f})
			continue
		}
		st := c.adoptStream(f.Orig, f.Reply)
		st.flows = append(st.flows, f)
		h.byFlow[f.Orig] = st
	}
	for e, err := range h.cfg.Table.Expects(ctx) {
		if err != nil {
			return err
		}
		if !h.isRTSP(e.Master, e.Zone) || e.Tuple.Proto != conntrack.UDP || e.Helper != h.kernel.helper && e.Helper != borrowedHelper && e.Helper != ownHelper {
			continue
		}
		c := h.adoptConnection(e.Master, e.Zone)
		if c == nil {
			h.killExpects([]conntrack.Expect{e})
			continue
		}
		st := c.adoptStream(e.Tuple, translated(&e))
		st.expected = true
		st.hold(append(st.expects, e))
	}
	return nil
}

// isRTSP tells whether a connection is one that the rules are about. Behind a forwarded port only its entry
// may show it; where that is gone, what it left ends by its own time.
func (h *Helper) isRTSP(master conntrack.Tuple, zone uint16) bool {
	if master.Proto != conntrack.TCP {
		return false
	}
	if slices.Contains(h.cfg.Ports, master.DstPort) {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	f, err := h.cfg.Table.Get(ctx, conntrack.Key{Orig: master, Zone: zone})
	return err == nil && f.Orig == master && slices.Contains(h.cfg.Ports, f.Reply.SrcPort)
}

// adoptConnection returns the connection with an original tuple; nil where it is gone.
func (h *Helper) adoptConnection(orig conntrack.Tuple, zone uint16) *connection {
	if c, ok := h.conns[orig]; ok {
		return c.connection
	}
	c := h.newConnection(conntrack.Flow{Orig: orig, Zone: zone}, false)
	if err := c.lookup(); err != nil {
		if !errors.Is(err, conntrack.ErrNotFound) {
			h.cfg.Logger.Warn("a connection can't be looked for", "connection", orig, "error", err)
		}
		return nil
	}
	if c.flow.State != tcpEstablished { // it has closed meanwhile
		return nil
	}
	delete(h.older, olderKey(&c.flow))
	c = h.newConnection(c.flow, true)
	if h.follow(c).connection == nil { // beyond the bounds: it would be out of reach
		return nil
	}
	c.sessions = []*session{{c: c, state: statePlaying, started: time.Now(), adopted: true}}
	h.busy.wake()
	return c
}

// adoptStream returns the stream that a flow or an expectation belongs to: one for each, since nobody
// knows which belong together.
func (c *connection) adoptStream(to, translated conntrack.Tuple) *stream {
	s := c.sessions[0]
	public, asked := to.DstPort, translated.SrcPort
	a := &alternative{c: c, asked: []uint16{asked}, public: []uint16{public}, made: time.Now()}
	st := &stream{session: s, alternative: a, rewritten: public != asked, source: to.Src}
	if to.SrcPort != 0 {
		st.ports = []uint16{to.SrcPort}
	}
	k := c.portKey(public)
	a.keys = []portKey{k}
	c.helper.ports.take(k, netip.AddrPortFrom(c.client(), asked))
	c.helper.bear(c.client(), load{streams: 1})
	s.streams = append(s.streams, st)
	s.count++
	c.helper.counters.AdoptedStreams++
	return st
}

// translated returns the reply direction that a flow of an expectation would have, as far as it is
// known: its source is the client's port.
func translated(e *conntrack.Expect) conntrack.Tuple {
	if e.NAT != nil {
		return e.NAT.Tuple
	}
	return conntrack.Tuple{SrcPort: e.Tuple.DstPort}
}
