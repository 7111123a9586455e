package ctdclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctd/clients/ctdclient"
	"ctd/clients/ctdclient/ctdclienttest"
	"ctd/rpc/wire"
)

func newClient(t *testing.T, cfg ctdclient.Config) *ctdclient.Client {
	t.Helper()
	c, err := ctdclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func protocols(t *testing.T, run func(t *testing.T, p ctdclient.Protocol)) {
	for _, p := range []ctdclient.Protocol{ctdclient.JSON, ctdclient.XML} {
		t.Run(string(p), func(t *testing.T) { run(t, p) })
	}
}

func TestMethods(t *testing.T) {
	protocols(t, func(t *testing.T, p ctdclient.Protocol) {
		srv := ctdclienttest.New(t)
		c := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p})
		ctx := t.Context()

		f, err := c.Get(ctx, uint32(4000000001))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&ctdclienttest.Flows()[1], f); diff != "" {
			t.Errorf("Get: -want +got\n%s", diff)
		}
		f, err = c.Get(ctx, wire.Selector{Protocol: "tcp", Orig: &wire.Tuple{Src: "192.168.1.2", Dst: "19.2.3.216"}})
		if err != nil || f.ID != 1234567890 {
			t.Errorf("Get by tuple: %v, %v", f, err)
		}
		count, err := c.Count(ctx, wire.CountParams{Filter: "proto=tcp,udp", By: "proto"})
		if err != nil || count.Count != 2 || len(count.Groups) != 2 {
			t.Errorf("Count: %+v, %v", count, err)
		}
		mod, err := c.Modify(ctx, wire.ModifyParams{Flows: []any{uint32(4000000001)}, Set: wire.Set{Mark: uint32(0xffffffff)}})
		if err != nil || mod.Modified != 1 || *mod.Flows[0].Mark != 0xffffffff {
			t.Errorf("Modify: %+v, %v", mod, err)
		}
		kill, err := c.Kill(ctx, wire.KillParams{Filter: "proto=udp"})
		if err != nil || kill.Killed != 1 || !kill.Changed {
			t.Errorf("Kill: %+v, %v", kill, err)
		}
		made, err := c.Create(ctx, wire.CreateParams{Flow: ctdclienttest.Flows()[1]})
		if err != nil || made.ID != 5 || made.Orig.Src != "10.0.0.1" {
			t.Errorf("Create: %+v, %v", made, err)
		}
		stats, err := c.Stats(ctx, wire.StatsParams{PerCPU: true})
		if err != nil || stats.Total.Found != 5_000_000_000 || len(stats.PerCPU) != 2 {
			t.Errorf("Stats: %+v, %v", stats, err)
		}
		flushed, err := c.Flush(ctx, wire.FlushParams{All: true})
		if err != nil || flushed.Killed != 3 {
			t.Errorf("Flush: %+v, %v", flushed, err)
		}
		info, err := c.Info(ctx)
		if err != nil || !info.Started.Equal(ctdclienttest.Time()) || !info.Capabilities["events"] {
			t.Errorf("Info: %+v, %v", info, err)
		}
		doctor, err := c.Doctor(ctx)
		if err != nil || doctor.Healthy || len(doctor.Findings) != 2 {
			t.Errorf("Doctor: %+v, %v", doctor, err)
		}
		helper, err := c.HelperStatus(ctx)
		if want := ctdclienttest.HelperStatus(); err != nil || !cmp.Equal(&want, helper) {
			t.Errorf("HelperStatus: %v, -want +got\n%s", err, cmp.Diff(&want, helper))
		}
		sessions, err := c.HelperSessions(ctx)
		if err != nil || !cmp.Equal(ctdclienttest.HelperSessions(), sessions.Sessions) {
			t.Errorf("HelperSessions: %+v, %v", sessions, err)
		}
		for given, form := range map[string]string{"": "nft", "nft": "nft", "iptables": "iptables"} {
			rules, err := c.HelperRules(ctx, given)
			if err != nil || rules.Form != form || rules.Rules != "# rules for "+form+"\nqueue\n" {
				t.Errorf("HelperRules: %+v, %v", rules, err)
			}
		}
		who, err := c.Whoami(ctx)
		if err != nil || who.Role != wire.RoleAdmin {
			t.Errorf("Whoami: %+v, %v", who, err)
		}
	})
}

func TestExpectMethods(t *testing.T) {
	protocols(t, func(t *testing.T, p ctdclient.Protocol) {
		srv := ctdclienttest.New(t)
		c := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p})
		ctx := t.Context()
		list, err := c.ExpectList(ctx, wire.ExpectListParams{Filter: "helper=ftp"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ctdclienttest.Expects(), list.Expects); diff != "" {
			t.Errorf("ExpectList: -want +got\n%s", diff)
		}
		e, err := c.ExpectGet(ctx, 77)
		if err != nil || e.Helper != "ftp" {
			t.Errorf("ExpectGet: %+v, %v", e, err)
		}
		made, err := c.ExpectCreate(ctx, wire.ExpectCreateParams{Master: 1, Tuple: wire.Tuple{Protocol: "udp", DPort: new(uint16(6970))}})
		if err != nil || made.ID != 78 || *made.Tuple.DPort != 6970 {
			t.Errorf("ExpectCreate: %+v, %v", made, err)
		}
		killed, err := c.ExpectKill(ctx, wire.ExpectKillParams{All: true})
		if err != nil || killed.Killed != 1 {
			t.Errorf("ExpectKill: %+v, %v", killed, err)
		}
		flushed, err := c.ExpectFlush(ctx, wire.ExpectFlushParams{All: true})
		if err != nil || flushed.Killed != 0 {
			t.Errorf("ExpectFlush: %+v, %v", flushed, err)
		}
	})
}

