package auth

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
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
	shared *shared
	logger *slog.Logger
	limits Defaults
	own    *ownToken
	cost   int // of the costliest hash of the configuration, at least the usual one

	users      map[string]userEntry               // of the configuration
	usersFile  *watched[map[string]userEntry]     // nil: none
	tokens     map[tokenHash]tokenEntry           // of the configuration
	tokensFile *watched[map[tokenHash]tokenEntry] // nil: none

	passwordFiles []*passwordFile
	passwordRole  Role // of a name that has no user; empty: none

	certificates *certificates
	peers        *peers
	oidc         *oidcVerifier // nil: none
	proxy        *proxy
	proxyRole    Role // of a name that has no user; empty: none
}

// New returns an authenticator. secret is the daemon's own token, which recognises an admin. What
// before knows of wrong attempts, budgets and right passwords goes on; nil where there was none. From
// then on the new one is asked whether principals are valid, also those of before, until Close.
// The errors are *SettingError.
func New(cfg Config, d Defaults, secret string, before *Authenticator, logger *slog.Logger) (*Authenticator, []error) {
	return newAuthenticator(cfg, d, secret, before, logger, time.Now)
}

func newAuthenticator(cfg Config, d Defaults, secret string, before *Authenticator, logger *slog.Logger, now func() time.Time) (*Authenticator, []error) {
	s := newShared(now)
	if before != nil {
		s = before.shared
	}
	a, wrong := build(cfg, d, s, logger)
	if len(wrong) > 0 {
		a.closeIssuer()
		return nil, wrong
	}
	a.own = newOwnToken(secret, NewPrincipal(Identity{Name: "token", Role: Admin, Via: ViaToken}))
	a.openFiles(cfg, before)
	s.install(a)
	return a, nil
}

// Check says what is wrong with a configuration, and asks nobody. The errors are *SettingError.
func Check(cfg Config) []error {
	a, wrong := build(cfg, Defaults{}, newShared(time.Now), slog.New(slog.DiscardHandler))
	a.closeIssuer()
	return wrong
}

// build makes an authenticator of what stands in the configuration itself.
func build(cfg Config, d Defaults, s *shared, logger *slog.Logger) (*Authenticator, []error) {
	a := &Authenticator{
		shared: s, logger: logger, limits: d, cost: hashCost,
		passwordRole: Role(cfg.Passwords.Role), proxyRole: Role(cfg.Proxy.Role),
	}
	var wrong []error
	note := func(more []error) { wrong = append(wrong, more...) }
	var more []error
	a.users, more = parseUsers(cfg.Users)
	note(more)
	a.tokens, more = parseTokens(cfg.Tokens)
	note(more)
	if a.passwordRole != "" && a.passwordRole.rank() == 0 {
		note([]error{&SettingError{"passwords.role", strconv.Quote(cfg.Passwords.Role) + " is none of viewer, operator, admin"}})
	}
	a.certificates, more = newCertificates(cfg.Users)
	note(more)
	a.peers, more = newPeers(cfg.Peers, s.budgets)
	a.peers.valid = s.valid
	note(more)
	a.proxy, more = newProxy(cfg.Proxy)
	note(more)
	a.oidc, more = newOIDC(cfg.OIDC, s.budgets, logger)
	if a.oidc != nil {
		a.oidc.valid = s.valid
	}
	note(more)
	for _, u := range a.users {
		if u.hash != "" {
			a.cost = max(a.cost, costOf(u.hash))
		}
	}
	return a, wrong
}

// openFiles reads the files that the configuration names. Those that before has too go on with what was
// read of them.
func (a *Authenticator) openFiles(cfg Config, before *Authenticator) {
	now := a.shared.now
	if before == nil {
		before = &Authenticator{}
	}
	if old := before.usersFile; old != nil && old.path == cfg.UsersFile {
		a.usersFile = old
	} else if cfg.UsersFile != "" {
		a.usersFile = watch(cfg.UsersFile, now, a.logger, watchedKind{guarded: true}, decodeUsers)
	}
	if old := before.tokensFile; old != nil && old.path == cfg.TokensFile {
		a.tokensFile = old
	} else if cfg.TokensFile != "" {
		a.tokensFile = watch(cfg.TokensFile, now, a.logger, watchedKind{guarded: true}, decodeTokens)
	}
	for _, path := range cfg.Passwords.Files {
		i := slices.IndexFunc(before.passwordFiles, func(f *passwordFile) bool { return f.path == path })
		if i >= 0 {
			a.passwordFiles = append(a.passwordFiles, before.passwordFiles[i])
		} else {
			a.passwordFiles = append(a.passwordFiles, newPasswordFile(path, now, a.logger))
		}
	}
	for name := range a.usersFile.get() {
		if _, ok := a.users[name]; ok {
			a.shared.told.warn(a.logger, "a user is in the configuration and in the users file; the configuration's counts", name)
		}
	}
}

// Certificate recognises the owner of a TLS client certificate that was verified; nil is nobody. counts tells
// at any later time whether it would be verified still; it may be called from many goroutines.
func (a *Authenticator) Certificate(cert *x509.Certificate, counts func() bool) *Principal {
	name, credential := a.certificates.user(cert)
	if name == "" {
		return nil
	}
	id, ok := a.userIdentity(name, ViaCertificate, credential, func(now *Authenticator) bool {
		whose, _ := now.certificates.user(cert)
		return whose == name && counts()
	})
	if !ok {
		return nil
	}
	id.Expires = cert.NotAfter
	return NewPrincipal(id)
}

// Peer recognises the process at the other end of a Unix socket; nil is nobody.
func (a *Authenticator) Peer(c *net.UnixConn) (*Principal, error) { return a.peers.principal(c) }

// ProxyUser recognises a user by the word of a trusted proxy; nil is nobody. It is valid as long as that very
// proxy is trusted, and names users in the same header.
func (a *Authenticator) ProxyUser(by TrustedProxy, name string) *Principal {
	if checkName(name) != "" {
		return nil
	}
	header := a.proxy.header
	trusted := func(now *Authenticator) bool { return now.proxy.believes(by, header) }
	if id, ok := a.userIdentity(name, ViaProxy, "", trusted); ok {
		return NewPrincipal(id)
	}
	role := a.proxyRole
	if role.rank() == 0 {
		return nil
	}
	id := parsedGrant{role: role}.identity(name, ViaProxy, "", a.shared.budgets)
	id.Valid = a.shared.valid(func(a *Authenticator) bool {
		_, now := a.user(name)
		return !now && a.proxyRole == role && trusted(a)
	})
	return NewPrincipal(id)
}

// IsProxy tells whether requests from an address are a trusted proxy's.
func (a *Authenticator) IsProxy(from netip.Addr) bool { return a.proxy.trusts(from) }

// ProxyAt returns the trusted proxy whose requests are from an address, and whether it is one.
func (a *Authenticator) ProxyAt(from netip.Addr) (by TrustedProxy, ok bool) {
	return TrustedProxy{from: from}, a.proxy.trusts(from)
}

// ProxyPeer returns the trusted proxy at the other end of a Unix socket, and whether it is one.
func (a *Authenticator) ProxyPeer(c *net.UnixConn) (by TrustedProxy, ok bool) { return a.proxy.peer(c) }

// Close ends what goes on in the background. Where no other authenticator has followed, the one before it
// is in force again.
func (a *Authenticator) Close() {
	a.closeIssuer()
	a.shared.uninstall(a)
}

func (a *Authenticator) closeIssuer() {
	if a.oidc != nil {
		a.oidc.close()
	}
}
