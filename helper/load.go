package helper

import (
	"net/netip"

	"ctd/conntrack"
)

// load is what is registered, of one client or in all.
type load struct {
	streams int // and alternatives of SETUP requests, each of which may become one
	expects int // expectations that wait
	kept    int // bytes of pieces of messages, and of requests that await their reply
}

// bear adds to a client's load, or takes from it.
func (h *Helper) bear(client netip.Addr, more load) {
	if more == (load{}) {
		return
	}
	l := h.load[client]
	if l == nil {
		l = &load{}
		h.load[client] = l
	}
	for _, x := range []*load{l, &h.total} {
		x.streams += more.streams
		x.expects += more.expects
		x.kept += more.kept
	}
	if *l == (load{}) {
		delete(h.load, client)
	}
}

// keep adds to the bytes that are kept for a client, and tells whether that is too much.
func (h *Helper) keep(client netip.Addr, more int) (tooMuch bool) {
	h.bear(client, load{kept: more})
	return h.total.kept > maxKept || h.of(client).kept > maxKeptPerClient
}

// of returns a client's load.
func (h *Helper) of(client netip.Addr) load {
	if l := h.load[client]; l != nil {
		return *l
	}
	return load{}
}

// limited tells whether a client may have no more streams.
func (h *Helper) limited(client netip.Addr) bool {
	return h.total.streams >= h.cfg.MaxSessions || h.of(client).streams >= h.cfg.MaxSessionsPerClient
}

// mayExpect tells whether a connection may have n more expectations. The kernel would drop the oldest of the
// connection's without a word, and refuse everybody's beyond its own bound.
func (h *Helper) mayExpect(c *connection, n int) bool {
	return c.expectCount()+n <= h.kernel.expectMax && h.of(c.client()).expects+n <= maxExpectsPerClient &&
		h.total.expects+n <= maxExpects
}

// hold notes the expectations that an alternative has now.
func (a *alternative) hold(es []conntrack.Expect) {
	a.c.helper.bear(a.c.client(), load{expects: len(es) - len(a.expects)})
	a.expects = es
}
