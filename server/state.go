package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// stateDirMode keeps hashes and records from others.
	stateDirMode = 0o700
	// stateParentMode is that of folders above it.
	stateParentMode = 0o755
)

// errStateDir says that the state directory can't be used.
var errStateDir = errors.New("state directory")

// makeStateDir makes the state directory where it isn't there, and looks whether the daemon may write into
// it, and nobody else. An empty path is none.
func makeStateDir(dir string) error {
	if dir == "" {
		return nil
	}
	wrap := func(err error) error {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return fmt.Errorf("%w %s: %w", errStateDir, dir, err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), stateParentMode); err != nil {
		return wrap(err)
	}
	if err := os.Mkdir(dir, stateDirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return wrap(err)
	}
	// systemd has a link there.
	fi, err := os.Stat(dir)
	switch {
	case err != nil:
		return wrap(err)
	case !fi.IsDir():
		return wrap(syscall.ENOTDIR)
	case fi.Mode().Perm()&0o022 != 0:
		return wrap(errors.New("others may write into it: chmod go-w"))
	}
	if err := unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return wrap(err)
	}
	return nil
}

// exposure is a file of the configuration's that others may read or write who shouldn't.
type exposure struct {
	file string
	text string
}

func (e exposure) String() string { return e.file + ": " + e.text }

// exposed returns the files with secrets that others may read, and those that others may write.
func exposed(file *configFile, cfg *Config) []exposure {
	var found []exposure
	look := func(name string, mode fs.FileMode, secret bool) {
		switch perm := mode.Perm(); {
		case !mode.IsRegular():
		case perm&0o002 != 0:
			found = append(found, exposure{name, "anybody may write it: chmod o-rwx"})
		case secret && perm&0o004 != 0:
			found = append(found, exposure{name, "it has secrets, and anybody may read it: chmod o-rwx"})
		}
	}
	if file.there {
		secret := len(cfg.Auth.Tokens) > 0
		for _, u := range cfg.Auth.Users {
			secret = secret || u.Password != ""
		}
		look(file.name, file.mode, secret)
	}
	for _, name := range append([]string{cfg.Auth.UsersFile, cfg.Auth.TokensFile, cfg.TLS.Key}, cfg.Auth.Passwords.Files...) {
		if fi, err := os.Stat(name); name != "" && err == nil { // others tell of one that isn't there
			look(name, fi.Mode(), true)
		}
	}
	return found
}
