package rpc

import (
	"slices"
	"testing"

	"ctd/rpc/wire"
)

func TestNames(t *testing.T) {
	r := NewRegistry()
	(&Service{}).Register(r)
	names := r.Names()
	for _, name := range []string{"conntrack.kill", "server.audit", "login"} { // the latter is XML-RPC's only
		if !slices.Contains(names, name) {
			t.Errorf("%s is missing", name)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("%q", names)
	}
}

// TestUnavailableHasNoErrno: by an errno the unavailable record is known, before which nothing was changed.
func TestUnavailableHasNoErrno(t *testing.T) {
	for _, row := range kernelTable {
		if e := ErrorOf(row.errno); e.Code == wire.Unavailable && e.Errno != "" {
			t.Errorf("%v: %+v", row.errno, e)
		}
	}
}
