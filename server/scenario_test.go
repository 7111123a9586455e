package server

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kolo "github.com/kolo/xmlrpc"
	"github.com/rogpeppe/go-internal/testscript"

	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// TestScenario runs the same scenario with each kind of client against a daemon: make a
// connection, find it, change its mark and timeout, kill it, see it gone, which conntrack(8)
// confirms each time. Ids, marks and byte counts above 2^31 arrive as they are.
func TestScenario(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	began := time.Now()
	port := bigFlow(t, ns)
	t.Logf("2 GiB in %v", time.Since(began))
	p := startProcess(t, ns, t.TempDir())
	for i, command := range [][]string{
		{"python3", "testdata/scenario.py"},
		{"php", "testdata/page.php"},
		{"bash", "testdata/scenario.sh"},
	} {
		t.Run(command[0], func(t *testing.T) {
			c := exec.Command(command[0], command[1:]...)
			c.Env = append(os.Environ(), "CTD_URL="+p.url, "CTD_TOKEN="+p.token, "CTD_NETNS="+ns.Name(),
				fmt.Sprintf("CTD_SRC=10.9.0.%d", i+1), fmt.Sprintf("CTD_BIG_PORT=%d", port))
			out, err := c.CombinedOutput()
			if err != nil || !strings.HasSuffix(string(out), "done\n") {
				t.Errorf("%v\n%s\ndaemon's log:\n%s", err, out, p.log.String())
			}
		})
	}
	t.Run("kolo", func(t *testing.T) { scenarioKolo(t, p, ns, "10.9.1.1", port) })
	for src, c := range map[string]struct {
		name string
		cfg  ctdclient.Config
	}{
		"10.9.2.1": {"json over the socket", ctdclient.Config{}},
		"10.9.2.2": {"json over TCP", ctdclient.Config{Server: p.url, Token: p.token}},
		"10.9.2.3": {"xml over the socket", ctdclient.Config{Protocol: ctdclient.XML}},
		"10.9.2.4": {"xml over TCP", ctdclient.Config{Server: p.url, User: "go", Password: p.token, Protocol: ctdclient.XML}},
	} {
		t.Run("ctdclient, "+c.name, func(t *testing.T) { scenarioGo(t, p.client(c.cfg), ns, src, port) })
	}
}

// kernel returns conntrack(8)'s lines of the flows from an address.
func kernel(t testing.TB, ns *conntracktest.NS, src string, args ...string) []string {
	t.Helper()
	out, err := ns.Conntrack8(append([]string{"-L", "-s", src}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(out))
}

// scenarioKolo is the scenario by kolo/xmlrpc.
func scenarioKolo(t *testing.T, p *process, ns *conntracktest.NS, src string, port uint16) {
	c, err := kolo.NewClient(p.url+"/RPC2", basicAuth{p.token})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	type object = map[string]any
	call := func(method string, params any) object {
		t.Helper()
		var result object
		if err := c.Call(method, params, &result); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return result
	}
	var made object
	var id uint64
	sport := 40000
	for ; id < 1<<31 && sport < 40040; sport++ {
		made = call("conntrack.create", object{"flow": object{
			"protocol": "tcp", "timeout": 300, "state": "ESTABLISHED",
			"orig": object{"src": src, "dst": "192.0.2.1", "sport": sport, "dport": 443},
		}})
		id, _ = strconv.ParseUint(fmt.Sprint(made["id"]), 10, 64)
	}
	sport--
	if id < 1<<31 {
		t.Fatalf("no id from 2^31 on among 40; the last is %v", made["id"])
	}
	found := call("conntrack.list", object{"filter": object{"src": src, "sport": sport}})
	if flows, _ := found["flows"].([]any); len(flows) != 1 || flows[0].(object)["id"] != made["id"] {
		t.Fatalf("found %v, want the flow %v", found, made["id"])
	}
	// kolo encodes an int64 as <int>.
	changed := call("conntrack.modify", object{"flows": []any{id}, "set": object{"mark": int64(math.MaxUint32), "timeout": 1234}})
	if fmt.Sprint(changed["modified"]) != "1" || changed["flows"].([]any)[0].(object)["mark"] != "4294967295" {
		t.Errorf("modified %v", changed)
	}
	if lines := kernel(t, ns, src, "-m", "4294967295"); len(lines) != 1 || !strings.Contains(lines[0], fmt.Sprintf("sport=%d ", sport)) {
		t.Errorf("conntrack(8) shows %q", lines)
	}
	big := call("conntrack.list", object{"dport": int(port)})["flows"].([]any)[0].(object)["orig"].(object)["bytes"]
	if n, err := strconv.ParseUint(fmt.Sprint(big), 10, 64); err != nil || n <= 1<<31 {
		t.Errorf("bytes %v, want more than 2^31", big)
	}
	if killed := call("conntrack.kill", object{"filter": object{"id": made["id"]}}); fmt.Sprint(killed["killed"]) != "1" {
		t.Errorf("killed %v", killed)
	}
	// net/rpc makes a text of the fault.
	want := fmt.Sprintf("Fault(%d)", wire.NotFound.Number())
	if err := c.Call("conntrack.get", made["id"], nil); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("get after kill: %v, want %s", err, want)
	}
	for _, line := range kernel(t, ns, src) {
		if strings.Contains(line, fmt.Sprintf("sport=%d ", sport)) {
			t.Errorf("conntrack(8) still shows %s", line)
		}
	}
}

