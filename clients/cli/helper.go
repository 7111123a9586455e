package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"ctd/rpc/wire"
)

type helperCmd struct {
	Show     helperShowCmd     `cmd:"" default:"1" hidden:"" help:"Show status and sessions."`
	Status   helperStatusCmd   `cmd:"" help:"Show whether and how the RTSP helper works."`
	Sessions helperSessionsCmd `cmd:"" help:"List the RTSP sessions."`
	Rules    helperRulesCmd    `cmd:"" help:"Print the rules that queue RTSP packets."`
}

func (helperCmd) Help() string {
	return `Without a verb it shows the status and the sessions.

Examples:

  ctd helper
  ctd helper -o json`
}

// helperShowCmd is `ctd helper` alone.
type helperShowCmd struct{}

func (helperShowCmd) Help() string {
	return `Examples:

  ctd helper`
}

func (helperShowCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	// Both results as the daemon sent them.
	var both struct {
		Status   json.RawMessage `json:"status"`
		Sessions json.RawMessage `json:"sessions"`
	}
	if err := c.Call(s.ctx, "helper.status", wire.Empty{}, &both.Status); err != nil {
		return err
	}
	var raw json.RawMessage
	if err := c.Call(s.ctx, "helper.sessions", wire.Empty{}, &raw); err != nil {
		return err
	}
	var sessions struct {
		Sessions json.RawMessage `json:"sessions"`
	}
	if err := decodeInto(raw, &sessions); err != nil {
		return err
	}
	if both.Sessions = sessions.Sessions; s.g.Output != "table" {
		return s.encode(both)
	}
	var status wire.HelperStatusResult
	var list []wire.HelperSession
	if err := decodeInto(both.Status, &status); err != nil {
		return err
	}
	if err := decodeInto(both.Sessions, &list); err != nil {
		return err
	}
	if err := s.helperStatus(&status); err != nil || !status.Running {
		return err
	}
	fmt.Fprintln(s.out)
	return s.helperSessions(list)
}

type helperStatusCmd struct{}

func (helperStatusCmd) Help() string {
	return `Examples:

  ctd helper status
  ctd helper status -o json`
}

func (helperStatusCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	var r wire.HelperStatusResult
	printed, err := s.call("helper.status", wire.Empty{}, &r)
	if err != nil || printed {
		return err
	}
	if s.g.Output == "jsonl" {
		return s.encode(r)
	}
	return s.helperStatus(&r)
}

// helperStatus prints a status in a few lines.
func (s *session) helperStatus(r *wire.HelperStatusResult) error {
	for _, line := range helperLines(r, s.paint(s.o.Stdout)) {
		if line.value == "" {
			continue
		}
		if _, err := fmt.Fprintf(s.out, "%-10s  %s\n", line.key, line.value); err != nil {
			return err
		}
	}
	return nil
}

// helperLines are the lines of a status; those without a value aren't printed.
func helperLines(r *wire.HelperStatusResult, p painter) []pair {
	state := p.green("running")
	switch {
	case !r.Enabled && !r.Running:
		state = p.yellow("off")
	case !r.Running:
		state = p.red("not running")
	}
	if r.Reason != "" && r.Enabled {
		state += ": " + oneLine(r.Reason)
	}
	lines := []pair{{"helper", state}, {"hint", oneLine(r.Hint)}}
	set := &r.Settings
	if r.Setup != nil {
		lines = append(
			lines,
			pair{"since", r.Setup.Started.Format(time.RFC3339)},
			pair{"strategy", oneLine(strategyText(r.Setup))},
			pair{"rules", oneLine(rulesText(r))},
		)
	}
	lines = append(
		lines,
		pair{"ports", joinPorts(set.Ports)},
		pair{"queue", strconv.Itoa(int(set.Queue))},
		pair{"families", oneLine(strings.Join(set.Families, " "))},
		pair{"interfaces", oneLine(strings.Join(set.Interfaces, " "))},
		pair{"limits", fmt.Sprintf("%d streams, %d a client", set.MaxSessions, set.MaxSessionsPerClient)},
	)
	if c := r.Current; c != nil {
		lines = append(lines, pair{"now", strings.Join([]string{
			plural(c.Connections, "connection"), plural(c.Sessions, "session"), plural(c.Streams, "stream"),
			plural(c.Expects, "expectation"), plural(c.Flows, "flow"),
		}, ", ")})
	}
	if c := r.Counters; c != nil {
		lines = append(lines,
			pair{"counted", fmt.Sprintf("%d packets, %d requests, %d replies, %d setups, %d ended", c.Packets, c.Requests, c.Replies, c.Setups, c.Ended)},
			pair{"trouble", troubleText(c, p)})
	}
	return lines
}

func strategyText(setup *wire.HelperSetup) string {
	text := setup.Strategy
	if setup.KernelHelper != "" {
		text += ", kernel helper " + setup.KernelHelper
	}
	if setup.Function != "" {
		text += ", function " + setup.Function
	}
	if setup.ExpectMax > 0 {
		text += ", " + plural(setup.ExpectMax, "expectation") + " a connection"
	}
	return text
}

func rulesText(r *wire.HelperStatusResult) string {
	if r.Setup.Interception == "manual" {
		return "the administrator's: ctd helper rules"
	}
	if r.Setup.Table == "" {
		return r.Setup.Interception
	}
	return r.Setup.Interception + ", table inet " + r.Setup.Table
}

