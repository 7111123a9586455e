package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrTokenLocked says that a daemon that lives has its token in the file.
var ErrTokenLocked = errors.New("another daemon's token is there")

// tokenFileMode lets only the owner read the token.
const tokenFileMode = 0o600

// tokenPrefix begins all tokens, so that people and scanners of repositories know one when they see it, and
// logs and records mask it (wire.MaskTokens).
const tokenPrefix = "ctd_"

// NewToken returns a token that can't be guessed: at least 128 random bits, in letters and digits.
func NewToken() string { return tokenPrefix + rand.Text() }

// WriteToken writes a token into a file that only its owner can read. The file is there whole or
// not at all, and never with another mode.
func WriteToken(path, token string) error {
	// CreateTemp makes files of mode 0600.
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*")
	if err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	defer os.Remove(f.Name()) // gone by then where all went well
	if _, err := f.WriteString(token + "\n"); err != nil {
		f.Close()
		return fmt.Errorf("write token: %w", err)
	}
	if err := f.Chmod(tokenFileMode); err != nil {
		f.Close()
		return fmt.Errorf("write token: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	return nil
}

// RemoveToken removes the file that WriteToken wrote, unless another token is in it now.
func RemoveToken(path, token string) error {
	b, err := os.ReadFile(path)
	if err == nil && string(bytes.TrimSpace(b)) == token {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove token: %w", err)
	}
	return nil
}

// LockToken keeps the file at path for the caller's token until unlock is called or the process
// ends, however that comes. The lock (flock(2)) is on a file beside it, as the token's own is
// replaced whole. Where another process has it, the error is ErrTokenLocked.
func LockToken(path string) (unlock func(), err error) {
	name := path + ".lock"
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, tokenFileMode)
		if err != nil {
			return nil, fmt.Errorf("lock token: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("lock %s: %w", path, ErrTokenLocked)
			}
			return nil, fmt.Errorf("lock token: %w", err)
		}
		// Who had the lock before may have removed the file since it was opened here.
		mine, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock token: %w", err)
		}
		if there, err := os.Stat(name); err != nil || !os.SameFile(mine, there) {
			f.Close()
			continue
		}
		return func() {
			_ = os.Remove(name) // one that stays does no harm
			f.Close()
		}, nil
	}
}

// ownToken recognises whoever knows the daemon's own secret.
type ownToken struct {
	hash      [sha256.Size]byte
	principal *Principal
}

// newOwnToken returns what knows principal by a secret.
func newOwnToken(secret string, principal *Principal) *ownToken {
	return &ownToken{hash: sha256.Sum256([]byte(secret)), principal: principal}
}

// verify returns the principal whose secret this is, or nil. It takes as long for a secret that
// is nearly right as for any other.
func (t *ownToken) verify(secret string) *Principal {
	hash := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(hash[:], t.hash[:]) != 1 {
		return nil
	}
	return t.principal
}
