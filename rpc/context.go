package rpc

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

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
	// Via says how the caller was recognised, as wire.WhoamiResult names it.
	Via() string
	// Credential names the credential that was shown, e.g. a token's name; it is no secret.
	Credential() string
	// Networks are those whose flows the caller sees and changes; none is everywhere.
	Networks() []netip.Prefix
	// Expires is when the credential ends; zero is never.
	Expires() time.Time
	// Valid tells whether the credential would still be accepted. Sessions ask at each use.
	Valid() bool
	// TakeCall takes a call from the caller's budget. Where there is none left it returns how long
	// until there is.
	TakeCall() (wait time.Duration)
	// TakeKills takes n changed flows from the caller's budget. Where there is no room for that many,
	// nothing is taken, and it returns for how many there is room now, and how long until there is for n;
	// 0 is never.
	TakeKills(n int) (ok bool, room int, wait time.Duration)
	// GiveBackKills gives back n that were taken and not changed.
	GiveBackKills(n int)
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
	Protocol  Protocol
	Principal string    // name of who called, of the last call where sessions differ; empty for nobody
	Methods   []string  // names in order of their calls, each once, at most maxLoggedMethods
	Calls     int       // calls of methods, those of a batch or a multicall each
	Failed    int       // how many of them failed
	Code      wire.Code // kind of the first failure; empty where there was none
	Changed   int       // entries that were changed, also where nobody took the answer
	Reason    string    // why, as the first caller of a change who gave a reason says; printable text of at most maxLoggedReason bytes

	change atomic.Bool
}

const (
	maxLoggedMethods = 10
	maxLoggedName    = 64
	maxLoggedReason  = 256
)

func (l *CallLog) call(method string) {
	if l == nil {
		return
	}
	l.Calls++
	method = loggedName(method)
	if len(l.Methods) < maxLoggedMethods && !slices.Contains(l.Methods, method) {
		l.Methods = append(l.Methods, method)
	}
}

// Changes tells whether a method was called that changes something. It may be asked while the request is
// under way, by another goroutine.
func (l *CallLog) Changes() bool { return l != nil && l.change.Load() }

func (l *CallLog) changes() {
	if l != nil {
		l.change.Store(true)
	}
}

// loggedName is a method's name for logs and records, which may be anything that a caller sent.
func loggedName(method string) string {
	method = wire.MaskTokens(method)
	return method[:min(len(method), maxLoggedName)]
}

// counted is a result that tells how many entries a call changed, and how many it could not.
type counted interface{ changes() (changed, failed int) }

// changed notes how many entries a call changed.
func (l *CallLog) changed(result any) {
	if n, _ := changesOf(result); n != nil && l != nil {
		l.Changed += *n
	}
}

// principal notes who calls.
func (l *CallLog) principal(p Principal) {
	if l != nil && p != nil {
		l.Principal = p.Name()
	}
}

// reason notes why a change is made.
func (l *CallLog) reason(text string) {
	text = printable(text)
	if l == nil || text == "" || text == l.Reason || strings.HasSuffix(l.Reason, "; "+text) {
		return
	}
	if l.Reason != "" { // of another call of the same request
		text = printable(l.Reason + "; " + text)
	}
	l.Reason = text
}

// printable returns at most maxLoggedReason bytes of a text. What can't be printed becomes a question mark,
// so that no log has a line of the caller's making.
func printable(text string) string {
	text = wire.MaskTokens(text)
	if len(text) > maxLoggedReason {
		text = text[:maxLoggedReason]
		for len(text) > 0 { // no half rune
			if r, n := utf8.DecodeLastRuneInString(text); r != utf8.RuneError || n != 1 {
				break
			}
			text = text[:len(text)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
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
