package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// TestBanList: 10,000 addresses go into one call of either protocol.
func TestBanList(t *testing.T) {
	const n = 10_000
	var v4, v6 strings.Builder
	for i := range n {
		fmt.Fprintf(&v4, ",10.%d.%d.%d", 100+i>>16, i>>8&255, i&255)
		fmt.Fprintf(&v6, ",2001:db8:ffff:ffff:ffff:ffff:ffff:%x", i)
	}
	for name, list := range map[string]string{"ipv4": v4.String(), "ipv6": v6.String()} {
		for _, protocol := range []ctdclient.Protocol{ctdclient.JSON, ctdclient.XML} {
			t.Run(name+" "+string(protocol), func(t *testing.T) {
				r := newFixture(t, Config{}, tcpFlows(2)...).start(t)
				c, err := ctdclient.New(ctdclient.Config{Server: r.tcp, Token: secret, Protocol: protocol})
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				got, err := c.Reconcile(t.Context(), wire.ReconcileParams{Filter: "addr=10.0.0.1" + list})
				if err != nil || got.Killed != 1 || !got.Settled || got.Passes != 3 {
					t.Errorf("%+v, %v", got, err)
				}
				if took := time.Since(began); took > conntracktest.Slow(10*time.Second) {
					t.Errorf("it took %v", took)
				}
			})
		}
	}
}
