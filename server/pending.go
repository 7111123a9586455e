package server

import (
	"crypto/x509"
	"net/http"
)

// clientCertificate returns the certificate that the sender of a request has shown and that was
// verified; nil where there is none.
func clientCertificate(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return nil
	}
	return r.TLS.VerifiedChains[0][0]
}
