package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if playRole() {
		return
	}
	os.Exit(m.Run())
}

func TestNetwork(t *testing.T) {
	if os.Getenv("CTD_KERNEL_TESTS") != "1" {
		t.Skip("needs root and CTD_KERNEL_TESTS=1")
	}
	n := &network{prefix: fmt.Sprintf("ctd-demotest-%d", os.Getpid())}
	t.Cleanup(func() {
		if err := n.down(); err != nil {
			t.Error(err)
		}
		for _, ns := range []string{n.client(), n.router(), n.server()} {
			if _, err := os.Stat("/run/netns/" + ns); !os.IsNotExist(err) {
				t.Errorf("%s is left: %v", ns, err)
			}
		}
	})
	// The second time stands for a run after one that crashed.
	for range 2 {
		if err := n.up(); err != nil {
			t.Fatal(err)
		}
	}
	for ns, role := range map[string]string{n.server(): "server", n.client(): "client"} {
		if err := n.start(ns, role); err != nil {
			t.Fatal(err)
		}
	}

	// What a newcomer's first list should show: answered flows of each kind, masqueraded.
	want := []string{
		"tcp ESTABLISHED src=192.168.77.2 dport=22 dst=198.51.100.1",
		"tcp ESTABLISHED src=192.168.77.2 dport=80 dst=198.51.100.1",
		"tcp ESTABLISHED src=fd77::2 dport=443",
		"udp src=192.168.77.2 dport=53 dst=198.51.100.1",
		"udp src=192.168.77.2 dport=5004 dst=198.51.100.1",
		"icmp src=192.168.77.2 dst=198.51.100.1",
		"icmpv6 src=fd77::2",
	}
	var table string
	var missing []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		table = ""
		for _, family := range []string{"ipv4", "ipv6"} {
			out, err := exec.Command("ip", "netns", "exec", n.router(), "conntrack", "-L", "-f", family).Output()
			if err != nil {
				t.Fatal(err)
			}
			table += string(out)
		}
		missing = nil
		for _, w := range want {
			if !hasFlow(table, strings.Fields(w)) {
				missing = append(missing, w)
			}
		}
		if missing == nil {
			return
		}
	}
	t.Errorf("no such flows: %q in\n%s", missing, table)
}

// hasFlow tells whether an answered flow of the table has all words.
func hasFlow(table string, words []string) bool {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		found := !strings.Contains(line, "[UNREPLIED]")
		for _, w := range words {
			found = found && slices.Contains(fields, w)
		}
		if found {
			return true
		}
	}
	return false
}
