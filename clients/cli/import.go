package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"ctd/rpc/wire"
)

type importCmd struct {
	File       []string `arg:"" optional:"" help:"Files of flows, one a line; - or none is standard input."`
	OnConflict string   `default:"skip" enum:"skip,replace,fail" placeholder:"WHAT" help:"Where a flow is there already: skip it, replace it where it differs, or fail and create none at all."`
	DryRun     bool     `help:"Only say what would be done."`
	Yes        bool     `short:"y" help:"Replace without asking. Without a terminal nothing is asked anyway."`
	Reason     string   `placeholder:"TEXT" help:"For the daemon's log."`
}

func (importCmd) Help() string {
	return `Reads what ctd export prints, or the lines of ctd list -o jsonl, or lines of one's own. Empty
lines and those that begin with # are passed over. Everything is read before the first flow is made,
and where one call to the daemon doesn't take all of them, all are tried before. The same flows again
change nothing.

Examples:

  ctd export > flows.jsonl; ctd import flows.jsonl
  ctd list proto=udp -o jsonl | ctd import --on-conflict replace --yes
  ctd export addr=192.168.1.2 | ctd --server "$CTD_SERVER" import --dry-run`
}

func (c *importCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	lines, err := s.readFlows(c.File)
	if err != nil {
		return err
	}
	if c.OnConflict == "fail" {
		if err := refuseTwice(lines); err != nil {
			return err
		}
	}
	parts := split(lines)
	if c.OnConflict == "replace" && !readsStdin(c.File) && s.asks(c.Yes, c.DryRun) {
		if err := s.ask(fmt.Sprintf("Import %s and replace those that are there and differ?", plural(len(lines), "flow"))); err != nil {
			return err
		}
	}
	// A later call may hold a flow that can't be meant, which the daemon refuses, or be the one that
	// fails by a conflict. Nothing is made before that is known. An export may have been edited.
	if !c.DryRun && len(parts) > 1 {
		if _, _, err := c.send(s, parts, true); err != nil {
			return err
		}
	}
	sum, raw, err := c.send(s, parts, c.DryRun)
	if err != nil && !sum.Changed && len(sum.Failed) == 0 {
		return err
	}
	if perr := c.print(s, sum, raw, len(parts)); perr != nil {
		return perr
	}
	failed := s.failures(sum.Failed)
	if sum.Changed {
		s.warnUntracked()
	}
	return cmp.Or(partly(err, sum.Changed), failed)
}

// warnUntracked says so where the daemon finds no rule that makes the kernel track connections: what
// was made then waits for packets in vain.
func (s *session) warnUntracked() {
	client, err := s.client()
	if err != nil {
		return
	}
	var found wire.DoctorResult
	if client.Call(s.ctx, "server.doctor", wire.Empty{}, &found) != nil {
		return // the flows are made, which is what was asked for
	}
	for _, f := range found.Findings {
		if f.Check == "active" && f.Mend != "" {
			s.complain("the flows may be of no use: "+f.Message, "load the router's rules; see ctd doctor")
		}
	}
}

func readsStdin(files []string) bool {
	return len(files) == 0 || slices.Contains(files, "-")
}

// send makes the calls and adds up their results. raw is the last result as it came.
func (c *importCmd) send(s *session, parts [][]flowLine, dryRun bool) (sum wire.ImportResult, raw json.RawMessage, err error) {
	client, err := s.client()
	if err != nil {
		return sum, nil, err
	}
	progress := s.startBar("conntrack.import", dryRun)
	defer progress.end()
	sent, total := 0, 0
	for _, part := range parts {
		total += len(part)
	}
	for _, part := range parts {
		progress.show(sent, total)
		sent += len(part)
		params := struct {
			Flows      []json.RawMessage `json:"flows"`
			OnConflict string            `json:"on_conflict"`
			DryRun     bool              `json:"dry_run,omitempty"`
			Reason     string            `json:"reason,omitempty"`
		}{make([]json.RawMessage, len(part)), c.OnConflict, dryRun, c.Reason}
		for i := range part {
			params.Flows[i] = part[i].raw
		}
		var r wire.ImportResult
		if err := client.Call(s.ctx, "conntrack.import", params, &raw); err != nil {
			return sum, nil, importFailed(err, part, &sum)
		}
		if err := decodeInto(raw, &r); err != nil {
			return sum, nil, err
		}
		sum.Created += r.Created
		sum.Replaced += r.Replaced
		sum.Skipped += r.Skipped
		sum.Orphans += r.Orphans
		sum.Changed = sum.Changed || r.Changed
		sum.Truncated = sum.Truncated || r.Truncated
		sum.Failed = append(sum.Failed, r.Failed...)
		if slices.ContainsFunc(r.Failed, func(f wire.Failure) bool { return f.Flow.Orig == nil }) {
			break // no single flow's: it ended the call
		}
	}
	return sum, raw, nil
}

var (
	// flowIndex is how the daemon names a flow of a part.
	flowIndex = regexp.MustCompile(`flows\[(\d+)\][.:]?\s?`)
	// flowMember is how it names a member that it doesn't know, but this ctd does.
	flowMember = regexp.MustCompile(`unknown parameter "flows\[(\d+)\]\.([^"]*)" of conntrack\.import`)
)

// importFailed names the line that the daemon refused, and what was made before.
func importFailed(err error, part []flowLine, before *wire.ImportResult) error {
	var we *wire.Error
	if !errors.As(err, &we) {
		return err
	}
	e := *we
	e.Message = flowMember.ReplaceAllString(e.Message, `flows[$1]: the daemon knows no member "$2"`)
	if m := flowIndex.FindStringSubmatchIndex(e.Message); m != nil {
		i, _ := strconv.Atoi(e.Message[m[2]:m[3]])
		if i < len(part) {
			e.Message = e.Message[:m[0]] + part[i].place + ": " + e.Message[m[1]:]
		}
	}
	if before.Changed {
		e.Message += fmt.Sprintf(" (in this call; the ones before it created %d and replaced %d)", before.Created, before.Replaced)
	}
	return &e
}

func (c *importCmd) print(s *session, sum wire.ImportResult, raw json.RawMessage, parts int) error {
	switch s.g.Output {
	case "json":
		if parts == 1 && raw != nil {
			return s.line(raw)
		}
		return s.encode(sum)
	case "jsonl":
		return s.encode(sum)
	}
	format := "created %d, replaced %d, skipped %d"
	if c.DryRun {
		format = "would create %d, replace %d, skip %d"
	}
	text := fmt.Sprintf(format, sum.Created, sum.Replaced, sum.Skipped)
	if n := len(sum.Failed); n > 0 {
		text += fmt.Sprintf(", failed %d", n)
		if sum.Truncated {
			text += " or more"
		}
	}
	if sum.Orphans > 0 {
		text += fmt.Sprintf(" (%s without the master, which is not there)", plural(sum.Orphans, "flow"))
	}
	_, err := fmt.Fprintln(s.out, text)
	return err
}
