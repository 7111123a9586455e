package rpc

import (
	"context"
	"fmt"
	"strings"

	"ctd/rpc/wire"
)

// methodParams name a method.
type methodParams struct {
	Method string `json:"method" doc:"a method's name"`
}

// capability is one entry of system.getCapabilities.
type capability struct {
	SpecURL     string `json:"specUrl"`
	SpecVersion int    `json:"specVersion"`
}

// RegisterSystem adds the methods by which the registry tells of itself: system.* and
// rpc.discover. Version is the daemon's.
func RegisterSystem(r *Registry, version string) {
	Register(r, Method{
		Name: "system.listMethods", Role: wire.RoleAny, Result: []string{},
		Summary: "Names the methods that the caller may call.",
	}, func(ctx context.Context, _ *wire.Empty) (any, error) {
		names := []string{}
		for _, m := range r.visible(ctx) {
			names = append(names, m.Name)
		}
		return names, nil
	})
	Register(r, Method{
		Name: "system.methodHelp", Role: wire.RoleAny, Result: "", Example: `["conntrack.list"]`,
		Summary: "Says what a method does and what its parameters are.",
	}, func(ctx context.Context, p *methodParams) (any, error) {
		m, err := r.allowed(ctx, p.Method)
		if err != nil {
			return nil, err
		}
		return m.help(), nil
	})
	Register(r, Method{
		Name: "system.methodSignature", Role: wire.RoleAny, Result: [][]string{}, Example: `["conntrack.list"]`,
		Summary: "Gives the ways to call a method over XML-RPC, each as the result's type and then the parameters'.",
	}, func(ctx context.Context, p *methodParams) (any, error) {
		m, err := r.allowed(ctx, p.Method)
		if err != nil {
			return nil, err
		}
		return m.signatures(), nil
	})
	Register(r, Method{
		Name: "system.getCapabilities", Role: wire.RoleAny, Result: map[string]capability{},
		Summary: "Names the specifications that the daemon follows.",
	}, func(context.Context, *wire.Empty) (any, error) { return capabilities(), nil })
	Register(r, Method{
		Name: "rpc.discover", Role: wire.RoleAny, Result: map[string]any{},
		Summary: "Gives the OpenRPC document of all JSON-RPC methods.",
	}, func(context.Context, *wire.Empty) (any, error) { return r.OpenRPC(version), nil })
	registerMulticall(r)
}

func capabilities() map[string]capability {
	return map[string]capability{
		"xmlrpc":           {"http://www.xmlrpc.com/spec", 1},
		"json-rpc":         {"https://www.jsonrpc.org/specification", 2},
		"introspection":    {"http://xmlrpc-c.sourceforge.net/xmlrpc-c/introspection.html", 1},
		"system.multicall": {"http://www.xmlrpc.com/discuss/msgReader$1208", 1},
		"faults_interop":   {"http://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php", 20010516},
	}
}

// help is the text of system.methodHelp.
func (m *method) help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nRole: %s.\n", m.Summary, m.Role)
	if m.positional {
		for _, signature := range m.signatures() {
			fmt.Fprintf(&b, "%s %s(%s)\n", signature[0], m.Name, strings.Join(signature[1:], ", "))
		}
		return b.String()
	}
	if len(m.params) == 0 {
		b.WriteString("No parameters.\n")
		return b.String()
	}
	b.WriteString("Parameters, by name in one struct or by position in this order:\n")
	for _, f := range m.params {
		fmt.Fprintf(&b, "  %s (%s", f.Name, typeText(f.Type))
		if f.Required() {
			b.WriteString(", required")
		}
		b.WriteString(")")
		if doc := paramDoc(f); doc != "" {
			b.WriteString(": " + doc)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// paramDoc is a field's description with the values that it may have.
func paramDoc(f wire.Field) string {
	doc := f.Doc
	if len(f.Enum) > 0 {
		if doc != "" {
			doc += ": "
		}
		doc += "one of " + strings.TrimPrefix(strings.Join(f.Enum, ", "), ", ")
	}
	return doc
}

// signatures are those of system.methodSignature. A method with parameters has two: all of them
// by position, and one struct.
func (m *method) signatures() [][]string {
	if m.Signatures != nil {
		return m.Signatures
	}
	result := "string" // what stands for nothing
	if m.Result != nil {
		result = xmlType(typeOf(m.Result))
	}
	if len(m.params) == 0 {
		return [][]string{{result}}
	}
	positions := []string{result}
	for _, f := range m.params {
		positions = append(positions, xmlType(f.Type))
	}
	return [][]string{{result, "struct"}, positions}
}
