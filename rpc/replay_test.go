package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// replayed is a flow as an export shows it.
func replayed(t testing.TB, f conntrack.Flow) string {
	t.Helper()
	r, err := f.Replayable()
	if err != nil {
		t.Fatalf("%s: %v", f.Orig, err)
	}
	var out bytes.Buffer
	e := &jsonEncoder{sink: sink{w: &out}}
	w := flowWriter{e: e}
	w.writeReplayable(&r)
	e.flush()
	return out.String()
}

// TestReplayRoundTrip: what an export shows, an import reads as it was, and all of it that can be
// written; and so does what a list shows.
func TestReplayRoundTrip(t *testing.T) {
	flows := conntracktest.Mixed(80)
	full := fullFlow()
	full.Reply.Proto = conntrack.TCP
	flows = append(flows, full)
	opts := cmp.Options{
		cmpopts.IgnoreUnexported(conntrack.Flow{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		// Those of other protocols than the flow's come along; a list shows a status of all bits.
		cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Status" }, cmp.Comparer(func(a, b conntrack.Status) bool {
			const settable = conntrack.StatusSeenReply | conntrack.StatusAssured | conntrack.StatusFixedTimeout
			return a&settable == b&settable
		})),
	}
	const all = conntrack.AttrState | conntrack.AttrTCP | conntrack.AttrSCTP | conntrack.AttrSeqAdj | conntrack.AttrSynProxy | conntrack.AttrLabels
	for i, f := range flows {
		f.Set(conntrack.AttrTimeout)
		want, err := f.Replayable()
		if err != nil {
			t.Fatal(err)
		}
		for form, text := range map[string]string{"export": replayed(t, f), "list": string(writeJSON(t, f))} {
			var tree any
			d := json.NewDecoder(strings.NewReader(text))
			d.UseNumber()
			if err := d.Decode(&tree); err != nil {
				t.Fatal(err)
			}
			var w wire.Flow
			if err := wire.Decode(tree, &w, true); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			got, err := readReplayable("flows[0]", &w)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if diff := cmp.Diff(want, got, opts); diff != "" {
				t.Errorf("flow %d, %s %s\n-want +got:\n%s", i, form, text, diff)
			}
			for a := conntrack.AttrState; a <= conntrack.AttrLabels; a <<= 1 {
				if a&all != 0 && want.Has(a) != got.Has(a) {
					t.Errorf("%s: attribute %d is there: %v, want %v", text, a, got.Has(a), want.Has(a))
				}
			}
		}
	}
}

