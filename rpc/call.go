package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"ctd/rpc/wire"
)

// Call calls a method for the context's principal. It is the one way to a method: single
// calls, batches and system.multicall all come here. The error is a *wire.Error that is fit
// for the caller; what is internal has been logged.
//
// The result may stream itself, which happens only when it is written (see write).
func (r *Registry) Call(ctx context.Context, name string, p Params) (result any, err error) {
	log := CallLogFrom(ctx)
	log.call(name)
	log.principal(PrincipalFrom(ctx))
	ctx, change := r.withChange(ctx, name, p)
	defer func() {
		if v := recover(); v != nil {
			err = panicError(v)
		}
		var failed *wire.Error
		if err != nil {
			failed = outcome(ctx, name, err)
			result, err = nil, failed
		}
		change.end(ctx, result, failed)
	}()
	m, err := r.allowed(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err // a call of a batch whose caller has gone
	}
	if m.Role != wire.RoleSession { // which knows its caller itself
		if !PrincipalFrom(ctx).Valid() { // a call of a batch that began before
			return nil, errEnded()
		}
		if err := takeCall(PrincipalFrom(ctx)); err != nil {
			return nil, err
		}
	}
	result, err = m.call(ctx, p)
	if err == nil && change.open {
		log.changed(result)
	}
	return result, err
}

func errEnded() error {
	return &wire.Error{Code: wire.Unauthenticated, Message: "the credential has ended", Hint: "call again with one that counts"}
}

// takeCall takes a call from the caller's budget.
func takeCall(p Principal) error {
	wait := p.TakeCall()
	if wait == 0 {
		return nil
	}
	return &wire.Error{
		Code: wire.RateLimited, Message: "you have made as many calls as you may in a minute",
		Hint: "try again in " + (wait.Round(time.Second) + time.Second).String(),
	}
}

// allowed returns the method if the caller may call it. Without a principal the answer is the
// same for every name, so that it tells nothing of which there are.
func (r *Registry) allowed(ctx context.Context, name string) (*method, error) {
	m := r.methods[name]
	if m != nil && m.XMLOnly && ProtocolFrom(ctx) != XMLRPC {
		m = nil
	}
	if m != nil && m.Role == wire.RoleSession {
		return m, nil
	}
	principal := PrincipalFrom(ctx)
	if principal == nil {
		return nil, errUnauthenticated()
	}
	if m == nil {
		return nil, r.notFound(ctx, name)
	}
	if !may(principal, m) {
		return nil, &wire.Error{
			Code:    wire.PermissionDenied,
			Message: fmt.Sprintf("%s needs the role %s", name, m.Role),
			Hint:    fmt.Sprintf("%s has the role %s", principal.Name(), principal.Role()),
		}
	}
	return m, nil
}

func may(p Principal, m *method) bool {
	return m.Role == wire.RoleSession || p != nil && (m.Role == wire.RoleAny || p.May(m.Role))
}

// visible returns the methods that the caller may call by the protocol it uses.
func (r *Registry) visible(ctx context.Context) []*method {
	principal := PrincipalFrom(ctx)
	xml := ProtocolFrom(ctx) == XMLRPC
	return r.sorted(func(m *method) bool { return may(principal, m) && (xml || !m.XMLOnly) })
}

func (r *Registry) notFound(ctx context.Context, name string) error {
	var names []string
	for _, m := range r.visible(ctx) {
		names = append(names, m.Name)
	}
	err := &wire.Error{Code: wire.MethodNotFound, Message: "no method " + quoted(name)}
	if near := wire.Nearest(name, names); near != "" {
		err.Hint = fmt.Sprintf("did you mean %q?", near)
	} else {
		err.Hint = "system.listMethods names all there are"
	}
	return err
}

// quoted returns a text of the caller's for a message, shortened.
func quoted(s string) string {
	const longest = 64
	if len(s) > longest {
		return fmt.Sprintf("%.*q...", longest, s)
	}
	return fmt.Sprintf("%q", s)
}

// streamer is a result that writes itself, in pieces, while it is being made.
type streamer interface {
	stream(ctx context.Context, e encoder) error
}

// write writes the result of a call. The error is fit for the caller.
func write(ctx context.Context, name string, e encoder, result any) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicError(v)
		}
		switch {
		case e.err() != nil:
			err = &wire.Error{Code: wire.Unavailable, Message: "the caller has gone"}
			CallLogFrom(ctx).fail(wire.Unavailable)
		case err != nil:
			err = outcome(ctx, name, err)
		}
	}()
	if s, ok := result.(streamer); ok {
		return s.stream(ctx, e)
	}
	return encodeValue(e, result)
}

// panicked is a recovered panic.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// panicError makes an error of a recovered panic. http.ErrAbortHandler goes on: it is how a
// handler asks the server to cut the connection.
func panicError(v any) error {
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	return &panicked{value: v, stack: debug.Stack()}
}

// outcome notes the failure of a call and returns what the caller is told of it.
func outcome(ctx context.Context, name string, err error) *wire.Error {
	e := ErrorOf(err)
	CallLogFrom(ctx).fail(e.Code)
	if e.Code != wire.Internal {
		return e
	}
	attrs := []any{"method", name, "error", err.Error()}
	var p *panicked
	if errors.As(err, &p) {
		attrs = append(attrs, "stack", string(p.stack))
	}
	loggerFrom(ctx).ErrorContext(ctx, "method failed", attrs...)
	return e
}
