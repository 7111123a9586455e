package rpc

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"ctd/rpc/wire"
)

// Method says what a method is. Its parameters come from the struct that it is registered with.
type Method struct {
	Name    string    // e.g. "conntrack.list"
	Summary string    // one sentence
	Role    wire.Role // what the caller must have; RoleSession checks by itself
	Changes bool      // whether it may change anything

	// Result is a value of the result's type, for the documentation; nil where the method
	// gives nothing back.
	Result any
	// Example are parameters as JSON, for the documentation.
	Example string

	// XMLOnly hides the method from JSON-RPC.
	XMLOnly bool
	// Secrets is how many of the first arguments are secrets, which no record shows.
	Secrets int
	// Signatures are the method's for system.methodSignature, each the result's type and
	// then the parameters'. Where nil they come from the parameter struct.
	Signatures [][]string
}

// Params are the parameters of a call: by name, or else by position.
type Params struct {
	Named map[string]any // nil where they are by position
	Args  []any
}

// method is a registered method.
type method struct {
	Method
	params     []wire.Field // in the order of positional parameters; nil for a positional method
	positional bool         // takes its arguments as they come
	call       func(ctx context.Context, p Params) (any, error)
}

// Registry holds the methods. Register everything before the first call; calls may then come
// from many goroutines.
type Registry struct {
	methods map[string]*method
	auditor Auditor // nil: nothing is recorded
}

// NewRegistry returns a registry without methods.
func NewRegistry() *Registry {
	return &Registry{methods: make(map[string]*method)}
}

// SetAuditor has changes and refusals recorded.
func (r *Registry) SetAuditor(a Auditor) { r.auditor = a }

// Register adds a method whose parameters are the fields of P: their names by the json tag,
// their description by doc, their values by enum; the order of the fields is that of positional
// parameters. A field that is neither a pointer nor omitempty must be given. The result of fn
// is a value that encodes as the contract's structs do, or streams itself.
//
// Register panics where the name is taken: that is a mistake in the program.
func Register[P any](r *Registry, m Method, fn func(ctx context.Context, p *P) (any, error)) {
	fields := wire.Fields(reflect.TypeFor[P]())
	r.add(&method{Method: m, params: fields, call: func(ctx context.Context, p Params) (any, error) {
		into := new(P)
		b := binder{method: m.Name, fields: fields, loneStruct: ProtocolFrom(ctx) == XMLRPC}
		if err := b.bind(p, reflect.ValueOf(into).Elem()); err != nil {
			return nil, err
		}
		return fn(ctx, into)
	}})
}

// RegisterPositional adds a method that takes its arguments as they come, by position only:
// string, bool, json.Number, int64, uint64, float64, []byte, time.Time, []any, map[string]any
// or nil. m.Signatures describes them.
func (r *Registry) RegisterPositional(m Method, fn func(ctx context.Context, args []any) (any, error)) {
	r.add(&method{Method: m, positional: true, call: func(ctx context.Context, p Params) (any, error) {
		if p.Named != nil {
			return nil, invalidParams("%s takes its parameters by position", m.Name)
		}
		return fn(ctx, p.Args)
	}})
}

func (r *Registry) add(m *method) {
	if _, taken := r.methods[m.Name]; taken || m.Name == "" || m.Role == "" {
		panic(fmt.Sprintf("rpc: method %q is registered twice, or has no name or no role", m.Name))
	}
	r.methods[m.Name] = m
}

// sorted returns the methods by name, without the ones that keep does not want.
func (r *Registry) sorted(keep func(*method) bool) []*method {
	var methods []*method
	for _, name := range slices.Sorted(maps.Keys(r.methods)) {
		if m := r.methods[name]; keep(m) {
			methods = append(methods, m)
		}
	}
	return methods
}