func TestReplayable(t *testing.T) {
	plain := tcpFlow(1)
	plain.Set(conntrack.AttrTimeout)
	plain.Timeout = 0
	want := `{"family":"ipv4","protocol":"tcp",` +
		`"orig":{"src":"10.0.0.1","dst":"192.0.2.1","sport":40000,"dport":443},` +
		`"reply":{"src":"192.0.2.1","dst":"10.0.0.1","sport":443,"dport":40000},` +
		`"state":"ESTABLISHED","timeout":1,"mark":1}`
	plain.Reply = plain.Orig.Inverse()
	if diff := cmp.Diff(want, replayed(t, plain)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	full := fullFlow()
	want = `{"family":"ipv4","protocol":"tcp","zone":7,` +
		`"orig":{"src":"192.168.1.2","dst":"19.2.3.216","sport":22,"dport":59480,"zone":3},` +
		`"reply":{"src":"19.2.3.216","dst":"192.0.2.1","sport":59480,"dport":22},` +
		`"state":"ESTABLISHED","timeout":431999,"status":["assured"],"mark":2147483649,"labels":[0,127],"helper":"ftp",` +
		`"master":{"src":"fd00::1","dst":"fd00::2","type":128,"code":0,"id":9,"protocol":"icmpv6"},` +
		`"tcp":{"wscale":[7,8],"flags":[1,2]},"sctp":{"vtag":[1,2147483648]},"dccp":{"role":"server","handshake_seq":1099511627776},` +
		`"seqadj":{"orig":{"position":2147483648,"before":-1,"after":2},"reply":{"position":0,"before":0,"after":0}},` +
		`"synproxy":{"isn":1,"its":2,"tsoff":3}}`
	if diff := cmp.Diff(want, replayed(t, full)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestExport(t *testing.T) {
	flows := append(tcpFlows(2), udpFlow("10.0.0.9", 1))
	a := newAPI(flows...)
	var got wire.ExportResult
	a.call(t, "conntrack.export", `{"filter": "proto=tcp"}`, &got)
	if len(got.Flows) != 2 || got.Matched != 2 || got.Exported != 2 || got.Failed != nil || got.Time.IsZero() || got.Flows[0].ID != 0 {
		t.Errorf("%+v", got)
	}
	a.call(t, "conntrack.export", `{}`, &got)
	if len(got.Flows) != 3 {
		t.Errorf("%d flows, want all 3", len(got.Flows))
	}
	a.refused(t, "conntrack.export", `{"filter": "rate=>1"}`, wire.Unsupported, "rate")
	a.refused(t, "conntrack.export", `{"filter": "scr=10.0.0.1"}`, wire.InvalidParams, "src")
	if _, err := a.tryAs(t, wire.RoleViewer, "conntrack.export", `{}`); err != nil {
		t.Errorf("a viewer: %v", err)
	}

	// What can't be made again is named; what is dying is gone.
	odd := oddTable{Table: a.table}
	a.service.Table = odd
	got = wire.ExportResult{}
	a.call(t, "conntrack.export", `{}`, &got)
	if got.Matched != 3 || got.Exported != 1 || len(got.Flows) != 1 || len(got.Failed) != 2 {
		t.Fatalf("%+v", got)
	}
	for i, want := range []struct {
		src  string
		code wire.Code
	}{{"10.0.0.2", wire.Unsupported}, {"10.0.0.3", wire.InvalidParams}} {
		if f := got.Failed[i]; f.Flow.Orig.Src != want.src || f.Code != want.code {
			t.Errorf("failed %+v, want %+v", f, want)
		}
	}
}

// oddTable has a flow that is dying, one in a flow table, and one of a type that isn't tracked.
type oddTable struct{ Table }

func (oddTable) Flows(context.Context, conntrack.Filter, ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	flows := tcpFlows(4)
	flows[0].Set(conntrack.AttrTimeout)
	flows[2].Set(conntrack.AttrTimeout)
	for i := range flows {
		flows[i].Orig.Src = netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
		flows[i].Reply = flows[i].Orig.Inverse()
	}
	flows[2].Orig = conntrack.Tuple{Src: flows[2].Orig.Src, Dst: flows[2].Orig.Dst, Proto: conntrack.ICMP, ICMPType: 3}
	flows[2].Reply = flows[2].Orig.Inverse()
	flows[3].Status = conntrack.StatusDying
	return func(yield func(conntrack.Flow, error) bool) {
		for _, f := range flows {
			if !yield(f, nil) {
				return
			}
		}
	}
}

// TestExportBreaksOff: a dump that fails is no short export.
func TestExportBreaksOff(t *testing.T) {
	a := newAPI(tcpFlows(3)...)
	a.table.Fail(conntracktest.OpFlows, 2, unix.EINTR)
	a.refused(t, "conntrack.export", `{}`, wire.Busy, "interrupted")
}

func TestExportAllocatesNothing(t *testing.T) {
	f := tcpFlow(1)
	f.Set(conntrack.AttrTimeout)
	f.Reply = f.Orig.Inverse()
	e := &jsonEncoder{sink: sink{w: discard{}, buf: make([]byte, 0, bufferSize)}}
	one := func(yield func(conntrack.Flow, error) bool) {
		for range 1000 {
			if !yield(f, nil) {
				return
			}
		}
	}
	allocs := testing.AllocsPerRun(10, func() {
		if err := (&flowExport{flows: one}).stream(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 20 {
		t.Errorf("%v allocations for 1000 flows", allocs)
	}
}

const flowText1 = `{"protocol": "udp", "orig": {"src": "10.0.0.7", "dst": "192.0.2.1", "sport": %d, "dport": 5060}, "timeout": %d, "mark": %d}`

func TestImport(t *testing.T) {
	a := newAPI()
	flow := func(port, timeout, mark int) string { return fmt.Sprintf(flowText1, port, timeout, mark) }
	list := func(flows ...string) string { return `"flows": [` + strings.Join(flows, ",") + `]` }
	check := func(params string, want wire.ImportResult) {
		t.Helper()
		var got wire.ImportResult
		a.call(t, "conntrack.import", `{`+params+`}`, &got)
		want.Changed = want.Created+want.Replaced > 0 && !strings.Contains(params, "dry_run")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n-want +got:\n%s", params, diff)
		}
	}
	check(list(flow(1, 60, 0), flow(2, 0, 0))+`, "dry_run": true`, wire.ImportResult{Created: 2})
	if a.table.Writes() != 0 {
		t.Fatal("a dry run wrote")
	}
	check(list(flow(1, 60, 0), flow(2, 0, 0))+`, "reason": "move"`, wire.ImportResult{Created: 2})
	check(list(flow(1, 60, 0), flow(2, 9, 0)), wire.ImportResult{Skipped: 2})
	check(list(flow(1, 60, 5), flow(2, 9, 0), flow(3, 9, 0))+`, "on_conflict": "replace"`, wire.ImportResult{Created: 1, Replaced: 1, Skipped: 1})
	check(list(flow(1, 60, 7), flow(3, 9, 0))+`, "on_conflict": "skip"`, wire.ImportResult{Skipped: 2})
	check(list(flow(4, 60, 7))+`, "on_conflict": "fail"`, wire.ImportResult{Created: 1})
	check(`"flows": []`, wire.ImportResult{})
	twice := list(flow(5, 60, 1), flow(5, 60, 2)) + `, "on_conflict": "replace"`
	check(twice+`, "dry_run": true`, wire.ImportResult{Created: 1, Skipped: 1})
	check(twice, wire.ImportResult{Created: 1, Skipped: 1})
	check(twice, wire.ImportResult{Skipped: 2})
	check(list(flow(5, 60, 2))+`, "on_conflict": "replace"`, wire.ImportResult{Skipped: 1})
	master := `"master": {"protocol": "udp", "src": "10.9.9.9", "dst": "192.0.2.1", "sport": 1, "dport": 1}, "timeout"`
	check(list(strings.Replace(flow(6, 60, 0), `"timeout"`, master, 1)), wire.ImportResult{Created: 1, Orphans: 1})

	for params, want := range map[string]struct {
		code wire.Code
		text string
	}{
		`{}`: {wire.InvalidParams, "flows"},
		`{` + list(flow(8, 60, 0), flow(1, 60, 0)) + `, "on_conflict": "fail"}`:                                 {wire.AlreadyExists, "the tuples of 1 of 2 flows are taken: udp 10.0.0.7:1 -> 192.0.2.1:5060; nothing was created"},
		`{` + list(flow(1, 60, 0), flow(2, 60, 0), flow(3, 60, 0), flow(4, 60, 0)) + `, "on_conflict": "fail"}`: {wire.AlreadyExists, "10.0.0.7:3 -> 192.0.2.1:5060 and others"},
		`{` + list(flow(1, 60, 0)) + `, "on_conflict": "fail", "dry_run": true}`:                                {wire.AlreadyExists, "nothing"},
		`{` + list(flow(1, 60, 0)) + `, "on_conflict": "overwrite"}`:                                            {wire.InvalidParams, "on_conflict"},
		`{` + list(flow(8, 60, 0), `{"protocol": "tcp"}`) + `}`:                                                 {wire.InvalidParams, "flows[1].orig is missing"},
		`{` + list(flow(8, 60, 0), strings.Replace(flow(8, 60, 0), "sport", "sprot", 1)) + `}`:                  {wire.InvalidParams, "flows[1].orig.sprot"},
		`{` + list(flow(8, 60, 0), strings.Replace(flow(9, 60, 0), `"udp"`, `"tcp", "state": "OPEN"`, 1)) + `}`: {wire.InvalidParams, "flows[1].state"},
		`{` + list(`{"protocol": "icmp", "orig": {"src": "10.0.0.7", "dst": "192.0.2.1", "type": 3}, "timeout": 60}`) + `}`: {
			wire.InvalidParams, "flows[0]: incomplete: icmp type 3 has no reply",
		},
	} {
		a.refused(t, "conntrack.import", params, want.code, want.text)
	}
	if _, err := a.tryAs(t, wire.RoleOperator, "conntrack.import", `{"flows": []}`); err == nil || err.Code != wire.PermissionDenied {
		t.Errorf("an operator imports: %v", err)
	}
	if log := a.logOf(t, wire.RoleAdmin, "application/json", `{"jsonrpc":"2.0","id":1,"method":"conntrack.import","params":{"flows":[],"reason":"ticket 4711"}}`); log.Reason != "ticket 4711" {
		t.Errorf("the log has the reason %q", log.Reason)
	}
}

// TestImportFails: what the kernel refuses is told flow by flow, with what to do about it.
func TestImportFails(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		member string
		code   wire.Code
		hint   string
	}{
		"labels":    {unix.ENOSPC, `"labels": [3]`, wire.LimitExceeded, "rule that uses labels"},
		"helper":    {unix.EOPNOTSUPP, `"helper": "ftp"`, wire.Unsupported, `no helper "ftp"`},
		"NAT taken": {conntrack.ErrNATTaken, `"mark": 1`, wire.Conflict, "another"},
		"full":      {unix.ENOMEM, `"mark": 1`, wire.LimitExceeded, "nf_conntrack_max"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPI()
			a.table.Fail(conntracktest.OpImport, 0, tt.err)
			var got wire.ImportResult
			text := strings.Replace(fmt.Sprintf(flowText1, 1, 60, 0), `"mark": 0`, tt.member, 1)
			a.call(t, "conntrack.import", `{"flows": [`+text+`]}`, &got)
			if len(got.Failed) != 1 || got.Failed[0].Code != tt.code || !strings.Contains(got.Failed[0].Hint, tt.hint) || *got.Failed[0].Flow.Orig.SPort != 1 || got.Changed {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestImportLimit is at the boundary, where the body is still short enough.
func TestImportLimit(t *testing.T) {
	a := newAPI()
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, flowText1, i+1, 60, 0)
		}
		return `{"dry_run": true, "flows": [` + b.String() + `]}`
	}
	a.service.Table = countTable{a.table}
	var got wire.ImportResult
	a.call(t, "conntrack.import", many(wire.MaxImport), &got)
	if got.Created != wire.MaxImport {
		t.Errorf("%+v", got)
	}
	a.refused(t, "conntrack.import", many(wire.MaxImport+1), wire.LimitExceeded, "16385 are more than 16384")
}

// countTable takes every flow, and fast.
type countTable struct{ Table }

func (countTable) CanImport(_ context.Context, flows []conntrack.Flow, _ conntrack.OnConflict) []conntrack.Imported {
	results := make([]conntrack.Imported, len(flows))
	for i := range results {
		results[i].Outcome = conntrack.OutcomeCreated
	}
	return results
}

// TestImportCancelled: what was made before is told.
func TestImportCancelled(t *testing.T) {
	for name, made := range map[string]int{"at once": 0, "half way": 1} {
		t.Run(name, func(t *testing.T) {
			a := newAPI()
			ctx, cancel := context.WithCancel(t.Context())
			a.service.Table = stoppedTable{Table: a.table, made: made, stop: cancel}
			flows := []wire.Flow{}
			for range 2 {
				flows = append(flows, wire.Flow{Protocol: "50", Orig: &wire.Tuple{Src: "10.0.0.1", Dst: "10.0.0.2"}, Timeout: ptr[uint32](9)})
			}
			ctx, _ = a.Registry.withChange(WithPrincipal(ctx, caller{wire.RoleAdmin}), "conntrack.import", Params{})
			result, err := a.service.importFlows(ctx, &wire.ImportParams{Flows: flows})
			if made == 0 {
				if err == nil {
					t.Errorf("%+v, want an error", result)
				}
				return
			}
			if r := result.(*importResult); err != nil || r.created != 1 || len(r.failed) != 1 || r.failed[0].flow != nil || !r.truncated {
				t.Errorf("%+v, %v", result, err)
			}
		})
	}
}

// stoppedTable makes so many flows before its caller goes.
type stoppedTable struct {
	Table
	made int
	stop func()
}

func (s stoppedTable) Import(ctx context.Context, flows []conntrack.Flow, _ conntrack.OnConflict) []conntrack.Imported {
	s.stop()
	results := make([]conntrack.Imported, len(flows))
	for i := range results {
		results[i].Outcome = conntrack.OutcomeCreated
		if i >= s.made {
			results[i] = conntrack.Imported{Err: &conntrack.OpError{Op: "import flow", Err: ctx.Err()}}
		}
	}
	return results
}

func BenchmarkImportParams(b *testing.B) {
	a := newAPI()
	a.service.Table = countTable{a.table}
	var text strings.Builder
	text.WriteString(`{"dry_run": true, "flows": [`)
	for i, f := range conntracktest.Mixed(1000) {
		if i > 0 {
			text.WriteByte(',')
		}
		f.Set(conntrack.AttrTimeout)
		text.WriteString(replayed(b, f))
	}
	text.WriteString(`]}`)
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		var got wire.ImportResult
		a.call(b, "conntrack.import", text.String(), &got)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*1000), "us/flow")
}
