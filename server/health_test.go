package server

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"golang.org/x/sys/unix"

	"ctd/conntrack/conntracktest"
)

func TestHealth(t *testing.T) {
	f := newFixture(t, Config{})
	h := f.Handler()
	check := func(path string, status int, body string) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != status || w.Body.String() != body || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("GET %s: %d %q %v, want %d %q", path, w.Code, w.Body, w.Header(), status, body)
		}
	}
	check("/healthz", 200, "ok\n")
	check("/readyz", 200, "ready\n")
	if n := len(f.log.events(t, "request")); n != 2 || f.log.events(t, "request")[0]["level"] != "DEBUG" {
		t.Errorf("log: %s", f.log)
	}
	f.fake.Fail(conntracktest.OpStats, 0, unix.EPERM)
	check("/healthz", 200, "ok\n")
	check("/readyz", 503, "the table does not answer\n")
	f.fake.Fail(conntracktest.OpStats, 0, nil)
	check("/readyz", 200, "ready\n")
	f.stopping.Store(true)
	check("/healthz", 200, "ok\n")
	check("/readyz", 503, "stopping\n")

	for path, status := range map[string]int{"/nothing": 404, "/rpc/x": 404, "/": 405, "/rpc": 405} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != status {
			t.Errorf("GET %s: %d, want %d", path, w.Code, status)
		}
	}
}
