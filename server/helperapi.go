package server

import (
	"context"
	"net/netip"

	"ctd/conntrack"
	"ctd/helper"
	"ctd/rpc/wire"
)

// howToEnable is the hint where the helper isn't enabled.
const howToEnable = "set enabled = true in [helper.rtsp] of the configuration file, or start the daemon with --rtsp"

// helperStatus answers helper.status.
func (s *Server) helperStatus(context.Context) (wire.HelperStatusResult, error) {
	h := s.helper
	result := wire.HelperStatusResult{Enabled: h.cfg.Enabled, Settings: helperSettingsResult(&h.cfg.Helper)}
	st, err := h.status()
	switch {
	case st != nil:
		result.Running = true
		result.Setup, result.Current = helperSetup(st), &wire.HelperCurrent{
			Connections: st.Connections, Sessions: st.Sessions, Streams: st.Streams, Expects: st.Expects, Flows: st.Flows,
		}
		counters := wire.HelperCounters(st.Counters)
		result.Counters = &counters
	case !h.cfg.Enabled:
		result.Reason, result.Hint = "not enabled", howToEnable
	case err != nil:
		result.Reason, result.Hint = err.Error(), h.hint(err)
	default:
		result.Reason = "it is being started"
	}
	return result, nil
}

func helperSettingsResult(cfg *helper.Config) wire.HelperSettings {
	return wire.HelperSettings{
		Install: !cfg.Manual, Ports: orEmpty(cfg.Ports), Queue: cfg.Queue, Families: familyNames(cfg.Families),
		Interfaces: orEmpty(cfg.Interfaces), MarkBit: cfg.MarkBit, AllowOtherSource: cfg.AllowOtherSource,
		MaxSessions: cfg.MaxSessions, MaxSessionsPerClient: cfg.MaxSessionsPerClient,
	}
}

func helperSetup(st *helper.Status) *wire.HelperSetup {
	return &wire.HelperSetup{
		Strategy: string(st.Strategy), KernelHelper: st.KernelHelper, ExpectMax: st.ExpectMax, Function: st.Function,
		Interception: st.Interception, Table: st.TableName, ConntrackQueued: st.ConntrackQueued, Started: st.Started.UTC(),
	}
}

func familyNames(families []conntrack.Family) []string {
	names := []string{}
	for _, f := range families {
		names = append(names, f.String())
	}
	return names
}

// orEmpty is a list that is written as one where it is empty.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// helperSessions answers helper.sessions.
func (s *Server) helperSessions(context.Context) (wire.HelperSessionsResult, error) {
	result := wire.HelperSessionsResult{Sessions: []wire.HelperSession{}}
	for _, one := range s.helper.sessions() {
		result.Sessions = append(result.Sessions, sessionResult(&one))
	}
	return result, nil
}

func sessionResult(one *helper.Session) wire.HelperSession {
	w := wire.HelperSession{
		Client: endpointText(one.Client), Server: endpointText(one.Server), Zone: one.Zone,
		ID: one.ID, Version: one.Version, State: one.State, UserAgent: one.UserAgent,
		Started: one.Started.UTC(), Adopted: one.Adopted, Streams: []wire.HelperStream{},
	}
	if !one.Control.IsZero() {
		control := tupleResult(one.Control)
		w.Control = &control
	}
	for i := range one.Streams {
		st := &one.Streams[i]
		w.Streams = append(w.Streams, wire.HelperStream{
			URL:        st.URL,
			ClientAddr: addrText(st.ClientAddr), ClientPorts: st.ClientPorts,
			PublicAddr: addrText(st.PublicAddr), PublicPorts: st.PublicPorts,
			ServerAddr: addrText(st.ServerAddr), ServerPorts: st.ServerPorts,
			Rewritten: st.Rewritten, Expects: tupleResults(st.Expects), Flows: tupleResults(st.Flows),
		})
	}
	return w
}

func endpointText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func tupleResults(tuples []conntrack.Tuple) []wire.Tuple {
	var out []wire.Tuple
	for _, t := range tuples {
		out = append(out, tupleResult(t))
	}
	return out
}

// tupleResult is a tuple of TCP or UDP that stands alone. An expectation leaves its source port open,
// which is 0 then.
func tupleResult(t conntrack.Tuple) wire.Tuple {
	w := wire.Tuple{
		Protocol: t.Proto.String(), Src: addrText(t.Src), Dst: addrText(t.Dst), DPort: &t.DstPort, Zone: t.Zone,
	}
	if t.SrcPort != 0 {
		w.SPort = &t.SrcPort
	}
	return w
}

// helperRules answers helper.rules.
func (s *Server) helperRules(_ context.Context, form string) (wire.HelperRulesResult, error) {
	rules, err := helper.Rules(s.helper.cfg.Helper, form)
	return wire.HelperRulesResult{Form: form, Rules: rules}, err
}
