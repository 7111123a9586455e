package rpc

import (
	"ctd/rpc/wire"
)

// openrpcVersion is the version of the OpenRPC specification that the document follows.
const openrpcVersion = "1.3.2"

// OpenRPC returns the OpenRPC document of the methods that JSON-RPC has, to be encoded as JSON.
// It is the same for every caller: x-role says what a method needs.
func (r *Registry) OpenRPC(version string) map[string]any {
	s := &schemas{components: map[string]any{}}
	methods := []any{}
	for _, m := range r.sorted(func(m *method) bool { return !m.XMLOnly }) {
		methods = append(methods, openrpcMethod(s, m))
	}
	failures := map[string]any{}
	for _, code := range wire.Codes() {
		if code != wire.UnsupportedEncoding && code != wire.InvalidCharacter {
			failures[string(code)] = map[string]any{
				"code": code.Number(), "message": code.Doc(),
				"data": wire.ErrorData{Code: code},
			}
		}
	}
	return map[string]any{
		"openrpc": openrpcVersion,
		"info": map[string]any{
			"title":       "ctd",
			"version":     version,
			"description": "Remote control of the Linux connection tracking table.",
		},
		"methods":    methods,
		"components": map[string]any{"schemas": s.components, "errors": failures},
	}
}

func openrpcMethod(s *schemas, m *method) map[string]any {
	params, optional := []any{}, false
	for _, f := range m.params {
		// The specification wants required parameters before optional ones; ours are in the
		// order of their use. One that comes late is declared optional, and x-required.
		optional = optional || !f.Required()
		p := map[string]any{"name": f.Name, "schema": s.field(f, true), "required": f.Required() && !optional}
		if f.Doc != "" {
			p["description"] = f.Doc
		}
		if f.Required() && optional {
			p["x-required"] = true
		}
		params = append(params, p)
	}
	structure := "either"
	if m.positional {
		structure = "by-position"
		params = append(params, positionalParams(m)...)
	}
	result := map[string]any{"type": "null"}
	if m.Result != nil {
		result = s.of(typeOf(m.Result), false)
	}
	return map[string]any{
		"name": m.Name, "summary": m.Summary, "paramStructure": structure,
		"params":    params,
		"result":    map[string]any{"name": "result", "schema": result},
		"errors":    openrpcErrors(),
		"x-role":    m.Role,
		"x-changes": m.Changes,
	}
}

// positionalParams are those of the first signature.
func positionalParams(m *method) []any {
	var params []any
	types := map[string]string{"array": "array", "struct": "object", "string": "string", "int": "integer", "boolean": "boolean", "double": "number"}
	if len(m.Signatures) == 0 {
		return nil
	}
	for i, t := range m.Signatures[0][1:] {
		params = append(params, map[string]any{
			"name": "arg" + string(rune('0'+i)), "required": true, "schema": map[string]any{"type": types[t]},
		})
	}
	return params
}

// openrpcErrors refers to the errors that any call may end in.
func openrpcErrors() []any {
	var refs []any
	for _, code := range wire.Codes() {
		switch code {
		case wire.ParseError, wire.InvalidRequest, wire.MethodNotFound, wire.UnsupportedEncoding, wire.InvalidCharacter:
		default:
			refs = append(refs, map[string]any{"$ref": "#/components/errors/" + string(code)})
		}
	}
	return refs
}
