package server

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

// TestCheckTLS: what is wrong with the files is said, by the setting that names it.
func TestCheckTLS(t *testing.T) {
	ca := newAuthority(t, "ca")
	one, other := ca.server(t, "one", "localhost"), ca.server(t, "other", "localhost")
	expired := ca.issue(t, "expired", &x509.Certificate{Subject: pkix.Name{CommonName: "old"}, NotAfter: time.Now().Add(-time.Hour)})
	file := func(name string, text []byte) string {
		name = filepath.Join(ca.dir, name)
		write(t, name, text)
		return name
	}
	cert, key := read(t, one.cert), read(t, one.key)
	locked := file("locked.key", []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"))
	legacy := file("legacy.key", []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n-----END EC PRIVATE KEY-----\n"))
	for name, c := range map[string]struct {
		cfg  TLSConfig
		want []string // beginnings of the errors
	}{
		"nothing":             {TLSConfig{}, nil},
		"a pair":              {one.config(), nil},
		"with authorities":    {TLSConfig{one.cert, one.key, ca.file}, nil},
		"in one file":         {TLSConfig{file("both.pem", append(bytes.Clone(key), cert...)), ca.dir + "/both.pem", ""}, nil},
		"a chain":             {TLSConfig{file("chain.pem", append(bytes.Clone(cert), read(t, ca.file)...)), one.key, ""}, nil},
		"expired":             {expired.config(), nil}, // it is only warned of
		"no key":              {TLSConfig{Cert: one.cert}, []string{"tls.cert: a certificate needs its key"}},
		"no certificate":      {TLSConfig{Key: one.key}, []string{"tls.key: a key needs its certificate"}},
		"authorities alone":   {TLSConfig{ClientCA: ca.file}, []string{"tls.client_ca: client certificates need TLS"}},
		"no such files":       {TLSConfig{"none", "none", "none"}, []string{"tls.cert: stat none: no such file", "tls.client_ca: stat none"}},
		"no such key":         {TLSConfig{one.cert, "none", ""}, []string{"tls.key: stat none: no such file"}},
		"a folder":            {TLSConfig{ca.dir, one.key, ""}, []string{"tls.cert: " + ca.dir + " is no regular file"}},
		"a device":            {TLSConfig{"/dev/zero", one.key, ""}, []string{"tls.cert: /dev/zero is no regular file"}},
		"another key":         {TLSConfig{one.cert, other.key, ""}, []string{"tls.key: " + other.key + " is not the key of the first certificate in "}},
		"authority first":     {TLSConfig{file("turned.pem", append(read(t, ca.file), cert...)), one.key, ""}, []string{"tls.key: " + one.key + " is not the key"}},
		"key for certificate": {TLSConfig{one.key, one.key, ""}, []string{"tls.cert: there is no certificate in "}},
		"certificate for key": {TLSConfig{one.cert, one.cert, ""}, []string{"tls.key: " + one.cert + ": found a certificate"}},
		"DER":                 {TLSConfig{file("der", ca.cert.Raw), one.key, ""}, []string{"tls.cert: there is no certificate in "}},
		"empty":               {TLSConfig{file("empty", nil), one.key, ""}, []string{"tls.cert: there is no certificate in "}},
		"cut off":             {TLSConfig{file("cut.pem", cert[:len(cert)-40]), one.key, ""}, []string{"tls.cert: " + ca.dir + "/cut.pem ends in the middle"}},
		"chain cut off":       {TLSConfig{file("cutchain.pem", append(bytes.Clone(cert), cert[:200]...)), one.key, ""}, []string{"tls.cert: " + ca.dir + "/cutchain.pem ends in the middle"}},
		"passphrase":          {TLSConfig{one.cert, locked, ""}, []string{"tls.key: the key in " + locked + " has a passphrase"}},
		"old passphrase":      {TLSConfig{one.cert, legacy, ""}, []string{"tls.key: the key in " + legacy + " has a passphrase"}},
		"no authority":        {TLSConfig{one.cert, one.key, one.key}, []string{"tls.client_ca: there is no certificate in "}},
		"bad authority":       {TLSConfig{one.cert, one.key, file("bad.pem", pemOf("CERTIFICATE", []byte("x")))}, []string{"tls.client_ca: certificate 1 of "}},
		"too long":            {TLSConfig{file("long.pem", make([]byte, maxPEM+1)), one.key, ""}, []string{"tls.cert: " + ca.dir + "/long.pem has more than the 1048576 bytes"}},
		"as long as may be":   {TLSConfig{file("full.pem", append(bytes.Clone(cert), bytes.Repeat([]byte("\n"), maxPEM-len(cert))...)), one.key, ""}, nil},
	} {
		wrong := checkTLS(c.cfg)
		ok := len(wrong) == len(c.want)
		for i := range c.want {
			ok = ok && strings.HasPrefix(wrong[i].Error(), c.want[i])
		}
		if !ok {
			t.Errorf("%s: %v, want %q", name, wrong, c.want)
		}
	}
}

// TestKeyring: what is put in the place of the files counts, in whatever way that is done, and what is
// wrong doesn't.
func TestKeyring(t *testing.T) {
	ca := newAuthority(t, "ca")
	p := ca.server(t, "server", "first")
	log := &logBuffer{}
	// Kubernetes swaps a link to the folder.
	mount := filepath.Join(ca.dir, "mount")
	folder := func(name string, cert, key []byte) string {
		dir := filepath.Join(ca.dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, dir+"/cert", cert)
		write(t, dir+"/key", key)
		return dir
	}
	swap := func(to string) {
		t.Helper()
		if err := os.Symlink(to, mount+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(mount+".new", mount); err != nil {
			t.Fatal(err)
		}
	}
	swap(folder("v1", read(t, p.cert), read(t, p.key)))
	files := TLSConfig{Cert: mount + "/cert", Key: mount + "/key", ClientCA: ca.file}
	ring, wrong := newKeyring(files, slog.New(slog.NewJSONHandler(log, nil)))
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	name := func() string { return ring.now().leaf.Subject.CommonName }
	becomes := func(want string) {
		t.Helper()
		ring.lookAgain()
		conntracktest.Eventually(t, "the certificate is "+want, func() bool { return name() == want && ring.now().trouble == "" })
	}
	troubled := func(what, want string) {
		t.Helper()
		ring.lookAgain()
		conntracktest.Eventually(t, what, func() bool { return strings.Contains(ring.now().trouble, want) })
	}
	if name() != "first" {
		t.Fatalf("it is %s", name())
	}

	cert, key := ca.pair(t, serverTemplate("swapped"))
	swap(folder("v2", cert, key))
	conntracktest.Eventually(t, "the certificate is swapped", func() bool { return name() == "swapped" }) // by itself

	cert, key = ca.pair(t, serverTemplate("renamed"))
	replace(t, files.Cert, cert)
	troubled("half of a pair is told", "is not the key of")
	if name() != "swapped" {
		t.Errorf("with half of a pair it is %s", name())
	}
	replace(t, files.Key, key)
	becomes("renamed")

	// In place, with a file of the same length and the times of before.
	fi, err := os.Stat(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = ca.pair(t, serverTemplate("rewrote"))
	cert = append(cert, make([]byte, max(0, int(fi.Size())-len(cert)))...)
	write(t, files.Cert, cert)
	write(t, files.Key, key)
	if err := os.Chtimes(files.Cert, fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	becomes("rewrote")

	warnings := len(log.events(t, "files of TLS have changed and can't be used; what was there before goes on"))
	write(t, files.Cert, []byte("nonsense"))
	for range 3 {
		troubled("nonsense is told", "tls.cert: there is no certificate")
	}
	if name() != "rewrote" {
		t.Errorf("with nonsense it is %s", name())
	}
	if n := len(log.events(t, "files of TLS have changed and can't be used; what was there before goes on")) - warnings; n != 1 {
		t.Errorf("nonsense was logged %d times: %s", n, log)
	}
	if err := os.Remove(files.Cert); err != nil {
		t.Fatal(err)
	}
	troubled("a missing file is told", "no such file")
	if name() != "rewrote" {
		t.Errorf("without a file it is %s", name())
	}

	// The authorities change whatever the pair is.
	other := newAuthority(t, "other")
	before := ring.now().authorities
	replace(t, ca.file, read(t, other.file))
	ring.lookAgain()
	conntracktest.Eventually(t, "the authorities are others", func() bool {
		now := ring.now().authorities
		return now != before && now.Equal(other.pool())
	})
	if !strings.Contains(ring.now().trouble, "no such file") {
		t.Errorf("the missing file is forgotten: %q", ring.now().trouble)
	}
	write(t, files.Cert, cert)
	becomes("rewrote")
	block, _ := pem.Decode(key)
	if text := log.String(); strings.Contains(text, "PRIVATE") || bytes.Contains([]byte(text), block.Bytes) {
		t.Error("the key is in the log")
	}
}

// lookAgain has the files looked at by the next who asks, as if lookEvery had gone by.
func (k *keyring) lookAgain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looked = time.Time{}
}

// TestKeyringRests: files that stay as they are aren't read again and again.
func TestKeyringRests(t *testing.T) {
	ca := newAuthority(t, "ca")
	p := ca.server(t, "server", "localhost")
	old := time.Now().Add(-time.Minute)
	for _, name := range []string{p.cert, p.key} {
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	reads := 0
	w := watched[int]{files: []namedFile{{"tls.cert", p.cert}, {"tls.key", p.key}}, text: readPEM, read: func([][]byte) (int, *settingError) {
		reads++
		return reads, nil
	}}
	now := time.Now()
	if !w.look(now) || w.value != 1 {
		t.Errorf("first look: %+v", w)
	}
	if w.seen == nil {
		t.Error("an old file is read at each look")
	}
	if w.look(now.Add(time.Hour)) {
		t.Error("nothing changed, and it was read again")
	}
	write(t, p.cert, read(t, p.cert)) // the same, written now
	if w.look(now.Add(time.Second)) || w.seen != nil {
		t.Errorf("a file that was written with what it had: %+v", w)
	}
	if w.look(now.Add(time.Hour)) || w.seen == nil || reads != 1 {
		t.Errorf("settled: %+v, %d reads", w, reads)
	}
}

// TestKeyringTriesAgain: files that couldn't be read count once they can, though nobody has touched them since.
func TestKeyringTriesAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ca")
	var failure error
	w := watched[string]{
		files: []namedFile{{"tls.client_ca", name}},
		text: func(name string) ([]byte, error) {
			if failure != nil {
				return nil, failure
			}
			return readPEM(name)
		},
		read: func(texts [][]byte) (string, *settingError) { return string(texts[0]), nil },
	}
	write(t, name, []byte("one"))
	now := time.Now().Add(time.Hour)
	if !w.look(now) || w.value != "one" {
		t.Fatalf("first look: %+v", w)
	}
	write(t, name, []byte("other"))
	failure = syscall.EMFILE
	if w.look(now) || w.wrong == nil || w.value != "one" {
		t.Errorf("it couldn't be read: %+v", w)
	}
	failure = nil
	if !w.look(now) || w.wrong != nil || w.value != "other" {
		t.Errorf("it can be read again: %+v", w)
	}
}
