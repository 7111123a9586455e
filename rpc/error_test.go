package rpc

import (
	"fmt"
	"strings"
	"testing"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// TestErrorOfNoPort: where it is ctd that refuses, the hint doesn't speak of the kernel.
func TestErrorOfNoPort(t *testing.T) {
	e := ErrorOf(&conntrack.OpError{Op: "replace flow", Err: fmt.Errorf("gre has %w", conntrack.ErrNoPort)})
	if e.Code != wire.InvalidParams || !strings.HasSuffix(e.Message, "gre has no port to translate") || !strings.HasPrefix(e.Hint, "leave the port out") || e.Errno != "" {
		t.Errorf("%+v", e)
	}
}
