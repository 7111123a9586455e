package rpc

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

func TestModify(t *testing.T) {
	for _, c := range []struct {
		name, set string
		want      func(f *wire.Flow) bool
		again     bool // changes again the second time
	}{
		{"mark", `{"mark": 4294967295}`, func(f *wire.Flow) bool { return *f.Mark == 4294967295 }, false},
		{"mark zero", `{"mark": 0}`, func(f *wire.Flow) bool { return *f.Mark == 0 }, false},
		{"mark as text", `{"mark": "0x10"}`, func(f *wire.Flow) bool { return *f.Mark == 16 }, false},
		{"mark with a leading zero", `{"mark": "010"}`, func(f *wire.Flow) bool { return *f.Mark == 10 }, false},
		{"mark masked", `{"mark": "0x10/0xff"}`, func(f *wire.Flow) bool { return *f.Mark == 0x110 }, false},
		{"mark masked zero", `{"mark": "0/0xff00"}`, func(f *wire.Flow) bool { return *f.Mark == 0x01 }, false},
		{"timeout", `{"timeout": 1234}`, func(f *wire.Flow) bool { return *f.Timeout == 1234 }, true},
		{"timeout zero", `{"timeout": 0}`, func(f *wire.Flow) bool { return *f.Timeout == 0 }, true},
		{"timeout as text", `{"timeout": "1234"}`, func(f *wire.Flow) bool { return *f.Timeout == 1234 }, true},
		{"fixed timeout", `{"fixed_timeout": true}`, func(f *wire.Flow) bool { return strings.Contains(fmt.Sprint(f.Status), "fixed_timeout") }, false},
		{"status", `{"status": ["assured", "seen_reply"]}`, func(f *wire.Flow) bool {
			return strings.Contains(fmt.Sprint(f.Status), "assured") && strings.Contains(fmt.Sprint(f.Status), "seen_reply")
		}, false},
		{"status as text", `{"status": "assured,seen_reply"}`, func(f *wire.Flow) bool { return strings.Contains(fmt.Sprint(f.Status), "assured") }, false},
		{"labels", `{"labels": [1, 127]}`, func(f *wire.Flow) bool { return fmt.Sprint(f.Labels) == "[1 127]" }, false},
		{"no labels", `{"labels": []}`, func(f *wire.Flow) bool { return len(f.Labels) == 0 }, false},
		{"no labels as text", `{"labels": ""}`, func(f *wire.Flow) bool { return len(f.Labels) == 0 }, false},
		{"labels set and cleared", `{"labels": ["+3", "-5"]}`, func(f *wire.Flow) bool { return fmt.Sprint(f.Labels) == "[3 9]" }, false},
		{"labels as text", `{"labels": "+3,-5"}`, func(f *wire.Flow) bool { return fmt.Sprint(f.Labels) == "[3 9]" }, false},
		{"helper", `{"helper": "sip"}`, func(f *wire.Flow) bool { return f.Helper == "sip" }, false},
		{"no helper", `{"helper": ""}`, func(f *wire.Flow) bool { return f.Helper == "" }, false},
		{"state", `{"state": "TIME_WAIT"}`, func(f *wire.Flow) bool { return f.State == "TIME_WAIT" }, false},
		{"nat", `{"nat": {"src": "198.51.100.1:4000", "dst": ":8443"}}`, func(f *wire.Flow) bool {
			return f.NAT == "both" && f.Reply.Dst == "198.51.100.1" && *f.Reply.DPort == 4000 && *f.Reply.SPort == 8443
		}, false},
		{"nat and several", `{"nat": {"src": "198.51.100.1"}, "mark": 5, "labels": "+1"}`, func(f *wire.Flow) bool {
			return f.NAT == "snat" && f.Reply.Dst == "198.51.100.1" && *f.Mark == 5 && fmt.Sprint(f.Labels) == "[1 5 9]"
		}, false},
		{"several", `{"mark": 5, "timeout": 7, "fixed_timeout": true, "labels": "+1"}`, func(f *wire.Flow) bool {
			return *f.Mark == 5 && *f.Timeout == 7 && fmt.Sprint(f.Labels) == "[1 5 9]"
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			flow := tcpFlow(0x101)
			flow.Helper = "ftp"
			flow.Labels.SetBit(5)
			flow.Labels.SetBit(9)
			flow.Set(conntrack.AttrLabels)
			a := newAPI(flow, udpFlow("10.0.0.9", 1))
			params := `{"filter": "proto=tcp", "set": ` + c.set + `}`
			var dry, got, second wire.ModifyResult
			a.call(t, "conntrack.modify", strings.Replace(params, "{", `{"dry_run": true, `, 1), &dry)
			if dry.Modified != 0 || dry.Changed || dry.Matched != 1 || len(dry.Flows) != 1 || a.table.Writes() != 0 {
				t.Errorf("dry run: %+v, %d writes", dry, a.table.Writes())
			}
			a.call(t, "conntrack.modify", params, &got)
			if got.Matched != 1 || len(got.Failed) != 0 || len(got.Flows) != 1 || !c.want(&got.Flows[0]) {
				t.Fatalf("modified %+v", got)
			}
			if got.Changed != (got.Modified == 1) || got.Changed != (a.table.Writes() > 0) {
				t.Errorf("modified %d, changed %v, %d writes", got.Modified, got.Changed, a.table.Writes())
			}
			if c.name == "several" {
				return // the timeout is fixed now
			}
			before := a.table.Writes()
			a.call(t, "conntrack.modify", params, &second)
			if second.Changed != c.again || second.Matched != 1 || !c.want(&second.Flows[0]) || (a.table.Writes() > before) != c.again {
				t.Errorf("the second time: %+v, %d writes", second, a.table.Writes()-before)
			}
		})
	}
}

