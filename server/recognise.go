package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"ctd/auth"
	"ctd/rpc"
	"ctd/rpc/wire"
)

// recognise returns who sent a request: by what its Authorization header shows, else by the cookie of a
// session, else by the word of a trusted proxy, else by the client certificate, else by the Unix socket's
// peer. nil is nobody. What is shown and wrong is an error, also where another way would do.
func (s *Server) recognise(r *http.Request) (*auth.Principal, *wire.Error) {
	v := visitOf(r.Context())
	if p, given, err := s.shown(r, v); given {
		return p, v.authError(err)
	}
	if p, err := s.bySession(r, v); p != nil || err != nil {
		return p, err
	}
	if v.proxied {
		// What is left would recognise the proxy, and whoever it lets through is somebody else.
		return byProxy(r, v)
	}
	if cert, counts := clientCertificate(r); cert != nil {
		if p := v.policy.auth.Certificate(cert, counts); p != nil {
			return p, nil
		}
	}
	c, ok := unixConnection(r.Context())
	if !ok {
		return nil, nil
	}
	p, err := v.policy.auth.Peer(c)
	if err != nil {
		s.logger.ErrorContext(r.Context(), "peer not known", "error", err)
	}
	return p, nil
}

// shown returns whom a request's Authorization header shows, and whether there is such a header at all.
func (s *Server) shown(r *http.Request, v *visit) (p *auth.Principal, given bool, err error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 || len(headers) == 1 && headers[0] == "" {
		return nil, false, nil
	}
	v.shown = true
	if len(headers) > 1 {
		return nil, true, auth.ErrWrong
	}
	if name, password, ok := r.BasicAuth(); ok {
		v.claimed, v.byName = name, true
		p, err = v.policy.auth.Password(r.Context(), v.from, name, password)
		return p, true, err
	}
	if scheme, token, ok := strings.Cut(headers[0], " "); ok && strings.EqualFold(scheme, "Bearer") {
		p, err = v.policy.auth.Bearer(r.Context(), v.from, strings.TrimSpace(token))
		return p, true, err
	}
	return nil, true, auth.ErrWrong
}

// byProxy returns whom a trusted proxy names. A proxy that names nobody has let somebody through without
// asking who it is. One that names a user twice hasn't taken away what the caller sent.
func byProxy(r *http.Request, v *visit) (*auth.Principal, *wire.Error) {
	header := v.policy.cfg.Auth.Proxy.Header
	names := r.Header.Values(header)
	if len(names) > 1 {
		return nil, &wire.Error{
			Code: wire.Unauthenticated, Message: "the proxy names the user more than once",
			Hint: "let it replace the header " + header + " in every request, not add to it",
		}
	}
	if len(names) == 0 || strings.TrimSpace(names[0]) == "" {
		return nil, nil
	}
	v.claimed = strings.TrimSpace(names[0])
	if p := v.policy.auth.ProxyUser(v.proxy, v.claimed); p != nil {
		return p, nil
	}
	return nil, &wire.Error{
		Code: wire.PermissionDenied, Message: "the user that the proxy names isn't let in",
		Hint: "an administrator can add a [[user]] of this name, or a role to [proxy]",
	}
}

// authError is what a caller is told who wasn't recognised.
func (v *visit) authError(err error) *wire.Error {
	var slowed *auth.SlowedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &slowed):
		v.wait = slowed.Wait
		return &wire.Error{
			Code: wire.RateLimited, Message: "too many wrong credentials",
			Hint: "try again in " + (slowed.Wait.Round(time.Second) + time.Second).String(),
		}
	case errors.Is(err, auth.ErrExpired):
		return &wire.Error{Code: wire.Unauthenticated, Message: "the token has expired", Hint: "ask whoever gave it for a new one"}
	case errors.Is(err, auth.ErrUnavailable):
		return &wire.Error{Code: wire.Unavailable, Message: "the credentials can't be checked now", Hint: "try again; the daemon's log says more"}
	}
	if v.byName {
		return &wire.Error{
			Code: wire.Unauthenticated, Message: "the credentials are not right",
			Hint: "name or password is wrong, or an administrator has to give the name a role; a token may be the password of any name",
		}
	}
	return &wire.Error{
		Code: wire.Unauthenticated, Message: "the credentials are not right",
		Hint: "the daemon's own token is made anew at each start: read it again from the file named token beside its socket",
	}
}

// login recognises a user of pyctd's login. A token may be the password of any name.
func (s *Server) login(ctx context.Context, name, password string) (rpc.Principal, error) {
	v := visitOf(ctx)
	v.byName = true
	p, failed := v.loginBy(ctx, func() (*auth.Principal, error) {
		return v.policy.auth.Password(ctx, v.from, name, password)
	})
	if failed != nil {
		return nil, failed
	}
	return p, nil
}

// loginBy returns who logs in. Wrong passwords wait for each other, and then for a while. Meanwhile the request
// has no place, so that they are in the way of no right one.
func (v *visit) loginBy(ctx context.Context, check func() (*auth.Principal, error)) (p *auth.Principal, failed *wire.Error) {
	var err error
	if v.place.without(ctx, func() { p, err = check() }) != nil {
		return nil, errBusy("too many requests are under way")
	}
	return p, v.authError(err)
}

// authenticated puts the principal of each request into its context. A caller without
// credentials goes on as nobody, because pyctd's methods bring their own session; one with wrong
// credentials doesn't.
func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		principal, err := s.recognise(r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		if principal != nil {
			visitOf(r.Context()).principal = principal.Name()
			r = r.WithContext(rpc.WithPrincipal(r.Context(), principal))
		}
		next.ServeHTTP(w, r)
	})
}

// refuse answers a request that isn't let in, and has it recorded.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err *wire.Error) {
	v := visitOf(r.Context())
	if v.wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(v.wait.Round(time.Second)/time.Second)+1))
	}
	s.answerError(w, r, err)
	s.refused(r, v.claimed, err)
}

// answerError answers a request that no method sees.
func (s *Server) answerError(w http.ResponseWriter, r *http.Request, err *wire.Error) {
	rpc.WriteError(w, r, err)
	if log := rpc.CallLogFrom(r.Context()); log != nil && log.Code == "" {
		log.Code, log.Failed = err.Code, 1
	}
}

// refused records that a request was not let in. claimed is the name that its sender gave, of which the
// auditor keeps only one that it knows.
func (s *Server) refused(r *http.Request, claimed string, err *wire.Error) {
	if s.records == nil {
		return
	}
	v := visitOf(r.Context())
	c := rpc.AuditedCall{Principal: rpc.PrincipalFrom(r.Context()), Claimed: claimed, From: v.where}
	if c.Principal == nil && s.vouched(r, v, claimed) {
		// Somebody who has no rights and wasn't recognised, but whose name is no secret.
		c.Principal = auth.NewPrincipal(auth.Identity{Name: claimed})
	}
	s.records.Refused(c, rpc.AuditOutcome{Err: err})
}

// vouched tells whether a name is not only claimed: a trusted proxy gives it, or a session is its.
func (s *Server) vouched(r *http.Request, v *visit, name string) bool {
	if name == "" {
		return false
	}
	if v.proxied && strings.TrimSpace(r.Header.Get(v.policy.cfg.Auth.Proxy.Header)) == name {
		return true
	}
	id := cookieOf(r, v)
	if id == "" {
		return false
	}
	found := s.sessions.get(id)
	return found != nil && found.principal.Name() == name
}

// knowsName tells whether a name that somebody claims is one that is known now.
func (s *Server) knowsName(name string) bool { return s.policy.Load().auth.KnowsName(name) }
