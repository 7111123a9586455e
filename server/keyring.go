package server

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ctd/auth"
)

const (
	// lookEvery is how often at most is looked whether the files of TLS have changed.
	lookEvery = time.Second
	// maxPEM bounds what is read of a file.
	maxPEM = 1 << 20
)

// keyring has the daemon's certificate and the authorities of client certificates. It reads them again
// when their files change, and keeps what it had where they are wrong. Its methods may be called from many
// goroutines.
type keyring struct {
	files  TLSConfig
	logger *slog.Logger

	mu          sync.Mutex // of what follows
	looked      time.Time
	pair        watched[tls.Certificate]
	authorities watched[*x509.CertPool]

	current atomic.Pointer[keys]
}

// keys are what a keyring has at a time.
type keys struct {
	config      *tls.Config // of a connection
	leaf        *x509.Certificate
	authorities *x509.CertPool // of client certificates; nil where none are asked for
	trouble     string         // why files that have changed are not used; empty where they are
}

// newKeyring reads the files; it returns nil where none are set.
func newKeyring(files TLSConfig, logger *slog.Logger) (*keyring, []*settingError) {
	var wrong []*settingError
	switch {
	case files == TLSConfig{}:
		return nil, nil
	case files.Cert == "" && files.Key == "":
		return nil, []*settingError{wrongf("tls.client_ca", "client certificates need TLS: set cert and key too")}
	case files.Cert == "":
		return nil, []*settingError{wrongf("tls.key", "a key needs its certificate: set cert too")}
	case files.Key == "":
		return nil, []*settingError{wrongf("tls.cert", "a certificate needs its key: set key too; both may be in one file")}
	}
	k := &keyring{files: files, logger: logger, looked: time.Now()}
	k.pair = watched[tls.Certificate]{
		files: []namedFile{{"tls.cert", files.Cert}, {"tls.key", files.Key}},
		text:  readPEM,
		read:  func(texts [][]byte) (tls.Certificate, *settingError) { return readPair(files, texts[0], texts[1]) },
	}
	if k.pair.look(k.looked); k.pair.wrong != nil {
		wrong = append(wrong, k.pair.wrong)
	}
	if files.ClientCA != "" {
		k.authorities = watched[*x509.CertPool]{
			files: []namedFile{{"tls.client_ca", files.ClientCA}},
			text:  readPEM,
			read:  func(texts [][]byte) (*x509.CertPool, *settingError) { return readAuthorities(files.ClientCA, texts[0]) },
		}
		if k.authorities.look(k.looked); k.authorities.wrong != nil {
			wrong = append(wrong, k.authorities.wrong)
		}
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	k.renew()
	k.tell()
	return k, nil
}

// now returns the present keys. Files that have changed count a second later at most.
func (k *keyring) now() *keys {
	// Who comes while somebody looks gets what there is, so that a file system that hangs keeps
	// one caller only.
	if k.mu.TryLock() {
		defer k.mu.Unlock()
		if now := time.Now(); now.Sub(k.looked) >= lookEvery {
			k.looked = now
			k.look(now)
		}
	}
	return k.current.Load()
}

// look reads what has changed.
func (k *keyring) look(now time.Time) {
	before := k.trouble()
	pairChanged, authoritiesChanged := k.pair.look(now), k.authorities.look(now)
	trouble := k.trouble()
	if !pairChanged && !authoritiesChanged && trouble == before {
		return
	}
	k.renew()
	if trouble != before && trouble != "" {
		k.logger.Warn("files of TLS have changed and can't be used; what was there before goes on", "error", trouble)
	}
	if pairChanged {
		k.tell()
	}
	if authoritiesChanged {
		k.logger.Info("authorities of client certificates were read again", "file", k.files.ClientCA)
	}
}

// trouble says what keeps files from being used.
func (k *keyring) trouble() string {
	var all []string
	for _, e := range []*settingError{k.pair.wrong, k.authorities.wrong} {
		if e != nil {
			all = append(all, e.Error())
		}
	}
	return strings.Join(all, "; ")
}

// renew makes the present keys of what was read.
func (k *keyring) renew() {
	c := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{k.pair.value},
		// With HTTP/1.1 alone a connection is one request at a time, so that the limit on
		// connections is one on requests.
		NextProtos: []string{"http/1.1"},
	}
	if k.authorities.value != nil {
		// Others show a token or a password.
		c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, k.authorities.value
		// Who resumes a session shows no certificate: it is looked at anew in each connection.
		c.SessionTicketsDisabled = true
	}
	k.current.Store(&keys{config: c, leaf: k.pair.value.Leaf, authorities: k.authorities.value, trouble: k.trouble()})
}