func TestModifyRefuses(t *testing.T) {
	a := newAPI(tcpFlow(1), udpFlow("10.0.0.9", 1))
	for set, text := range map[string]string{
		`{}`:                                 "set is empty",
		`{"mrak": 1}`:                        "mark",
		`{"mark": -1}`:                       "set.mark",
		`{"mark": 4294967296}`:               "set.mark",
		`{"mark": true}`:                     "set.mark",
		`{"mark": "x"}`:                      "set.mark",
		`{"mark": "1/"}`:                     "set.mark",
		`{"mark": "0x100/0xff"}`:             "outside the mask",
		`{"timeout": -1}`:                    "timeout",
		`{"timeout": 4294967296}`:            "timeout",
		`{"timeout": 1.5}`:                   "timeout",
		`{"status": ["dying"]}`:              "assured",
		`{"status": ["asured"]}`:             "assured",
		`{"status": {"assured": true}}`:      "set.status",
		`{"status": [["assured"]]}`:          "set.status",
		`{"labels": [128]}`:                  "0 to 127",
		`{"labels": [-1, 1]}`:                "either all",
		`{"labels": ["+1", 2]}`:              "either all",
		`{"labels": ["++1"]}`:                "no label",
		`{"labels": ["one"]}`:                "no label",
		`{"state": "OPEN"}`:                  "no state",
		`{"mark": "1_0"}`:                    "set.mark",
		`{"mark": "1/0b1"}`:                  "set.mark",
		`{"nat": {}}`:                        "src or dst",
		`{"nat": {"src": "10.0.0"}}`:         "set.nat.src",
		`{"nat": {"dst": ":0"}}`:             "set.nat.dst",
		`{"nat": {"dst": "]]1.2.3.4[["}}`:    "set.nat.dst",
		`{"nat": {"dst": "[1.2.3.4]"}}`:      "set.nat.dst",
		`{"nat": {"dst": "[[fd00::1]]"}}`:    "set.nat.dst",
		`{"nat": {"dst": "[fd00::1"}}`:       "set.nat.dst",
		`{"nat": {"dst": "fd00::1]"}}`:       "set.nat.dst",
		`{"nat": {"dst": "10.0.0.1:99999"}}`: "set.nat.dst",
		`{"fixed_timeout": "yes"}`:           "fixed_timeout",
	} {
		a.refused(t, "conntrack.modify", `{"filter": "proto=tcp", "set": `+set+`}`, wire.InvalidParams, text)
	}
	a.refused(t, "conntrack.modify", `{"filter": "proto=tcp"}`, wire.InvalidParams, "set")
	a.refused(t, "conntrack.modify", `{"set": {"mark": 1}}`, wire.InvalidParams, "all: true")
	a.refused(t, "conntrack.modify", `{"filter": "proto=tcp", "set": {"mark": 9}, "max": 0}`, wire.LimitExceeded, "1 flows match")
	a.refused(t, "conntrack.modify", fmt.Sprintf(`{"filter": "proto=tcp", "set": {"mark": 9}, "max": %d}`, maxHeld+1), wire.InvalidParams, "max")

	// What the table refuses is told flow by flow, and the others are changed.
	var got wire.ModifyResult
	a.call(t, "conntrack.modify", `{"all": true, "set": {"state": "CLOSE"}}`, &got)
	if got.Modified != 1 || len(got.Failed) != 1 || got.Failed[0].Flow.Protocol != "udp" || got.Failed[0].Code != wire.InvalidParams {
		t.Errorf("state of all: %+v", got)
	}
	a.call(t, "conntrack.modify", `{"flows": [1], "set": {"timeout": 60, "fixed_timeout": true}}`, &got)
	a.call(t, "conntrack.modify", `{"flows": [1], "set": {"timeout": 61}}`, &got)
	if got.Changed || len(got.Failed) != 1 || got.Failed[0].Code != wire.Conflict || got.Failed[0].Hint == "" {
		t.Errorf("a fixed timeout: %+v", got)
	}
	a.call(t, "conntrack.modify", `{"flows": [77], "set": {"mark": 1}}`, &got)
	if got.Matched != 0 || got.Changed {
		t.Errorf("a flow that is gone: %+v", got)
	}
}

