package auth

import (
	"net/netip"
	"time"
)

// Role is what a principal may do, each including the ones before it.
type Role string

// The roles, from least to most.
const (
	Viewer   Role = "viewer"   // reads
	Operator Role = "operator" // and kills and modifies
	Admin    Role = "admin"    // and creates, flushes, imports
)

// rank orders the roles; 0 is none.
func (r Role) rank() int {
	switch r {
	case Viewer:
		return 1
	case Operator:
		return 2
	case Admin:
		return 3
	}
	return 0
}

// Via is how a principal was recognised.
type Via string

// The ways.
const (
	ViaUnix        Via = "unix"        // by the kernel's word on the peer of a Unix socket
	ViaToken       Via = "token"       // by a token
	ViaPassword    Via = "password"    // by name and password
	ViaCertificate Via = "certificate" // by a TLS client certificate
	ViaOIDC        Via = "oidc"        // by an OpenID Connect token
	ViaProxy       Via = "proxy"       // by a reverse proxy's word
)

// Identity is what a Principal is made of.
type Identity struct {
	Name string
	Role Role
	Via  Via
	// Credential names the one of its kind that was shown, e.g. a token's name or a certificate's
	// subject. It is no secret; empty where the name says it all.
	Credential string
	// Networks are those whose flows the principal sees and changes; empty is everywhere.
	Networks []netip.Prefix
	// Budget bounds how much; nil is no bound.
	Budget *Budget
	// Expires is when the credential ends; zero is never.
	Expires time.Time
	// Valid tells whether the credential would still be accepted: sessions ask at each use. nil is
	// always.
	Valid func() bool
}

// Principal is a caller who was recognised.
type Principal struct{ id Identity }

// NewPrincipal returns a principal.
func NewPrincipal(id Identity) *Principal { return &Principal{id} }

// Name returns the principal's name, for people and logs.
func (p *Principal) Name() string { return p.id.Name }

// Role returns the principal's role.
func (p *Principal) Role() string { return string(p.id.Role) }

// Via returns how the principal was recognised.
func (p *Principal) Via() string { return string(p.id.Via) }

// Credential names the credential that was shown; it is no secret.
func (p *Principal) Credential() string { return p.id.Credential }

// Networks returns the networks to which the principal is bound; none is everywhere.
func (p *Principal) Networks() []netip.Prefix { return p.id.Networks }

// Expires returns when the credential ends; zero is never.
func (p *Principal) Expires() time.Time { return p.id.Expires }

// May tells whether the principal has a role, or one that includes it. A role that there isn't
// is nobody's.
func (p *Principal) May(role string) bool {
	need := Role(role).rank()
	return need > 0 && p.id.Role.rank() >= need
}

// Valid tells whether the credential would still be accepted.
func (p *Principal) Valid() bool {
	if !p.id.Expires.IsZero() && !time.Now().Before(p.id.Expires) {
		return false
	}
	return p.id.Valid == nil || p.id.Valid()
}

// TakeCall takes a call from the principal's budget. Where there is none left it returns how long
// until there is.
func (p *Principal) TakeCall() (wait time.Duration) { return p.id.Budget.takeCall() }

// TakeKills takes n changed flows from the principal's budget. Where there is no room for that many,
// nothing is taken, and it returns how many there is room for now, and how long until there is for n; 0
// is never, since n is more than a minute's.
func (p *Principal) TakeKills(n int) (ok bool, room int, wait time.Duration) {
	return p.id.Budget.takeKills(n)
}

// GiveBackKills gives back n flows that were taken and not changed.
func (p *Principal) GiveBackKills(n int) { p.id.Budget.giveBackKills(n) }
