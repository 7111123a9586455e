package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

// TestTLSHandshakes: strangers who begin connections and don't go on keep nobody from the Unix socket, and
// from TLS only until their time is over.
func TestTLSHandshakes(t *testing.T) {
	const strangers = 600
	ca := newAuthority(t, "ca")
	start := func(readHeader time.Duration) (r *running, url string) {
		t.Helper()
		f := tlsFixture(t, ca.server(t, "server", "localhost").config())
		f.timing.readHeader = readHeader
		r, url = startTLS(t, f)
		for i := range strangers {
			c, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			switch i % 3 {
			case 1:
				_, _ = c.Write([]byte{0x16})
			case 2: // a record whose end doesn't come
				_, _ = c.Write([]byte{0x16, 3, 1, 2, 0, 1})
			}
		}
		return r, url
	}
	kill := func(c *http.Client, url string) {
		t.Helper()
		c.Timeout = conntracktest.Slow(20 * time.Second)
		if status, body := do(t, c, jsonCall(t, url+"/rpc", "conntrack.kill", `{"filter":{"src":"10.0.0.1"},"dry_run":true}`)); status != 200 || !strings.Contains(body, `"matched":1`) {
			t.Errorf("%d %s", status, body)
		}
	}
	// None has had its time yet: who waited for that would get no answer.
	r, _ := start(10 * time.Minute)
	kill(unixClient(t, r.sock), "http://ctd")
	// As many as there are places go after the time of a handshake, the rest after another.
	_, url := start(time.Second)
	began := time.Now()
	kill(httpsClient(t, ca), url)
	t.Logf("a kill over TLS took %v", time.Since(began))
}

// TestTLSDrip: who sends a handshake byte by byte has no more time for it.
func TestTLSDrip(t *testing.T) {
	ca := newAuthority(t, "ca")
	f := tlsFixture(t, ca.server(t, "server", "localhost").config())
	f.timing.readHeader = time.Second
	_, url := startTLS(t, f)
	began := time.Now()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	gone := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, c)
		gone <- err
	}()
	for i := 0; ; i++ {
		b := byte(0)
		if header := []byte{0x16, 3, 1, 0x3f, 0xff}; i < len(header) {
			b = header[i]
		}
		_, _ = c.Write([]byte{b})
		select {
		case <-gone:
			if took := time.Since(began); took < f.timing.readHeader || took > conntracktest.Slow(10*time.Second) {
				t.Errorf("cut after %v, want %v", took, f.timing.readHeader)
			}
			return
		case <-time.After(100 * time.Millisecond):
			if time.Since(began) > conntracktest.Slow(20*time.Second) {
				t.Fatal("it goes on")
			}
		}
	}
}

// TestLongHandshake: a chain that no client needs is not read to its end.
func TestLongHandshake(t *testing.T) {
	ca := newAuthority(t, "ca")
	cfg := ca.server(t, "server", "localhost").config()
	cfg.ClientCA = ca.file
	url, _ := certificateServer(t, tlsFixture(t, cfg))
	for n, ok := range map[int]bool{1: true, 50: true, 100: false} { // of some 400 bytes each
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			jane := ca.client(t, "jane", time.Now().Add(time.Hour)).load(t)
			for range n {
				jane.Certificate = append(jane.Certificate, ca.cert.Raw)
			}
			client := httpsClient(t, ca, jane)
			client.Transport.(*http.Transport).TLSClientConfig.MaxVersion = version
			// The bound is on the handshake alone.
			resp, err := client.Post(url, "text/plain", strings.NewReader(strings.Repeat("x", 4*maxHandshake)))
			if err == nil {
				resp.Body.Close()
			}
			if (err == nil) != ok {
				t.Errorf("a chain of %d: %v", n, err)
			}
		}
	}
	// Nor is a first message.
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	record := append([]byte{0x16, 3, 1, 0x20, 0}, make([]byte, 0x2000)...)
	copy(record[5:], []byte{1, 0, 0xff, 0}) // a ClientHello of 65,280 bytes
	for range maxHandshake / 0x2000 {
		if _, err := c.Write(record); err != nil {
			break
		}
		record[5] = 0
	}
	if err := c.SetReadDeadline(time.Now().Add(conntracktest.Slow(10 * time.Second))); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("more than may be is waited for")
	}
}

// TestLongRequests: the bound on the handshake ends with it, whichever it is.
func TestLongRequests(t *testing.T) {
	ca := newAuthority(t, "ca")
	for name, authorities := range map[string]string{"without client certificates": "", "with them": ca.file} {
		cfg := ca.server(t, "server", "localhost").config()
		cfg.ClientCA = authorities
		url, _ := certificateServer(t, tlsFixture(t, cfg))
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			client := httpsClient(t, ca)
			tr := client.Transport.(*http.Transport)
			tr.DisableKeepAlives = true
			tr.TLSClientConfig.MaxVersion = version
			tr.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			for i := range 3 {
				resp, err := client.Post(url, "text/plain", strings.NewReader(strings.Repeat("x", 4*maxHandshake)))
				if err != nil {
					t.Errorf("%s, TLS %x: %v", name, version, err)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body) // with TLS 1.3 the ticket comes after
				resp.Body.Close()
				if resumed := resp.TLS.DidResume; resumed != (i > 0 && authorities == "") {
					t.Errorf("%s, TLS %x, request %d: resumed %v", name, version, i, resumed)
				}
			}
		}
	}
}