// callsTable counts the calls of Modify and Replace, and lets the flows with a mark not be modified.
type callsTable struct {
	Table
	modifies, replaces int
	deny               uint32
}

func (t *callsTable) Modify(ctx context.Context, keys []conntrack.Key, c conntrack.Change) []error {
	t.modifies++
	errs := make([]error, len(keys))
	for i, k := range keys {
		if f, err := t.Get(ctx, k); err == nil && f.Mark == t.deny {
			errs[i] = unix.ENOSPC
		} else {
			errs[i] = t.Table.Modify(ctx, []conntrack.Key{k}, c)[0]
		}
	}
	return errs
}

func (t *callsTable) Replace(ctx context.Context, k conntrack.Key, nat conntrack.NAT) (conntrack.Flow, error) {
	t.replaces++
	return t.Table.Replace(ctx, k, nat)
}

// TestModifyBatch: flows that need the same change go to the kernel together.
func TestModifyBatch(t *testing.T) {
	a := newAPI(tcpFlows(100)...)
	table := &callsTable{Table: a.table, deny: 7}
	a.service.Table = table
	var got wire.ModifyResult
	a.call(t, "conntrack.modify", `{"all": true, "set": {"mark": "0x100/0x100"}}`, &got)
	if table.modifies != 1 || got.Modified != 99 || len(got.Flows) != 99 || *got.Flows[0].Mark != 0x100 ||
		len(got.Failed) != 1 || *got.Failed[0].Flow.Mark != 7 || got.Failed[0].Code != wire.LimitExceeded {
		t.Errorf("%d calls, %d modified, %d shown, failed %+v", table.modifies, got.Modified, len(got.Flows), got.Failed)
	}
}

// TestModifyWithNAT: where the change or the translation fails, the flow is as it was.
func TestModifyWithNAT(t *testing.T) {
	const set = `"set": {"nat": {"src": "198.51.100.1:4000", "dst": ":8443"}, "labels": [1]}`
	check := func(a *api, got wire.ModifyResult) {
		t.Helper()
		if got.Modified != 0 || got.Changed || len(got.Failed) != 1 {
			t.Fatalf("%+v, want one failure", got)
		}
		f := got.Failed[0].Flow
		if f.NAT != "" || f.Reply.Dst != "10.0.0.1" || *f.Reply.DPort != 40000 || *f.Reply.SPort != 443 || len(f.Labels) != 0 {
			t.Errorf("shown %+v %+v", f, f.Reply)
		}
		var now wire.Flow
		a.call(t, "conntrack.get", fmt.Sprintf(`{"flow": %d}`, f.ID), &now)
		if diff := cmp.Diff(now, f); diff != "" {
			t.Errorf("the flow is not as shown (-want +got):\n%s", diff)
		}
	}
	a := newAPI(tcpFlow(1))
	table := &callsTable{Table: a.table, deny: 1}
	a.service.Table = table
	var got wire.ModifyResult
	a.call(t, "conntrack.modify", `{"all": true, `+set+`}`, &got)
	check(a, got)
	if got.Failed[0].Code != wire.LimitExceeded || table.replaces != 2 {
		t.Errorf("failed %+v after %d translations", got.Failed[0], table.replaces)
	}

	a.table.Fail(conntracktest.OpReplace, 0, conntrack.ErrNATTaken)
	a.call(t, "conntrack.modify", `{"all": true, `+set+`}`, &got)
	check(a, got)
	a.table.Fail(conntracktest.OpReplace, 0, nil)

	// What is known to fail isn't begun.
	fixed := tcpFlow(1)
	fixed.Status |= conntrack.StatusFixedTimeout
	a = newAPI(fixed)
	table = &callsTable{Table: a.table}
	a.service.Table = table
	a.call(t, "conntrack.modify", `{"all": true, "set": {"nat": {"src": "198.51.100.1"}, "timeout": 5}}`, &got)
	check(a, got)
	if got.Failed[0].Code != wire.Conflict || table.replaces != 0 {
		t.Errorf("failed %+v after %d translations", got.Failed[0], table.replaces)
	}
}

func TestModifyTruncated(t *testing.T) {
	a := newAPI(tcpFlows(maxShown + 1)...)
	var got wire.ModifyResult
	a.call(t, "conntrack.modify", `{"all": true, "max": 5000, "set": {"mark": 100000}}`, &got)
	if got.Modified != maxShown+1 || len(got.Flows) != maxShown || !got.Truncated {
		t.Errorf("modified %d, %d shown, truncated %v", got.Modified, len(got.Flows), got.Truncated)
	}
}
