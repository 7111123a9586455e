package server

import (
	"context"
	"net/http"
	"sync"

	"ctd/auth"
)

// policy is what a reload of the configuration changes: who may call, where and how much. A request
// has one from its beginning to its end.
type policy struct {
	cfg    Config
	auth   *auth.Authenticator
	keys   *keyring // nil without TLS
	places *places

	mu       sync.Mutex
	requests int  // that have it
	replaced bool // by another: it ends with the last of them
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
		a.Close()
		return nil, wrong
	}
	return &policy{cfg: cfg, auth: a, keys: keys, places: newPlaces(cfg.Limits)}, nil
}

// setPolicy has p count for the requests that come from now on.
func (s *Server) setPolicy(p *policy) {
	if err := setSocketMode(&p.cfg); err != nil {
		s.logger.Warn("local users may not reach the socket", "error", err)
	}
	if old := s.policy.Swap(p); old != nil {
		old.mu.Lock()
		old.replaced = true
		old.end()
		old.mu.Unlock()
	}
}

// end ends what belongs to a policy that was replaced and that no request has. mu is held.
func (p *policy) end() {
	if p.replaced && p.requests == 0 {
		p.auth.Close()
	}
}

// take returns the present policy for a request; release gives it back.
func (s *Server) take() (p *policy, release func()) {
	for {
		p = s.policy.Load()
		p.mu.Lock()
		if !p.replaced {
			break
		}
		p.mu.Unlock() // it was replaced since
	}
	p.requests++
	p.mu.Unlock()
	return p, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.requests--
		p.end()
	}
}

// policyKey is the context key of a request's policy.
type policyKey struct{}

// underPolicy gives each request the policy that it has to its end.
func (s *Server) underPolicy(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, release := s.take()
		defer release()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), policyKey{}, p)))
	})
}

// policyOf returns the policy of a request; outside of one, the present.
func (s *Server) policyOf(ctx context.Context) *policy {
	if p, ok := ctx.Value(policyKey{}).(*policy); ok {
		return p
	}
	return s.policy.Load()
}
