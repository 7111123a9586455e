package helper

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"ctd/conntrack"
	"ctd/helper/rtsp"
)

// stream is a stream that a server agreed to send.
type stream struct {
	session *session
	url     string
	*alternative
	rewritten bool
	source    netip.Addr // where it comes from
	ports     []uint16   // the server's; none where it didn't say
	flows     []conntrack.Flow
	expected  bool // the kernel makes flows of it that nobody tells of
	ended     bool
}

// agreed reads the reply to a SETUP: the stream that is to come is let in, and the reply told as the
// client expects it.
func (c *connection) agreed(q *request, m *rtsp.Message, change changer) {
	id := m.Session
	if id == "" {
		id = q.session
	}
	s := c.session(id)
	if s != nil && m.SessionTimeout > 0 {
		s.timeout = m.SessionTimeout
	}
	if s != nil {
		for _, st := range s.streams { // a stream that is set up again replaces itself
			if sameURL(st.url, q.uri) {
				s.remove(st)
				break
			}
		}
	}
	if q.setup == nil || len(m.Transports) == 0 || !m.Transports[0].UDP() {
		q.cancel()
		return
	}
	t := &m.Transports[0]
	a := q.setup.chosen(t)
	if a == nil {
		c.helper.refuse(c, "the server grants other ports than were asked for")
		return
	}
	a.restore(t, q.setup.rewritten, change)
	if s == nil {
		s = &session{c: c, id: id, version: q.version, state: stateReady, timeout: m.SessionTimeout, started: time.Now()}
		c.sessions = append(c.sessions, s)
	}
	st := &stream{session: s, url: q.uri, alternative: a, rewritten: q.setup.rewritten, ports: serverPortsOf(t)}
	s.streams = append(s.streams, st)
	s.count++
	st.letIn(t)
	c.helper.counters.Setups++
	c.helper.busy.wake()
}

// restore tells the client its own ports and address again, and the server's address as the client
// knows it.
func (a *alternative) restore(t *rtsp.Transport, rewritten bool, change changer) {
	c := a.c
	var ch rtsp.Change
	if !slices.Equal(a.public, a.asked) && len(portsOf(t)) > 0 {
		ch.ClientPort = rtsp.Ports{First: a.asked[0], Last: a.asked[len(a.asked)-1], Sep: a.style.Sep}
	}
	if rewritten && a.named && c.clientNAT() && says(t.HasDestination, t.DestinationAddr.Addr(), t.DestAddr, c.public()) {
		ch.Destination = c.client()
	}
	if c.serverNAT() && says(t.HasSource, t.SourceAddr.Addr(), t.SrcAddr, c.serverReal()) {
		ch.Source = c.server()
	}
	if ch == (rtsp.Change{}) {
		return
	}
	err := change(map[int]rtsp.Change{0: ch})
	if err != nil { // the address is of less use than the ports
		ch.DropSource, ch.Source, ch.Destination = ch.Source.IsValid(), netip.Addr{}, netip.Addr{}
		if ch != (rtsp.Change{}) {
			err = change(map[int]rtsp.Change{0: ch})
		}
	}
	if err != nil {
		c.helper.counters.Unwritable++
		c.helper.remark(c, "an RTSP reply should be rewritten and can't", "error", err)
		return
	}
	c.helper.counters.Rewritten++
}

// says tells whether a transport names an address, by the parameter of RTSP 1.0 or that of 2.0.
func says(has bool, one netip.Addr, list []rtsp.HostPort, a netip.Addr) bool {
	return has && one.Unmap() == a || slices.ContainsFunc(list, func(h rtsp.HostPort) bool { return h.Addr.Unmap() == a })
}

// letIn makes the flows of a stream before the reply goes on to the client, so that its first packet
// finds them. Where the server doesn't say where it sends from, the expectations stay.
func (st *stream) letIn(t *rtsp.Transport) {
	c, h := st.c, st.c.helper
	st.source = c.serverReal()
	other := false
	if from, ok := sourceOf(t); ok && from != c.serverReal() && from != c.server() && h.cfg.AllowOtherSource {
		st.source, other = from, true
	}
	if len(st.ports) > 0 && slices.Min(st.ports) < minPort {
		st.ports = nil
		h.refuse(c, "a port of the server's below 1024")
		if h.killExpects(st.expects) {
			st.seek(nil)
		}
		st.hold(nil)
		return
	}
	made := 0
	for i := range st.public {
		port, ok := nth(st.ports, i)
		if !ok {
			break
		}
		if err := st.open(i, port); err != nil {
			h.counters.Failed++
			h.remark(c, "an RTSP stream's flow can't be made", "port", st.asked[i], "error", err)
			continue
		}
		made++
	}
	switch {
	case made == len(st.public) && !other && !h.cfg.AllowOtherSource:
		if h.killExpects(st.expects) { // media came before the reply
			st.expected = true
			st.seek(st)
		}
		st.hold(nil)
	case len(st.expects) > 0:
		st.expected = true
	case made == 0:
		h.remark(c, "an RTSP stream isn't let in: the server doesn't say its ports, and nothing can be expected")
	}
}

