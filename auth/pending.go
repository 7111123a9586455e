package auth

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
)

type (
	oidcVerifier struct{}
	certificates struct{}
	peers        struct{}
	proxy        struct{}
)

func newOIDC(OIDC, *grants, *slog.Logger) (*oidcVerifier, []error)             { return nil, nil }
func (*oidcVerifier) verify(_ context.Context, raw string) (*Principal, error) { return nil, ErrWrong }
func (*oidcVerifier) close()                                                   {}
func newCertificates([]User) (*certificates, []error)                          { return &certificates{}, nil }
func (*certificates) user(*x509.Certificate) (name, credential string)         { return "", "" }
func newPeers([]Peer, *grants) (*peers, []error)                               { return &peers{}, nil }
func (*peers) principal(c *net.UnixConn) (*Principal, error)                   { return peer(c) }
func newProxy(Proxy) (*proxy, []error)                                         { return &proxy{}, nil }
func (*proxy) trusts(netip.Addr) bool                                          { return false }
func (*proxy) trustsPeer(*net.UnixConn) bool                                   { return false }