// tell logs which certificate there is.
func (k *keyring) tell() {
	leaf := k.pair.value.Leaf
	attrs := []any{"file", k.files.Cert, "names", certificateNames(leaf), "until", leaf.NotAfter.UTC()}
	switch now := time.Now(); {
	case now.After(leaf.NotAfter):
		k.logger.Warn("the certificate has expired: callers refuse it", attrs...)
	case now.Before(leaf.NotBefore):
		k.logger.Warn("the certificate is not valid yet: callers refuse it", append(attrs, "from", leaf.NotBefore.UTC())...)
	default:
		k.logger.Info("certificate", attrs...)
	}
}

// certificateNames returns by what names and addresses a server with this certificate may be called.
func certificateNames(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, a := range c.IPAddresses {
		names = append(names, a.String())
	}
	return names
}

// trusts tells whether a client's certificate, the first of a chain, is one of the present authorities'.
func (k *keys) trusts(chain []*x509.Certificate) bool {
	if k.authorities == nil || len(chain) == 0 {
		return false
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: k.authorities, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}

// namedFile is a file and the setting that names it.
type namedFile struct{ key, name string }

// watched is a value that is made of files.
type watched[T any] struct {
	files []namedFile
	text  func(name string) ([]byte, error) // of a file
	read  func(texts [][]byte) (T, *settingError)

	value T
	wrong *settingError // why the files, as they are, are not value; nil where they are

	seen []auth.FileState // of the files as they were read; nil where they weren't, or may have changed since, unseen
	sum  [sha256.Size]byte
}

// look reads the files if they have changed, and tells whether the value did. Where they are wrong it
// stays.
func (w *watched[T]) look(now time.Time) (changed bool) {
	if len(w.files) == 0 {
		return false
	}
	// Taken before the files are read: what changes while they are is seen the next time.
	states, settled := make([]auth.FileState, len(w.files)), true
	for i, file := range w.files {
		states[i], _ = auth.StateOf(file.name)
		settled = settled && states[i].Settled(now)
	}
	if w.seen != nil && slices.Equal(w.seen, states) {
		return false
	}
	w.seen = nil
	if settled {
		w.seen = states
	}
	texts, sum := make([][]byte, len(w.files)), sha256.New()
	for i, file := range w.files {
		text, err := w.text(file.name)
		if err != nil {
			w.wrong, w.sum = wrongf(file.key, "%v", err), [sha256.Size]byte{}
			w.seen = nil // tried again: what keeps it from being read needn't be the file
			return false
		}
		fmt.Fprintf(sum, "%d:", len(text))
		sum.Write(text)
		texts[i] = text
	}
	is := [sha256.Size]byte(sum.Sum(nil))
	if is == w.sum {
		return false
	}
	w.sum = is
	value, wrong := w.read(texts)
	if w.wrong = wrong; wrong != nil {
		return false
	}
	w.value = value
	return true
}

// readPEM reads a file of certificates or of a key.
func readPEM(name string) ([]byte, error) {
	text, _, err := readFile(name, maxPEM)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w: the daemon's user must be able to read it", err)
	}
	return text, err
}

// readCertificates returns the certificates of a PEM file; other blocks are passed over.
func readCertificates(name string, text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of %s can't be read: %w", len(all)+1, name, err)
		}
		all = append(all, c)
	}
	switch {
	case strings.Contains(string(text), "-----BEGIN"):
		// A file that is being written would else be a chain without its end.
		return nil, fmt.Errorf("%s ends in the middle, or isn't PEM from there on", name)
	case len(all) == 0:
		return nil, fmt.Errorf("there is no certificate in %s; PEM is wanted, with BEGIN CERTIFICATE", name)
	}
	return all, nil
}

// readPair makes the daemon's certificate of its file and its key's.
func readPair(files TLSConfig, cert, key []byte) (tls.Certificate, *settingError) {
	chain, err := readCertificates(files.Cert, cert)
	if err != nil {
		return tls.Certificate{}, wrongf("tls.cert", "%v", err)
	}
	if strings.Contains(string(key), "ENCRYPTED") { // both forms have it in clear
		return tls.Certificate{}, wrongf("tls.key", "the key in %s has a passphrase, which nobody could give at a start; "+
			"take it away: openssl pkey -in %[1]s -out NEW", files.Key)
	}
	pair, err := tls.X509KeyPair(cert, key)
	switch {
	case err == nil:
		pair.Leaf = chain[0]
		return pair, nil
	case strings.Contains(err.Error(), "does not match"):
		return tls.Certificate{}, wrongf("tls.key", "%s is not the key of the first certificate in %s, which must be the daemon's own", files.Key, files.Cert)
	}
	return tls.Certificate{}, wrongf("tls.key", "%s: %s; a private key in PEM is wanted", files.Key, strings.TrimPrefix(err.Error(), "tls: "))
}

// readAuthorities makes the authorities of client certificates.
func readAuthorities(name string, text []byte) (*x509.CertPool, *settingError) {
	all, err := readCertificates(name, text)
	if err != nil {
		return nil, wrongf("tls.client_ca", "%v", err)
	}
	pool := x509.NewCertPool()
	for _, c := range all {
		pool.AddCert(c)
	}
	return pool, nil
}
