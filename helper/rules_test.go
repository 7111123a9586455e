package helper

import (
	"strings"
	"testing"

	"ctd/conntrack"

	"github.com/google/go-cmp/cmp"
)

func TestRulesOf(t *testing.T) {
	four, six := conntrack.FamilyIPv4, conntrack.FamilyIPv6
	tests := []struct {
		name string
		cfg  Config
		want rules
	}{
		{"defaults", Config{}, rules{
			ports: []uint16{554, 7070, 8554}, queue: 554, families: []conntrack.Family{four, six}, markBit: 1 << 30, helper: "h",
		}},
		{
			"in order and once",
			Config{
				Ports: []uint16{9, 8, 9}, Queue: 3, Families: []conntrack.Family{six, four, six}, Interfaces: []string{"b", "a", "b"},
				MarkBit: 4, Manual: true,
			},
			rules{
				ports: []uint16{8, 9}, queue: 3, families: []conntrack.Family{four, six}, interfaces: []string{"a", "b"},
				markBit: 4, helper: "h", manual: true,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, rulesOf(tt.cfg, "h"), cmp.AllowUnexported(rules{})); d != "" {
				t.Errorf("rules (-want +got):\n%s", d)
			}
		})
	}
	mine := []uint16{9, 8}
	if rulesOf(Config{Ports: mine}, ""); mine[0] != 9 {
		t.Error("the settings were changed")
	}
}

func TestRulesRefused(t *testing.T) {
	tests := []struct {
		name, form string
		cfg        Config
		want       string
	}{
		{"no form", "", Config{}, `"nft" and "iptables"`},
		{"another form", "pf", Config{}, `"pf"`},
		{"port 0", FormNFT, Config{Ports: []uint16{0}}, "ports"},
		{"quote", FormIPTables, Config{Interfaces: []string{"a'b"}}, "interfaces"},
		{"double quote", FormNFT, Config{Interfaces: []string{`a"b`}}, "interfaces"},
		{"line", FormNFT, Config{Interfaces: []string{"a\nb"}}, "interfaces"},
		{"wildcard of iptables", FormIPTables, Config{Interfaces: []string{"ppp+"}}, "interfaces"},
		{"wildcard of nft", FormNFT, Config{Interfaces: []string{"ppp*"}}, "interfaces"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text, err := Rules(tt.cfg, tt.form)
			if text != "" || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Rules = %q, %v", text, err)
			}
		})
	}
}

// TestRulesValues looks at what the scripts make of settings. That they do what they should is
// TestKernelQueued's.
func TestRulesValues(t *testing.T) {
	cfg := Config{Ports: []uint16{9000, 80}, Queue: 12, Interfaces: []string{"$(x)", "-a"}, MarkBit: 0x80, Families: []conntrack.Family{conntrack.FamilyIPv6}}
	tests := []struct {
		form         string
		with, absent []string
	}{
		{FormNFT, []string{
			"elements = { 80, 9000 }\n", "elements = { \"$(x)\", \"-a\" }\n", "ct mark & 0x80 != 0 return\n",
			"queue num 12 bypass\n", "meta nfproto != ipv6 return\n",
		}, []string{"554", "ipv4 return"}},
		{FormIPTables, []string{
			"for port in 80 9000; do\n", "-i '$(x)' -p tcp", "-o '-a' -p tcp", "--mark 0x80/0x80 ", "--queue-num 12 --queue-bypass\n", "for xt in ip6tables; do\n",
		}, []string{"554", "in iptables"}},
	}
	for _, tt := range tests {
		text, err := Rules(cfg, tt.form)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.with {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", tt.form, want, text)
			}
		}
		for _, unwanted := range tt.absent {
			if strings.Contains(text, unwanted) {
				t.Errorf("%s: %q in\n%s", tt.form, unwanted, text)
			}
		}
	}
}
