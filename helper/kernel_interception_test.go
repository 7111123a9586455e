package helper

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"

	"github.com/google/go-cmp/cmp"
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

// installed installs rules until the test ends.
func installed(t testing.TB, table Table, r rules) *interception {
	t.Helper()
	i, err := install(table, r, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.close() })
	return i
}

// everything returns all rules of a namespace, of nft and of both kinds of iptables.
func everything(ns *conntracktest.NS) string {
	return ns.Exec("sh", "-c", `nft list ruleset
for save in iptables-save ip6tables-save iptables-legacy-save ip6tables-legacy-save; do
	! command -v $save || $save | grep -v '^#'
done
true`)
}

func TestKernelInstall(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	table := tableIn(t, ns)
	before := everything(ns)
	tests := []struct {
		name   string
		cfg    Config
		helper string
		with   []string
		absent []string
	}{
		{
			"defaults",
			Config{},
			"Q.931",
			[]string{`type "Q.931"`, "elements = { 554, 7070, 8554 }", `iifname "lo" return`, "& 0x40000000 != 0x00000000 return", "chain postrouting"},
			[]string{"nfproto", "interfaces"},
		},
		{
			"everything else",
			Config{
				Ports: []uint16{9000, 1554, 9000}, Queue: 7, Families: []conntrack.Family{conntrack.FamilyIPv6},
				Interfaces: []string{"wan$1", "eth0", "fifteen-letters"}, MarkBit: 1,
			},
			"",
			[]string{
				"elements = { 1554, 9000 }", "meta nfproto != ipv6 return", "iifname != @interfaces return", "oifname != @interfaces return",
				"& 0x00000001 !=", `"wan$1"`, `"fifteen-letters"`,
			},
			[]string{"ct helper", "chain input", "chain postrouting", "554 bypass", "to 554"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := installed(t, table, rulesOf(tt.cfg, tt.helper))
			list := ns.Exec("nft", "list", "table", "inet", TableName)
			for _, want := range tt.with {
				if !strings.Contains(list, want) {
					t.Errorf("no %q in\n%s", want, list)
				}
			}
			for _, unwanted := range tt.absent {
				if strings.Contains(list, unwanted) {
					t.Errorf("%q in\n%s", unwanted, list)
				}
			}
			if f := i.flavour(); f != "nft" && f != "xtables" {
				t.Errorf("the flavour is %q", f)
			}
			if ok, err := i.intact(); !ok || err != nil {
				t.Errorf("intact: %v, %v", ok, err)
			}
			for range 2 {
				if err := i.close(); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(before, everything(ns)); d != "" {
				t.Errorf("rules (-before +after close):\n%s", d)
			}
			if err := i.restore(); err != nil || strings.Contains(everything(ns), TableName) {
				t.Errorf("restored after close: %v", err)
			}
		})
	}
}

// TestKernelFamilies installs the rules in tables of one protocol, as where the target isn't taken by one of
// family inet.
func TestKernelFamilies(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	table := tableIn(t, ns)
	before := everything(ns)
	for _, tt := range []struct {
		name     string
		families []conntrack.Family
		want     []string
	}{
		{"both", nil, []string{"table ip ctd_rtsp", "table ip6 ctd_rtsp"}},
		{"IPv4", []conntrack.Family{conntrack.FamilyIPv4}, []string{"table ip ctd_rtsp"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := rulesOf(Config{Families: tt.families}, "Q.931")
			i := installed(t, table, r)
			if _, err := i.remove(i.families()); err != nil {
				t.Fatal(err)
			}
			i.how = flavours[len(flavours)-1]
			if err := i.restore(); err != nil {
				t.Fatal(err)
			}
			var tables []string
			for line := range strings.Lines(ns.Exec("nft", "list", "tables")) {
				if line = strings.TrimSpace(line); strings.HasSuffix(line, TableName) {
					tables = append(tables, line)
				}
			}
			if d := cmp.Diff(tt.want, tables); d != "" {
				t.Errorf("tables (-want +got):\n%s", d)
			}
			if ok, err := i.intact(); !ok || err != nil {
				t.Errorf("intact: %v, %v", ok, err)
			}
			if err := i.close(); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, everything(ns)); d != "" {
				t.Errorf("rules (-before +after close):\n%s", d)
			}
		})
	}
}

// isOther tells whether an error says that a process is the helper.
func isOther(err error, pid int) bool {
	var other *OtherHelperError
	return errors.As(err, &other) && other.PID == pid && strings.Contains(err.Error(), fmt.Sprintf("process %d ", pid))
}

