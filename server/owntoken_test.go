package server

import (
	"testing"

	"ctd/auth"
	"ctd/rpc/wire"
)

// TestTokensAreMasked: logs and records have no token, not the daemon's own either.
func TestTokensAreMasked(t *testing.T) {
	bearer, _ := auth.NewBearerToken()
	for _, token := range []string{auth.NewToken(), bearer} {
		if got := wire.MaskTokens("own " + token + "."); got != "own ctd_...." {
			t.Errorf("%q", got)
		}
	}
}
