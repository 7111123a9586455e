package server

import (
	"ctd/auth"
)

// policy is what a reload of the configuration changes: who may call, where and how much. A request
// has one from its beginning to its end.
type policy struct {
	cfg    Config
	auth   *auth.Authenticator
	keys   *keyring // nil without TLS
	places *places
}

// newPolicy makes a policy; before is the one that it follows, nil for the first. The errors are all that
// is wrong with the configuration.
func (s *Server) newPolicy(cfg Config, before *policy) (*policy, []error) {
	var old *auth.Authenticator
	if before != nil {
		old = before.auth
	}
	a, wrong := auth.New(cfg.Auth, auth.Defaults{Calls: cfg.Limits.Calls, Kills: cfg.Limits.Kills}, s.secret, old, s.logger)
	if len(wrong) > 0 {
		return nil, wrong
	}
	keys, wrong := s.newKeys(cfg.TLS, before)
	if len(wrong) > 0 {
		return nil, wrong
	}
	return &policy{cfg: cfg, auth: a, keys: keys, places: newPlaces(cfg.Limits)}, nil
}
