package auth

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"
)

// Hashes of "secret".
const (
	sha1Hex  = "e5e9fa1ba31ecd1ae84f75caaa474f3a663f05f4"
	sha1Base = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
)

// cheapHash is a bcrypt of the lowest cost.
func cheapHash(t testing.TB, password string) string {
	t.Helper()
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestVerifyPassword(t *testing.T) {
	hash := cheapHash(t, "secret")
	full := strings.Repeat("x", maxPassword)
	for name, tt := range map[string]struct {
		hash, password string
		want           bool
	}{
		"bcrypt":                   {hash, "secret", true},
		"htpasswd's":               {"$2y$" + hash[4:], "secret", true},
		"version b":                {"$2b$" + hash[4:], "secret", true},
		"wrong":                    {hash, "Secret", false},
		"empty":                    {hash, "", false},
		"SHA-1 in digits":          {sha1Hex, "secret", true},
		"SHA-1 in capitals":        {strings.ToUpper(sha1Hex), "secret", true},
		"htpasswd's SHA-1":         {sha1Base, "secret", true},
		"wrong SHA-1":              {sha1Hex, "Secret", false},
		"the hash as the password": {sha1Hex, sha1Hex, false},
		"no hash":                  {"", "secret", false},
		"no hash and no password":  {"", "", false},
		"as long as may be":        {cheapHash(t, full), full, true},
		"longer":                   {cheapHash(t, full), full + "x", false},
	} {
		if got := verifyPassword(tt.hash, tt.password, bcrypt.MinCost); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// TestWrongTakesAsLong: how long a wrong password takes doesn't tell whether there is such a name, and what
// hash it has.
func TestWrongTakesAsLong(t *testing.T) {
	const cost = 7 // a cheap one is an eighth of it
	full, err := bcrypt.GenerateFromPassword([]byte("secret"), cost)
	if err != nil {
		t.Fatal(err)
	}
	// The processor's time, as others may be at work too.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	spent := func() time.Duration {
		var r unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &r); err != nil {
			t.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	fastest := func(hash, password string) time.Duration {
		best := time.Hour
		for range 5 {
			began := spent()
			if verifyPassword(hash, password, cost) {
				t.Fatal("right")
			}
			best = min(best, spent()-began)
		}
		return best
	}
	want := fastest(string(full), "wrong")
	for name, got := range map[string]time.Duration{
		"no such name": fastest("", "wrong"), "SHA-1": fastest(sha1Hex, "wrong"), "a cheap hash": fastest(cheapHash(t, "secret"), "wrong"),
		"too long": fastest(string(full), strings.Repeat("x", 1000)), "empty": fastest(string(full), ""),
	} {
		if got < want/4 || got > want*4 {
			t.Errorf("%s: %v, want about %v", name, got, want)
		}
	}
}

func TestDummyHash(t *testing.T) {
	for _, cost := range []int{bcrypt.MinCost, hashCost, maxCost} {
		if got := costOf(dummyHash(cost)); got != cost || checkUserHash(dummyHash(cost)) != "" {
			t.Errorf("cost %d: %d, %s", cost, got, checkUserHash(dummyHash(cost)))
		}
	}
	// It must be hashed to the end, and not refused at once for its form.
	if err := bcrypt.CompareHashAndPassword([]byte(dummyHash(bcrypt.MinCost)), []byte("x")); !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		t.Error(err)
	}
}

func TestCheckHash(t *testing.T) {
	rest := strings.Repeat("a", 53)
	for hash, tt := range map[string]struct{ user, file string }{
		"$2a$10$" + rest:                        {"", ""},
		"$2b$04$" + rest:                        {"", ""},
		"$2y$15$" + rest:                        {"", ""},
		"$2y$16$" + rest:                        {"a cost of 16", "a cost of 16"},
		"$2x$10$" + rest:                        {"no bcrypt", "no bcrypt"},
		"$2y$10$" + rest[1:]:                    {"no bcrypt", "no bcrypt"},
		"$2y$10$" + rest + "a":                  {"no bcrypt", "no bcrypt"},
		"$2y$10$" + rest[1:] + ":":              {"no bcrypt", "no bcrypt"},
		"$2y$99$" + rest:                        {"no bcrypt", "no bcrypt"},
		sha1Hex:                                 {"no bcrypt", ""},
		sha1Base:                                {"no bcrypt", ""},
		sha1Hex[1:]:                             {"no bcrypt", "of a kind"},
		"{SHA}abc":                              {"no bcrypt", "of a kind"},
		"{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=":    {"no bcrypt", "of a kind"},
		"$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00": {"no bcrypt", "MD5"},
		"$6$salt$hash":                          {"no bcrypt", "of a kind"},
		"secret":                                {"no bcrypt", "of a kind"},
		"":                                      {"no bcrypt", "of a kind"},
		"5f4dcc3b5aa765d61d8327deb882cf99":      {"no bcrypt", "of a kind"}, // MD5 in digits
	} {
		for what, pair := range map[string][2]string{
			"user": {checkUserHash(hash), tt.user}, "file": {checkFileHash(hash), tt.file},
		} {
			if got, want := pair[0], pair[1]; (got == "") != (want == "") || !strings.Contains(got, want) {
				t.Errorf("%q for a %s: %q, want %q", hash, what, got, want)
			}
		}
	}
}

func TestHashPassword(t *testing.T) {
	hash, err := HashPassword("secret")
	if err != nil || checkUserHash(hash) != "" || !verifyPassword(hash, "secret", hashCost) {
		t.Errorf("%q, %v", hash, err)
	}
	if _, err := HashPassword(""); !errors.Is(err, ErrPasswordEmpty) {
		t.Errorf("empty: %v", err)
	}
	if _, err := HashPassword(strings.Repeat("x", maxPassword)); err != nil {
		t.Errorf("the longest: %v", err)
	}
	if _, err := HashPassword(strings.Repeat("x", maxPassword+1)); !errors.Is(err, ErrPasswordTooLong) {
		t.Errorf("one more: %v", err)
	}
}
