package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

// startTLS starts a server with TLS, and returns it with its URL.
func startTLS(t testing.TB, f *fixture) (r *running, url string) {
	t.Helper()
	r = f.start(t)
	return r, "https://" + r.tcp[strings.LastIndex(r.tcp, "/")+1:]
}

// tlsFixture is a server with a certificate.
func tlsFixture(t testing.TB, cfg TLSConfig) *fixture {
	t.Helper()
	return newFixture(t, Config{TLS: cfg}, tcpFlow(1))
}

// httpsClient returns a client that trusts an authority and shows certificates.
func httpsClient(t testing.TB, ca *authority, show ...tls.Certificate) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool()}, ForceAttemptHTTP2: true}
	if len(show) > 0 { // whatever authorities the server names
		tr.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &show[0], nil }
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// TestTLSVersions: openssl is served with what is held to be safe, and refused with what is not.
func TestTLSVersions(t *testing.T) {
	ca := newAuthority(t, "ca")
	_, elliptic := startTLS(t, tlsFixture(t, ca.server(t, "server", "localhost").config()))
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := pairFiles{ca.dir + "/rsa.pem", ca.dir + "/rsa.key"}
	cert, key := ca.pairOf(t, serverTemplate("localhost"), private)
	write(t, p.cert, cert)
	write(t, p.key, key)
	_, url := startTLS(t, tlsFixture(t, p.config()))
	const weak = "@SECLEVEL=0"
	for name, c := range map[string]struct {
		args []string
		want string // in the output where it is served, else empty
	}{
		"TLS 1.3":       {[]string{"-tls1_3"}, "TLSv1.3"},
		"TLS 1.2":       {[]string{"-tls1_2"}, "TLSv1.2"},
		"TLS 1.1":       {[]string{"-tls1_1", "-cipher", "ALL:" + weak}, ""},
		"TLS 1.0":       {[]string{"-tls1", "-cipher", "ALL:" + weak}, ""},
		"forward":       {[]string{"-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"}, "ECDHE-RSA-AES128-GCM-SHA256"},
		"anonymous":     {[]string{"-tls1_2", "-cipher", "aNULL:" + weak}, ""},
		"unencrypted":   {[]string{"-tls1_2", "-cipher", "eNULL:" + weak}, ""},
		"key of RSA":    {[]string{"-tls1_2", "-cipher", "kRSA:" + weak}, ""},
		"CBC, SHA-256":  {[]string{"-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256:" + weak}, ""},
		"finite fields": {[]string{"-tls1_2", "-cipher", "DHE:" + weak}, ""},
		"HTTP/2":        {[]string{"-tls1_3", "-alpn", "h2,http/1.1"}, "ALPN protocol: http/1.1"},
		"ECDSA":         {[]string{"-connect", strings.TrimPrefix(elliptic, "https://"), "-tls1_2"}, "ECDHE-ECDSA-AES"},
		"ECDSA, 1.1":    {[]string{"-connect", strings.TrimPrefix(elliptic, "https://"), "-tls1_1", "-cipher", "ALL:" + weak}, ""},
	} {
		args := append([]string{"s_client", "-connect", strings.TrimPrefix(url, "https://"), "-CAfile", ca.file, "-verify_return_error"}, c.args...)
		out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput() // its input is empty
		text := string(out)
		if c.want == "" {
			if err == nil || !strings.Contains(text, "SSL alert number") { // it is the daemon that refuses
				t.Errorf("%s: served, or refused for another reason: %v\n%s", name, err, text)
			}
			continue
		}
		if err != nil || !strings.Contains(text, c.want) || !strings.Contains(text, "Verify return code: 0 (ok)") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

// TestTLSCurl: curl reaches the daemon if it knows the authority, and shows a certificate if it has one.
func TestTLSCurl(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	cfg := ca.server(t, "server", "localhost").config()
	cfg.ClientCA = ca.file
	r, url := startTLS(t, tlsFixture(t, cfg))
	good := ca.client(t, "jane", time.Now().Add(time.Hour))
	expired := ca.client(t, "late", time.Now().Add(-time.Hour))
	stranger := other.client(t, "stranger", time.Now().Add(time.Hour))
	server := ca.server(t, "another", "localhost") // not for clients
	for name, c := range map[string]struct {
		args []string
		want string // the answer, or empty where it is refused
	}{
		"the authority":       {[]string{"--cacert", ca.file}, "ok\n"},
		"TLS 1.2":             {[]string{"--cacert", ca.file, "--tls-max", "1.2"}, "ok\n"},
		"none":                {nil, ""},
		"another authority":   {[]string{"--cacert", other.file}, ""},
		"a certificate":       {[]string{"--cacert", ca.file, "--cert", good.cert, "--key", good.key}, "ok\n"},
		"expired":             {[]string{"--cacert", ca.file, "--cert", expired.cert, "--key", expired.key}, ""},
		"expired, TLS 1.2":    {[]string{"--cacert", ca.file, "--tls-max", "1.2", "--cert", expired.cert, "--key", expired.key}, ""},
		"a stranger's":        {[]string{"--cacert", ca.file, "--cert", stranger.cert, "--key", stranger.key}, ""},
		"a stranger's, 1.2":   {[]string{"--cacert", ca.file, "--tls-max", "1.2", "--cert", stranger.cert, "--key", stranger.key}, ""},
		"a server's":          {[]string{"--cacert", ca.file, "--cert", server.cert, "--key", server.key}, ""},
		"asking for HTTP/2":   {[]string{"--cacert", ca.file, "--http2"}, "ok\n"},
		"by an IPv4 address":  {[]string{"--cacert", ca.file, url + healthPath}, "ok\nok\n"},
		"by a name not in it": {[]string{"--cacert", ca.file, "--connect-to", "router:1:" + strings.TrimPrefix(url, "https://"), "https://router:1/healthz"}, ""},
	} {
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "https://"))
		args := append([]string{"-sS", "-4", "--fail-early", "--max-time", "30"}, c.args...)
		out, err := exec.CommandContext(t.Context(), "curl", append(args, "https://localhost:"+port+healthPath)...).Output()
		if c.want == "" && err == nil || c.want != "" && (err != nil || string(out) != c.want) {
			t.Errorf("%s: %v, %q, want %q", name, err, out, c.want)
		}
	}
	// A call, with the token over TLS.
	if status, body := do(t, httpsClient(t, ca), jsonCall(t, url+"/rpc", "conntrack.count", "")); status != 200 || !strings.Contains(body, `"count":1`) {
		t.Errorf("a call: %d %s", status, body)
	}
	if e := r.log.events(t, "request"); !strings.HasPrefix(fmt.Sprint(e[len(e)-1]["remote"]), "127.0.0.1:") {
		t.Errorf("logged as %v", e[len(e)-1])
	}
}

