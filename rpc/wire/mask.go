package wire

import (
	"regexp"
	"strings"
)

// tokens are the daemon's bearer tokens, which people put where they don't belong.
var tokens = regexp.MustCompile(`ctd_[A-Z2-7]{26}`)

// MaskTokens returns a text without the bearer tokens that are in it, for logs and records.
func MaskTokens(s string) string {
	if !strings.Contains(s, "ctd_") { // as mostly, on the way of every call
		return s
	}
	return tokens.ReplaceAllLiteralString(s, "ctd_...")
}
