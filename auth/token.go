package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"os"
	"path/filepath"
)

// tokenFileMode lets only the owner read the token.
const tokenFileMode = 0o600

// NewToken returns a secret that can't be guessed: at least 128 random bits, in letters and
// digits.
func NewToken() string { return rand.Text() }

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

// Token recognises whoever knows one secret.
type Token struct {
	hash      [sha256.Size]byte
	principal *Principal
}

// NewTokenVerifier returns a verifier that knows principal by a secret.
func NewTokenVerifier(secret string, principal *Principal) *Token {
	return &Token{hash: sha256.Sum256([]byte(secret)), principal: principal}
}

// Verify returns the principal whose secret this is, or nil. It takes as long for a secret that
// is nearly right as for any other.
func (t *Token) Verify(secret string) *Principal {
	hash := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(hash[:], t.hash[:]) != 1 {
		return nil
	}
	return t.principal
}
