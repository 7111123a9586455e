package server

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// Where health checks ask.
const (
	healthPath = "/healthz"
	readyPath  = "/readyz"
)

// readyTimeout bounds the look at whether the table answers.
const readyTimeout = 2 * time.Second

// healthz says that the process answers. It tells nothing else, and so needs no principal.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, "ok\n")
}

// readyz says whether requests can be answered: the table is there and the daemon isn't ending.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if s.stopping.Load() {
		answer(w, http.StatusServiceUnavailable, "stopping\n")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if _, err := s.table.Stats(ctx); err != nil {
		s.logger.WarnContext(ctx, "not ready", "error", err)
		answer(w, http.StatusServiceUnavailable, "the table does not answer\n")
		return
	}
	answer(w, http.StatusOK, "ready\n")
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // a caller who has gone needs no answer
}

// openRPC is rpc.discover for a browser.
func (s *Server) openRPC(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.registry.OpenRPC(s.cfg.Version))
}
