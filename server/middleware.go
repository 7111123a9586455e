package server

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"ctd/auth"
	"ctd/rpc"
	"ctd/rpc/wire"
)

// logged logs one event for each request, when it has ended.
func (s *Server) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		log := &rpc.CallLog{}
		out := &responseWriter{ResponseWriter: w, control: http.NewResponseController(w), stall: s.timing.writeStall}
		caller := callerOf(r)
		visit := s.newVisit(r, caller)
		caller.From = visit.where
		ctx := rpc.WithCallLog(r.Context(), log)
		ctx = context.WithValue(ctx, visitKey{}, visit)
		ctx = rpc.WithCaller(ctx, caller)
		if c, ok := unixConnection(ctx); ok {
			ctx = auth.WithLocalUser(ctx, c)
		}
		cut := true // unless the handler returns, the connection is cut
		defer func() {
			s.logRequest(r, out, log, visit, cut, time.Since(began))
		}()
		next.ServeHTTP(out, r.WithContext(ctx))
		// The caller need not wait for the log.
		_ = out.control.Flush()
		cut = false
	})
}

func (s *Server) logRequest(r *http.Request, w *responseWriter, log *rpc.CallLog, visit *visit, cut bool, took time.Duration) {
	level := slog.LevelInfo
	if isHealthCheck(r) && w.status == http.StatusOK { // these come all the time
		level = slog.LevelDebug
	}
	principal := visit.principal
	if principal == "" {
		principal = log.Principal // of a session of pyctd's
	}
	attrs := []slog.Attr{
		slog.String("remote", visit.where),
		slog.String("principal", clip(principal)),
		slog.String("http", clip(wire.MaskTokens(r.Method+" "+r.URL.Path))),
		slog.Int("status", w.status),
	}
	if log.Calls > 0 {
		attrs = append(attrs,
			slog.String("protocol", log.Protocol.String()),
			slog.String("methods", strings.Join(log.Methods, " ")),
			slog.Int("calls", log.Calls))
	}
	if log.Changed > 0 {
		attrs = append(attrs, slog.Int("changed", log.Changed))
	}
	if log.Reason != "" {
		attrs = append(attrs, slog.String("reason", log.Reason))
	}
	if log.Code != "" {
		attrs = append(attrs, slog.Int("failed", log.Failed), slog.String("code", string(log.Code)))
	}
	if cut {
		attrs = append(attrs, slog.Bool("cut", true))
	}
	attrs = append(attrs, slog.Int64("bytes", w.bytes), slog.Duration("took", took))
	s.logger.LogAttrs(r.Context(), level, "request", attrs...)
}

func isHealthCheck(r *http.Request) bool {
	return r.Method == http.MethodGet && (r.URL.Path == healthPath || r.URL.Path == readyPath)
}

// maxLoggedText is how many bytes of a text of the caller's are logged: of HTTP method and path,
// for which nobody needs a token, and of the name given to pyctd's login.
const maxLoggedText = 128

func clip(s string) string {
	if len(s) <= maxLoggedText {
		return s
	}
	return s[:maxLoggedText] + "..."
}

// responseWriter notes what was answered, and lets a caller who reads nothing go.
type responseWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	status  int
	bytes   int64
}

// Unwrap is for http.ResponseController.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader is http.ResponseWriter's. An interim answer (1xx) is sent at once and is not what was
// answered.
func (w *responseWriter) WriteHeader(status int) {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.stall)) // see Write
	if status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write is http.ResponseWriter's.
func (w *responseWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	// Connections that have no deadlines, as in tests, are left alone.
	_ = w.control.SetWriteDeadline(time.Now().Add(w.stall))
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// forViewers lets only callers through who may read, as a method for viewers would.
func (s *Server) forViewers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := rpc.PrincipalFrom(r.Context())
		switch {
		case p == nil:
			s.refuse(w, r, &wire.Error{
				Code: wire.Unauthenticated, Message: "the caller is not known",
				Hint: "send the token as Authorization: Bearer TOKEN, or as the password of Basic",
			})
			return
		case !p.May(wire.RoleViewer):
			s.refuse(w, r, &wire.Error{Code: wire.PermissionDenied, Message: r.URL.Path + " needs the role " + wire.RoleViewer})
			return
		}
		if v := visitOf(r.Context()); p.TakeCall() > 0 {
			v.wait = time.Second
			s.refuse(w, r, &wire.Error{
				Code: wire.RateLimited, Message: "you have made as many calls as you may in a minute", Hint: "try again in a while",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}
