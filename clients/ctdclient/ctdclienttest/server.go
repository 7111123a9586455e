// Package ctdclienttest is a daemon in memory for the tests of clients: a table of flows and
// expectations behind both protocols, over TCP or a Unix socket.
package ctdclienttest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"ctd/rpc/wire"
)

// Server is a daemon in memory.
type Server struct {
	// URL is the address for clients.
	URL string

	mu      sync.Mutex
	flows   []wire.Flow
	expects []wire.Expect
	doctor  wire.DoctorResult
	noRTSP  bool
	xtables bool // the RTSP helper's rules are those
	calls   []Call

	token      string // wanted from clients where not empty
	cutAfter   int
	endCleanly bool
}

// Call is one call that the server got.
type Call struct {
	Method   string
	Params   map[string]any // numbers are json.Number or, by XML-RPC, int64 and string
	Protocol string         // json or xml
	User     string         // of HTTP Basic
}

// New starts a server on a loopback port, with the flows and expectations of Flows and Expects.
func New(t testing.TB) *Server {
	t.Helper()
	s := newServer()
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// NewUnix starts a server on a Unix socket.
func NewUnix(t testing.TB, path string) *Server {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer()
	h := httptest.NewUnstartedServer(s)
	_ = h.Listener.Close()
	h.Listener = l
	h.Start()
	t.Cleanup(h.Close)
	s.URL = "unix://" + path
	return s
}

func newServer() *Server {
	return &Server{flows: Flows(), expects: Expects(), doctor: wire.DoctorResult{
		Findings: []wire.Finding{
			{Check: "events", Severity: "ok", Message: "events are on"},
			{
				Check: "accounting", Severity: "warning", Message: "flows have no counters",
				Mend: "sysctl -w net.netfilter.nf_conntrack_acct=1",
			},
		},
	}}
}

// SetFlows replaces the table.
func (s *Server) SetFlows(flows []wire.Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flows = flows
}

// Untracked makes server.doctor find that nothing tracks connections.
func (s *Server) Untracked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doctor.Findings = append(s.doctor.Findings, wire.Finding{
		Check: "active", Severity: "info", Message: "no rule in this namespace makes the kernel track connections", Mend: "nft",
	})
}

// SetToken makes the server want a token; none where empty.
func (s *Server) SetToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
}

// CutAfter makes the server end the connection in the middle of every list, after so many flows;
// cleanly: the body ends there as if it were whole.
func (s *Server) CutAfter(flows int, cleanly bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutAfter, s.endCleanly = flows, cleanly
}

// Calls returns the calls so far.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Last returns the last call.
func (s *Server) Last(t testing.TB) Call {
	t.Helper()
	calls := s.Calls()
	if len(calls) == 0 {
		t.Fatal("the server got no call")
	}
	return calls[len(calls)-1]
}

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var call Call
	switch {
	case r.Header.Get("Content-Type") == "application/json" && r.URL.Path == "/rpc":
		call, err = readJSON(body)
	case r.Header.Get("Content-Type") == "text/xml" && r.URL.Path == "/RPC2":
		call, err = readXML(body)
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	call.User, _, _ = r.BasicAuth()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token {
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.WriteHeader(http.StatusUnauthorized)
		s.answer(w, call, nil, &wire.Error{Code: wire.Unauthenticated, Message: "who are you?", Hint: "send a header"})
		return
	}
	s.calls = append(s.calls, call)
	result, rpcErr := s.method(call)
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	if s.cutAfter > 0 && (call.Method == "conntrack.list" || call.Method == "conntrack.export") && rpcErr == nil {
		s.cut(w, call, result)
		return
	}
	s.answer(w, call, result, rpcErr)
}

func (s *Server) answer(w io.Writer, call Call, result any, rpcErr *wire.Error) {
	if call.Protocol == "xml" {
		writeXML(w, result, rpcErr)
		return
	}
	if rpcErr != nil {
		data, _ := json.Marshal(wire.ErrorData{Code: rpcErr.Code, Hint: rpcErr.Hint, Errno: rpcErr.Errno})
		message, _ := json.Marshal(rpcErr.Message)
		fmt.Fprintf(w, `{"jsonrpc":"2.0","error":{"code":%d,"message":%s,"data":%s},"id":1}`, rpcErr.Code.Number(), message, data)
		return
	}
	text, err := json.Marshal(result)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":%s}`+"\n", text)
}

// cut sends the beginning of an answer and ends the connection, or the body alone.
func (s *Server) cut(w http.ResponseWriter, call Call, result any) {
	var b strings.Builder
	s.answer(&b, call, result, nil)
	text, between := b.String(), `},{"id"`
	if call.Method == "conntrack.export" {
		between = `},{"family"`
	}
	if call.Protocol == "xml" {
		between = "</value><value><struct><member><name>family"
	}
	at := 0
	for range s.cutAfter {
		next := strings.Index(text[at:], between)
		if next < 0 {
			panic("the list is shorter than that")
		}
		at += next + 1
	}
	_, _ = io.WriteString(w, text[:at])
	if s.endCleanly {
		return
	}
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}
