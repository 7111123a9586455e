package helper

import (
	"cmp"
	"net/netip"
	"slices"
)

// Status tells how the helper is set up and what it has.
func (h *Helper) Status() Status {
	s := Status{
		Strategy: h.kernel.strategy, KernelHelper: h.kernel.helper, ExpectMax: h.kernel.expectMax, Function: h.kernel.function,
		Interception: h.interception.flavour(), ConntrackQueued: h.queue.withConntrack,
		Queue: h.cfg.Queue, Ports: h.cfg.Ports, Families: h.cfg.Families, Interfaces: h.cfg.Interfaces,
		AllowOtherSource: h.cfg.AllowOtherSource,
		MaxSessions:      h.cfg.MaxSessions, MaxSessionsPerClient: h.cfg.MaxSessionsPerClient,
		Started: h.started,
	}
	if s.Interception != flavourManual {
		s.TableName = TableName
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Counters, s.Connections, s.Expects = h.counters, h.followed, h.total.expects
	for c := range h.each() {
		s.Sessions += len(c.sessions)
		for _, x := range c.sessions {
			s.Streams += len(x.streams)
			for _, st := range x.streams {
				s.Flows += len(st.flows)
			}
		}
	}
	return s
}

// expectCount returns how many expectations the connection has waiting.
func (c *connection) expectCount() int {
	n := 0
	for _, q := range c.pending[fromClient] {
		if q.setup == nil {
			continue
		}
		for _, a := range q.setup.alternatives {
			n += len(a.expects)
		}
	}
	for _, s := range c.sessions {
		for _, st := range s.streams {
			n += len(st.expects)
		}
	}
	return n
}

// Sessions lists the sessions that have streams, the oldest first.
func (h *Helper) Sessions() []Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := []Session{}
	for c := range h.each() {
		for _, s := range c.sessions {
			list = append(list, s.show())
		}
	}
	slices.SortFunc(list, func(a, b Session) int {
		return cmp.Or(a.Started.Compare(b.Started), a.Client.Compare(b.Client), cmp.Compare(a.ID, b.ID))
	})
	return list
}

func (s *session) show() Session {
	c := s.c
	shown := Session{
		Client:  netip.AddrPortFrom(c.client(), c.flow.Orig.SrcPort),
		Server:  netip.AddrPortFrom(c.server(), c.flow.Orig.DstPort),
		Control: c.flow.Orig, Zone: c.flow.Zone, ID: s.id, Version: s.version, State: s.state, UserAgent: c.agent,
		Started: s.started, Adopted: s.adopted,
	}
	for _, st := range s.streams {
		shown.Streams = append(shown.Streams, st.show())
	}
	return shown
}

func (st *stream) show() Stream {
	shown := Stream{
		URL: st.url, ClientAddr: st.c.client(), ClientPorts: slices.Clone(st.asked), PublicAddr: st.c.public(),
		PublicPorts: slices.Clone(st.public), ServerAddr: st.source, ServerPorts: slices.Clone(st.ports), Rewritten: st.rewritten,
	}
	for _, e := range st.expects {
		shown.Expects = append(shown.Expects, e.Tuple)
	}
	for _, f := range st.flows {
		shown.Flows = append(shown.Flows, f.Orig)
	}
	return shown
}
