package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Errors of the ways to recognise a caller.
var (
	// ErrWrong says that what was shown is not right. It doesn't say what of it.
	ErrWrong = errors.New("wrong credentials")
	// ErrExpired says that the token was right, until it ended.
	ErrExpired = errors.New("the token has expired")
	// ErrUnavailable says that nothing can be said now, e.g. as the issuer doesn't answer.
	ErrUnavailable = errors.New("credentials can't be checked now")
)

// SlowedError says that too many wrong credentials came from an address, or for a name.
type SlowedError struct {
	Wait time.Duration // until the next attempt is looked at
}

// Error is error's.
func (e *SlowedError) Error() string { return "too many wrong credentials" }

// Defaults are the budgets of who has none of its own, in a minute; 0 is no bound.
type Defaults struct {
	Calls, Kills int
}

// Authenticator recognises callers. Its methods may be called from many goroutines.
type Authenticator struct {
	own    *ownToken
	logger *slog.Logger
}

// New returns an authenticator. secret is the daemon's own token, which recognises an admin. What
// before knows of wrong attempts, budgets and right passwords goes on; nil where there was none.
// The errors are *SettingError.
func New(cfg Config, d Defaults, secret string, before *Authenticator, logger *slog.Logger) (*Authenticator, []error) {
	own := newOwnToken(secret, NewPrincipal(Identity{Name: "token", Role: Admin, Via: ViaToken}))
	return &Authenticator{own: own, logger: logger}, nil
}

// Check says what is wrong with a configuration, and asks nobody. The errors are *SettingError.
func Check(cfg Config) []error { return nil }

// Password recognises a user by name and password, or anybody by a token as the password of any
// name. from is the caller's address; zero for a local one.
func (a *Authenticator) Password(ctx context.Context, from netip.Addr, name, password string) (*Principal, error) {
	return a.Bearer(ctx, from, password)
}

// Bearer recognises the bearer of a token: the daemon's own, one of the configuration or of ctd
// token, or one of the OpenID Connect issuer.
func (a *Authenticator) Bearer(ctx context.Context, from netip.Addr, secret string) (*Principal, error) {
	if p := a.own.verify(secret); p != nil {
		return p, nil
	}
	return nil, ErrWrong
}

// Certificate recognises the owner of a TLS client certificate that was verified; nil is nobody.
func (a *Authenticator) Certificate(cert *x509.Certificate) *Principal { return nil }

// Peer recognises the process at the other end of a Unix socket; nil is nobody.
func (a *Authenticator) Peer(c *net.UnixConn) (*Principal, error) { return (&peers{}).principal(c) }

// ProxyUser recognises a user by the word of a trusted proxy; nil is nobody.
func (a *Authenticator) ProxyUser(name string) *Principal { return nil }

// IsProxy tells whether requests from an address are a trusted proxy's.
func (a *Authenticator) IsProxy(from netip.Addr) bool { return false }

// IsProxyPeer tells whether the process at the other end of a Unix socket is a trusted proxy.
func (a *Authenticator) IsProxyPeer(c *net.UnixConn) bool { return false }

// Close ends what goes on in the background.
func (a *Authenticator) Close() {}
