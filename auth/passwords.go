package auth

import (
	"crypto/sha1" // #nosec G505 -- pyctd's files have it; it is replaced at the first login
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

const (
	// maxPassword is how many bytes of a password bcrypt sees. A longer one is nobody's.
	maxPassword = 72
	// hashCost is the usual cost of a bcrypt hash: some 50 ms.
	hashCost = bcrypt.DefaultCost
	// maxCost is the highest that is taken. One more takes twice as long, and all wait for it.
	maxCost = 15
)

// Errors of CheckPassword. HashPassword has those but the last, which passwords of other programs may have.
var (
	ErrPasswordEmpty   = errors.New("the password is empty")
	ErrPasswordTooLong = fmt.Errorf("the password has more than %d bytes, of which bcrypt would see no more; take a shorter one", maxPassword)
	ErrPasswordText    = errors.New("the password has control characters or is no UTF-8, so that not everything could send it; take another")
)

// CheckPassword says what keeps a new password from being taken: one of the errors of HashPassword, or
// ErrPasswordText.
func CheckPassword(password string) error {
	switch {
	case password == "":
		return ErrPasswordEmpty
	case len(password) > maxPassword:
		return ErrPasswordTooLong
	case !utf8.ValidString(password), strings.ContainsFunc(password, unicode.IsControl):
		return ErrPasswordText
	}
	return nil
}

// HashPassword returns a hash of a password (bcrypt), as User.Password has it.
func HashPassword(password string) (string, error) {
	if err := CheckPassword(password); err != nil && !errors.Is(err, ErrPasswordText) {
		return "", err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), hashCost)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return string(hash), nil
}

// bcryptForm is a bcrypt hash: version, cost, salt and hash. Version 2x marks hashes of a wrong
// implementation, which right ones don't reproduce.
var bcryptForm = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}$`)

// checkUserHash says what is wrong with the hash of a user; empty where nothing is.
func checkUserHash(hash string) string {
	if !bcryptForm.MatchString(hash) {
		return "it is no bcrypt hash; ctd passwd --print or htpasswd -nB prints one"
	}
	if cost := costOf(hash); cost > maxCost {
		return fmt.Sprintf("a cost of %d takes too long; at most %d is taken", cost, maxCost)
	}
	return ""
}

// costOf returns the cost of a hash; that of a usual one where it is no bcrypt.
func costOf(hash string) int {
	if cost, err := bcrypt.Cost([]byte(hash)); err == nil {
		return cost
	}
	return hashCost
}

// checkFileHash says what is wrong with a hash of a password file; empty where nothing is.
func checkFileHash(hash string) string {
	switch {
	case sha1Of(hash) != nil:
		return ""
	case strings.HasPrefix(hash, "$2"):
		return checkUserHash(hash)
	case strings.HasPrefix(hash, "$apr1$"), strings.HasPrefix(hash, "$1$"):
		return "it is hashed with MD5, which isn't taken; hash it anew with htpasswd -B"
	}
	return "its hash is of a kind that isn't taken; hash it anew with htpasswd -B"
}

// sha1Of returns the SHA-1 that a hash is: htpasswd -s's, or pyctd's in hexadecimal digits; nil where it
// is another.
func sha1Of(hash string) []byte {
	var b []byte
	var err error
	if text, ok := strings.CutPrefix(hash, "{SHA}"); ok {
		b, err = base64.StdEncoding.DecodeString(text)
	} else {
		b, err = hex.DecodeString(hash)
	}
	if err != nil || len(b) != sha1.Size {
		return nil
	}
	return b
}

// dummyHash is a hash of nothing. Who asks for a name that isn't there waits for it as long as for one
// that is.
func dummyHash(cost int) string {
	return fmt.Sprintf("$2a$%02d$%s", cost, strings.Repeat(".", 53))
}

// verifyPassword tells whether a hash is of a password. Where it isn't, that takes as long as a bcrypt of
// the given cost: also for a hash that costs less, for SHA-1, for no hash at all, and for a password that is
// too long. So the time doesn't tell which names there are.
func verifyPassword(hash, password string, cost int) bool {
	seen := []byte(password[:min(len(password), maxPassword)])
	fast := sha1Of(hash)
	if fast != nil || hash == "" || len(password) > maxPassword {
		_ = bcrypt.CompareHashAndPassword([]byte(dummyHash(cost)), seen)
		sum := sha1.Sum([]byte(password)) // #nosec G401 -- see the import
		return fast != nil && subtle.ConstantTimeCompare(fast, sum[:]) == 1
	}
	if bcrypt.CompareHashAndPassword([]byte(hash), seen) == nil {
		return true
	}
	// Each cost takes twice as long as the one before: so all up to the last, with the one above, add up
	// to it.
	for c := costOf(hash); c < cost; c++ {
		_ = bcrypt.CompareHashAndPassword([]byte(dummyHash(c)), seen)
	}
	return false
}