func TestKernelOtherHelper(t *testing.T) {
	ns := conntracktest.NewNS(t)
	table := tableIn(t, ns)
	first := installed(t, table, rulesOf(Config{}, ""))
	list := everything(ns)
	for _, manual := range []bool{false, true} {
		if _, err := install(table, rulesOf(Config{Manual: manual, Queue: 9}, ""), slog.New(slog.DiscardHandler)); !isOther(err, os.Getpid()) {
			t.Errorf("a second one, manual: %v: %v", manual, err)
		}
	}
	if d := cmp.Diff(list, everything(ns)); d != "" {
		t.Errorf("rules (-before +after):\n%s", d)
	}
	elsewhere := conntracktest.NewNS(t)
	installed(t, tableIn(t, elsewhere), rulesOf(Config{}, ""))
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	installed(t, table, rulesOf(Config{}, ""))
}

// TestKernelStranger: somebody who may nothing holds the name. The helper goes on, and says so.
func TestKernelStranger(t *testing.T) {
	for name, calls := range map[string]string{"listens": "s.listen(0)", "is silent": ""} {
		t.Run(name, func(t *testing.T) {
			ns := conntracktest.NewNS(t)
			ns.Conntrack()
			table := tableIn(t, ns)
			before := everything(ns)
			holdName(t, ns, calls)
			for _, manual := range []bool{true, false} {
				var log bytes.Buffer
				i, err := install(table, rulesOf(Config{Manual: manual}, ""), slog.New(slog.NewTextHandler(&log, nil)))
				if err != nil {
					t.Fatal(err)
				}
				if list := everything(ns); (list == before) != manual {
					t.Errorf("manual %v: rules:\n%s", manual, list)
				}
				if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "@ctd_rtsp") {
					t.Errorf("manual %v: logged\n%s", manual, &log)
				}
				if err := i.close(); err != nil {
					t.Error(err)
				}
			}
			if d := cmp.Diff(before, everything(ns)); d != "" {
				t.Errorf("rules (-before +after close):\n%s", d)
			}
			// Whether a helper without the name lives can't be told.
			ns.Nft("table inet ctd_rtsp { }")
			if err := Clear(table, slog.New(slog.DiscardHandler)); err != nil || everything(ns) == before {
				t.Errorf("deleted in spite of who holds the name: %v", err)
			}
		})
	}
}

// holdName has an unprivileged process take our name, and do something with the socket s.
func holdName(t *testing.T, ns *conntracktest.NS, calls string) {
	t.Helper()
	cmd := exec.Command("setpriv", "--reuid", "65534", "--clear-groups", "/usr/bin/python3", "-c", `
import socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.bind("\0ctd_rtsp")
`+calls+`
print("ready", flush=True)
time.sleep(600)`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the name can't be had: %v", err)
	}
}

// TestKernelClear: what is left behind goes, and what somebody alive has stays.
func TestKernelClear(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	table := tableIn(t, ns)
	before := everything(ns)
	cleared := func() string {
		t.Helper()
		var log bytes.Buffer
		if err := Clear(table, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
		return log.String()
	}
	if log := cleared(); log != "" {
		t.Errorf("with nothing there:\n%s", log)
	}
	killed := installed(t, table, rulesOf(Config{}, ""))
	list := everything(ns)
	if log := cleared(); log != "" || everything(ns) != list {
		t.Errorf("of a living one:\n%s%s", log, everything(ns))
	}
	if err := killed.claim.Close(); err != nil {
		t.Fatal(err)
	}
	if log := cleared(); !strings.Contains(log, "left behind") {
		t.Errorf("of a dead one:\n%s", log)
	}
	if d := cmp.Diff(before, everything(ns)); d != "" {
		t.Errorf("rules (-before +after):\n%s", d)
	}
	installed(t, table, rulesOf(Config{}, "")) // the name is free
}

// TestKernelLeftBehind begins where a predecessor was killed: its claim has gone, its tables stay.
func TestKernelLeftBehind(t *testing.T) {
	const foreign = `
table inet ctd_rtsp_2 { chain prerouting { type filter hook prerouting priority -150; counter; }; }
table inet ctd_rtsp_manual { }
table inet rtsp { }
table arp ctd_rtsp { }
table bridge ctd_rtsp { }`
	for _, manual := range []bool{false, true} {
		ns := conntracktest.NewNS(t)
		ns.Conntrack()
		ns.Nft(foreign)
		table := tableIn(t, ns)
		nft := func() string { return ns.Exec("nft", "list", "ruleset") }
		before := nft()
		killed := installed(t, table, rulesOf(Config{Queue: 99, Ports: []uint16{1000}}, "Q.931"))
		if err := killed.claim.Close(); err != nil {
			t.Fatal(err)
		}
		ns.Nft("table ip ctd_rtsp { }\ntable ip6 ctd_rtsp { }")
		var log bytes.Buffer
		i, err := install(table, rulesOf(Config{Manual: manual}, "Q.931"), slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "left behind") || strings.Contains(log.String(), "twice") == manual {
			t.Errorf("manual %v: logged\n%s", manual, &log)
		}
		list := nft()
		if strings.Contains(list, "1000") || strings.Contains(list, "table ip6 ctd_rtsp") || strings.Contains(list, "table ip ctd_rtsp") {
			t.Errorf("manual %v: something is left of the predecessor:\n%s", manual, list)
		}
		if manual {
			if i.flavour() != flavourManual {
				t.Errorf("the flavour is %q", i.flavour())
			}
			if ok, err := i.intact(); !ok || err != nil {
				t.Errorf("intact: %v, %v", ok, err)
			}
			if err := i.restore(); err != nil || nft() != before {
				t.Errorf("rules were installed: %v\n%s", err, nft())
			}
			ns.Nft("table inet ctd_rtsp { }") // of somebody who took the name: not ours to delete
			before = nft()
		}
		if err := i.close(); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before, nft()); d != "" {
			t.Errorf("manual %v: rules (-before +after):\n%s", manual, d)
		}
	}
}