// troubleText names the counters that should be 0 and aren't.
func troubleText(c *wire.HelperCounters, p painter) string {
	var parts []string
	for _, one := range []struct {
		n    uint64
		name string
	}{
		{c.Malformed, "malformed"},
		{c.Lost, "lost"},
		{c.Refused, "refused"},
		{c.Limited, "limited"},
		{c.Failed, "failed"},
		{c.Unwritable, "unwritable"},
	} {
		if one.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", one.n, one.name))
		}
	}
	return p.yellow(strings.Join(parts, ", "))
}

type helperSessionsCmd struct{}

func (helperSessionsCmd) Help() string {
	return `Examples:

  ctd helper sessions
  ctd helper sessions -o json`
}

func (helperSessionsCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	var r wire.HelperSessionsResult
	printed, err := s.call("helper.sessions", wire.Empty{}, &r)
	if err != nil || printed {
		return err
	}
	return s.helperSessions(r.Sessions)
}

// helperSessions prints sessions in the form of the output; as a table a stream a line.
func (s *session) helperSessions(sessions []wire.HelperSession) error {
	if s.g.Output == "jsonl" {
		for i := range sessions {
			if err := s.encode(sessions[i]); err != nil {
				return err
			}
		}
		return nil
	}
	t := s.newTable([]tableColumn{
		{title: "CLIENT"},
		{title: "SERVER"},
		{title: "STATE"},
		{title: "SESSION", drop: 2},
		{title: "TO"},
		{title: "VIA", drop: 4},
		{title: "FROM", drop: 3},
		{title: "URL", drop: 1},
	})
	t.colours = func(col int, cell, text string) string {
		if t.cols[col].title != "STATE" {
			return text
		}
		switch cell {
		case "playing", "recording":
			return t.paint.green(text)
		case "setup":
			return t.paint.yellow(text)
		}
		return text
	}
	for i := range sessions {
		for _, row := range sessionRows(&sessions[i]) {
			if err := t.row(row); err != nil {
				return err
			}
		}
	}
	if err := t.close(); err != nil {
		return err
	}
	s.note(&t, "%s", plural(len(sessions), "session"))
	return nil
}

// sessionRows are the cells of a session's streams; of one without any, its own.
func sessionRows(one *wire.HelperSession) [][]string {
	row := func(to, via, from, url string) []string {
		return []string{one.Client, one.Server, one.State, one.ID, to, via, from, url}
	}
	if len(one.Streams) == 0 {
		return [][]string{row("", "", "", "")}
	}
	var rows [][]string
	for i := range one.Streams {
		st := &one.Streams[i]
		to, via := portsAt(st.ClientAddr, st.ClientPorts), portsAt(st.PublicAddr, st.PublicPorts)
		if via == to {
			via = ""
		}
		rows = append(rows, row(to, via, portsAt(st.ServerAddr, st.ServerPorts), st.URL))
	}
	return rows
}

// portsAt writes an address with its ports: 10.0.0.7:5000-5001.
func portsAt(addr string, ports []uint16) string {
	if len(ports) == 0 {
		return addr
	}
	first := endpoint(addr, &ports[0])
	if len(ports) == 2 && ports[1] == ports[0]+1 {
		return fmt.Sprintf("%s-%d", first, ports[1])
	}
	for _, port := range ports[1:] {
		first += "/" + strconv.Itoa(int(port))
	}
	return first
}

func joinPorts(ports []uint16) string {
	texts := make([]string, len(ports))
	for i, port := range ports {
		texts[i] = strconv.Itoa(int(port))
	}
	return strings.Join(texts, " ")
}

type helperRulesCmd struct {
	IPTables bool `name:"iptables" help:"For iptables and ip6tables rather than nft."`
}

func (helperRulesCmd) Help() string {
	return `It prints the script alone. The rules are for a daemon that installs none: install = false in
[helper.rtsp] of its configuration. Those of nft need a kernel with nft_queue; elsewhere take --iptables.

Examples:

  ctd helper rules
  ctd helper rules --iptables > rtsp-rules.sh
  ctd helper rules -o json`
}

func (h *helperRulesCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	form := "nft"
	if h.IPTables {
		form = "iptables"
	}
	var r wire.HelperRulesResult
	printed, err := s.call("helper.rules", wire.HelperRulesParams{Form: form}, &r)
	if err != nil || printed {
		return err
	}
	if s.g.Output == "jsonl" {
		return s.encode(r)
	}
	if _, err = s.out.WriteString(r.Rules); err == nil && !h.IPTables {
		s.warnNFT()
	}
	return err
}

// warnNFT says so where the kernel is known not to take rules of nft.
func (s *session) warnNFT() {
	client, err := s.client()
	if err != nil {
		return
	}
	var st wire.HelperStatusResult
	if client.Call(s.ctx, "helper.status", wire.Empty{}, &st) != nil {
		return // the rules are printed, which is what was asked for
	}
	if st.Setup != nil && st.Setup.Interception == "xtables" {
		s.complain("the daemon's kernel has no queue in nf_tables: nft refuses these rules there", "ctd helper rules --iptables is the form that works there")
	}
}
