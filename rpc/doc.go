// Package rpc holds the methods that ctd offers and the protocols that carry them: JSON-RPC 2.0
// and XML-RPC, on one URL, told apart by the content type.
//
// A method is registered once, with its name, its role and a parameter struct, and knows
// nothing of the wire. Dispatch, introspection and documentation come from that registration.
// A request goes: handler (size, content type, principal) -> codec (a strict parser makes a
// tree) -> Registry.Call (role, parameters) -> method -> encoder, into which a long result
// streams itself.
package rpc
