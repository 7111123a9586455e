package ctdclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"ctd/rpc/wire"
)

// newTLS returns what https takes of a configuration.
func newTLS(cfg Config) (*tls.Config, error) {
	tc := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CACert != "" {
		pem, err := os.ReadFile(cfg.CACert)
		if err != nil {
			return nil, fmt.Errorf("read CA certificate: %w", err)
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA certificate: no certificate in %s", cfg.CACert)
		}
	}
	switch {
	case cfg.Cert == "" && cfg.Key == "":
		return tc, nil
	case cfg.Cert == "":
		return nil, fmt.Errorf("read client certificate: there is a key, %s, and no certificate", cfg.Key)
	case cfg.Key == "":
		cfg.Key = cfg.Cert
	}
	pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("read client certificate: %w", err)
	}
	// It is shown whatever authorities the daemon names, so that the daemon says if it is the wrong one.
	tc.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return tc, nil
}

// tlsError returns the error of a handshake that failed, nil where it is another's. err is without what
// net/http puts around it.
func (c *Client) tlsError(err error) *wire.Error {
	e := &wire.Error{Code: wire.Unavailable, Message: fmt.Sprintf("can't reach ctd at %s: %v", c.server, err)}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	// What the daemon says of the client's certificate; crypto/tls has no type for it.
	_, alert, alerted := strings.Cut(err.Error(), "remote error: tls: ")
	switch {
	case errors.As(err, &unknown):
		e.Hint = "its certificate is of an authority that isn't known here: name that by --cacert or CTD_CACERT"
		if c.cacert != "" {
			e.Hint = fmt.Sprintf("the authority in %s (--cacert, CTD_CACERT) didn't sign the daemon's certificate: ask for the right one", c.cacert)
		}
	case errors.As(err, &name):
		e.Hint = "call it by a name that is in its certificate"
		if names := names(name.Certificate); names != "" {
			e.Hint += ": " + names
		}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Hint = "the daemon's certificate has to be renewed, unless the clock here is wrong: ctd doctor on its host says more"
	case errors.As(err, &invalid):
		e.Hint = "the daemon's certificate has to be made anew"
	case alerted && strings.Contains(alert, "certificate"):
		e.Code = wire.Unauthenticated
		e.Message = fmt.Sprintf("%s refuses the client certificate: %s", c.server, alert)
		e.Hint = fmt.Sprintf("it has to be valid, for clients, and of an authority in the daemon's client_ca; it is taken from %s (--cert, CTD_CERT)", c.cert)
		if c.cert == "" {
			e.Hint = "give one by --cert and --key, or CTD_CERT and CTD_KEY"
		}
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		e.Hint = "it speaks no TLS: call it by http://"
	case strings.Contains(err.Error(), "tls:"), strings.Contains(err.Error(), "x509:"):
		e.Hint = fmt.Sprintf("openssl s_client -connect %s shows more", strings.TrimPrefix(c.server, "https://"))
	default:
		return nil
	}
	return e
}

// names returns the hosts that a certificate is for.
func names(c *x509.Certificate) string {
	if c == nil {
		return ""
	}
	all := c.DNSNames
	for _, a := range c.IPAddresses {
		all = append(all, a.String())
	}
	return strings.Join(all, ", ")
}
