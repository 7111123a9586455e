package rpc

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// TestReconcileSpares: the caller's own flows remain, in passes and in a watch, and are counted once;
// what the rule keeps isn't counted.
func TestReconcileSpares(t *testing.T) {
	me := Caller{Remote: netip.MustParseAddrPort("192.0.2.7:5000"), Local: netip.MustParseAddrPort("198.51.100.1:8420")}
	own := flowOf(conntrack.TCP, "192.0.2.7:5000", "198.51.100.1:8420")
	other := flowOf(conntrack.TCP, "192.0.2.7:5001", "198.51.100.1:8420")
	reconcile := func(t *testing.T, a *api, params map[string]any) *reconcileResult {
		t.Helper()
		ctx := WithCaller(WithPrincipal(t.Context(), caller{wire.RoleOperator}), me)
		result, err := a.Call(ctx, "conntrack.reconcile", Params{Named: params})
		if err != nil {
			t.Fatal(err)
		}
		return result.(*reconcileResult)
	}
	for _, c := range []struct {
		params         map[string]any
		killed, spared int
	}{
		{map[string]any{"filter": "src=192.0.2.7"}, 1, 1},
		{map[string]any{"filter": "src=192.0.2.7", "include_self": true}, 2, 0},
		{map[string]any{"filter": "src=192.0.2.7", "keep": "sport=5000"}, 1, 0},
		{map[string]any{"filter": "src=192.0.2.7", "dry_run": true}, 0, 1},
	} {
		r := reconcile(t, newAPI(own, other), c.params)
		if r.n != c.killed || r.spared != c.spared || r.settled != (c.params["dry_run"] == nil) {
			t.Errorf("%v: killed %d, spared %d, settled %v", c.params, r.n, r.spared, r.settled)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		time.AfterFunc(200*time.Millisecond, func() {
			for _, f := range []conntrack.Flow{own, other} {
				if _, err := a.table.Create(t.Context(), f); err != nil {
					t.Error(err)
				}
			}
		})
		if r := reconcile(t, a, map[string]any{"filter": "src=192.0.2.7", "watch": "1s"}); r.n != 1 || r.spared != 1 || !r.settled {
			t.Errorf("watch: killed %d, spared %d, settled %v", r.n, r.spared, r.settled)
		}
		conntracktest.Eventually(t, "nobody listens", func() bool { return a.table.Listeners() == 0 })
	})
}
