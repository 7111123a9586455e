package rtsptest

import (
	"regexp"
	"slices"
	"strings"

	"ctd/conntrack/conntracktest"
)

// chainCounter is what iptables-save says of a chain's policy.
var chainCounter = regexp.MustCompile(`\[\d+:\d+\]`)

// Rules returns a namespace's rules as nft(8) and iptables-save(8) print them, without counters and
// dates.
func Rules(ns *conntracktest.NS) (string, error) {
	var s strings.Builder
	for _, argv := range [][]string{{"nft", "-s", "list", "ruleset"}, {"iptables-save"}, {"ip6tables-save"}} {
		out, err := ns.Run("", argv...)
		if err != nil {
			return "", err
		}
		s.WriteString("# " + strings.Join(argv, " ") + "\n")
		for line := range strings.Lines(out) {
			if !strings.HasPrefix(line, "#") {
				s.WriteString(chainCounter.ReplaceAllString(line, ""))
			}
		}
	}
	return s.String(), nil
}

// Media returns what conntrack(8) shows of a namespace that is for media: expectations, and flows of
// UDP.
func Media(ns *conntracktest.NS) ([]string, error) {
	var lines []string
	for _, argv := range [][]string{
		{"-L", "expect", "-f", "ipv4"},
		{"-L", "expect", "-f", "ipv6"},
		{"-L", "-p", "udp", "-f", "ipv4"},
		{"-L", "-p", "udp", "-f", "ipv6"},
	} {
		out, err := ns.Conntrack8(argv...)
		if err != nil {
			return nil, err
		}
		lines = append(lines, strings.Split(strings.TrimSpace(out), "\n")...)
	}
	return slices.DeleteFunc(lines, func(line string) bool { return line == "" }), nil
}
