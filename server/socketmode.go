package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"ctd/auth"
)

// socketModeAll lets all local users connect. Who of them may call is asked at each request all the same.
const socketModeAll = 0o666

// socketModeFor returns the mode of the Unix socket: only where the configuration names local users who may
// call by it, or that a proxy runs as, do others than root and the daemon's own need to reach it. Otherwise
// they could only take up its connections.
func socketModeFor(cfg auth.Config) fs.FileMode {
	if len(cfg.Peers) > 0 || len(cfg.Proxy.UnixUsers) > 0 {
		return socketModeAll
	}
	return socketMode
}

// setSocketMode gives the Unix socket the mode that a configuration asks for. It is called whenever one
// comes into force. A socket that isn't there, as of a server without listeners, is no error.
func setSocketMode(cfg *Config) error {
	err := os.Chmod(cfg.Socket, socketModeFor(cfg.Auth))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("let local users reach the socket: %w", err)
	}
	return nil
}
