package auth

// The settings of who may call. The configuration file has them as tables, as its tags say: toml is the
// key, doc the description, enum the values that it, or each of a list, may have. The files that `ctd
// passwd` and `ctd token` write have the same tables [[user]] and [[token]].

// Config says who may call, and what.
type Config struct {
	Users     []User       `toml:"user" doc:"Somebody who calls. A user that only bears rights for a password file, proxy or certificate needs no password."`
	Tokens    []Token      `toml:"token" doc:"A bearer token. ctd token create --print makes one; without --print it is kept in the state directory."`
	Peers     []Peer       `toml:"unix" doc:"Local users who call by the Unix socket without a password. Root and the daemon's own user are admins there. The first that fits counts."`
	Passwords PasswordFile `toml:"passwords" doc:"Password files of others: htpasswd -B, and pyctd's with SHA-1."`
	OIDC      OIDC         `toml:"oidc" doc:"Bearer tokens of an OpenID Connect issuer."`
	Proxy     Proxy        `toml:"proxy" doc:"A reverse proxy in front of the daemon that has authenticated the caller."`

	// UsersFile and TokensFile are those that ctd passwd and ctd token write; empty: none.
	UsersFile, TokensFile string `toml:"-"`
}

// Grant is what somebody may do, where and how much.
type Grant struct {
	Role           string   `toml:"role" enum:"viewer,operator,admin" doc:"What may be done: viewer reads, operator also kills and modifies, admin everything."`
	Networks       []string `toml:"networks" doc:"Networks, as 10.3.0.0/16 or an address. Only flows with an address inside are seen and changed; see scope. An empty list is everywhere."`
	Rate           int      `toml:"rate" doc:"How many calls a minute; 0 is the default of [limits]."`
	KillsPerMinute int      `toml:"kills_per_minute" doc:"How many flows may be killed or changed a minute; 0 is the default of [limits]."`
}

// User is somebody with a name.
type User struct {
	Name     string `toml:"name" doc:"The name."`
	Password string `toml:"password" doc:"Hash of the password (bcrypt), as ctd passwd --print or htpasswd -nB print it."`
	Grant
	Certificates []string `toml:"certificates" doc:"TLS client certificates that are this user's, by subject or a subject alternative name: CN=jane, a whole subject as CN=jane,O=Example, DNS:host.example.org, email:jane@example.org, URI:spiffe://example.org/jane or IP:192.0.2.1. They need client_ca in [tls]."`
}

// Token is a bearer token.
type Token struct {
	Name string `toml:"name" doc:"Name of who shows it, for the log."`
	Hash string `toml:"hash" doc:"SHA-256 of the token, in hexadecimal digits."`
	Grant
	Expires string `toml:"expires" doc:"When it ends, as 2027-01-31 or 2027-01-31T12:00:00Z; empty is never."`
}

// Peer is a local user or group.
type Peer struct {
	User  string `toml:"user" doc:"Name or number of a local user."`
	Group string `toml:"group" doc:"Name or number of a local group, whose members are meant; instead of user."`
	Grant
}

// PasswordFile are password files of others.
type PasswordFile struct {
	Files []string `toml:"files" doc:"Files of lines name:hash. Hashes are bcrypt (htpasswd -B), or SHA-1 as pyctd had them, which is replaced by bcrypt at the first login where the daemon may write the file."`
	Role  string   `toml:"role" enum:",viewer,operator,admin" doc:"Role of a name that has no [[user]]; empty: such a name isn't let in."`
}

// OIDC is an OpenID Connect issuer.
type OIDC struct {
	Issuer    string      `toml:"issuer" doc:"URL of the issuer, as in its tokens; empty: none."`
	Audience  string      `toml:"audience" doc:"The audience (client id) that a token must be for."`
	CA        string      `toml:"ca" doc:"Authorities to trust for the issuer instead of the system's, in PEM."`
	NameClaim string      `toml:"name_claim" doc:"Claim that has the caller's name."`
	RoleClaim string      `toml:"role_claim" doc:"Claim, a text or a list of them, by which a caller gets a role; a dot leads into an object, as in realm_access.roles."`
	Grants    []OIDCGrant `toml:"grant" doc:"What a value of the role claim gives. The first that fits counts; a caller whom none fits isn't let in."`
}

// OIDCGrant is what a claim's value gives.
type OIDCGrant struct {
	Value string `toml:"value" doc:"Value of the role claim."`
	Grant
}

// Proxy is a trusted reverse proxy.
type Proxy struct {
	Addresses []string `toml:"addresses" doc:"Addresses or networks that the proxy calls from. Whoever can send from there is believed: where it is the daemon's own machine, rather name unix_users."`
	UnixUsers []string `toml:"unix_users" doc:"Local users that the proxy runs as, where it calls by the Unix socket."`
	Header    string   `toml:"header" doc:"Header with the name of the user, which the proxy must set or remove in every request."`
	Role      string   `toml:"role" enum:",viewer,operator,admin" doc:"Role of a name that has no [[user]]; empty: such a name isn't let in."`
}

// DefaultConfig has what isn't empty where nothing is set.
func DefaultConfig() Config {
	return Config{
		OIDC:  OIDC{NameClaim: "preferred_username", RoleClaim: "roles"},
		Proxy: Proxy{Header: "X-Remote-User"},
	}
}

// SettingError is what is wrong with a setting.
type SettingError struct {
	Key  string // e.g. user[0].role: tables of a list are counted from 0
	Text string
}

// Error is error's.
func (e *SettingError) Error() string { return e.Key + ": " + e.Text }
