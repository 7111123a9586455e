package helper

import (
	"context"
	"testing"

	"ctd/conntrack/conntracktest"
)

func TestKernelProbe(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	table := tableIn(t, ns)
	k, err := probe(context.Background(), Config{Table: table})
	t.Logf("%+v %v", k, err)
	t.Log(registerHelper(table))
	t.Log(k.close())
	t.Log(ns.Exec("conntrack", "-L"), ns.Exec("conntrack", "-L", "expect"))
}
