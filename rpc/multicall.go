package rpc

import (
	"context"

	"ctd/rpc/wire"
)

// multicallMethod is the one method that system.multicall doesn't call.
const multicallMethod = "system.multicall"

// registerMulticall adds system.multicall: a list of {methodName, params} in, a list of results
// out, each a list of one value, or a fault's struct. It is called with that list as its only
// argument.
func registerMulticall(r *Registry) {
	r.RegisterPositional(Method{
		Name:       multicallMethod,
		Summary:    "Makes several calls, in order; gives a list of one-element lists, or {faultCode, faultString} for a call that failed.",
		Role:       wire.RoleAny,
		Changes:    true,
		Result:     []any{},
		Example:    `[[{"methodName": "system.listMethods", "params": []}]]`,
		Signatures: [][]string{{"array", "array"}},
	}, func(_ context.Context, args []any) (any, error) {
		if len(args) != 1 {
			return nil, invalidParams("%s takes one list of calls", multicallMethod)
		}
		items, ok := args[0].([]any)
		if !ok {
			return nil, invalidParams("%s takes one list of calls", multicallMethod)
		}
		if len(items) > maxBatch {
			return nil, tooMany("calls", maxBatch)
		}
		return multicall{registry: r, calls: items}, nil
	})
}

// parseMulticall reads one call. Params may also be an object, for JSON-RPC.
func parseMulticall(item any) call {
	members, ok := item.(map[string]any)
	if !ok {
		return call{bad: invalidParams("a call is {methodName, params}")}
	}
	for name := range members {
		if name != "methodName" && name != "params" {
			return call{bad: invalidParams("unknown member %s of a call: it is {methodName, params}", quoted(name))}
		}
	}
	c := call{}
	if c.method, ok = members["methodName"].(string); !ok {
		return call{bad: invalidParams("methodName must be a text")}
	}
	if c.method == multicallMethod {
		return call{bad: invalidParams("%s can't call itself", multicallMethod)}
	}
	switch params := members["params"].(type) {
	case []any:
		c.params.Args = unpackEach(params)
	case map[string]any:
		c.params.Named = params
	case nil:
	default:
		return call{bad: invalidParams("params must be a list")}
	}
	return c
}

// multicall is the result of system.multicall. It makes each call when the result before it
// has been written, as a batch does.
type multicall struct {
	registry *Registry
	calls    []any // to be read one by one
}

func (m multicall) stream(ctx context.Context, e encoder) error {
	ctx = withProgress(ctx, nil) // the answer may be on its way
	e.beginArray()
	for _, c := range m.calls {
		a := m.registry.answer(ctx, parseMulticall(wire.Unpack(c)))
		failed := a.err
		if failed == nil {
			writeOr(e, func() error {
				e.beginArray()
				if err := write(ctx, a.method, e, a.result); err != nil {
					return err
				}
				e.endArray()
				return nil
			}, func(err *wire.Error) { failed = err })
		}
		if failed != nil {
			faultValue(e, failed)
		}
		if err := e.err(); err != nil {
			return err
		}
	}
	e.endArray()
	return nil
}
