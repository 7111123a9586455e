package helper

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"ctd/conntrack"
	"ctd/helper/rtsp"

	"golang.org/x/time/rate"
)

// maxAlternatives bounds the alternatives of a request for which ports are opened.
const maxAlternatives = 4

// plansRate and plansBurst bound the SETUP requests of a connection, a second and at once.
const plansRate, plansBurst = 10, 50

// setup is what a SETUP request asks for: ports for each alternative that the server may choose.
type setup struct {
	c            *connection
	alternatives []*alternative
	rewritten    bool
}

// alternative is a transport beside the connection that a client offers.
type alternative struct {
	c       *connection
	asked   []uint16   // the client's ports
	style   rtsp.Ports // as client_port writes them, or as it would
	public  []uint16   // the ports that the server is told
	named   bool       // the request named the client's address
	keys    []portKey
	expects []conntrack.Expect
	made    time.Time
}

// plan reads a SETUP request, opens what it asks for, and rewrites it where the server couldn't do
// with it as it is: another client has the port already, or it names an address behind NAT.
func (c *connection) plan(m *rtsp.Message, change changer) *setup {
	if c.lookup() != nil {
		return nil
	}
	if c.plans == nil {
		c.plans = rate.NewLimiter(plansRate, plansBurst)
	}
	if !c.plans.Allow() {
		c.helper.counters.Limited++
		c.helper.refuse(c, "too many SETUP requests at a time")
		return nil
	}
	s := &setup{c: c}
	changes := make(map[int]rtsp.Change)
	for i := range m.Transports {
		t := &m.Transports[i]
		if !t.UDP() || len(s.alternatives) >= maxAlternatives {
			continue
		}
		a := c.offer(t)
		if a == nil {
			continue
		}
		s.alternatives = append(s.alternatives, a)
		if ch, needed := a.change(t); needed {
			changes[i] = ch
		}
	}
	if len(changes) > 0 && !s.rewrite(m, changes, change) {
		s.release()
		return nil
	}
	if len(s.alternatives) == 0 {
		return nil
	}
	for _, a := range s.alternatives {
		a.expect()
	}
	return s
}

// offer takes the ports of an alternative, or gives nil where they may not be had.
func (c *connection) offer(t *rtsp.Transport) *alternative {
	h := c.helper
	asked := portsOf(t)
	if len(asked) == 0 {
		return nil // the server decides alone; nothing can be known
	}
	named, ok := c.ownDestination(t)
	if !ok || slices.Min(asked) < minPort {
		h.refuse(c, "a port or a destination that isn't the client's own")
		return nil
	}
	if h.limited(c.client()) {
		h.counters.Limited++
		h.refuse(c, "a limit of sessions")
		return nil
	}
	a := &alternative{c: c, asked: asked, public: asked, named: named, style: t.ClientPort, made: time.Now()}
	if a.style.Count() == 0 {
		a.style = rtsp.Ports{First: asked[0], Last: asked[len(asked)-1]}
	}
	for i, port := range asked {
		if !h.ports.free(c.portKey(port), netip.AddrPortFrom(c.client(), asked[i])) {
			a.public = h.ports.choose(c.portKey(0), slices.Max(asked), len(asked))
			break
		}
	}
	if a.public == nil {
		h.refuse(c, "no port is free")
		return nil
	}
	for i, port := range a.public {
		k := c.portKey(port)
		a.keys = append(a.keys, k)
		h.ports.take(k, netip.AddrPortFrom(c.client(), asked[i]))
	}
	h.bear(c.client(), load{streams: 1})
	return a
}

// portKey returns what a port of the client's is to the server.
func (c *connection) portKey(port uint16) portKey {
	k := portKey{public: c.public(), server: c.serverReal(), port: port, zone: c.flow.Zone}
	if c.helper.cfg.AllowOtherSource {
		k.server = netip.Addr{}
	}
	return k
}

// ownDestination tells whether the destinations that a transport names, if any, are the client: by
// its own address (named) or as the server sees it. Nobody else is sent a stream that he didn't ask
// for.
func (c *connection) ownDestination(t *rtsp.Transport) (named, ok bool) {
	var hosts []netip.Addr
	if t.Destination != "" { // without a value it is who asks (RFC 2326 section 12.39)
		hosts = append(hosts, t.DestinationAddr.Addr())
	}
	for _, d := range t.DestAddr {
		if d.Host != "" {
			hosts = append(hosts, d.Addr)
		}
	}
	for _, a := range hosts {
		switch a = a.Unmap(); {
		case a == c.client():
			named = true
		case a == c.public(), a.IsUnspecified():
		default: // also a name, of which nobody knows here what the server takes it for
			return false, false
		}
	}
	return named, true
}

