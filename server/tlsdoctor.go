package server

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"ctd/rpc/wire"
)

// certificateWarning is how long before its end the doctor warns of a certificate.
const certificateWarning = 14 * 24 * time.Hour

// checkEncryption looks at the certificate, and whether callers from elsewhere need it.
func (s *Server) checkEncryption(context.Context) wire.Finding {
	f := wire.Finding{Check: "tls", Severity: severityOK}
	ring := s.keys()
	if open := s.cfg.unencrypted(); len(open) > 0 {
		f.Severity = severityWarning
		f.Message = "nothing is encrypted at " + strings.Join(open, ", ") + ": who reads along sees tokens and passwords; set cert and key in [tls]"
		if ring != nil {
			f.Message = "nothing is encrypted at " + strings.Join(open, ", ") + ": who reads along sees tokens and passwords; write https:// there"
		}
		return f
	}
	if ring == nil {
		f.Message = "there is no TLS, and no address beyond this machine is listened on"
		return f
	}
	now := ring.now()
	leaf := now.leaf
	left := time.Until(leaf.NotAfter)
	until := leaf.NotAfter.UTC().Format(time.RFC3339)
	f.Severity = severityWarning
	switch {
	case left <= 0:
		f.Severity = severityError
		f.Message = fmt.Sprintf("the certificate in %s expired at %s: callers refuse it; put a new one there, which is read at once", ring.files.Cert, until)
	case time.Until(leaf.NotBefore) > 0:
		f.Severity = severityError
		f.Message = fmt.Sprintf("the certificate in %s is not valid before %s: callers refuse it; is the clock right?", ring.files.Cert, leaf.NotBefore.UTC().Format(time.RFC3339))
	case now.trouble != "":
		f.Message = "files of TLS have changed and can't be used, so that those before go on: " + now.trouble
	case left < certificateWarning:
		f.Message = fmt.Sprintf("the certificate in %s expires at %s, in %s; put a new one there, which is read at once", ring.files.Cert, until, days(left))
	case unreadable(ring.files) != "":
		f.Message = "the daemon's user can't read " + unreadable(ring.files) + ": it goes on with what was read at its start, and a new one isn't taken"
	case len(certificateNames(leaf)) == 0:
		f.Message = fmt.Sprintf("the certificate in %s names no host (subject alternative names): callers refuse it", ring.files.Cert)
	case othersRead(ring.files.Key):
		f.Severity = severityInfo // in a container there may be nobody else
		f.Message = "every user of this machine can read the key " + ring.files.Key
		f.Mend = "chmod o= " + ring.files.Key
	default:
		f.Severity = severityOK
		f.Message = fmt.Sprintf("the certificate for %s is valid until %s", strings.Join(certificateNames(leaf), ", "), until)
	}
	return f
}

// days says in words how long something lasts.
func days(d time.Duration) string {
	switch n := int(d.Hours() / 24); n {
	case 0:
		return "less than a day"
	case 1:
		return "1 day"
	default:
		return fmt.Sprintf("%d days", n)
	}
}

// unreadable returns the first of the files that can't be opened, as after the daemon has become another
// user; empty for none.
func unreadable(files TLSConfig) string {
	for _, name := range []string{files.Cert, files.Key, files.ClientCA} {
		if name == "" {
			continue
		}
		f, _, err := openRegular(name)
		if err != nil {
			return name
		}
		f.Close()
	}
	return ""
}

// othersRead tells whether everybody may read a file.
func othersRead(name string) bool {
	fi, err := os.Stat(name)
	return err == nil && fi.Mode().Perm()&0o004 != 0
}

// unencrypted returns the entries of Listen beyond loopback that have no TLS.
func (c *Config) unencrypted() []string {
	var open []string
	for _, entry := range c.Listen {
		e := c.endpoint(entry)
		if host, _, err := net.SplitHostPort(e.address); err == nil && !e.https && !isLoopback(host) {
			open = append(open, e.address)
		}
	}
	return open
}

// tlsExample returns the URL, and before it the option, by which curl calls the daemon at an address.
func (s *Server) tlsExample(address net.Addr) string {
	leaf, files := s.keys().now().leaf, s.cfg.TLS
	host, port, err := net.SplitHostPort(address.String())
	if err != nil { // none of TCP's
		return "https://" + address.String()
	}
	if names := certificateNames(leaf); leaf.VerifyHostname(host) != nil && len(names) > 0 {
		host = strings.Replace(names[0], "*", "host", 1)
	}
	url := "https://" + net.JoinHostPort(host, port)
	if _, err := leaf.Verify(x509.VerifyOptions{Intermediates: s.chain()}); err == nil {
		return url
	}
	if leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil {
		return "--cacert " + files.Cert + " " + url // its own authority
	}
	return "--cacert CA.pem " + url
}

// chain returns what follows the daemon's own certificate in its file.
func (s *Server) chain() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, der := range s.keys().now().config.Certificates[0].Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			pool.AddCert(c)
		}
	}
	return pool
}