// basicAuth adds the token to each request.
type basicAuth struct{ token string }

func (a basicAuth) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth("kolo", a.token)
	return http.DefaultTransport.RoundTrip(r)
}

// scenarioGo is the scenario by package ctdclient.
func scenarioGo(t *testing.T, c *ctdclient.Client, ns *conntracktest.NS, src string, port uint16) {
	ctx := t.Context()
	number := func(n uint16) *uint16 { return &n }
	timeout := uint32(300)
	var made *wire.Flow
	var err error
	sport := uint16(40000)
	for ; made == nil || made.ID < 1<<31; sport++ {
		made, err = c.Create(ctx, wire.CreateParams{Flow: wire.Flow{
			Protocol: "tcp", ProtoNum: 6, Timeout: &timeout, State: "ESTABLISHED",
			Orig: &wire.Tuple{Src: src, Dst: "192.0.2.1", SPort: number(sport), DPort: number(443)},
		}})
		if err != nil || sport > 40040 {
			t.Fatalf("port %d: %+v, %v; want an id from 2^31 on", sport, made, err)
		}
	}
	n := 0
	for f, err := range c.List(ctx, wire.ListParams{Filter: map[string]any{"id": made.ID}}) {
		if n++; err != nil || f.ID != made.ID || *f.Orig.SPort != *made.Orig.SPort {
			t.Errorf("found %+v, %v; want %+v", f, err, made)
		}
	}
	if n != 1 {
		t.Errorf("found %d flows", n)
	}
	next := uint32(1299)
	change := wire.ModifyParams{Flows: []any{made.ID}, Set: wire.Set{Mark: uint32(math.MaxUint32), Timeout: &next}}
	changed, err := c.Modify(ctx, change)
	if err != nil || changed.Modified != 1 || *changed.Flows[0].Mark != math.MaxUint32 {
		t.Fatalf("modified %+v, %v", changed, err)
	}
	want := fmt.Sprintf("sport=%d ", *made.Orig.SPort)
	if lines := kernel(t, ns, src, "-m", "4294967295"); len(lines) != 1 || !strings.Contains(lines[0], want) || !strings.Contains(lines[0], " 12") {
		t.Errorf("conntrack(8) shows %q", lines)
	}
	for f, err := range c.List(ctx, wire.ListParams{Filter: fmt.Sprintf("dport=%d", port)}) {
		if err != nil || *f.Orig.Bytes <= 1<<31 {
			t.Errorf("%+v, %v; want more than 2^31 bytes", f, err)
		}
	}
	killed, err := c.Kill(ctx, wire.KillParams{Filter: map[string]any{"src": src, "mark": uint32(math.MaxUint32)}})
	if err != nil || killed.Killed != 1 || killed.Flows[0].ID != made.ID {
		t.Errorf("killed %+v, %v", killed, err)
	}
	if f, err := c.Get(ctx, made.ID); !errors.Is(err, &wire.Error{Code: wire.NotFound}) {
		t.Errorf("get after kill: %+v, %v; want not_found", f, err)
	}
	if lines := kernel(t, ns, src, "-m", "4294967295"); len(lines) != 0 {
		t.Errorf("conntrack(8) still shows %q", lines)
	}
}

