package rpc

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// The masters of the tests, as a caller gives them, and the caller's networks.
const (
	ownMaster      = `{"protocol": "tcp", "src": "10.3.0.7", "dst": "198.51.100.4", "sport": 2222, "dport": 21}`
	behindMaster   = `{"protocol": "tcp", "src": "198.51.100.5", "dst": "203.0.113.1", "sport": 2222, "dport": 21}` // to 10.3.0.8
	othersMaster   = `{"protocol": "tcp", "src": "192.168.9.5", "dst": "198.51.100.4", "sport": 2222, "dport": 21}`
	missingMaster  = `{"protocol": "tcp", "src": "192.168.9.6", "dst": "198.51.100.4", "sport": 2222, "dport": 21}`
	mastersNetwork = "10.3.0.0/16"
)

// withMasters makes the masters of which not missing is the name, each with a helper and a flow of 10.3/16 that is
// related to it, of which the port is that of the master's place.
func withMasters(t *testing.T, table Table) *api {
	t.Helper()
	a := newAPI()
	a.service.Table = table
	for i, master := range []string{ownMaster, behindMaster, othersMaster} {
		reply := ""
		if master == behindMaster {
			reply = `"reply": {"src": "10.3.0.8", "dst": "198.51.100.5"}, `
		}
		a.call(t, "conntrack.create", fmt.Sprintf(`{"flow": {"protocol": "tcp", "orig": %s, %s"helper": "ftp", "timeout": 300, "state": "ESTABLISHED"}}`, master, reply), &wire.Flow{})
		a.call(t, "conntrack.create", fmt.Sprintf(`{"flow": %s}`, relatedTo(master, i)), &wire.Flow{})
	}
	return a
}

func relatedTo(master string, port int) string {
	return fmt.Sprintf(`{"protocol": "udp", "orig": {"src": "10.3.0.9", "dst": "10.3.0.10", "sport": 9, "dport": %d}, "timeout": 300, "master": %s}`, 1000+port, master)
}

// masterAddrs returns the source addresses of the masters of flows by their ports; null is "".
func masterAddrs(t *testing.T, flows []wire.Flow) map[uint16]string {
	t.Helper()
	sources := map[uint16]string{}
	for _, f := range flows {
		if f.Protocol != "udp" {
			continue
		}
		sources[*f.Orig.DPort] = ""
		if f.Master != nil {
			sources[*f.Orig.DPort] = f.Master.Src
		}
	}
	return sources
}

