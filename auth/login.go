package auth

import (
	"context"
	"errors"
	"net/netip"
	"strings"
)

// Password recognises a user by name and password, or anybody by a token as the password of any
// name. from is the caller's address; zero for a local one. The errors are ErrWrong, ErrExpired,
// ErrUnavailable, a *SlowedError, and the context's.
func (a *Authenticator) Password(ctx context.Context, from netip.Addr, name, password string) (*Principal, error) {
	if p, err := a.tokenPrincipal(password); p != nil || err != nil {
		return p, err
	}
	// Longer than any password, so that no guess of one gets here.
	if a.oidc != nil && len(password) > maxPassword && isJWT(password) {
		return a.Bearer(ctx, from, password)
	}
	if checkName(name) != "" {
		name = ""
	}
	at, s := newAttempt(from, byPassword, name).by(ctx), a.shared
	acc := a.account(name)
	anywhere := s.remembered.proof(name, acc.hash, password, netip.Addr{})
	here := s.remembered.proof(name, acc.hash, password, at.who.from)
	if wait := s.slowing.wait(at); wait > 0 {
		if s.slowing.refuse(at) && s.remembered.has(here) && acc.granted {
			s.slowing.unrefuse(at)
			return a.passwordPrincipal(acc), nil
		}
		return nil, &SlowedError{Wait: wait}
	}
	if !s.remembered.has(anywhere) {
		right, err := a.verifyOnce(ctx, at, &acc, password, here)
		if err != nil {
			return nil, err
		}
		if !right {
			return nil, ErrWrong
		}
	} else {
		s.remembered.add(here)
	}
	if !acc.granted {
		s.told.warn(a.logger, "somebody with a right password isn't let in: no [[user]] has the name, and [passwords] has no role", name)
		return nil, ErrWrong
	}
	return a.passwordPrincipal(acc), nil
}

// flight is a password that is being looked at.
type flight struct {
	done  chan struct{}
	hash  string // of the password when it had been looked at: a right one may have got a new hash
	right bool
	err   error
}

// verifyOnce tells whether a password is that of an account. Who shows the same from the same address at
// the same time, as browsers do, waits for the first. The account's hash is then that which is in force.
func (a *Authenticator) verifyOnce(ctx context.Context, at attempt, acc *account, password string, key proof) (right bool, err error) {
	s := a.shared
	for {
		s.mu.Lock()
		f, flies := s.flights[key]
		if !flies {
			f = &flight{done: make(chan struct{})}
			s.flights[key] = f
		}
		s.mu.Unlock()
		if !flies {
			defer s.land(key, f)
			f.right, f.err = a.verify(ctx, at, acc, password)
			f.hash = acc.hash
			return f.right, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		// Where the first gave up before it was its turn, the next takes its place.
		if f.err == nil || !isContext(f.err) {
			if f.right && f.hash != acc.hash {
				acc.was, acc.hash = acc.hash, f.hash
			}
			return f.right, f.err
		}
	}
}

// land ends a flight.
func (s *shared) land(key proof, f *flight) {
	s.mu.Lock()
	delete(s.flights, key)
	s.mu.Unlock()
	close(f.done)
}

// verify is verifyOnce's work.
func (a *Authenticator) verify(ctx context.Context, at attempt, acc *account, password string) (right bool, err error) {
	s := a.shared
	if wait := s.slowing.begin(&at); wait > 0 {
		return false, &SlowedError{Wait: wait}
	}
	place := s.places.proof(acc.name, "", "", at.who.from)
	if at.standing < bad && s.places.has(place) {
		at.standing = known
	}
	if err := s.gate.enter(ctx, at.standing); err != nil {
		s.slowing.end(at, false) // nothing was learned
		return false, err
	}
	defer s.gate.leave()
	right = verifyPassword(acc.hash, password, a.costliest())
	s.slowing.end(at, !right)
	if !right {
		return false, nil
	}
	if acc.file != nil && sha1Of(acc.hash) != nil {
		if hash := acc.file.rehash(acc.name, acc.hash, password); hash != "" {
			acc.was, acc.hash = acc.hash, hash
		}
	}
	s.places.add(place)
	s.remembered.add(s.remembered.proof(acc.name, acc.hash, password, netip.Addr{}))
	s.remembered.add(s.remembered.proof(acc.name, acc.hash, password, at.who.from))
	return true, nil
}

// Bearer recognises the bearer of a token: the daemon's own, one of the configuration or of ctd
// token, or one of the OpenID Connect issuer. The errors are Password's. A right token of the daemon's is
// taken from everywhere: none can be guessed.
func (a *Authenticator) Bearer(ctx context.Context, from netip.Addr, secret string) (*Principal, error) {
	if p, err := a.tokenPrincipal(secret); p != nil || err != nil {
		return p, err
	}
	kind := byToken
	if a.oidc != nil && isJWT(secret) {
		kind = byOIDC
	}
	s, at := a.shared, newAttempt(from, kind, "").by(ctx)
	if from.IsValid() { // local callers share no address, and a token isn't found by trying
		if wait := s.slowing.wait(at); wait > 0 {
			return nil, &SlowedError{Wait: wait}
		}
	}
	var (
		p   *Principal
		err = ErrWrong
	)
	if kind == byOIDC {
		p, err = a.oidc.verify(ctx, secret)
	}
	if from.IsValid() && errors.Is(err, ErrWrong) {
		s.slowing.wrong(at)
	}
	return p, err
}

// isJWT tells whether a token has the form of OpenID Connect's: three parts with dots between.
func isJWT(secret string) bool { return strings.Count(secret, ".") == 2 }

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