// TestKernelChanged: whatever others do to the rules is noticed and mended.
func TestKernelChanged(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	i := installed(t, tableIn(t, ns), rulesOf(Config{Interfaces: []string{"eth0"}}, "Q.931"))
	list := ns.Exec("nft", "list", "table", "inet", TableName)
	tests := []struct {
		name, script string
		intact       bool
	}{
		{"ruleset flushed", "flush ruleset", false},
		{"table deleted", "delete table inet ctd_rtsp", false},
		{"rules flushed", "flush table inet ctd_rtsp", false},
		{"chain flushed", "flush chain inet ctd_rtsp output", false},
		{"rule before ours", "insert rule inet ctd_rtsp prerouting return", false},
		{"rule behind ours", "add rule inet ctd_rtsp postrouting accept", false},
		{"port deleted", "delete element inet ctd_rtsp ports { 554 }", false},
		{"port added", "add element inet ctd_rtsp ports { 80 }", false},
		{"ports flushed", "flush set inet ctd_rtsp ports", false},
		{"interface exchanged", "delete element inet ctd_rtsp interfaces { \"eth0\" }\nadd element inet ctd_rtsp interfaces { \"eth1\" }", false},
		{"table asleep", "add table inet ctd_rtsp { flags dormant; }", false},
		{"policy changed", "add chain inet ctd_rtsp prerouting { policy drop; }", false},
		{"others' rules", "add table inet other\nadd chain inet other prerouting { type filter hook prerouting priority 0; }\nadd rule inet other prerouting counter", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns.Nft(tt.script)
			if ok, err := i.intact(); ok != tt.intact || err != nil {
				t.Fatalf("intact: %v, %v", ok, err)
			}
			if err := i.restore(); err != nil {
				t.Fatal(err)
			}
			if ok, err := i.intact(); !ok || err != nil {
				t.Errorf("intact after restore: %v, %v", ok, err)
			}
			if d := cmp.Diff(list, ns.Exec("nft", "list", "table", "inet", TableName)); d != "" {
				t.Errorf("rules (-before +restored):\n%s", d)
			}
		})
	}
	if list := ns.Exec("nft", "list", "ruleset"); !strings.Contains(list, "table inet other") {
		t.Errorf("others' rules were deleted:\n%s", list)
	}
}

// TestKernelRefused: what the kernel can't have leaves nothing behind, not even the claim.
func TestKernelRefused(t *testing.T) {
	ns := conntracktest.NewNS(t)
	table := tableIn(t, ns)
	_, err := install(table, rulesOf(Config{}, "no-such-helper"), slog.New(slog.DiscardHandler))
	if !errors.Is(err, errNoQueue) || !strings.Contains(err.Error(), "ctd helper rules") {
		t.Errorf("a helper that isn't there: %v", err)
	}
	if list := ns.Exec("nft", "list", "ruleset"); list != "" {
		t.Errorf("left behind:\n%s", list)
	}
	installed(t, table, rulesOf(Config{}, ""))
}
