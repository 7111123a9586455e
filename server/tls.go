package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"
)

// maxHandshake bounds what a caller sends until its certificate was looked at, in bytes: crypto/tls would
// take ten times as much from each of many strangers. Chains of certificates have a few thousand.
const maxHandshake = 32 << 10

// errNoKeys says that a caller came by TLS to a daemon that has no certificate.
var errNoKeys = errors.New("no certificate is set")

// checkTLS says what is wrong with the files of TLS. A certificate that has expired is not: the daemon
// starts, and says so in its log and by its doctor.
func checkTLS(cfg TLSConfig) []*settingError {
	_, wrong := newKeyring(cfg, slog.New(slog.DiscardHandler))
	return wrong
}

// newKeys returns the keyring of a policy, nil without TLS. Listeners stay as they are until a restart, so
// where TLS was taken out of the configuration they go on with the certificate that they had.
func (s *Server) newKeys(cfg TLSConfig, before *policy) (*keyring, []error) {
	if cfg.Cert == "" && before != nil && before.keys != nil {
		cfg.Cert, cfg.Key = before.keys.files.Cert, before.keys.files.Key
		s.logger.Warn("listeners keep their certificate until a restart", "cert", cfg.Cert)
	}
	keys, wrong := newKeyring(cfg, s.logger)
	if len(wrong) == 0 {
		return keys, nil
	}
	var errs []error
	for _, e := range wrong {
		errs = append(errs, e)
	}
	return nil, errs
}

// keys returns the present keyring, nil without TLS.
func (s *Server) keys() *keyring { return s.policy.Load().keys }

// withTLS returns a listener that speaks TLS where its callers do.
func (s *Server) withTLS(l net.Listener) net.Listener {
	if !speaksTLS(l) {
		return l
	}
	return &tlsListener{Listener: l, keys: s.keys, config: &tls.Config{
		MinVersion: tls.VersionTLS12,
		// A reload of the configuration or of the files counts from the next handshake on.
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			ring := s.keys()
			if ring == nil {
				return nil, errNoKeys
			}
			now := ring.now()
			c, ok := hello.Conn.(*connection)
			if !ok {
				return now.config, nil
			}
			c.authorities = now.authorities
			config := now.config.Clone()
			config.VerifyConnection = func(tls.ConnectionState) error {
				c.boundHandshake(0)
				return nil
			}
			return config, nil
		},
	}}
}

// speaksTLS tells whether a listener of listenAll's is for https.
func speaksTLS(l net.Listener) bool {
	limited, ok := l.(*limitListener)
	return ok && limited.https
}

// tlsListener is a listener whose callers speak TLS. The handshake isn't made in Accept but by the
// HTTP server, which bounds its time as that of a request's header.
type tlsListener struct {
	net.Listener
	keys   func() *keyring
	config *tls.Config
}

// Accept is net.Listener's.
func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if accepted, ok := c.(*connection); ok {
		accepted.keys = l.keys
		accepted.boundHandshake(maxHandshake)
	}
	return tls.Server(c, l.config), nil
}

// clientCertificate returns the client certificate that a request's caller showed, if it counts still, else
// nil: a connection may last longer than the certificate, or than its authority is trusted. What was begun
// with it, and lasts longer than the request, asks counts whether it still does.
func clientCertificate(r *http.Request) (cert *x509.Certificate, counts func() bool) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil, nil
	}
	c, state := connectionOf(r.Context()), r.TLS
	counts = func() bool {
		if c != nil && c.keys != nil {
			ring := c.keys()
			if ring == nil {
				return false
			}
			if now := ring.now(); now.authorities != c.authorities && !now.trusts(state.PeerCertificates) {
				return false
			}
		}
		return slices.ContainsFunc(state.VerifiedChains, lasts)
	}
	if !counts() {
		return nil, nil
	}
	return state.PeerCertificates[0], counts
}

// lasts tells whether no certificate of a chain has expired.
func lasts(chain []*x509.Certificate) bool {
	now := time.Now()
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
}
