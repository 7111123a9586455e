// Package wire is the contract between ctd and its clients: the parameters and results of every
// method, roles and error codes. It imports nothing of the daemon, so that a client needs no
// more than this package.
//
// A struct here is one JSON-RPC params object, result or part of one; over XML-RPC the same
// members stand in a <struct>. The order of a parameter struct's fields is the order of
// positional parameters. Two tags feed the generated documentation: doc is the member's
// description, enum the values it may have, separated by commas.
package wire

// Role is what a method requires of its caller, each including the ones before it.
type Role = string

// Roles, from least to most. RoleSession marks the methods that bring their own session id.
const (
	RoleAny      Role = "any"
	RoleViewer   Role = "viewer"
	RoleOperator Role = "operator"
	RoleAdmin    Role = "admin"
	RoleSession  Role = "session"
)

// Filter says which flows are meant: a text ("proto=tcp dport=80,443"), an object
// ({"proto": "tcp", "dport": [80, 443]}) or a list of such objects, of which any may match.
// nil matches everything.
type Filter = any
