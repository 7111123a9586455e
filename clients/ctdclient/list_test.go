package ctdclient_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"ctd/clients/ctdclient"
	"ctd/clients/ctdclient/ctdclienttest"
	"ctd/rpc/wire"
)

func TestList(t *testing.T) {
	protocols(t, func(t *testing.T, p ctdclient.Protocol) {
		srv := ctdclienttest.New(t)
		c := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p})
		l := c.Listing(t.Context(), wire.ListParams{Filter: "proto=!gre"})
		var got []wire.Flow
		for f, err := range l.Flows() {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, f)
		}
		if diff := cmp.Diff(ctdclienttest.Flows(), got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		want := ctdclient.Summary{Matched: 3, Scanned: 3, Time: ctdclienttest.Time()}
		if diff := cmp.Diff(want, l.Summary()); diff != "" {
			t.Errorf("summary: -want +got\n%s", diff)
		}
		for range c.List(t.Context(), wire.ListParams{}) {
			break // leaves the body behind: the next call must not mind
		}
		if _, err := c.Info(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestListError(t *testing.T) {
	protocols(t, func(t *testing.T, p ctdclient.Protocol) {
		srv := ctdclienttest.New(t)
		c := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p})
		n := 0
		for _, err := range c.List(t.Context(), wire.ListParams{Filter: "prto=tcp"}) {
			n++
			if !errors.Is(err, &wire.Error{Code: wire.InvalidParams}) {
				t.Errorf("got %v", err)
			}
		}
		if n != 1 {
			t.Errorf("yielded %d times", n)
		}
		if err := c.ListRaw(t.Context(), wire.ListParams{Filter: "prto=tcp"}, io.Discard); !errors.Is(err, &wire.Error{Code: wire.InvalidParams}) {
			t.Errorf("raw: %v", err)
		}
	})
}

// TestListCut holds that a list that is cut never passes for a short one.
func TestListCut(t *testing.T) {
	protocols(t, func(t *testing.T, p ctdclient.Protocol) {
		for name, cleanly := range map[string]bool{"connection": false, "body": true} {
			t.Run(name, func(t *testing.T) {
				srv := ctdclienttest.New(t)
				srv.CutAfter(2, cleanly)
				c := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p})
				var last error
				for _, err := range c.List(t.Context(), wire.ListParams{}) {
					last = err
				}
				if !errors.Is(last, &wire.Error{Code: wire.Unavailable}) {
					t.Errorf("list: %v", last)
				}
				if err := c.ListRaw(t.Context(), wire.ListParams{}, io.Discard); !errors.Is(err, &wire.Error{Code: wire.Unavailable}) {
					t.Errorf("raw: %v", err)
				}
			})
		}
	})
}

// whole is a response with everything that might confuse a scanner.
const whole = `{"id":1,"jsonrpc":"2.0", "result" : {"flows":[{"id":1,"user":"},\"]{"},{"id":2,"labels":[1,2]}],"matched": 2,"scanned":9,"time":"2026-11-22T04:20:00Z","x":{"flows":[]}} , "more":[{"result":{}}]}`

// result is the value of its member of that name.
const result = `{"flows":[{"id":1,"user":"},\"]{"},{"id":2,"labels":[1,2]}],"matched": 2,"scanned":9,"time":"2026-11-22T04:20:00Z","x":{"flows":[]}}`

// serve answers every call with body, in pieces of one byte where slow.
func serve(t *testing.T, body string, slow bool) *ctdclient.Client {
	t.Helper()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
	t.Cleanup(h.Close)
	client := h.Client()
	if slow {
		client.Transport = slowly{client.Transport}
	}
	return newClient(t, ctdclient.Config{Server: h.URL, HTTPClient: client})
}

type slowly struct{ http.RoundTripper }

func (s slowly) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{iotest.OneByteReader(resp.Body), resp.Body}
	}
	return resp, err
}

