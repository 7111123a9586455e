package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

const (
	// maxIssuerAnswer bounds what an issuer answers, in bytes.
	maxIssuerAnswer = 1 << 20
	// maxCAFile bounds the file of authorities, in bytes.
	maxCAFile = 1 << 20
	// issuerTimeout bounds a request to an issuer.
	issuerTimeout = 10 * time.Second
	// keyFetchEvery is how often keys are fetched at most, whatever tokens come.
	keyFetchEvery = 5 * time.Second
)

// issuerClient asks an issuer: over TLS, for so long and so much at most.
type issuerClient struct {
	http       *http.Client
	fetchEvery time.Duration // how often keys are fetched at most
}

// newIssuerClient returns a client that trusts the authorities in a file; an empty name is the system's.
func newIssuerClient(ca string) (*issuerClient, error) {
	transport := &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		DialContext:       (&net.Dialer{Timeout: issuerTimeout}).DialContext,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true,
		DisableKeepAlives: true, // it is asked too seldom
		// What is longer is refused before it is read.
		MaxResponseHeaderBytes: 64 << 10,
	}
	if ca != "" {
		pool, err := readAuthorities(ca)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &issuerClient{fetchEvery: keyFetchEvery, http: &http.Client{
		Transport: boundedTransport{transport},
		Timeout:   issuerTimeout,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) >= 3 {
				return errors.New("too many redirects")
			}
			if !secureURL(r.URL) {
				return fmt.Errorf("redirected to %s, where nothing is encrypted", r.URL.Redacted())
			}
			return nil
		},
	}}, nil
}

// readAuthorities reads certificates in PEM.
func readAuthorities(name string) (*x509.CertPool, error) {
	// Nothing waits for the writer of a pipe.
	f, err := os.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if f, err = regular(f); err != nil {
		return nil, err
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err != nil {
		return nil, err
	}
	if len(pem) > maxCAFile {
		return nil, fmt.Errorf("%s has more than the %d bytes that are read", name, maxCAFile)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate; want PEM, which begins with -----BEGIN CERTIFICATE-----", name)
	}
	return pool, nil
}

// secureURL tells whether nobody on the way can change what comes from a URL.
func secureURL(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	host := u.Hostname()
	a, err := netip.ParseAddr(host)
	return u.Scheme == "http" && (strings.EqualFold(host, "localhost") || err == nil && a.IsLoopback())
}

// boundedTransport breaks answers off that are too long.
type boundedTransport struct{ next http.RoundTripper }

// RoundTrip is http.RoundTripper's.
func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err == nil {
		resp.Body = &boundedBody{resp.Body, maxIssuerAnswer}
	}
	return resp, err
}

// boundedBody is a body that fails after so many bytes.
type boundedBody struct {
	io.ReadCloser
	left int
}

// Read is io.Reader's.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer has more than %d bytes", maxIssuerAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// discover asks an issuer for what it says of itself, and fetches its keys. Tokens must be for the audience.
func (c *issuerClient) discover(ctx context.Context, name, audience string) (*issuer, error) {
	ctx = oidc.ClientContext(ctx, c.http)
	ask, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	provider, err := oidc.NewProvider(ask, name)
	if err != nil {
		return nil, err
	}
	var said struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&said); err != nil {
		return nil, err
	}
	at, err := url.Parse(said.Keys)
	if err != nil || said.Keys == "" || !secureURL(at) {
		return nil, fmt.Errorf("its keys (jwks_uri) are at %q, which must be https", said.Keys)
	}
	keys := c.newKeySet(ctx, said.Keys)
	if err := keys.fetch(ask); err != nil {
		return nil, err
	}
	return &issuer{
		tokens: oidc.NewVerifier(name, keys, &oidc.Config{ClientID: audience, SupportedSigningAlgs: oidcAlgorithms}),
		since:  time.Now(),
	}, nil
}

// errKeyFetchHeld says that keys were fetched a moment ago.
var errKeyFetchHeld = errors.New("the keys were fetched a moment ago")

// keySet are an issuer's keys. go-oidc fetches them again for each token whose key isn't among them; here
// that happens once in a while, and tokens whose key wasn't there a moment ago are wrong.
type keySet struct {
	remote *oidc.RemoteKeySet
	failed atomic.Bool // whether the last fetch did
}

func (c *issuerClient) newKeySet(ctx context.Context, from string) *keySet {
	own := *c.http
	own.Transport = &heldTransport{next: c.http.Transport, limit: rate.NewLimiter(rate.Every(c.fetchEvery), 1)}
	return &keySet{remote: oidc.NewRemoteKeySet(oidc.ClientContext(ctx, &own), from)}
}

// fetchFailed begins go-oidc's error where the keys could not be had; any other is about the token.
const fetchFailed = "fetching keys"

// VerifySignature is oidc.KeySet's. It notes in the context's *keyOutcome whether the keys could be had.
func (k *keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.remote.VerifySignature(ctx, jwt)
	if err == nil {
		return payload, nil
	}
	fetched := !strings.HasPrefix(err.Error(), fetchFailed)
	if !errors.Is(err, errKeyFetchHeld) && ctx.Err() == nil {
		k.failed.Store(!fetched)
	}
	if outcome, ok := ctx.Value(outcomeKey{}).(*keyOutcome); ok {
		outcome.unavailable = !fetched && (k.failed.Load() || ctx.Err() != nil)
	}
	return nil, err
}

// noToken is a token that no key is right for: {"alg":"RS256","kid":"-"} and nothing.
const noToken = "eyJhbGciOiJSUzI1NiIsImtpZCI6Ii0ifQ.e30.AA" // #nosec G101 -- it opens nothing

// fetch fetches the keys, so that an issuer without any isn't taken for one that answers.
func (k *keySet) fetch(ctx context.Context) error {
	if _, err := k.remote.VerifySignature(ctx, noToken); err != nil && strings.HasPrefix(err.Error(), fetchFailed) {
		return err
	}
	return nil
}

// heldTransport sends requests once in a while.
type heldTransport struct {
	next  http.RoundTripper
	limit *rate.Limiter
}

// RoundTrip is http.RoundTripper's.
func (t *heldTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.limit.Allow() {
		return nil, errKeyFetchHeld
	}
	return t.next.RoundTrip(r)
}
