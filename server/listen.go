package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// socketDirMode lets others see the socket's folder, but not write to it.
	socketDirMode = 0o755
	// socketMode lets the daemon's group connect too, so that it is told who may.
	socketMode = 0o660
	// dialTimeout bounds the look at whether a socket that lies there is in use.
	dialTimeout = time.Second
)

// lowPortHint is for who may not listen on a TCP port.
const lowPortHint = "a port below 1024 takes root or CAP_NET_BIND_SERVICE (in the systemd unit, in AmbientCapabilities= and CapabilityBoundingSet=); " +
	"listen on another one, or give the daemon that"

// errInUse says that somebody listens there already.
var errInUse = errors.New("address in use")

// endpoint is an entry of Config.Listen.
type endpoint struct {
	https   bool
	address string // host:port
}

// endpoint returns what an entry of Config.Listen means.
func (c *Config) endpoint(entry string) endpoint {
	if address, ok := strings.CutPrefix(entry, "https://"); ok {
		return endpoint{true, address}
	}
	if address, ok := strings.CutPrefix(entry, "http://"); ok {
		return endpoint{false, address}
	}
	return endpoint{c.TLS.Cert != "", entry}
}

// listenAll listens on everything that cfg names, or on nothing. serve adds TLS.
func listenAll(cfg *Config) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(listeners)
		}
	}()
	l, err := listenUnix(cfg.Socket)
	if err != nil {
		return nil, err
	}
	listeners = append(listeners, newLimitListener(l, maxConnections))
	for _, entry := range cfg.Listen {
		e := cfg.endpoint(entry)
		l, err := net.Listen("tcp", e.address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return listeners, fmt.Errorf("listen on %s: %w", e.address, errInUse)
		}
		if errors.Is(err, syscall.EACCES) {
			return listeners, &hintError{fmt.Errorf("listen: %w", err), lowPortHint}
		}
		if err != nil {
			return listeners, fmt.Errorf("listen: %w", err)
		}
		limited := newLimitListener(l, maxConnections)
		limited.https = e.https
		listeners = append(listeners, limited)
	}
	return listeners, nil
}

// listenUnix listens on a Unix socket. A socket that a killed daemon left behind is taken away;
// one that answers is not.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), socketDirMode); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func removeStale(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != fs.ModeSocket:
		return errors.New("something else than a socket is there")
	}
	c, err := net.DialTimeout("unix", path, dialTimeout)
	if err == nil {
		c.Close()
		return errInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}