// change returns what must become of the alternative in the request.
func (a *alternative) change(t *rtsp.Transport) (rtsp.Change, bool) {
	var ch rtsp.Change
	if !slices.Equal(a.public, a.asked) {
		ch.ClientPort = rtsp.Ports{First: a.public[0], Last: a.public[len(a.public)-1], Sep: a.style.Sep}
	}
	if a.named && a.c.clientNAT() {
		ch.Destination = a.c.public()
	}
	return ch, ch != rtsp.Change{}
}

// rewrite changes the request: with the client's public address for its own, else without an address,
// which makes the server take the one that the request comes from.
func (s *setup) rewrite(m *rtsp.Message, changes map[int]rtsp.Change, change changer) bool {
	h := s.c.helper
	err := change(changes)
	if err != nil && !slices.ContainsFunc(m.Transports, portInDestination) {
		for i, ch := range changes {
			ch.DropDestination = ch.Destination.IsValid()
			ch.Destination = netip.Addr{}
			changes[i] = ch
		}
		err = change(changes)
	}
	if err != nil {
		h.counters.Unwritable++
		h.remark(s.c, "an RTSP request should be rewritten and can't", "error", err)
		return false
	}
	h.counters.Rewritten++
	s.rewritten = true
	return true
}

// portInDestination tells whether the client's port goes with its address.
func portInDestination(t rtsp.Transport) bool {
	return t.ClientPort.Count() == 0 && t.DestinationAddr.Port() != 0
}

// expect lets the stream in before anything is known of where it comes from but the address. Where
// it can't, the flows that are made at the reply have to do.
func (a *alternative) expect() {
	c, h := a.c, a.c.helper
	if h.kernel.strategy == StrategyFlows || c.flow.Helper != h.kernel.helper || !h.mayExpect(c, len(a.public)) {
		return
	}
	for i, port := range a.public {
		ctx, cancel := context.WithTimeout(context.Background(), callTime)
		e, err := h.cfg.Table.AddExpect(ctx, c.expectation(port, a.asked[i]))
		cancel()
		if err != nil {
			h.cfg.Logger.Debug("an expectation can't be made", "client", c.client(), "server", c.server(), "port", port, "error", err)
			return
		}
		a.hold(append(a.expects, e))
	}
}

// expectation is of a stream to a public port, which is the client's port asked.
func (c *connection) expectation(public, asked uint16) conntrack.Expect {
	h := c.helper
	zero := netip.IPv4Unspecified()
	if c.public().Is6() {
		zero = netip.IPv6Unspecified()
	}
	e := conntrack.Expect{
		Tuple:  conntrack.Tuple{Src: c.serverReal(), Dst: c.public(), DstPort: public, Proto: conntrack.UDP},
		Master: c.flow.Orig, Zone: c.flow.Zone,
	}
	if h.cfg.AllowOtherSource {
		e.Tuple.Src = zero
	}
	switch {
	case c.serverNAT():
		// It takes the master's addresses for both ends.
		e.Function = followMaster
	case c.clientNAT() || public != asked:
		e.Function = h.kernel.function
	default:
		return e
	}
	e.NAT = &conntrack.ExpectNAT{Reply: true, Tuple: conntrack.Tuple{
		Src: c.client(), SrcPort: asked, Dst: zero, Proto: conntrack.UDP,
	}}
	return e
}

// followMaster is the expectation function that translates both ends as the master's (nf_nat_core.c).
const followMaster = "nat-follow-master"

// release takes back what was registered for the request.
func (s *setup) release() {
	for _, a := range s.alternatives {
		a.release()
	}
	s.alternatives = nil
}

// release takes back what was registered for an alternative, also the flows that the kernel has made of it.
// It must be called once.
func (a *alternative) release() {
	h := a.c.helper
	if h.killExpects(a.expects) {
		a.seek(nil)
	}
	a.hold(nil)
	for _, k := range a.keys {
		h.ports.give(k)
	}
	h.bear(a.c.client(), load{streams: -1})
}

// samePorts compares as many ports as both have: a server may name a pair where one was asked for.
func samePorts(a, b []uint16) bool {
	n := min(len(a), len(b))
	return slices.Equal(a[:n], b[:n])
}

// chosen returns the alternative that the server took, and gives up the others.
func (s *setup) chosen(t *rtsp.Transport) *alternative {
	granted := portsOf(t)
	var found *alternative
	for _, a := range s.alternatives {
		if found == nil && (len(granted) == 0 || samePorts(granted, a.public)) {
			found = a
		}
	}
	for _, a := range s.alternatives {
		if a != found {
			a.release()
		}
	}
	s.alternatives = nil
	return found
}