// TestTLSMixedUp: HTTP where TLS is spoken is told so, and TLS where HTTP is spoken is an error.
func TestTLSMixedUp(t *testing.T) {
	ca := newAuthority(t, "ca")
	_, url := startTLS(t, tlsFixture(t, ca.server(t, "server", "localhost").config()))
	resp, err := http.Get("http" + strings.TrimPrefix(url, "https") + healthPath)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusBadRequest || string(text) != "Client sent an HTTP request to an HTTPS server.\n" {
		t.Errorf("HTTP on TLS: %d %q, %v", resp.StatusCode, text, err)
	}
	plain := newFixture(t, Config{}).start(t)
	if _, err := httpsClient(t, ca).Get("https" + strings.TrimPrefix(plain.tcp, "http") + healthPath); err == nil || !strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		t.Errorf("TLS on HTTP: %v", err)
	}
}

// TestTLSRotation: callers notice nothing while the certificate is replaced again and again, and get the new
// one within two seconds.
func TestTLSRotation(t *testing.T) {
	const callers, rotations = 8, 50
	ca := newAuthority(t, "ca")
	p := ca.server(t, "server", "localhost")
	r, url := startTLS(t, tlsFixture(t, p.config()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var calls, failed atomic.Int64
	var tasks sync.WaitGroup
	for i := range callers {
		client := httpsClient(t, ca)
		client.Transport.(*http.Transport).DisableKeepAlives = i%2 == 0
		tasks.Go(func() {
			for ctx.Err() == nil {
				resp, err := client.Do(jsonCall(t, url+"/rpc", "conntrack.count", ""))
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				if calls.Add(1); err != nil || resp.StatusCode != 200 {
					failed.Add(1)
					t.Errorf("a call: %v", err)
				}
			}
		})
	}
	var cert []byte
	for i := range rotations {
		var key []byte
		cert, key = ca.pair(t, serverTemplate(fmt.Sprintf("rotation%d", i)))
		for name, text := range map[string][]byte{p.cert: cert, p.key: key} { // in any order
			if i%2 == 0 {
				replace(t, name, text)
			} else {
				write(t, name, text)
			}
		}
		// By themselves they would be looked at once a second only.
		before := calls.Load()
		r.keys().lookAgain()
		conntracktest.Eventually(t, "calls go on", func() bool { return calls.Load() >= before+callers })
	}
	began := time.Now()
	last := fmt.Sprintf("rotation%d", rotations-1)
	conntracktest.Eventually(t, "the last certificate is served", func() bool { return servedName(t, url, ca) == last })
	if took := time.Since(began); took > conntracktest.Slow(4*time.Second) {
		t.Errorf("it was served after %v", took)
	}
	// Half of one.
	write(t, p.cert, cert[:len(cert)/2])
	conntracktest.Eventually(t, "the broken file is told", func() bool {
		return servedName(t, url, ca) == last && r.keys().now().trouble != ""
	})
	cancel()
	tasks.Wait()
	t.Logf("%d calls, of which %d failed", calls.Load(), failed.Load())
}

// servedName returns the name in the certificate that a new connection gets.
func servedName(t testing.TB, url string, ca *authority) string {
	t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), &tls.Config{RootCAs: ca.pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// TestTLSReload: another policy's files count from the next handshake on, and a policy whose files are
// wrong isn't made.
func TestTLSReload(t *testing.T) {
	ca := newAuthority(t, "ca")
	r, url := startTLS(t, tlsFixture(t, ca.server(t, "one", "one").config()))
	if name := servedName(t, url, ca); name != "one" {
		t.Errorf("at first it is %s", name)
	}
	swap := func(cfg TLSConfig) error {
		c := r.cfg
		c.TLS = cfg
		p, wrong := r.newPolicy(c, r.policy.Load())
		if len(wrong) > 0 {
			return wrong[0]
		}
		r.policy.Store(p)
		return nil
	}
	if err := swap(ca.server(t, "two", "two").config()); err != nil || servedName(t, url, ca) != "two" {
		t.Errorf("another pair: %v, %s", err, servedName(t, url, ca))
	}
	if err := swap(TLSConfig{Cert: "none", Key: "none"}); err == nil || !strings.Contains(err.Error(), "tls.cert: ") {
		t.Errorf("no such files: %v", err)
	}
	// Listeners stay until a restart, and so does their certificate.
	if err := swap(TLSConfig{}); err != nil || servedName(t, url, ca) != "two" {
		t.Errorf("without: %v, %s", err, servedName(t, url, ca))
	}
	if status, _ := do(t, httpsClient(t, ca), jsonCall(t, url+"/rpc", "conntrack.count", "")); status != 200 {
		t.Errorf("a call: %d", status)
	}
}

// TestTLSListen: an entry says by its scheme whether TLS is spoken, and without one the certificate does.
func TestTLSListen(t *testing.T) {
	ca := newAuthority(t, "ca")
	tlsFiles := ca.server(t, "server", "localhost").config()
	for entry, c := range map[string]struct {
		cfg  TLSConfig
		want endpoint
	}{
		"h:1":                   {TLSConfig{}, endpoint{false, "h:1"}},
		"http://h:1":            {TLSConfig{}, endpoint{false, "h:1"}},
		"[::1]:1":               {tlsFiles, endpoint{true, "[::1]:1"}},
		"https://h:1":           {tlsFiles, endpoint{true, "h:1"}},
		"http://[::1]:http-alt": {tlsFiles, endpoint{false, "[::1]:http-alt"}},
	} {
		cfg := Config{TLS: c.cfg}
		if got := cfg.endpoint(entry); got != c.want {
			t.Errorf("%s: %+v, want %+v", entry, got, c.want)
		}
	}
	f := tlsFixture(t, tlsFiles)
	cfg := f.cfg
	cfg.Listen = []string{"127.0.0.1:0", "http://127.0.0.1:0", "https://[::1]:0"}
	listeners, err := listenAll(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.serve(ctx, listeners) }()
	defer func() { stop(); <-done }()
	client := httpsClient(t, ca)
	client.Transport.(*http.Transport).TLSClientConfig.ServerName = "localhost"
	for i, scheme := range []string{"https", "http", "https"} {
		resp, err := client.Get(scheme + "://" + listeners[i+1].Addr().String() + healthPath)
		if err != nil {
			t.Errorf("%s: %v", cfg.Listen[i], err)
			continue
		}
		resp.Body.Close()
	}
	var out bytes.Buffer
	f.announce(&out, listeners)
	for _, want := range []string{
		"TCP:         https://" + listeners[1].Addr().String() + "\n",
		"TCP:         http://" + listeners[2].Addr().String() + "\n",
		"TCP:         https://" + listeners[3].Addr().String() + "\n",
		// ::1 is not in the certificate.
		fmt.Sprintf("--cacert CA.pem https://localhost:%d/rpc\n", listeners[3].Addr().(*net.TCPAddr).Port),
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// TestTLSMetric: the end of the certificate is told.
func TestTLSMetric(t *testing.T) {
	ca := newAuthority(t, "ca")
	until := time.Now().Add(48 * time.Hour).Truncate(time.Second)
	template := serverTemplate("localhost")
	template.NotAfter = until
	r, url := startTLS(t, tlsFixture(t, ca.issue(t, "server", template).config()))
	status, body := do(t, httpsClient(t, ca), metricsRequest(t, url))
	if want := "\nctd_tls_certificate_expiry_timestamp_seconds " + strconv.FormatFloat(float64(until.Unix()), 'g', -1, 64) + "\n"; status != 200 || !strings.Contains(body, want) {
		t.Errorf("%d, no %q", status, want)
	}
	r.stop()
}

func metricsRequest(t testing.TB, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url+metricsPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+secret)
	return r
}
