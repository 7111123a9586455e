package auth

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
	ViaUnix  Via = "unix"  // by the kernel's word on the peer of a Unix socket
	ViaToken Via = "token" // by a token
)

// Principal is a caller who was recognised.
type Principal struct {
	name string
	role Role
	via  Via
}

// NewPrincipal returns a principal.
func NewPrincipal(name string, role Role, via Via) *Principal {
	return &Principal{name: name, role: role, via: via}
}

// Name returns the principal's name, for people and logs.
func (p *Principal) Name() string { return p.name }

// Role returns the principal's role.
func (p *Principal) Role() string { return string(p.role) }

// Via returns how the principal was recognised.
func (p *Principal) Via() string { return string(p.via) }

// May tells whether the principal has a role, or one that includes it. A role that there isn't
// is nobody's.
func (p *Principal) May(role string) bool {
	need := Role(role).rank()
	return need > 0 && p.role.rank() >= need
}
