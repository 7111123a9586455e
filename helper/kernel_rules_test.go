package helper

import (
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"

	"github.com/google/go-cmp/cmp"
)

// hasNFTQueue tells whether the kernel has nft's queue.
func hasNFTQueue(t *testing.T, table Table) bool {
	t.Helper()
	i, err := install(table, rulesOf(Config{}, ""), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer i.close()
	return i.flavour() == "nft"
}

// runScript runs what Rules returns.
func runScript(t *testing.T, ns *conntracktest.NS, form string, cfg Config) {
	t.Helper()
	text, err := Rules(cfg, form)
	if err != nil {
		t.Fatal(err)
	}
	command := map[string][]string{FormNFT: {"nft", "-f", "-"}, FormIPTables: {"sh"}}[form]
	if _, err := ns.Run(text, command...); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

var ruleSettings = []struct {
	name string
	cfg  Config
}{
	{"defaults", Config{}},
	{"everything else", Config{
		Ports: []uint16{9000, 1554}, Queue: 7, Families: []conntrack.Family{conntrack.FamilyIPv4},
		Interfaces: []string{"$(x)", "-i", "fifteen-letters"}, MarkBit: 0x80000000,
	}},
}

// TestKernelScriptNFT: the script makes the rules that are installed otherwise, in a table of another
// name.
func TestKernelScriptNFT(t *testing.T) {
	queue := regexp.MustCompile(` queue .*`)
	for _, tt := range ruleSettings {
		t.Run(tt.name, func(t *testing.T) {
			ns := conntracktest.NewNS(t)
			ns.Conntrack()
			table := tableIn(t, ns)
			before := everything(ns)
			i := installed(t, table, rulesOf(tt.cfg, borrowedHelper))
			want := strings.Replace(ns.Exec("nft", "list", "table", "inet", TableName), TableName, manualTable, 1)
			text, err := Rules(tt.cfg, FormNFT)
			if err != nil {
				t.Fatal(err)
			}
			if i.flavour() != "nft" { // all but the statement can be tried
				text, want = queue.ReplaceAllString(text, " counter"), queue.ReplaceAllString(want, " counter packets 0 bytes 0")
			}
			for range 2 {
				if _, err := ns.Run(text, "nft", "-f", "-"); err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
			}
			if d := cmp.Diff(want, ns.Exec("nft", "list", "table", "inet", manualTable)); d != "" {
				t.Errorf("rules (-installed +script):\n%s", d)
			}
			if err := i.close(); err != nil {
				t.Fatal(err)
			}
			ns.Exec("sh", "-c", removal(t, text, "nft"))
			if d := cmp.Diff(before, everything(ns)); d != "" {
				t.Errorf("rules (-before +removed):\n%s", d)
			}
		})
	}
}

// removal returns the commands that a script's comments say remove its rules.
func removal(t *testing.T, text, begin string) string {
	t.Helper()
	_, after, ok := strings.Cut(text, "# To remove them:")
	if !ok {
		t.Fatalf("no word of removal in\n%s", text)
	}
	var commands strings.Builder
	for line := range strings.Lines(after) {
		line, isComment := strings.CutPrefix(strings.TrimSpace(line), "#")
		if line = strings.TrimSpace(line); commands.Len() > 0 && (!isComment && line != "" && line[0] != '$' || line == "") {
			break
		}
		commands.WriteString(line + "\n")
	}
	if !strings.HasPrefix(strings.TrimSpace(commands.String()), begin) {
		t.Fatalf("the commands are %q", commands.String())
	}
	return commands.String()
}

// TestKernelScriptIPTables compares the script's rules with what iptables-save shows.
func TestKernelScriptIPTables(t *testing.T) {
	rules := func(ns *conntracktest.NS, save string) string {
		return ns.Exec("sh", "-c", save+" | grep -E '^[*]|RTSP'; true")
	}
	for _, tt := range ruleSettings {
		t.Run(tt.name, func(t *testing.T) {
			ns := conntracktest.NewNS(t)
			ns.Conntrack()
			foreign := "iptables -t mangle -A PREROUTING -p tcp --dport 1 -j MARK --set-mark 1; iptables -t raw -A OUTPUT -p udp -j ACCEPT"
			ns.Exec("sh", "-c", foreign)
			runScript(t, ns, FormIPTables, Config{Queue: 1, Ports: []uint16{1}, Interfaces: []string{"old"}}) // which the next replaces
			for range 2 {
				runScript(t, ns, FormIPTables, tt.cfg)
			}
			r := rulesOf(tt.cfg, borrowedHelper)
			if d := cmp.Diff(saved(r), rules(ns, "iptables-save")); d != "" {
				t.Errorf("iptables-save (-want +got):\n%s", d)
			}
			if len(r.families) == 2 {
				if d := cmp.Diff(saved(r), rules(ns, "ip6tables-save")); d != "" {
					t.Errorf("ip6tables-save (-want +got):\n%s", d)
				}
			}
			text, err := Rules(Config{}, FormIPTables) // of both families
			if err != nil {
				t.Fatal(err)
			}
			ns.Exec("sh", "-c", "set -e\n"+removal(t, text, "for xt"))
			list := everything(ns)
			if strings.Contains(list, "RTSP") || !strings.Contains(list, "--dport 1 -j MARK") || !strings.Contains(list, "-A OUTPUT -p udp -j ACCEPT") {
				t.Errorf("after the removal:\n%s", list)
			}
		})
	}
}

// saved returns the lines of iptables-save that have to do with rules, of either family.
func saved(r rules) string {
	var b strings.Builder
	for _, table := range []string{"mangle", "raw"} {
		b.WriteString("*" + table + "\n:CTD-RTSP - [0:0]\n:CTD-RTSP-PORTS - [0:0]\n" +
			"-A PREROUTING -j CTD-RTSP\n-A OUTPUT -j CTD-RTSP\n-A CTD-RTSP -i lo -j RETURN\n")
		for _, name := range r.interfaces {
			fmt.Fprintf(&b, "-A CTD-RTSP -i %[1]s -p tcp -j CTD-RTSP-PORTS\n-A CTD-RTSP -o %[1]s -p tcp -j CTD-RTSP-PORTS\n", name)
		}
		if len(r.interfaces) == 0 {
			b.WriteString("-A CTD-RTSP -p tcp -j CTD-RTSP-PORTS\n")
		}
		if table == "mangle" {
			fmt.Fprintf(&b, "-A CTD-RTSP-PORTS -m connmark --mark %#[1]x/%#[1]x -j RETURN\n", r.markBit)
		}
		for _, port := range r.ports {
			if table == "raw" {
				fmt.Fprintf(&b, "-A CTD-RTSP-PORTS -p tcp -m tcp --dport %d -j CT --helper Q.931\n", port)
				continue
			}
			for _, match := range []string{"ctorigdstport", "ctreplsrcport"} {
				fmt.Fprintf(&b, "-A CTD-RTSP-PORTS -p tcp -m conntrack --ctproto 6 --%s %d -j NFQUEUE --queue-num %d --queue-bypass\n", match, port, r.queue)
			}
		}
	}
	return b.String()
}
