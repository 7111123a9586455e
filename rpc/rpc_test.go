package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctd/rpc/wire"
)

// caller is a principal of tests.
type caller struct{ role string }

func (c caller) Name() string { return "tester" }
func (c caller) Role() string { return c.role }
func (c caller) Via() string  { return "test" }

func (c caller) Credential() string                       { return "" }
func (c caller) Networks() []netip.Prefix                 { return nil }
func (c caller) Expires() time.Time                       { return time.Time{} }
func (c caller) Valid() bool                              { return true }
func (c caller) TakeCall() time.Duration                  { return 0 }
func (c caller) TakeKills(int) (bool, int, time.Duration) { return true, 0, 0 }
func (c caller) GiveBackKills(int)                        {}
func (c caller) May(role string) bool {
	ranks := []string{wire.RoleAny, wire.RoleViewer, wire.RoleOperator, wire.RoleAdmin}
	rank := func(role string) int {
		for i, r := range ranks {
			if r == role {
				return i
			}
		}
		return len(ranks)
	}
	return rank(role) <= rank(c.role)
}

type echoParams struct {
	Value any    `json:"value,omitempty" doc:"anything"`
	Text  string `json:"text,omitempty" doc:"a text" enum:"one,two"`
}

type subtractParams struct {
	Minuend    int `json:"minuend"`
	Subtrahend int `json:"subtrahend"`
}

type filterParams struct {
	Filter wire.Filter `json:"filter,omitempty"`
	Limit  uint16      `json:"limit,omitempty"`
	Set    wire.Set    `json:"set,omitempty"`
}

type streamParams struct {
	Values int `json:"values,omitempty" doc:"write so many values of 100 bytes, and then"`
	Fail   any `json:"fail,omitempty" doc:"fail, or with the text panic panic"`
}

// pieces is a result that streams itself.
type pieces struct{ streamParams }

func (p pieces) stream(_ context.Context, e encoder) error {
	e.beginObject()
	e.key("values")
	e.beginArray()
	for range p.Values {
		e.str(strings.Repeat("x", 100))
		if err := e.err(); err != nil {
			return err
		}
	}
	if p.Fail == "panic" {
		panic("half way")
	}
	if p.Fail != nil {
		return fmt.Errorf("list flows: %w", unix.EINTR)
	}
	e.endArray()
	e.key("count")
	e.int(int64(p.Values))
	e.endObject()
	return nil
}

// fixture is a registry of small methods, which counts their calls.
type fixture struct {
	*Registry
	ran atomic.Int64
}

func newFixture() *fixture {
	f := &fixture{Registry: NewRegistry()}
	r := f.Registry
	Register(r, Method{Name: "echo", Summary: "Gives back.", Role: wire.RoleViewer, Result: map[string]any{}, Example: `{"value": 1}`},
		func(_ context.Context, p *echoParams) (any, error) { f.ran.Add(1); return p.Value, nil })
	Register(r, Method{Name: "subtract", Summary: "Subtracts.", Role: wire.RoleViewer, Result: 0},
		func(_ context.Context, p *subtractParams) (any, error) {
			f.ran.Add(1)
			return p.Minuend - p.Subtrahend, nil
		})
	Register(r, Method{Name: "select", Summary: "Takes a filter.", Role: wire.RoleViewer, Result: filterParams{}},
		func(_ context.Context, p *filterParams) (any, error) { f.ran.Add(1); return p, nil })
	Register(r, Method{Name: "stream", Summary: "Streams.", Role: wire.RoleViewer},
		func(_ context.Context, p *streamParams) (any, error) { f.ran.Add(1); return pieces{*p}, nil })
	Register(r, Method{Name: "notify_hello", Role: wire.RoleViewer},
		func(context.Context, *struct{ Names []any }) (any, error) { f.ran.Add(1); return nil, nil })
	Register(r, Method{Name: "get_data", Role: wire.RoleViewer},
		func(context.Context, *wire.Empty) (any, error) { f.ran.Add(1); return []any{"hello", 5}, nil })
	Register(r, Method{Name: "kill", Role: wire.RoleAdmin, Changes: true},
		func(context.Context, *wire.Empty) (any, error) { f.ran.Add(1); return nil, nil })
	Register(r, Method{Name: "fail", Role: wire.RoleViewer},
		func(_ context.Context, p *echoParams) (any, error) {
			f.ran.Add(1)
			if p.Value == "panic" {
				panic("secret")
			}
			if p.Value == "secret" {
				return nil, errors.New("secret detail")
			}
			return nil, fmt.Errorf("get flow: %w", unix.ENOENT)
		})
	for _, name := range []string{"update", "sum", "notify_sum", "session.raw"} {
		role, xmlOnly := wire.RoleViewer, false
		if name == "session.raw" {
			role, xmlOnly = wire.RoleSession, true
		}
		r.RegisterPositional(Method{Name: name, Role: role, XMLOnly: xmlOnly, Signatures: [][]string{{"int", "int"}}},
			func(_ context.Context, args []any) (any, error) {
				f.ran.Add(1)
				sum := int64(0)
				for _, a := range args {
					var n int64
					if err := wire.Decode(a, &n, true); err != nil {
						return nil, err
					}
					sum += n
				}
				return sum, nil
			})
	}
	RegisterSystem(r, "1.2.3")
	return f
}

// post sends a body to a handler as somebody ("" is nobody) and returns the answer.
func (f *fixture) post(t testing.TB, role, contentType, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	if role != "" {
		r = r.WithContext(WithPrincipal(r.Context(), caller{role}))
	}
	w := httptest.NewRecorder()
	NewHandler(f.Registry, HandlerConfig{}).ServeHTTP(w, r)
	return w
}

// serve runs a real server, whose callers are viewers, so that a cut connection can be seen.
func (f *fixture) serve(t testing.TB) *httptest.Server {
	t.Helper()
	h := NewHandler(f.Registry, HandlerConfig{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(WithPrincipal(r.Context(), caller{wire.RoleViewer})))
	}))
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
