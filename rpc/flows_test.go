package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

func TestList(t *testing.T) {
	a := newAPI(append(tcpFlows(4), udpFlow("10.0.0.9", 1), udpFlow("fd00::9", 2))...)
	for _, c := range []struct {
		name, params string
		want         string // ids
		matched      int
	}{
		{"all", `{}`, "[1 2 3 4 5 6]", 6},
		{"filter as text", `{"filter": "proto=tcp src=10.0.0.1,10.0.0.2"}`, "[2 3]", 2},
		{"filter as object", `{"filter": {"proto": "udp", "family": "ipv6"}}`, "[6]", 1},
		{"any of two", `{"filter": [{"sport": 1}, {"sport": 2}]}`, "[5 6]", 2},
		{"by position", `["proto=udp", "-sport", 1]`, "[6]", 2},
		{"nothing", `{"filter": "dport=1"}`, "[]", 0},
		{"limit", `{"limit": 2}`, "[1 2]", 6},
		{"offset", `{"offset": 4}`, "[5 6]", 6},
		{"limit and offset", `{"limit": 2, "offset": 3}`, "[4 5]", 6},
		{"offset beyond", `{"offset": 9}`, "[]", 6},
		{"sorted", `{"sort": "-mark", "filter": "proto=tcp"}`, "[4 3 2 1]", 4},
		{"sorted with a limit", `{"sort": "-bytes", "limit": 2}`, "[4 3]", 6},
		{"sorted with limit and offset", `{"sort": "id", "limit": 2, "offset": 1}`, "[2 3]", 6},
		{"dying", `{"table": "dying"}`, "[]", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got wire.ListResult
			a.call(t, "conntrack.list", c.params, &got)
			if ids(got.Flows) != c.want && !(c.want == "[]" && len(got.Flows) == 0) || got.Matched != c.matched {
				t.Errorf("%s matched %d, want %s of %d", ids(got.Flows), got.Matched, c.want, c.matched)
			}
			if got.Time.IsZero() {
				t.Error("no time")
			}
		})
	}
	if a.table.Writes() != 0 {
		t.Errorf("%d writes", a.table.Writes())
	}
	a.refused(t, "conntrack.list", `{"filter": "dprt=1"}`, wire.InvalidParams, "dport")
	a.refused(t, "conntrack.list", `{"filtre": "dport=1"}`, wire.InvalidParams, "filter")
	a.refused(t, "conntrack.list", `{"limit": -1}`, wire.InvalidParams, "negative")
	a.refused(t, "conntrack.list", `{"offset": -1}`, wire.InvalidParams, "negative")
	a.refused(t, "conntrack.list", `{"limit": 1.5}`, wire.InvalidParams, "limit")
	a.refused(t, "conntrack.list", `{"sort": "colour"}`, wire.InvalidParams, "bytes")
	a.refused(t, "conntrack.list", `{"fields": ["orig.sorce"]}`, wire.InvalidParams, "orig")
	a.refused(t, "conntrack.list", `{"table": "expect"}`, wire.InvalidParams, "table")
	a.refused(t, "conntrack.list", `{"filter": {"user": "jane"}}`, wire.Unsupported, "src")
	a.refused(t, "conntrack.list", fmt.Sprintf(`{"sort": "id", "limit": 1, "offset": %d}`, maxSorted), wire.LimitExceeded, "sort")
	var last wire.ListResult
	a.call(t, "conntrack.list", fmt.Sprintf(`{"sort": "id", "limit": 1, "offset": %d}`, maxSorted-1), &last)
}

