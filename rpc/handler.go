package rpc

import (
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"strings"

	gorilla "github.com/gorilla/rpc/v2"

	"ctd/rpc/wire"
)

const (
	// DefaultMaxBody is how many bytes a request's body may have where HandlerConfig doesn't
	// say.
	DefaultMaxBody = 8 << 20
	// MaxStrangerBody is how many it may have where the caller isn't known: enough for a login.
	MaxStrangerBody = 16 << 10
)

// HandlerConfig changes what NewHandler makes.
type HandlerConfig struct {
	MaxBody int64        // bytes of a request's body; DefaultMaxBody where 0
	Logger  *slog.Logger // internal errors; silent where nil
}

// Handler answers both protocols.
type Handler struct {
	maxBody int64
	logger  *slog.Logger
	server  *gorilla.Server
	// What requests take together.
	known, strangers *memory

	registry *Registry
}

// NewHandler returns a handler for POST requests of both protocols, told apart by their content
// type. It takes the caller from the request's context (WithPrincipal) and notes what was
// called in the context's CallLog.
func NewHandler(reg *Registry, cfg HandlerConfig) *Handler {
	h := &Handler{
		maxBody: cfg.MaxBody, logger: cfg.Logger, server: gorilla.NewServer(), registry: reg,
		known: newMemory(knownMemory), strangers: newMemory(strangerMemory),
	}
	if h.maxBody <= 0 {
		h.maxBody = DefaultMaxBody
	}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	b := &buffers{}
	for _, t := range jsonTypes {
		h.server.RegisterCodec(&jsonCodec{buffers: b}, t)
	}
	for _, t := range xmlTypes {
		h.server.RegisterCodec(&xmlCodec{buffers: b}, t)
	}
	service, _, _ := strings.Cut(dispatchMethod, ".")
	if err := h.server.RegisterService(&dispatcher{registry: reg}, service); err != nil {
		panic(fmt.Sprintf("rpc: register the dispatcher: %v", err)) // its signature is wrong
	}
	return h
}

// The content types of the protocols.
var (
	jsonTypes = [...]string{"application/json", "application/json-rpc", "application/jsonrequest"}
	xmlTypes  = [...]string{"text/xml", "application/xml"}
)

// protocolOf returns the protocol of a request by its content type, with the type and charset.
func protocolOf(r *http.Request) (p Protocol, mediaType, charset string) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return 0, "", ""
	}
	for _, t := range jsonTypes {
		if t == mediaType {
			return JSONRPC, t, params["charset"]
		}
	}
	for _, t := range xmlTypes {
		if t == mediaType {
			return XMLRPC, t, params["charset"]
		}
	}
	return 0, mediaType, ""
}

// ServeHTTP is http.Handler's.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		fail(w, r, http.StatusMethodNotAllowed, invalidRequest("calls are sent by POST"))
		return
	}
	protocol, mediaType, charset := protocolOf(r)
	if log := CallLogFrom(r.Context()); log != nil {
		log.Protocol = protocol
	}
	if status, err := h.check(r, protocol, charset); err != nil {
		h.registry.refused(r.Context(), protocol, err)
		fail(w, r, status, err)
		return
	}
	limit, taken := h.maxBody, &claim{memory: h.known, most: knownMost}
	if !isKnown(r.Context()) {
		limit, taken = min(limit, MaxStrangerBody), &claim{memory: h.strangers, most: strangerMost}
	}
	if r.ContentLength > limit {
		fail(w, r, http.StatusRequestEntityTooLarge, errBodyTooLong(r.Context(), limit))
		return
	}
	defer taken.end()
	ctx := withLogger(withClaim(WithProtocol(r.Context(), protocol), taken), h.logger)
	if p := newProgress(w, r); p != nil {
		ctx = withProgress(ctx, p)
	}
	r = r.WithContext(ctx)
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	if r.Header.Get("Content-Type") != mediaType {
		// gorilla/rpc cuts at the semicolon and no more.
		r.Header = r.Header.Clone()
		r.Header.Set("Content-Type", mime.FormatMediaType(mediaType, charsetParam(charset)))
	}
	h.server.ServeHTTP(w, r)
}

func charsetParam(charset string) map[string]string {
	if charset == "" {
		return nil
	}
	return map[string]string{"charset": charset}
}

// ForStrangers tells whether a request may be for somebody whom no credentials of HTTP's recognise: in XML-RPC
// there are methods that bring their own session. In JSON-RPC there is nothing for a stranger, not even a
// parser.
func ForStrangers(r *http.Request) bool {
	protocol, _, _ := protocolOf(r)
	return protocol.forStrangers()
}

func (p Protocol) forStrangers() bool { return p == XMLRPC }

// check refuses what needs no look into the body.
func (h *Handler) check(r *http.Request, protocol Protocol, charset string) (int, *wire.Error) {
	if protocol == 0 {
		return http.StatusUnsupportedMediaType, &wire.Error{
			Code: wire.Unsupported, Message: "the content type is of neither protocol",
			Hint: "application/json for JSON-RPC 2.0, text/xml for XML-RPC",
		}
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return http.StatusUnsupportedMediaType, &wire.Error{
			Code: wire.Unsupported, Message: "content encoding " + quoted(enc) + " is not accepted", Hint: "send the body as it is",
		}
	}
	if protocol == JSONRPC && charset != "" && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		return http.StatusUnsupportedMediaType, &wire.Error{
			Code: wire.Unsupported, Message: "charset " + quoted(charset) + " is not accepted", Hint: "JSON is UTF-8",
		}
	}
	if PrincipalFrom(r.Context()) == nil && !protocol.forStrangers() {
		return http.StatusUnauthorized, errUnauthenticated()
	}
	return 0, nil
}

func fail(w http.ResponseWriter, r *http.Request, status int, err *wire.Error) {
	CallLogFrom(r.Context()).fail(err.Code)
	writeError(w, r, status, err)
}

// WriteError answers a request that doesn't reach the handler, such as one that is over a rate
// limit, in the caller's own protocol and with the error's HTTP status. Where the content type
// is of no protocol the answer is plain text.
func WriteError(w http.ResponseWriter, r *http.Request, err *wire.Error) {
	writeError(w, r, err.Code.HTTPStatus(), err)
}

func writeError(w http.ResponseWriter, r *http.Request, status int, err *wire.Error) {
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	switch protocol, _, _ := protocolOf(r); protocol {
	case JSONRPC:
		writeJSONFailure(w, status, err)
	case XMLRPC:
		writeXMLFailure(w, status, err)
	default:
		text := err.Message
		if err.Hint != "" {
			text += ": " + err.Hint
		}
		writeFailure(w, "text/plain; charset=utf-8", status, []byte(text+"\n"))
	}
}
