package rpc

import (
	"context"

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
	}, func(ctx context.Context, _ *wire.Empty) (any, error) { return s.HelperSessions(ctx) })
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