func TestListFields(t *testing.T) {
	a := newAPI(tcpFlow(7))
	result, err := a.tryAs(t, wire.RoleViewer, "conntrack.list", `{"fields": ["id", "orig.bytes", "mark"]}`)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"flows":[{"id":1,"orig":{"bytes":30064771072},"mark":7}],"matched":1,`
	if !strings.HasPrefix(string(result), want) {
		t.Errorf("%s, want %s...", result, want)
	}
}

// countingTable lets the counters grow between two dumps.
type countingTable struct {
	Table
	dumps uint64
}

func (t *countingTable) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	t.dumps++
	more := t.dumps * 5000
	return func(yield func(conntrack.Flow, error) bool) {
		for f, err := range t.Table.Flows(ctx, f, opts...) {
			if f.Proto() == conntrack.TCP {
				f.OrigCounter.Bytes += more * uint64(f.Mark)
			}
			if !yield(f, err) {
				return
			}
		}
	}
}

func TestListRates(t *testing.T) {
	a := newAPI(append(tcpFlows(3), udpFlow("10.0.0.9", 1))...)
	a.service.Table = &countingTable{Table: a.table}
	var got wire.ListResult
	a.call(t, "conntrack.list", `{"rates": true, "sort": "-rate"}`, &got)
	if ids(got.Flows) != "[3 2 1 4]" {
		t.Errorf("by rate: %s", ids(got.Flows))
	}
	for i, want := range []float64{10000, 5000, 0} {
		rate := got.Flows[i].Orig.Rate
		if rate == nil || *rate > want || *rate < want*0.7 {
			t.Errorf("flow %d: rate %v, want about %v", got.Flows[i].ID, rate, want)
		}
	}
	if udp := got.Flows[3]; udp.Orig.Rate != nil {
		t.Errorf("a flow without counters has the rate %v", *udp.Orig.Rate)
	}
	var count wire.CountResult
	a.call(t, "conntrack.count", `{"filter": "rate=>7000"}`, &count)
	if count.Count != 1 {
		t.Errorf("%d flows above 7000 bytes/s, want 1", count.Count)
	}
	a.refused(t, "conntrack.kill", `{"filter": "rate=>7000"}`, wire.Unsupported, "sample")
}

func TestListZero(t *testing.T) {
	a := newAPI(tcpFlows(2)...)
	if _, err := a.tryAs(t, wire.RoleViewer, "conntrack.list", `{"zero": true}`); err == nil || err.Code != wire.PermissionDenied {
		t.Errorf("a viewer reset the counters: %v", err)
	}
	a.refused(t, "conntrack.list", `{"zero": true, "table": "dying"}`, wire.InvalidParams, "main table")
	for _, params := range []string{`"limit": 1`, `"offset": 1`, `"sort": "id", "limit": 1`, `"filter": "rate=>1"`} {
		a.refused(t, "conntrack.list", `{"zero": true, `+params+`}`, wire.InvalidParams, "zero")
	}
	bytes := func(params string) uint64 {
		var got wire.ListResult
		a.call(t, "conntrack.list", params, &got)
		return *got.Flows[1].Orig.Bytes
	}
	if n := bytes(`{"zero": true}`); n != 1<<32 {
		t.Errorf("%d bytes as they are reset, want 2^32", n)
	}
	if n := bytes(`{}`); n != 0 {
		t.Errorf("%d bytes after they were reset", n)
	}
}

func TestGet(t *testing.T) {
	flow := tcpFlow(1)
	flow.Reply = flow.Orig.Inverse()
	flow.Reply.DstPort = 5000 // SNAT
	a := newAPI(flow, tcpFlow(2))
	const orig = `{"src": "10.0.0.1", "dst": "192.0.2.1", "sport": 40000, "dport": 443}`
	const reply = `{"src": "192.0.2.1", "dst": "10.0.0.1", "sport": 443, "dport": 5000}`
	for name, params := range map[string]string{
		"id":                      `{"flow": 1}`,
		"id by position":          `[1]`,
		"id as text":              `{"flow": "1"}`,
		"id in hexadecimal":       `{"flow": "0x1"}`,
		"id in an object":         `{"flow": {"id": 1}}`,
		"original tuple":          `{"flow": {"protocol": "tcp", "orig": ` + orig + `}}`,
		"protocol by number":      `{"flow": {"protonum": 6, "orig": ` + orig + `}}`,
		"protocol number as text": `{"flow": {"protocol": "6", "orig": ` + orig + `}}`,
		"reply tuple":             `{"flow": {"protocol": "tcp", "reply": ` + reply + `}}`,
		"both":                    `{"flow": {"protocol": "tcp", "id": 1, "orig": ` + orig + `, "reply": ` + reply + `}}`,
	} {
		var got wire.Flow
		a.call(t, "conntrack.get", params, &got)
		if got.ID != 1 || got.NAT != "snat" || *got.Reply.DPort != 5000 {
			t.Errorf("%s: %+v", name, got)
		}
		// What get gives finds the flow again.
		again, _ := a.tryAs(t, wire.RoleViewer, "conntrack.get", params)
		a.call(t, "conntrack.get", `{"flow": `+string(again)+`}`, &got)
	}
	for _, c := range []struct {
		flow string
		code wire.Code
		text string
	}{
		{`9`, wire.NotFound, "no such entry"},
		{`0`, wire.InvalidParams, "1 to 4294967295"},
		{`4294967296`, wire.InvalidParams, "1 to 4294967295"},
		{`-1`, wire.InvalidParams, "no id"},
		{`"all"`, wire.InvalidParams, "no id"},
		{`{}`, wire.InvalidParams, "needs an id"},
		{`[1]`, wire.InvalidParams, "flow"},
		{`true`, wire.InvalidParams, "flow"},
		{`{"orig": ` + orig + `}`, wire.InvalidParams, "protocol is missing"},
		{`{"protocol": "tpc", "orig": ` + orig + `}`, wire.InvalidParams, "no protocol"},
		{`{"protocol": "tcp", "protonum": 17, "orig": ` + orig + `}`, wire.InvalidParams, "contradict"},
		{`{"protocol": "udp", "orig": ` + orig + `}`, wire.NotFound, ""},
		{`{"protocol": "tcp", "zone": 3, "orig": ` + orig + `}`, wire.NotFound, ""},
		{`{"protocol": "tcp", "id": 2, "orig": ` + orig + `}`, wire.NotFound, ""},
		{`{"protocol": "tcp", "orig": ` + orig + `, "reply": ` + strings.Replace(reply, "5000", "40000", 1) + `}`, wire.NotFound, ""},
		{`{"protocol": "icmp", "orig": ` + orig + `}`, wire.InvalidParams, "no ports"},
		{`{"protocol": "tcp", "orig": {"src": "10.0.0.1", "type": 8}}`, wire.InvalidParams, "ICMP"},
		{`{"protocol": "tcp", "orig": {"src": "10.0.0.1", "key": 8}}`, wire.InvalidParams, "GRE"},
		{`{"protocol": "tcp", "orig": {"src": "10.0.0", "dst": "192.0.2.1"}}`, wire.InvalidParams, "orig.src"},
		{`{"protocol": "tcp", "orig": {"src": "fe80::1%eth0", "dst": "fe80::2"}}`, wire.InvalidParams, "orig.src"},
		{`{"protocol": "tcp", "orig": {"src": "fd00::1", "dst": "192.0.2.1"}}`, wire.InvalidParams, "families"},
		{`{"protocol": "tcp", "orig": {"sport": 65536}}`, wire.InvalidParams, "sport"},
		{`{"protocol": "tcp", "orgi": ` + orig + `}`, wire.InvalidParams, "orig"},
	} {
		a.refused(t, "conntrack.get", `{"flow": `+c.flow+`}`, c.code, c.text)
	}
	a.refused(t, "conntrack.get", `{}`, wire.InvalidParams, "flow")
}

func TestCount(t *testing.T) {
	icmp := udpFlow("10.0.0.9", 0)
	icmp.Orig = conntrack.Tuple{Src: icmp.Orig.Src, Dst: icmp.Orig.Dst, Proto: conntrack.ICMP, ICMPType: 8, ICMPID: 1}
	a := newAPI(append(tcpFlows(3), udpFlow("10.0.0.1", 1), udpFlow("10.0.0.1", 2), icmp)...)
	for _, c := range []struct {
		by   string
		want []wire.CountGroup
	}{
		{"", nil},
		{"src", []wire.CountGroup{{Key: "10.0.0.1", Count: 3}, {Key: "10.0.0.0", Count: 1}, {Key: "10.0.0.2", Count: 1}, {Key: "10.0.0.9", Count: 1}}},
		{"dst", []wire.CountGroup{{Key: "192.0.2.1", Count: 3}, {Key: "192.0.2.53", Count: 3}}},
		{"proto", []wire.CountGroup{{Key: "tcp", Count: 3}, {Key: "udp", Count: 2}, {Key: "icmp", Count: 1}}},
		{"dport", []wire.CountGroup{{Key: "443", Count: 3}, {Key: "53", Count: 2}, {Key: "", Count: 1}}},
		{"state", []wire.CountGroup{{Key: "", Count: 3}, {Key: "ESTABLISHED", Count: 3}}},
		{"mark", []wire.CountGroup{{Key: "0", Count: 4}, {Key: "1", Count: 1}, {Key: "2", Count: 1}}},
		{"zone", []wire.CountGroup{{Key: "0", Count: 6}}},
		{"user", []wire.CountGroup{{Key: "", Count: 6}}},
	} {
		var got wire.CountResult
		a.call(t, "conntrack.count", `{"by": "`+c.by+`"}`, &got)
		if diff := cmp.Diff(wire.CountResult{Count: 6, Groups: c.want}, got); diff != "" {
			t.Errorf("by %q (-want +got):\n%s", c.by, diff)
		}
	}
	var got wire.CountResult
	a.call(t, "conntrack.count", `{"filter": "proto=udp"}`, &got)
	if got.Count != 2 {
		t.Errorf("%d UDP flows", got.Count)
	}
	a.refused(t, "conntrack.count", `{"by": "colour"}`, wire.InvalidParams, "src")
}

// TestDumpFails: a dump that fails before anything was sent is an error, one that fails later
// cuts the connection: no client takes a short list for a whole one.
func TestDumpFails(t *testing.T) {
	call := map[string]string{
		"application/json": `{"jsonrpc":"2.0","id":1,"method":"conntrack.list"}`,
		"text/xml":         methodCall("conntrack.list"),
	}
	view := func(a *api) string {
		sid, code := a.xmlRPC(t, "", methodCall("login", "admin", "right"))
		if code != 0 {
			t.Fatalf("login: fault %d", code)
		}
		return methodCall("view", sid.(string))
	}
	for contentType, body := range call {
		for _, after := range []int{0, 3} {
			a := newAPI(tcpFlows(5)...)
			a.table.Fail(conntracktest.OpFlows, after, unix.ENOBUFS)
			if contentType == "application/json" {
				w := a.post(t, wire.RoleViewer, contentType, body)
				if got := parseAnswer(t, w.Body.Bytes()); got.Kind != wire.LimitExceeded || got.Errno != "ENOBUFS" {
					t.Errorf("%s after %d flows: %+v", contentType, after, got)
				}
				continue
			}
			for _, doc := range []string{body, view(a)} {
				if _, code := a.xmlRPC(t, wire.RoleViewer, doc); code != wire.LimitExceeded.Number() {
					t.Errorf("%s after %d flows: fault %d", contentType, after, code)
				}
			}
		}
		a := newAPI(tcpFlows(2000)...)
		a.table.Fail(conntracktest.OpFlows, 1999, conntrack.ErrInterrupted)
		s := a.serve(t)
		docs := []string{body}
		if contentType == "text/xml" {
			docs = append(docs, view(a))
		}
		for _, doc := range docs {
			resp, err := http.Post(s.URL, contentType, strings.NewReader(doc))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if !errors.Is(err, io.ErrUnexpectedEOF) || len(b) == 0 {
				t.Errorf("%s: %d bytes and %v, want a part and io.ErrUnexpectedEOF", contentType, len(b), err)
			}
			if strings.Contains(string(b), `"matched"`) || strings.HasSuffix(string(b), "</methodResponse>") {
				t.Errorf("%s: the answer looks whole: ...%s", contentType, b[len(b)-100:])
			}
		}
	}
}

// TestZoneOfOneDirection: sort, count and filter by zone see the zone that a flow shows.
func TestZoneOfOneDirection(t *testing.T) {
	flows := tcpFlows(3)
	flows[0].Orig.Zone, flows[1].Zone = 9, 5
	a := newAPI(flows...)
	var list wire.ListResult
	a.call(t, "conntrack.list", `{"sort": "-zone"}`, &list)
	if ids(list.Flows) != "[2 1 3]" {
		t.Errorf("sorted: %s", ids(list.Flows))
	}
	list = wire.ListResult{}
	a.call(t, "conntrack.list", `{"filter": "zone=0"}`, &list)
	if ids(list.Flows) != "[1 3]" {
		t.Errorf("zone=0: %s", ids(list.Flows))
	}
	var count wire.CountResult
	a.call(t, "conntrack.count", `{"by": "zone"}`, &count)
	want := []wire.CountGroup{{Key: "0", Count: 2}, {Key: "5", Count: 1}}
	if diff := cmp.Diff(want, count.Groups); diff != "" {
		t.Errorf("count (-want +got):\n%s", diff)
	}
}

// slowDump takes a second between two flows, which have 1000 bytes more each time they are read.
type slowDump struct {
	Table
	bytes uint64
}

func (t *slowDump) Flows(ctx context.Context, f conntrack.Filter, opts ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	return func(yield func(conntrack.Flow, error) bool) {
		t.bytes += 1000
		for f := range t.Table.Flows(ctx, f, opts...) {
			f.OrigCounter.Bytes = t.bytes
			if !yield(f, nil) {
				return
			}
			time.Sleep(time.Second)
		}
	}
}

// TestRatesOfSlowDump: a rate is over the time between the two readings of the flow itself.
func TestRatesOfSlowDump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Service{Table: &slowDump{Table: newAPI(tcpFlows(3)...).table}}
		for f, err := range sampled(t.Context(), s.Table, conntrack.Filter{}, nil) {
			if want := 1000 / (3 + sampleTime.Seconds()); err != nil || f.OrigRate != want {
				t.Errorf("flow %d: %v bytes a second, %v, want %v", f.ID, f.OrigRate, err, want)
			}
		}
	})
}

// TestSelectorContradicted names a flow by its id and something that it isn't.
func TestSelectorContradicted(t *testing.T) {
	a := newAPI(tcpFlows(1)...)
	for name, flow := range map[string]string{
		"protocol": `{"id": 1, "protocol": "udp"}`,
		"protonum": `{"id": 1, "protonum": 17}`,
		"family":   `{"id": 1, "family": "ipv6"}`,
		"zone":     `{"id": 1, "zone": 3}`,
	} {
		t.Run(name, func(t *testing.T) {
			a.refused(t, "conntrack.get", `{"flow": `+flow+`}`, wire.NotFound, "")
			var got wire.KillResult
			a.call(t, "conntrack.kill", `{"flows": [`+flow+`]}`, &got)
			if got.Killed != 0 || got.Matched != 0 {
				t.Errorf("killed %d of %d", got.Killed, got.Matched)
			}
		})
	}
	var got wire.KillResult
	a.call(t, "conntrack.kill", `{"flows": [{"id": 1, "protocol": "tcp", "family": "ipv4", "zone": 0}]}`, &got)
	if got.Killed != 1 {
		t.Errorf("killed %d, want 1", got.Killed)
	}
}

// TestHolding holds that lists which hold flows wait for each other, a while, and that one whose caller
// goes waits no longer. One caller doesn't take all there are.
func TestHolding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Service{Table: conntracktest.NewFake(tcpFlows(1)...)}
		s.Register(NewRegistry())
		list := func(ctx context.Context) (n int, err error) {
			for _, e := range s.holding(ctx, s.Table.Flows(ctx, conntrack.Filter{})) {
				if err = e; err == nil {
					n++
				}
			}
			return n, err
		}
		as := func(name string) context.Context {
			return WithPrincipal(t.Context(), named{caller{wire.RoleViewer}, name})
		}
		var taken []func()
		hold := func(name string) {
			t.Helper()
			giveBack, ok, err := s.holders.take(as(name), 0)
			if !ok || err != nil {
				t.Fatalf("%s holds nothing: %v", name, err)
			}
			taken = append(taken, giveBack)
		}
		hold("a")
		if _, ok, _ := s.holders.take(as("a"), 0); ok {
			t.Error("one caller has two")
		}
		if n, err := list(as("b")); n != 1 || err != nil {
			t.Errorf("beside another's: %d, %v", n, err)
		}
		hold("b")
		hold("c")
		began := time.Now()
		if _, err := list(as("d")); !errors.Is(err, &wire.Error{Code: wire.Busy}) || time.Since(began) != holdWait {
			t.Errorf("after %v: %v, want busy after %v", time.Since(began), err, holdWait)
		}
		ctx, cancel := context.WithCancel(as("d"))
		time.AfterFunc(time.Second, cancel)
		if _, err := list(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		time.AfterFunc(time.Second, taken[0])
		if n, err := list(as("d")); n != 1 || err != nil {
			t.Errorf("after one has ended: %d, %v", n, err)
		}
		for _, giveBack := range taken {
			giveBack()
			giveBack() // twice is once
		}
		if s.holders.taken != 0 || len(s.holders.by) != 0 {
			t.Errorf("%d are left: %v", s.holders.taken, s.holders.by)
		}
	})
}

// named is a caller with a name of its own.
type named struct {
	caller
	name string
}

func (n named) Name() string { return n.name }