func testMasters(t *testing.T, table func(t *testing.T) Table) {
	viewer, admin := boundTo(wire.RoleViewer, mastersNetwork), boundTo(wire.RoleAdmin, mastersNetwork)
	t.Run("read", func(t *testing.T) {
		a := withMasters(t, table(t))
		for by, want := range map[string]map[uint16]string{
			ScopeEither: {1000: "10.3.0.7", 1001: "198.51.100.5", 1002: ""},
			ScopeOrig:   {1000: "10.3.0.7", 1001: "", 1002: ""},
			ScopeReply:  {1000: "10.3.0.7", 1001: "198.51.100.5", 1002: ""},
		} {
			a.service.Scope = side(by)
			for _, call := range []string{
				`conntrack.list {}`, `conntrack.list {"sort": "dport"}`, `conntrack.list {"fields": ["protocol", "orig", "master.src"]}`,
				`conntrack.export {}`, `conntrack.kill {"all": true, "dry_run": true}`,
				`conntrack.modify {"all": true, "dry_run": true, "set": {"mark": 1}}`, `conntrack.reconcile {"all": true, "dry_run": true}`,
			} {
				method, params, _ := strings.Cut(call, " ")
				p := Principal(viewer)
				if !strings.HasSuffix(method, "list") && method != "conntrack.export" {
					p = admin
				}
				var got struct{ Flows []wire.Flow }
				text, err := a.as(t, p, method, params)
				if err != nil {
					t.Fatal(call, err)
				}
				if err := json.Unmarshal([]byte(text), &got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, masterAddrs(t, got.Flows)); diff != "" {
					t.Errorf("%s %s (-want +got):\n%s", by, call, diff)
				}
			}
		}
		for i, want := range []bool{true, true, false} {
			a.service.Scope = nil
			text, err := a.as(t, viewer, "conntrack.get", fmt.Sprintf(`{"flow": {"protocol": "udp", "orig": {"src": "10.3.0.9", "dst": "10.3.0.10", "sport": 9, "dport": %d}}}`, 1000+i))
			if err != nil || strings.Contains(text, `"sport":2222`) != want {
				t.Errorf("get %d: %s, %v", i, text, err)
			}
		}
	})
	for _, c := range []struct {
		name, master string
		there        bool
	}{
		{"own", ownMaster, true},
		{"behind a translated address", behindMaster, true},
		{"outside", othersMaster, false},
		{"missing", missingMaster, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := withMasters(t, table(t))
			for _, dry := range []string{"true", "false"} {
				var got wire.ImportResult
				text, err := a.as(t, admin, "conntrack.import", fmt.Sprintf(`{"dry_run": %s, "flows": [%s]}`, dry, relatedTo(c.master, 8)))
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal([]byte(text), &got); err != nil {
					t.Fatal(err)
				}
				if got.Created != 1 || (got.Orphans == 0) != c.there || len(got.Failed) > 0 {
					t.Errorf("import, dry run %s: %s", dry, text)
				}
				_, err = a.as(t, admin, "conntrack.create", fmt.Sprintf(`{"dry_run": %s, "flow": %s}`, dry, relatedTo(c.master, 9)))
				if (err == nil) != c.there || err != nil && (err.Code != wire.NotFound || !strings.HasPrefix(err.Message, "master: ")) {
					t.Errorf("create, dry run %s: %v", dry, err)
				}
			}
			var all wire.ListResult
			a.call(t, "conntrack.list", `{"filter": "dport=1008-1009"}`, &all)
			for port, source := range masterAddrs(t, all.Flows) {
				if (source != "") != c.there {
					t.Errorf("%d is related to %q", port, source)
				}
			}
			var whole wire.ImportResult // for who isn't bound, it is there wherever it is
			a.call(t, "conntrack.import", fmt.Sprintf(`{"dry_run": true, "flows": [%s]}`, relatedTo(c.master, 7)), &whole)
			if (whole.Orphans == 0) != (c.master != missingMaster) {
				t.Errorf("not bound: %+v", whole)
			}
		})
	}
	t.Run("listed", func(t *testing.T) {
		a := withMasters(t, table(t))
		master := strings.ReplaceAll(ownMaster, "2222", "3333")
		flows := fmt.Sprintf(`[%s, {"protocol": "tcp", "orig": %s, "timeout": 300, "helper": "ftp", "state": "ESTABLISHED"}]`, relatedTo(master, 5), master)
		for _, dry := range []string{"true", "false"} {
			text, err := a.as(t, admin, "conntrack.import", fmt.Sprintf(`{"dry_run": %s, "flows": %s}`, dry, flows))
			if err != nil || !strings.Contains(text, `"created":2`) || !strings.Contains(text, `"orphans":0`) {
				t.Errorf("dry run %s: %s, %v", dry, text, err)
			}
		}
	})
	// By scope orig, a flow outside may have the place of one that the caller lists.
	t.Run("listed in the place of another's", func(t *testing.T) {
		a := withMasters(t, table(t))
		a.service.Scope = side(ScopeOrig)
		const master = `{"protocol": "tcp", "src": "10.3.0.8", "dst": "198.51.100.5", "sport": 21, "dport": 2222}`
		flows := fmt.Sprintf(`[{"protocol": "tcp", "orig": %s, "timeout": 300, "state": "ESTABLISHED"}, %s]`, master, relatedTo(master, 5))
		for _, dry := range []string{"true", "false"} {
			text, err := a.as(t, admin, "conntrack.import", fmt.Sprintf(`{"dry_run": %s, "flows": %s}`, dry, flows))
			if err != nil || !strings.Contains(text, `"skipped":1`) || !strings.Contains(text, `"orphans":1`) {
				t.Errorf("dry run %s: %s, %v", dry, text, err)
			}
		}
	})
}

