package server

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

// certificateServer answers with the name in the client certificate that counts, over a listener of
// the daemon's. counting tells of the latest request with a certificate whether that counts.
func certificateServer(t testing.TB, f *fixture) (url string, counting func() bool) {
	t.Helper()
	var latest atomic.Pointer[func() bool]
	f.cfg.Listen = []string{"127.0.0.1:0"}
	listeners, err := listenAll(&f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{ConnContext: withConnection, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := unixConnection(r.Context()); ok {
			t.Error("TLS is taken for the Unix socket")
		}
		if c := callerOf(r); c.Remote.String() != r.RemoteAddr || !c.Here {
			t.Errorf("the caller is %+v, want %s", c, r.RemoteAddr)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Errorf("the body: %v", err)
		}
		name := "nobody"
		if c, counts := clientCertificate(r); c != nil {
			name = c.Subject.CommonName
			latest.Store(&counts)
		}
		_, _ = io.WriteString(w, name)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.Serve(f.withTLS(listeners[1]))
	}()
	t.Cleanup(func() {
		h.Close()
		<-done
		closeAll(listeners)
	})
	return "https://" + listeners[1].Addr().String(), func() bool { return (*latest.Load())() }
}

// TestClientCertificate: a certificate counts while its authority does and until it ends, also in a connection
// that lasts longer and in a session that is resumed.
func TestClientCertificate(t *testing.T) {
	ca, second := newAuthority(t, "ca"), newAuthority(t, "second")
	cfg := ca.server(t, "server", "localhost").config()
	cfg.ClientCA = second.file
	f := tlsFixture(t, cfg)
	url, counting := certificateServer(t, f)
	jane := second.client(t, "jane", time.Now().Add(time.Hour)).load(t)
	who := func(c *http.Client) string {
		t.Helper()
		resp, err := c.Get(url)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	// clients of one kind each: those that keep their connection, and those that resume sessions.
	keeps := func(show ...tls.Certificate) *http.Client { return httpsClient(t, ca, show...) }
	resumes := func(version uint16, show ...tls.Certificate) *http.Client {
		c := keeps(show...)
		tr := c.Transport.(*http.Transport)
		tr.DisableKeepAlives = true
		tr.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		tr.TLSClientConfig.MaxVersion = version
		return c
	}
	const life = 5 * time.Second // and up to one less, as times in certificates are whole seconds
	short := time.Now().Truncate(time.Second).Add(conntracktest.Slow(life))
	ending := keeps(second.client(t, "brief", short).load(t))
	if got := who(ending); got != "brief" {
		t.Errorf("with a certificate that ends soon: %s", got)
	}
	clients := map[string]*http.Client{"kept": keeps(jane), "TLS 1.2": resumes(tls.VersionTLS12, jane), "TLS 1.3": resumes(tls.VersionTLS13, jane)}
	for name, c := range clients {
		for range 3 {
			if got := who(c); got != "jane" {
				t.Errorf("%s: %s", name, got)
			}
		}
	}
	if got := who(keeps()); got != "nobody" {
		t.Errorf("without a certificate: %s", got)
	}

	time.Sleep(time.Until(short.Add(time.Millisecond)))
	if got := who(ending); got != "nobody" {
		t.Errorf("a certificate that has ended meanwhile: %s", got)
	}
	ending.CloseIdleConnections()
	if got := who(ending); !strings.Contains(got, "expired certificate") {
		t.Errorf("a certificate that has ended: %s", got)
	}

	// A second authority beside it changes nothing for it.
	third := newAuthority(t, "third")
	old := f.keys().now().authorities
	swap := func(text []byte) {
		t.Helper()
		replace(t, second.file, text)
		f.keys().lookAgain()
		conntracktest.Eventually(t, "the authorities are others", func() bool { return f.keys().now().authorities != old })
		old = f.keys().now().authorities
	}
	was := read(t, second.file)
	swap(append(read(t, third.file), was...))
	if !counting() {
		t.Error("what was begun ends, with another authority beside its own")
	}
	for name, c := range clients {
		if got := who(c); got != "jane" {
			t.Errorf("%s, with another authority beside its own: %s", name, got)
		}
	}
	swap(read(t, third.file))
	if counting() {
		t.Error("what was begun goes on without its authority")
	}
	if got := who(clients["kept"]); got != "nobody" {
		t.Errorf("kept, without its authority: %s", got)
	}
	for _, name := range []string{"TLS 1.2", "TLS 1.3"} {
		if got := who(clients[name]); !strings.Contains(got, "unknown certificate authority") {
			t.Errorf("%s, without its authority: %s", name, got)
		}
	}
	swap(was)
	if got := who(clients["kept"]); got != "jane" {
		t.Errorf("kept, with its authority again: %s", got)
	}
	// Nor does it count once no certificates are asked for.
	c := f.cfg
	c.TLS.ClientCA = ""
	p, wrong := f.newPolicy(c, f.policy.Load())
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	f.policy.Store(p)
	if counting() {
		t.Error("what was begun goes on where none are asked for")
	}
	for name, c := range clients {
		if got := who(c); got != "nobody" {
			t.Errorf("%s, where none are asked for: %s", name, got)
		}
	}
}