// TestCommand is the scenario by the ctd command.
func TestCommand(t *testing.T) {
	conntracktest.Kernel(t)
	testscript.Run(t, testscript.Params{
		Files: []string{"testdata/cli.txtar"},
		Setup: func(e *testscript.Env) error {
			tb := e.T().(testing.TB)
			ns := conntracktest.NewNS(tb)
			ns.Conntrack()
			p := startProcess(tb, ns, tb.TempDir())
			e.Values["ns"] = ns
			e.Setenv("CTD_SERVER", "unix://"+p.sock)
			e.Setenv("CTD_TCP", p.url)
			e.Setenv("TOKEN", p.token)
			e.Setenv("PATH", filepath.Dir(program(tb))+":"+e.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"kernel": func(ts *testscript.TestScript, _ bool, args []string) {
				out, err := ts.Value("ns").(*conntracktest.NS).Conntrack8(append(args, "-o", "labels")...)
				ts.Check(err)
				_, err = io.WriteString(ts.Stdout(), out)
				ts.Check(err)
			},
			"status": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				status := 0
				if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
					status = exit.ExitCode()
				}
				if fmt.Sprint(status) != args[0] {
					ts.Fatalf("exit status %d, want %s", status, args[0])
				}
			},
			"same": sameLines,
		},
	})
}

// sameLines compares the lines of `ctd list -o conntrack` or `ctd expect list -o conntrack` with
// those of conntrack(8), which are a little older: so their timeouts may be a little longer.
func sameLines(ts *testscript.TestScript, _ bool, args []string) {
	verb := []string{"list", "-o", "conntrack"}
	if len(args) > 1 {
		verb = append([]string{args[1]}, verb...)
	}
	began := time.Now()
	text, err := ts.Value("ns").(*conntracktest.NS).Run("", append([]string{"conntrack"}, args...)...)
	ts.Check(err)
	ts.Check(ts.Exec("ctd", verb...))
	if text == "" {
		ts.Fatalf("conntrack(8) shows nothing")
	}
	most := int(time.Since(began)/time.Second) + 1
	want, wantTimes := linesAndTimeouts(text)
	got, gotTimes := linesAndTimeouts(ts.ReadFile("stdout"))
	if diff := cmp.Diff(want, got); diff != "" {
		ts.Fatalf("lines (-conntrack +ctd):\n%s", diff)
	}
	for i, line := range want {
		if d := wantTimes[i] - gotTimes[i]; d < 0 || d > most {
			ts.Fatalf("%s\nthe timeout is %d, and was %d", line, gotTimes[i], wantTimes[i])
		}
	}
}

// timeoutOf is the timeout in a line of conntrack(8)'s, of a flow or of an expectation.
var timeoutOf = regexp.MustCompile(`^((?:\S+ +\d+ )?)(\d+) `)

// linesAndTimeouts returns the lines without their timeouts, sorted, and the timeout of each.
func linesAndTimeouts(s string) (lines []string, timeouts []int) {
	of := map[string]int{}
	for line := range strings.Lines(s) {
		n := 0
		line = timeoutOf.ReplaceAllStringFunc(strings.TrimSpace(line), func(found string) string {
			parts := timeoutOf.FindStringSubmatch(found)
			n, _ = strconv.Atoi(parts[2])
			return parts[1] + "N "
		})
		of[line] = n
		lines = append(lines, line)
	}
	slices.Sort(lines)
	for _, line := range lines {
		timeouts = append(timeouts, of[line])
	}
	return lines, timeouts
}
