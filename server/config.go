package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"ctd/rpc"
)

// The defaults with which `ctd serve` works without any setting.
const (
	DefaultListen = "127.0.0.1:8420"
	DefaultSocket = "/run/ctd/ctd.sock"
)

// maxSocketPath is what struct sockaddr_un (unix(7)) leaves beside the terminating NUL.
const maxSocketPath = 107

// Config says how the daemon runs.
type Config struct {
	Listen   []string // TCP addresses, host:port
	Insecure bool     // listen beyond loopback although nothing is encrypted
	Socket   string   // path of the Unix socket
	NetNS    string   // namespace whose table is managed, by name or path; empty for the daemon's own
	MaxBody  int64    // bytes of a request's body; rpc.DefaultMaxBody where 0
	Pyctd    rpc.PyctdConfig
	Version  string
}

// tokenFile returns where the token is written: beside the socket.
func (c *Config) tokenFile() string { return filepath.Join(filepath.Dir(c.Socket), "token") }

// check says what is wrong with c.
func (c *Config) check() error {
	if c.Socket == "" {
		return errors.New("--socket: a path is needed; the token is written beside it")
	}
	if len(c.Socket) > maxSocketPath {
		return fmt.Errorf("--socket: the path has %d bytes, and the kernel takes at most %d", len(c.Socket), maxSocketPath)
	}
	if c.MaxBody < 0 {
		return fmt.Errorf("--max-body: %d is below 0", c.MaxBody)
	}
	for _, address := range c.Listen {
		if err := checkListen(address, c.Insecure); err != nil {
			return err
		}
	}
	return nil
}

// checkListen refuses an address beyond loopback, where the token and everything else could be
// read on the way.
func checkListen(address string, insecure bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--listen %s: want host:port, e.g. %s", address, DefaultListen)
	}
	if insecure || isLoopback(host) {
		return nil
	}
	return fmt.Errorf("--listen %s: nothing is encrypted, so only loopback is listened on; "+
		"reach it through ssh -L or a proxy with TLS, or give --insecure in a network where nobody reads along", address)
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
