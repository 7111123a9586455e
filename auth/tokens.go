package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// dateForm is a day in Token.Expires: its beginning, in UTC.
const dateForm = "2006-01-02"

type tokenHash [sha256.Size]byte

// NewBearerToken returns a token that can't be guessed, and its Hash.
func NewBearerToken() (secret, hash string) {
	secret = NewToken()
	h := sha256.Sum256([]byte(secret))
	return secret, hex.EncodeToString(h[:])
}

// ParseExpires reads Token.Expires; zero is never. A day ends a token at its beginning, in UTC.
func ParseExpires(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{dateForm, time.RFC3339} {
		if t, err := time.Parse(form, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; want 2027-01-31 or 2027-01-31T12:00:00Z", text)
}

// tokenEntry is a Token that was checked.
type tokenEntry struct {
	name    string
	grant   parsedGrant
	expires time.Time // zero is never
}

// parseTokens checks tokens. The errors are *SettingError, with keys as token[0].name.
func parseTokens(list []Token) (map[tokenHash]tokenEntry, []error) {
	tokens, names, wrong := map[tokenHash]tokenEntry{}, map[string]bool{}, []error(nil)
	for i, t := range list {
		key := fmt.Sprintf("token[%d]", i)
		refuse := func(name, text string) { wrong = append(wrong, &SettingError{Key: below(key, name), Text: text}) }
		if text := checkName(t.Name); text != "" {
			refuse("name", text)
		} else if names[t.Name] {
			refuse("name", fmt.Sprintf("there are two tokens %q", t.Name))
		}
		names[t.Name] = true
		var hash tokenHash
		if b, err := hex.DecodeString(t.Hash); err != nil || len(b) != len(hash) {
			refuse("hash", fmt.Sprintf("want the SHA-256 of the token in %d hexadecimal digits, as ctd token create --print prints it", 2*len(hash)))
		} else if copy(hash[:], b); tokens[hash].name != "" {
			refuse("hash", fmt.Sprintf("it is that of %q too", tokens[hash].name))
		}
		expires, err := ParseExpires(t.Expires)
		if err != nil {
			refuse("expires", err.Error())
		}
		grant, more := parseGrant(key, t.Grant)
		wrong = append(wrong, more...)
		tokens[hash] = tokenEntry{name: t.Name, grant: grant, expires: expires}
	}
	return tokens, wrong
}

// tokenOf returns the token of a hash: of the configuration, else of the tokens file. That it is found by
// a map tells nothing by its time: the hash of a guess is nobody's to choose.
func (a *Authenticator) tokenOf(hash tokenHash) (tokenEntry, bool) {
	if t, ok := a.tokens[hash]; ok {
		return t, true
	}
	t, ok := a.tokensFile.get()[hash]
	return t, ok
}

// tokenPrincipal returns the bearer of a token; nil where it is none that is known. The error is
// ErrExpired. The principal is valid as long as the token is there with the same rights.
func (a *Authenticator) tokenPrincipal(secret string) (*Principal, error) {
	if p := a.own.verify(secret); p != nil {
		return p, nil
	}
	hash := tokenHash(sha256.Sum256([]byte(secret)))
	t, ok := a.tokenOf(hash)
	if !ok {
		return nil, nil
	}
	if t.expired(a.shared.now()) {
		return nil, ErrExpired
	}
	id := t.grant.identity(t.name, ViaToken, "", a.shared.budgets)
	id.Expires = t.expires
	id.Valid = a.shared.valid(func(a *Authenticator) bool {
		now, ok := a.tokenOf(hash)
		return ok && now.name == t.name && now.grant.same(t.grant) && !now.expired(a.shared.now())
	})
	return NewPrincipal(id), nil
}

func (t tokenEntry) expired(now time.Time) bool { return !t.expires.IsZero() && !now.Before(t.expires) }
