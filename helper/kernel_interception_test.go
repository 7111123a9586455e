package helper

import (
	"log/slog"
	"strings"
	"testing"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// tableIn opens the table of a namespace.
func tableIn(t testing.TB, ns *conntracktest.NS) *conntrack.Table {
	t.Helper()
	table, err := conntrack.Open(conntrack.Config{NetNS: ns.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	return table
}

func TestKernelInstall(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	table := tableIn(t, ns)
	before := ns.Exec("nft", "list", "ruleset")
	i, err := install(table, rulesOf(Config{Interfaces: []string{"eth0", "wan$1"}}, "Q.931"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s\n%s", i.flavour(), strings.TrimPrefix(ns.Exec("nft", "list", "ruleset"), before))
	ok, err := i.intact()
	t.Log(ok, err)
	t.Log(i.close())
	t.Log(ns.Exec("nft", "list", "ruleset") == before)
}
