package rpc

import (
	"fmt"
	"strings"
	"testing"

	"ctd/rpc/wire"
)

func TestExpectCount(t *testing.T) {
	for method, set := range map[string]string{"conntrack.kill": "", "conntrack.modify": `, "set": {"mark": 99}`} {
		a := newAPI(tcpFlows(3)...)
		for _, selection := range []string{`"filter": "proto=tcp"`, `"flows": [1, 2, 3, 77]`} {
			for _, n := range []int{0, 2, 4} {
				for _, dry := range []string{"", `, "dry_run": true`} {
					a.refused(t, method, fmt.Sprintf(`{%s%s, "expect_count": %d%s}`, selection, set, n, dry), wire.Conflict,
						fmt.Sprintf("3 flows match, not %d as expected; nothing was changed", n))
				}
			}
		}
		a.refused(t, method, `{"filter": "proto=tcp", "expect_count": -1`+set+`}`, wire.InvalidParams, "expect_count")
		var got struct{ Matched int }
		a.call(t, method, `{"filter": "proto=udp", "expect_count": 0`+set+`}`, &got)
		before := a.table.Writes()
		a.call(t, method, `{"filter": "proto=tcp", "expect_count": 3`+set+`}`, &got)
		if got.Matched != 3 || a.table.Writes() != before+3 {
			t.Errorf("%s: matched %d, %d writes", method, got.Matched, a.table.Writes()-before)
		}
	}
}

func TestCreatedBefore(t *testing.T) {
	flows := tcpFlows(3)
	for i := range flows {
		flows[i].Start = 1_700_000_000_000_000_000 + int64(i) // 2023-11-14T22:13:20Z
	}
	const second = `"created_before": "2023-11-14T22:13:20.000000001Z"`
	for _, selection := range []string{`"filter": "proto=tcp"`, `"flows": [1, 2, 3]`} {
		a := newAPI(flows...)
		var killed wire.KillResult
		a.call(t, "conntrack.kill", `{`+selection+`, `+second+`, "expect_count": 1, "max": 1}`, &killed)
		if ids(killed.Flows) != "[1]" || killed.Matched != 1 || killed.Killed != 1 {
			t.Errorf("%s: killed %+v, want the one that began before", selection, killed)
		}
		var modified wire.ModifyResult
		a.call(t, "conntrack.modify", `{`+selection+`, "set": {"mark": 99}, "created_before": "2023-11-14T23:13:20.000000002+01:00"}`, &modified)
		if ids(modified.Flows) != "[2]" || modified.Modified != 1 {
			t.Errorf("%s: modified %+v, want the second", selection, modified)
		}
		a.call(t, "conntrack.kill", `{`+selection+`, "created_before": "0001-01-01T00:00:00Z"}`, &killed)
		if killed.Matched != 0 {
			t.Errorf("%s: killed %+v before the first year", selection, killed)
		}
		a.refused(t, "conntrack.kill", `{`+selection+`, "created_before": "yesterday"}`, wire.InvalidParams, "created_before")
	}
	// The kernel doesn't say when: nothing is done, whatever the other flows' starts are.
	flows[2].Start = 0
	a := newAPI(flows...)
	a.refused(t, "conntrack.kill", `{"filter": "proto=tcp", `+second+`}`, wire.Unsupported, "nf_conntrack_timestamp")
	a.refused(t, "conntrack.modify", `{"flows": [1, 3], "set": {"mark": 1}, `+second+`}`, wire.Unsupported, "nf_conntrack_timestamp")
}

// TestPlaces holds the places of positional parameters, which callers count on.
func TestPlaces(t *testing.T) {
	a := newAPI()
	for method, want := range map[string]string{
		"conntrack.kill":      "filter flows dry_run max expect_count created_before all reason cut reject block include_self ssh_connection",
		"conntrack.reconcile": "filter keep dry_run max passes watch all reason cut reject block include_self ssh_connection",
		"conntrack.modify":    "filter flows set dry_run max expect_count created_before all reason include_self ssh_connection",
	} {
		var got []string
		for _, f := range a.methods[method].params {
			got = append(got, f.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", method, strings.Join(got, " "), want)
		}
	}
}