func TestMasters(t *testing.T) {
	testMasters(t, func(*testing.T) Table { return conntracktest.NewFake() })
}

// TestKernelMasters is TestMasters in a kernel's table.
func TestKernelMasters(t *testing.T) {
	testMasters(t, func(t *testing.T) Table {
		conntracktest.Kernel(t)
		ns := conntracktest.NewNS(t)
		ns.Conntrack()
		table, err := conntrack.Open(conntrack.Config{NetNS: ns.Path()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = table.Close() })
		return table
	})
}

// TestMasterOfExpectation: who sees an expectation for what is expected doesn't see a master outside.
func TestMasterOfExpectation(t *testing.T) {
	a := withMasters(t, conntracktest.NewFake())
	addr := netip.MustParseAddr
	for _, src := range []string{"10.3.0.7", "192.168.9.5"} {
		x, err := conntrack.CheckCreateExpect(conntrack.Expect{
			Master: conntrack.Tuple{Proto: conntrack.TCP, Src: addr(src), Dst: addr("198.51.100.4"), SrcPort: 2222, DstPort: 21},
			Tuple:  conntrack.Tuple{Proto: conntrack.UDP, Dst: addr("10.3.0.9"), DstPort: 5004}, Timeout: time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		x.Tuple.DstPort += uint16(len(src))
		if _, err := a.service.Table.CreateExpect(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
	admin := boundTo(wire.RoleAdmin, mastersNetwork)
	text, err := a.as(t, admin, "expect.list", `{}`)
	if err != nil || !strings.Contains(text, `"matched":2`) || !strings.Contains(text, `"10.3.0.7"`) || strings.Contains(text, "192.168.9.5") {
		t.Errorf("%s, %v", text, err)
	}
	var list wire.ExpectListResult
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	for i, x := range list.Expects {
		one, err := a.as(t, admin, "expect.get", fmt.Sprintf(`{"expect": %d}`, x.ID))
		if err != nil || strings.Contains(one, `"master"`) != (i == 0) {
			t.Errorf("get: %s, %v", one, err)
		}
	}
	// Nor is a guess told right, and what was listed can be killed as it was.
	others := list.Expects[1]
	if _, err := a.as(t, admin, "expect.get", fmt.Sprintf(`{"expect": {"id": %d, "master": %s}}`, others.ID, othersMaster)); err == nil || err.Code != wire.NotFound {
		t.Errorf("a guess of the master: %v", err)
	}
	listed, _ := json.Marshal(others)
	if text, err := a.as(t, admin, "expect.kill", fmt.Sprintf(`{"expects": [%s]}`, listed)); err != nil || !strings.Contains(text, `"killed":1`) || strings.Contains(text, "192.168.9.5") {
		t.Errorf("kill: %s, %v", text, err)
	}
}

// TestMasterLookedUpOnce: the flows of one master, as of a client of many streams, cost one look at it in a list.
func TestMasterLookedUpOnce(t *testing.T) {
	const children = 50
	master := tcpFlow(0)
	master.Orig.Src = netip.MustParseAddr("192.168.9.5")
	master.Reply = master.Orig.Inverse()
	flows := []conntrack.Flow{master}
	for i := range children {
		f := tcpFlow(1 + i)
		f.Orig.Src = netip.AddrFrom4([4]byte{10, 3, 0, byte(i)})
		f.Reply, f.Master = f.Orig.Inverse(), master.Orig
		flows = append(flows, f)
	}
	a := newAPI(flows...)
	looks := 0
	a.service.Table = hookTable{a.table, func() { looks++ }}
	text, err := a.as(t, boundTo(wire.RoleViewer, mastersNetwork), "conntrack.list", `{}`)
	if err != nil || strings.Count(text, `"master":null`) != children || looks != 2 { // the list, and the master
		t.Errorf("%d looks: %.300s, %v", looks, text, err)
	}
}
