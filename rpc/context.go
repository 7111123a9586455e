package rpc

import (
	"context"
	"log/slog"
	"slices"

	"ctd/rpc/wire"
)

// Principal is who calls. The server's listeners recognise it and put it in the context.
type Principal interface {
	// Name is the caller's name, for people and logs.
	Name() string
	// Role is the caller's role.
	Role() string
	// May tells whether the caller has a role or one that includes it.
	May(role string) bool
	// Via says how the caller was recognised: unix, token, session.
	Via() string
}

// Protocol is one of the two ways to call a method.
type Protocol uint8

// The protocols.
const (
	JSONRPC Protocol = iota + 1
	XMLRPC
)

// String returns the protocol's name.
func (p Protocol) String() string {
	switch p {
	case JSONRPC:
		return "json-rpc"
	case XMLRPC:
		return "xml-rpc"
	}
	return "none"
}

// CallLog collects what one request did, for the one event that the server logs of it. It
// belongs to the request's goroutine.
type CallLog struct {
	Protocol Protocol
	Methods  []string  // names in order of their calls, each once, at most maxLoggedMethods
	Calls    int       // calls of methods, those of a batch or a multicall each
	Failed   int       // how many of them failed
	Code     wire.Code // kind of the first failure; empty where there was none
}

const (
	maxLoggedMethods = 10
	maxLoggedName    = 64
)

func (l *CallLog) call(method string) {
	if l == nil {
		return
	}
	l.Calls++
	method = method[:min(len(method), maxLoggedName)]
	if len(l.Methods) < maxLoggedMethods && !slices.Contains(l.Methods, method) {
		l.Methods = append(l.Methods, method)
	}
}

func (l *CallLog) fail(code wire.Code) {
	if l == nil {
		return
	}
	l.Failed++
	if l.Code == "" {
		l.Code = code
	}
}

type (
	principalKey struct{}
	callLogKey   struct{}
	protocolKey  struct{}
	loggerKey    struct{}
)

// WithPrincipal returns a context whose calls are p's.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom returns who calls; nil where that isn't known.
func PrincipalFrom(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}

// WithCallLog returns a context whose calls are noted in l.
func WithCallLog(ctx context.Context, l *CallLog) context.Context {
	return context.WithValue(ctx, callLogKey{}, l)
}

// CallLogFrom returns the log of the request; nil where there is none.
func CallLogFrom(ctx context.Context) *CallLog {
	l, _ := ctx.Value(callLogKey{}).(*CallLog)
	return l
}

// WithProtocol returns a context whose calls came by a protocol.
func WithProtocol(ctx context.Context, p Protocol) context.Context {
	return context.WithValue(ctx, protocolKey{}, p)
}

// ProtocolFrom returns the protocol by which a call came; 0 where it came by none.
func ProtocolFrom(ctx context.Context) Protocol {
	p, _ := ctx.Value(protocolKey{}).(Protocol)
	return p
}

func withLogger(ctx context.Context, l *slog.Logger) context.Context {
	return context.WithValue(ctx, loggerKey{}, l)
}

// loggerFrom returns the handler's logger; one that is silent where there is none.
func loggerFrom(ctx context.Context) *slog.Logger {
	if l, ok := ctx.Value(loggerKey{}).(*slog.Logger); ok {
		return l
	}
	return slog.New(slog.DiscardHandler)
}
