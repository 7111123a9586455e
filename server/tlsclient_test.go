package server

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctd/clients/ctdclient"
	"ctd/rpc/wire"
)

// TestTLSClients: the Go client and ctd reach a daemon with TLS, and say what keeps them from it.
func TestTLSClients(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	cfg := ca.server(t, "server", "localhost").config()
	cfg.ClientCA = ca.file
	r, url := startTLS(t, newFixture(t, Config{TLS: cfg}))
	_, expired := startTLS(t, newFixture(t, Config{TLS: ca.issue(t, "expired", &x509.Certificate{
		Subject: pkix.Name{CommonName: "old"}, IPAddresses: serverTemplate("").IPAddresses, NotAfter: time.Now().Add(-time.Hour),
	}).config()}))
	_, elsewhere := startTLS(t, newFixture(t, Config{TLS: ca.issue(t, "elsewhere", &x509.Certificate{
		Subject: pkix.Name{CommonName: "elsewhere"}, DNSNames: []string{"router.example.org", "r2.example.org"},
	}).config()}))
	plain := newFixture(t, Config{}).start(t)
	jane := ca.client(t, "jane", time.Now().Add(time.Hour))
	late := ca.client(t, "late", time.Now().Add(-time.Hour))
	stranger := other.client(t, "stranger", time.Now().Add(time.Hour))
	both := filepath.Join(ca.dir, "both.pem")
	write(t, both, append(read(t, jane.cert), read(t, jane.key)...))

	for name, c := range map[string]struct {
		cfg     ctdclient.Config
		code    wire.Code // empty where it is let in
		message string
		hint    string
	}{
		"all right":            {ctdclient.Config{Server: url, CACert: ca.file}, "", "", ""},
		"a certificate":        {ctdclient.Config{Server: url, CACert: ca.file, Cert: jane.cert, Key: jane.key}, "", "", ""},
		"in one file":          {ctdclient.Config{Server: url, CACert: ca.file, Cert: both}, "", "", ""},
		"unknown":              {ctdclient.Config{Server: url}, wire.Unavailable, "unknown authority", "name that by --cacert or CTD_CACERT"},
		"of another":           {ctdclient.Config{Server: url, CACert: other.file}, wire.Unavailable, "unknown authority", "the authority in " + other.file + " (--cacert, CTD_CACERT) didn't sign"},
		"expired":              {ctdclient.Config{Server: expired, CACert: ca.file}, wire.Unavailable, "expired", "the daemon's certificate has to be renewed"},
		"another name":         {ctdclient.Config{Server: elsewhere, CACert: ca.file}, wire.Unavailable, "127.0.0.1", "call it by a name that is in its certificate: router.example.org, r2.example.org"},
		"a late certificate":   {ctdclient.Config{Server: url, CACert: ca.file, Cert: late.cert, Key: late.key}, wire.Unauthenticated, "refuses the client certificate: expired certificate", late.cert + " (--cert, CTD_CERT)"},
		"a stranger's":         {ctdclient.Config{Server: url, CACert: ca.file, Cert: stranger.cert, Key: stranger.key}, wire.Unauthenticated, "refuses the client certificate: unknown certificate authority", stranger.cert + " (--cert, CTD_CERT)"},
		"not for clients":      {ctdclient.Config{Server: url, CACert: ca.file, Cert: cfg.Cert, Key: cfg.Key}, wire.Unauthenticated, "refuses the client certificate: bad certificate", "for clients"},
		"nobody's":             {ctdclient.Config{Server: url, CACert: ca.file, Cert: jane.cert, Key: jane.key}, wire.Unauthenticated, "", "the certificate in " + jane.cert + " is no user's of the daemon's"},
		"http to https":        {ctdclient.Config{Server: "http" + strings.TrimPrefix(url, "https")}, wire.InvalidRequest, "400", "it speaks TLS: call it by https://"},
		"https to http":        {ctdclient.Config{Server: "https" + strings.TrimPrefix(plain.tcp, "http")}, wire.Unavailable, "HTTP response", "it speaks no TLS: call it by http://"},
		"unknown, by XML":      {ctdclient.Config{Server: url, Protocol: ctdclient.XML}, wire.Unavailable, "unknown authority", "--cacert"},
		"a stranger's, by XML": {ctdclient.Config{Server: url, Protocol: ctdclient.XML, CACert: ca.file, Cert: stranger.cert, Key: stranger.key}, wire.Unauthenticated, "refuses the client certificate", "client_ca"},
	} {
		if name != "nobody's" {
			c.cfg.Token = secret
		}
		client, err := ctdclient.New(c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Count(t.Context(), wire.CountParams{})
		if c.code == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Message, c.message) || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: %#v, want %s, %q and %q", name, err, c.code, c.message, c.hint)
		}
	}
	// The same refusal however often: the alert isn't lost with the connection.
	client, err := ctdclient.New(ctdclient.Config{Server: url, Token: secret, CACert: ca.file, Cert: stranger.cert, Key: stranger.key})
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if _, err := client.Count(t.Context(), wire.CountParams{}); !errors.Is(err, &wire.Error{Code: wire.Unauthenticated}) {
			t.Fatalf("a stranger's certificate: %v", err)
		}
	}

	// ctd takes them from flags and from the environment, and a flag wins.
	token := filepath.Join(r.dir, "token")
	write(t, token, []byte(secret))
	for name, c := range map[string]struct {
		env, args []string
		status    int
		want      string // on standard error
	}{
		"flags":            {nil, []string{"--cacert", ca.file, "--cert", jane.cert, "--key", jane.key}, 0, ""},
		"environment":      {[]string{"CTD_CACERT=" + ca.file, "CTD_CERT=" + jane.cert, "CTD_KEY=" + jane.key}, nil, 0, ""},
		"flags win":        {[]string{"CTD_CACERT=none", "CTD_CERT=none", "CTD_KEY=none"}, []string{"--cacert", ca.file, "--cert", jane.cert, "--key", jane.key}, 0, ""},
		"not another's":    {[]string{"CTD_CACERT=" + ca.file, "CTD_KEY=none"}, []string{"--cert", both}, 0, ""},
		"none":             {nil, nil, int(wire.ExitUnreachable), "hint: its certificate is of an authority that isn't known here"},
		"no such file":     {nil, []string{"--cacert", "none"}, int(wire.ExitUsage), "hint: see --server, --token-file, --cacert"},
		"refused":          {[]string{"CTD_CACERT=" + ca.file}, []string{"--cert", stranger.cert, "--key", stranger.key}, int(wire.ExitRefused), "refuses the client certificate"},
		"key of another's": {nil, []string{"--cert", jane.cert, "--key", late.key}, int(wire.ExitUsage), "read client certificate"},
	} {
		cmd := exec.CommandContext(t.Context(), program(t), append([]string{"count"}, c.args...)...)
		cmd.Env = append(os.Environ(), append(c.env, "CTD_SERVER="+url, "CTD_TOKEN_FILE="+token)...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != c.status || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: %v %s, want status %d and %q", name, err, stderr.String(), c.status, c.want)
		}
	}
	if text := r.log.String(); strings.Contains(text, secret) {
		t.Error("the token is in the log")
	}
}
