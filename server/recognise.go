package server

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"ctd/auth"
	"ctd/rpc"
	"ctd/rpc/wire"
)

// recognise returns who sent a request: by what its Authorization header shows, else by the Unix
// socket's peer. nil is nobody.
func (s *Server) recognise(r *http.Request) (*auth.Principal, *wire.Error) {
	if p, given, err := s.shown(r); given {
		return p, authError(err)
	}
	c, ok := unixConnection(r.Context())
	if !ok {
		return nil, nil
	}
	p, err := s.policy.Load().auth.Peer(c)
	if err != nil {
		s.logger.ErrorContext(r.Context(), "peer not known", "error", err)
	}
	return p, nil
}

// shown returns whom a request's Authorization header shows, and whether there is such a header at all.
func (s *Server) shown(r *http.Request) (p *auth.Principal, given bool, err error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return nil, false, nil
	}
	a, from := s.policy.Load().auth, fromOf(r.Context())
	if name, password, ok := r.BasicAuth(); ok {
		p, err = a.Password(r.Context(), from, name, password)
		return p, true, err
	}
	if scheme, token, ok := strings.Cut(header, " "); ok && strings.EqualFold(scheme, "Bearer") {
		p, err = a.Bearer(r.Context(), from, strings.TrimSpace(token))
		return p, true, err
	}
	return nil, true, auth.ErrWrong
}

// fromOf returns the address that a request came from; zero for a local one.
func fromOf(ctx context.Context) netip.Addr { return rpc.CallerFrom(ctx).Remote.Addr() }

// authError is what a caller is told who wasn't recognised.
func authError(err error) *wire.Error {
	var slowed *auth.SlowedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &slowed):
		return &wire.Error{
			Code: wire.RateLimited, Message: "too many wrong credentials",
			Hint: "try again in " + (slowed.Wait.Round(time.Second) + time.Second).String(),
		}
	case errors.Is(err, auth.ErrExpired):
		return &wire.Error{Code: wire.Unauthenticated, Message: "the token has expired", Hint: "ask for a new one: ctd token create"}
	case errors.Is(err, auth.ErrUnavailable):
		return &wire.Error{Code: wire.Unavailable, Message: "the credentials can't be checked now", Hint: "try again; the daemon's log says more"}
	}
	return &wire.Error{
		Code: wire.Unauthenticated, Message: "the credentials are not right",
		Hint: "the daemon's own token is made anew at each start: read it again from the file named token beside its socket",
	}
}

// login recognises a user of pyctd's login. A token may be the password of any name.
func (s *Server) login(ctx context.Context, name, password string) (rpc.Principal, error) {
	p, err := s.policy.Load().auth.Password(ctx, fromOf(ctx), name, password)
	if err != nil {
		return nil, authError(err)
	}
	return p, nil
}
