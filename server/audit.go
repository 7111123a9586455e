package server

import (
	"context"

	"ctd/rpc/wire"
)

// audit answers server.audit.
func (s *Server) audit(context.Context, wire.AuditParams) (wire.AuditResult, error) {
	return wire.AuditResult{}, &wire.Error{Code: wire.Unsupported, Message: "this daemon keeps no record"}
}