func TestListRaw(t *testing.T) {
	dense := strings.ReplaceAll(strings.ReplaceAll(whole, `"result" : `, `"result":`), `} , `, `},`)
	for name, tc := range map[string]struct {
		body string
		slow bool
	}{
		"at once":            {whole, false},
		"byte by byte":       {whole, true},
		"dense":              {dense, false},
		"dense, by the byte": {dense, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, tc.body, tc.slow)
			var got bytes.Buffer
			l := c.Listing(t.Context(), wire.ListParams{})
			if err := l.CopyTo(&got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(result, got.String()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if l.Summary().Matched != 2 {
				t.Errorf("summary %+v", l.Summary())
			}
			n := 0
			for _, err := range l.Raw() {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			if n != 2 {
				t.Errorf("%d flows", n)
			}
		})
	}
}

// TestListNotWhole cuts a good response at every byte, and spoils it.
func TestListNotWhole(t *testing.T) {
	bad := map[string]string{
		"empty":              "",
		"null":               "null",
		"array":              "[]",
		"no result":          `{"jsonrpc":"2.0","id":1}`,
		"null result":        `{"jsonrpc":"2.0","result":null,"id":1}`,
		"empty result":       `{"jsonrpc":"2.0","result":{},"id":1}`,
		"no matched":         strings.Replace(whole, `"matched": 2,`, "", 1),
		"no scanned":         strings.Replace(whole, `"scanned":9,`, "", 1),
		"no time":            strings.Replace(whole, `"time":"2026-11-22T04:20:00Z",`, "", 1),
		"no flows":           strings.Replace(whole, `"flows":[{`, `"flaws":[{`, 1),
		"something after":    whole + "{}",
		"brackets mixed":     strings.Replace(whole, `[1,2]}`, `[1,2}]`, 1),
		"html":               "<html>",
		"matched in a flow":  strings.Replace(strings.Replace(whole, `"matched": 2,`, "", 1), `"id":1,"user"`, `"matched":1,"user"`, 1),
		"nested too deeply":  `{"result":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
		"result is a string": `{"result":"flows matched scanned time"}`,
	}
	for i := range whole {
		bad[fmt.Sprintf("cut at %d", i)] = whole[:i]
	}
	for name, body := range bad {
		t.Run(name, func(t *testing.T) {
			c := serve(t, body, false)
			var last error
			for _, err := range c.List(t.Context(), wire.ListParams{}) {
				last = err
			}
			if last == nil {
				t.Error("list: no error")
			}
			if err := c.ListRaw(t.Context(), wire.ListParams{}, io.Discard); err == nil {
				t.Error("raw: no error")
			}
		})
	}
}

// TestListMemory holds that neither form of a list is held in memory.
func TestListMemory(t *testing.T) {
	const flows = 100_000
	one, err := json.Marshal(ctdclienttest.Flows()[0])
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{"flows":[`)
		for i := range flows {
			if i > 0 {
				_, _ = w.Write([]byte{','})
			}
			_, _ = w.Write(one)
		}
		fmt.Fprintf(w, `],"matched":%d,"scanned":%d,"time":"2026-11-22T04:20:00Z"}}`, flows, flows)
	}))
	defer h.Close()
	c := newClient(t, ctdclient.Config{Server: h.URL})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, n := heap(), 0
	check := func() {
		if n++; n%(flows/2) == 0 {
			if now := heap(); now > before+4<<20 {
				t.Errorf("after %d flows the heap has grown from %d to %d bytes", n, before, now)
			}
		}
	}
	for _, err := range c.Listing(t.Context(), wire.ListParams{}).Raw() {
		if err != nil {
			t.Fatal(err)
		}
		check()
	}
	if n != flows {
		t.Fatalf("%d flows", n)
	}
	w := &measured{at: int64(flows/2) * int64(len(one)), check: func() { n = flows/2 - 1; check() }}
	if err := c.ListRaw(t.Context(), wire.ListParams{}, w); err != nil {
		t.Fatal(err)
	}
	if w.at > 0 {
		t.Error("the writer got too little")
	}
}

// measured calls check once, when so many bytes have come.
type measured struct {
	at    int64
	check func()
}

func (m *measured) Write(b []byte) (int, error) {
	before := m.at
	if m.at -= int64(len(b)); before > 0 && m.at <= 0 {
		m.check()
	}
	return len(b), nil
}

func TestListRawWriter(t *testing.T) {
	c := serve(t, whole, false)
	broken := errors.New("disk full")
	err := c.ListRaw(t.Context(), wire.ListParams{}, iotest.TruncateWriter(failing{broken}, 0))
	if err != nil {
		t.Errorf("a truncating writer: %v", err)
	}
	if err := c.ListRaw(t.Context(), wire.ListParams{}, failing{broken}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestExport(t *testing.T) {
	protocols(t, func(t *testing.T, p ctdclient.Protocol) {
		srv := ctdclienttest.New(t)
		srv.SetFlows(ctdclienttest.Offloaded())
		c := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p})
		l := c.Export(t.Context(), wire.ExportParams{})
		var got []wire.Flow
		for f, err := range l.Flows() {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, f)
		}
		sum := l.Summary()
		if len(got) != 1 || got[0].ID != 0 || sum.Matched != 2 || sum.Exported != 1 || len(sum.Failed) != 1 || !sum.Partial || !sum.Time.Equal(ctdclienttest.Time()) {
			t.Errorf("%d flows, %+v", len(got), sum)
		}
		var raw bytes.Buffer
		l = c.Export(t.Context(), wire.ExportParams{})
		if err := l.CopyTo(&raw); err != nil || !l.Summary().Partial || l.Summary().Matched != 2 || !strings.Contains(raw.String(), `"exported":1`) {
			t.Errorf("%s: %v, %+v", raw.String(), err, l.Summary())
		}
		r, err := c.Import(t.Context(), wire.ImportParams{Flows: got, OnConflict: "replace"})
		if err != nil || r.Skipped != 1 || r.Changed {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// TestExportCut: an export that is cut is an error too, as is one without its own members.
func TestExportCut(t *testing.T) {
	protocols(t, func(t *testing.T, p ctdclient.Protocol) {
		srv := ctdclienttest.New(t)
		srv.CutAfter(1, true)
		c := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p})
		var last error
		for _, err := range c.Export(t.Context(), wire.ExportParams{}).Flows() {
			last = err
		}
		if last == nil {
			t.Error("a short export passed for a whole one")
		}
		if err := c.Export(t.Context(), wire.ExportParams{}).CopyTo(io.Discard); err == nil {
			t.Error("copied: a short export passed for a whole one")
		}
	})
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{"flows":[],"matched":0,"scanned":0,"time":"2026-11-22T04:20:00Z"}}`)
	}))
	defer h.Close()
	c := newClient(t, ctdclient.Config{Server: h.URL})
	for _, err := range c.Export(t.Context(), wire.ExportParams{}).Flows() {
		if err == nil || !strings.Contains(err.Error(), "exported") {
			t.Errorf("got %v, want that exported is missing", err)
		}
	}
}
