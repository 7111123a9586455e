package rpc

import (
	"context"
	"net/netip"
	"slices"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// formNFT is the form of helper.rules where none is named.
const formNFT = "nft"

func (s *Service) registerHelper(r *Registry) {
	Register(r, Method{
		Name: "helper.status", Role: wire.RoleViewer, Result: wire.HelperStatusResult{},
		Summary: "Returns whether and how the RTSP helper works, and what it counted.",
	}, func(ctx context.Context, _ *wire.Empty) (any, error) { return s.HelperStatus(ctx) })
	Register(r, Method{
		Name: "helper.sessions", Role: wire.RoleViewer, Result: wire.HelperSessionsResult{},
		Summary: "Lists the RTSP sessions with their streams.",
	}, s.helperSessions)
	Register(r, Method{
		Name: "helper.rules", Role: wire.RoleViewer, Result: wire.HelperRulesResult{},
		Summary: "Returns the rules that queue RTSP packets, for an administrator who installs them.",
		Example: `{"form": "nft"}`,
	}, func(ctx context.Context, p *wire.HelperRulesParams) (any, error) {
		if p.Form == "" {
			p.Form = formNFT
		}
		return s.HelperRules(ctx, p.Form)
	})
}

// helperSessions answers helper.sessions with what is inside of the caller's networks.
func (s *Service) helperSessions(ctx context.Context, _ *wire.Empty) (any, error) {
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	result, err := s.HelperSessions(ctx)
	if err != nil || !table.isBound() {
		return result, err
	}
	result.Sessions = slices.DeleteFunc(result.Sessions, func(one wire.HelperSession) bool {
		// An end that isn't known is nobody's.
		client, _ := netip.ParseAddrPort(one.Client)
		server, _ := netip.ParseAddrPort(one.Server)
		return !table.hasTuples(&conntrack.Tuple{Src: client.Addr(), Dst: server.Addr()})
	})
	return result, nil
}