func TestCallRaw(t *testing.T) {
	const result = `{"id":  4000000001,"future":[1, 2]}`
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"jsonrpc":"2.0","result":` + result + `,"id":1}`))
	}))
	defer h.Close()
	c := newClient(t, ctdclient.Config{Server: h.URL})
	var raw json.RawMessage
	if err := c.Call(t.Context(), "conntrack.get", nil, &raw); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(result, string(raw)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if _, err := c.Get(t.Context(), 1); err != nil {
		t.Errorf("a member of a newer daemon: %v", err)
	}
}

func TestErrors(t *testing.T) {
	protocols(t, func(t *testing.T, p ctdclient.Protocol) {
		srv := ctdclienttest.New(t)
		c := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p})
		_, err := c.Get(t.Context(), uint32(1))
		want := &wire.Error{Code: wire.NotFound, Message: "no such flow", Hint: "it may have ended", Errno: "ENOENT"}
		if p == ctdclient.XML {
			want.Hint, want.Errno = "", "" // a fault has no place for them
		}
		var got *wire.Error
		if !errors.As(err, &got) {
			t.Fatalf("got %T %v", err, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		if err := c.Call(t.Context(), "no.such<method>", nil, nil); !errors.Is(err, &wire.Error{Code: wire.MethodNotFound}) {
			t.Errorf("unknown method: %v", err)
		}
	})
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	const closed = "http://127.0.0.1:1" // a port that nobody is given by chance
	for _, server := range []string{"unix://" + dir + "/none.sock", closed} {
		t.Run(server, func(t *testing.T) {
			_, err := newClient(t, ctdclient.Config{Server: server}).Info(t.Context())
			var e *wire.Error
			if !errors.As(err, &e) || e.Code != wire.Unavailable {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(e.Message, server) || !strings.Contains(e.Hint, "systemctl status ctd") {
				t.Errorf("message %q, hint %q", e.Message, e.Hint)
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	protocols(t, func(t *testing.T, p ctdclient.Protocol) {
		srv := ctdclienttest.New(t)
		srv.SetToken("secret")
		_, err := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p}).Info(t.Context())
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != wire.Unauthenticated {
			t.Fatalf("got %v", err)
		}
		if !strings.Contains(e.Hint, "CTD_TOKEN_FILE=/run/ctd/token") {
			t.Errorf("hint %q", e.Hint)
		}
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p, TokenFile: file}).Info(t.Context()); err != nil {
			t.Errorf("token file: %v", err)
		}
		srv.SetToken("")
		if _, err := newClient(t, ctdclient.Config{Server: srv.URL, Protocol: p, User: "bob", Password: "x"}).Info(t.Context()); err != nil {
			t.Errorf("basic: %v", err)
		}
		if got := srv.Last(t).User; got != "bob" {
			t.Errorf("user %q", got)
		}
	})
}

func TestStatusWithoutBody(t *testing.T) {
	for status, want := range map[int]wire.Code{
		401: wire.Unauthenticated, 403: wire.PermissionDenied, 404: wire.Unavailable, 413: wire.LimitExceeded,
		429: wire.RateLimited, 500: wire.Internal, 503: wire.Unavailable, 302: wire.Internal,
	} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
			defer h.Close()
			protocols(t, func(t *testing.T, p ctdclient.Protocol) {
				_, err := newClient(t, ctdclient.Config{Server: h.URL, Protocol: p}).Info(t.Context())
				if !errors.Is(err, &wire.Error{Code: want}) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func TestUnixSocket(t *testing.T) {
	srv := ctdclienttest.NewUnix(t, filepath.Join(t.TempDir(), "ctd.sock"))
	if _, err := newClient(t, ctdclient.Config{Server: srv.URL}).Info(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestFromEnv(t *testing.T) {
	env := map[string]string{
		"CTD_SERVER": "http://h:1", "CTD_TOKEN": "t", "CTD_TOKEN_FILE": "f", "CTD_USER": "u", "CTD_PASSWORD": "p",
		"CTD_CACERT": "a", "CTD_CERT": "c", "CTD_KEY": "k",
	}
	got := ctdclient.FromEnv(func(name string) string { return env[name] })
	want := ctdclient.Config{Server: "http://h:1", Token: "t", TokenFile: "f", User: "u", Password: "p", CACert: "a", Cert: "c", Key: "k"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]ctdclient.Config{
		"relative socket": {Server: "unix:ctd.sock"},
		"no scheme":       {Server: "router:8420"},
		"other scheme":    {Server: "ftp://router"},
		"user in URL":     {Server: "http://bob:secret@router:8420"},
		"protocol":        {Protocol: "soap"},
		"no token file":   {TokenFile: "/nonexistent/token"},
		"token lines":     {Token: "a\nb"},
		"key alone":       {Server: "https://router:8420", Key: "/nonexistent/key.pem"},
		"no certificate":  {Server: "https://router:8420", Cert: "/nonexistent/cert.pem"},
		"no CA":           {Server: "https://router:8420", CACert: "/nonexistent/ca.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ctdclient.New(cfg)
			if err == nil {
				t.Fatal("no error")
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	release := make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer h.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := newClient(t, ctdclient.Config{Server: h.URL}).Info(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}