// sourceOf returns the address that a transport says it comes from.
func sourceOf(t *rtsp.Transport) (netip.Addr, bool) {
	if t.HasSource && t.SourceAddr.Addr().IsValid() {
		return t.SourceAddr.Addr().Unmap(), true
	}
	for _, h := range t.SrcAddr {
		if h.Addr.IsValid() {
			return h.Addr.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// nth returns the i-th of a server's ports. Where it names one only, the others follow it.
func nth(ports []uint16, i int) (uint16, bool) {
	switch {
	case i < len(ports):
		return ports[i], true
	case len(ports) == 1 && int(ports[0])+i <= 0xffff:
		return ports[0] + uint16(i), true
	}
	return 0, false
}

// open makes the flow from a port of the server's to the i-th of the client's.
func (st *stream) open(i int, port uint16) error {
	c := st.c
	seen := st.source // the source as the client has it
	if seen == c.serverReal() {
		seen = c.server()
	}
	f := conntrack.Flow{
		Orig: conntrack.Tuple{
			Src: st.source, SrcPort: port, Dst: c.public(), DstPort: st.public[i], Proto: conntrack.UDP,
		},
		Reply: conntrack.Tuple{
			Src: c.client(), SrcPort: st.asked[i], Dst: seen, DstPort: port, Proto: conntrack.UDP,
		},
		Zone: c.flow.Zone, Timeout: st.session.idle(),
		// As the kernel does with the flow of an expectation.
		Mark: c.flow.Mark &^ c.helper.cfg.MarkBit, Master: c.flow.Orig,
		// Else it would have the short time of a flow that nobody answers, for which players see no need.
		Status: conntrack.StatusSeenReply,
	}
	made, err := c.create(f)
	if err != nil {
		return err
	}
	if made.ID != 0 {
		st.flows = append(st.flows, made)
		c.helper.byFlow[made.Orig] = st
	}
	return nil
}

// create makes a flow. What is in its way is deleted where it is of the same ends: a packet came before
// and found no translation, or another one, or the client begins anew and its old connection is not yet
// over. A hole that the client made itself, and that does the same, is left alone: the zero flow is
// returned.
func (c *connection) create(f conntrack.Flow) (conntrack.Flow, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	table := c.helper.cfg.Table
	made, err := table.Create(ctx, f)
	if !errors.Is(err, conntrack.ErrExists) && !errors.Is(err, conntrack.ErrNATTaken) {
		return made, err
	}
	for _, t := range []conntrack.Tuple{f.Orig, f.Reply} {
		there, gone := table.Get(ctx, conntrack.Key{Orig: t, Zone: f.Zone})
		switch {
		case gone != nil:
			continue
		case there.Orig == f.Orig && there.Reply == f.Reply && there.Master == f.Master && c.helper.byFlow[there.Orig] == nil:
			return there, nil // an expectation of this connection made it
		case there.Orig == f.Reply && there.Reply == f.Orig:
			return conntrack.Flow{}, nil
		case !c.ends(&there):
			return conntrack.Flow{}, err
		}
		if st := c.helper.byFlow[there.Orig]; st != nil {
			st.lostFlow(there.Orig)
		}
		if killed := table.Kill(ctx, []conntrack.Key{there.Key()})[0]; killed != nil && !errors.Is(killed, conntrack.ErrNotFound) {
			return conntrack.Flow{}, killed
		}
	}
	return table.Create(ctx, f)
}

// ends tells whether a flow is between the ends of the connection: nobody else's.
func (c *connection) ends(f *conntrack.Flow) bool {
	for _, a := range f.Addrs() {
		if a != c.client() && a != c.public() && a != c.server() && a != c.serverReal() {
			return false
		}
	}
	return true
}

// remove ends a stream and takes back what was registered for it.
func (s *session) remove(st *stream) {
	at := slices.Index(s.streams, st)
	if at < 0 {
		return
	}
	s.streams = slices.Delete(s.streams, at, at+1)
	st.ended = true
	if st.expected {
		st.seek(st)
	}
	h := s.c.helper
	h.killFlows(st.flows)
	st.release()
	h.counters.Ended++
}

// refresh gives the flows of a session time again, and the expectations that wait.
func (s *session) refresh() {
	s.refreshed = time.Now()
	for _, st := range s.streams {
		if st.expected {
			st.seek(st)
		}
		st.expectAgain()
		st.touch()
	}
}

// touch gives the stream's flows the session's time.
func (st *stream) touch() {
	if len(st.flows) == 0 {
		return
	}
	keys := make([]conntrack.Key, len(st.flows))
	for i := range st.flows {
		keys[i] = st.flows[i].Key()
	}
	timeout := st.session.idle()
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	for i, err := range st.c.helper.cfg.Table.Modify(ctx, keys, conntrack.Change{Timeout: &timeout}) {
		if errors.Is(err, conntrack.ErrNotFound) {
			st.lostFlow(keys[i].Orig)
		}
	}
}

// expectAgain makes those expectations anew that still wait and will soon have waited long enough for
// the kernel.
func (st *stream) expectAgain() {
	h := st.c.helper
	if len(st.expects) == 0 || time.Since(st.made) < h.kernel.expectTimeout/3 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	errs := h.cfg.Table.KillExpects(ctx, st.expects)
	waiting := st.expects
	st.hold(nil)
	st.made = time.Now()
	for i, e := range waiting {
		if errs[i] != nil { // its flow has come
			continue
		}
		asked := st.asked[slices.Index(st.public, e.Tuple.DstPort)]
		if e, err := h.cfg.Table.AddExpect(ctx, st.c.expectation(e.Tuple.DstPort, asked)); err == nil {
			st.hold(append(st.expects, e))
		}
	}
}

// lostFlow forgets a flow that has ended.
func (st *stream) lostFlow(orig conntrack.Tuple) {
	st.flows = slices.DeleteFunc(st.flows, func(f conntrack.Flow) bool { return f.Orig == orig })
	delete(st.c.helper.byFlow, orig)
}
