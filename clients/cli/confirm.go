package cli

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"ctd/rpc/wire"
)

// maxPreview is how many flows a preview shows.
const maxPreview = 20

// asks tells whether a person is there to be asked before something is changed: at a terminal, where
// the output is for people, and unless they have said yes already.
func (s *session) asks(yes, dryRun bool) bool {
	return !yes && !dryRun && s.g.Output == "table" && terminalWidth(s.o.Stdin) > 0 && terminalWidth(s.o.Stderr) > 0
}

// ask asks a question that is to be answered with y or yes in a line of its own. Everything else is a
// no, which ends the command. What was typed before the question is shown is no answer to it.
func (s *session) ask(question string) error {
	discardInput(s.o.Stdin)
	fmt.Fprintf(s.o.Stderr, "%s [y/N] ", s.paint(s.o.Stderr).bold(question))
	answer := make(chan string, 1)
	go func() { // a read from a terminal can't be interrupted
		line, _ := bufio.NewReader(s.o.Stdin).ReadString('\n')
		answer <- line
	}()
	select {
	case <-s.ctx.Done():
		fmt.Fprintln(s.o.Stderr)
		return s.ctx.Err()
	case line := <-answer:
		if !strings.HasSuffix(line, "\n") {
			fmt.Fprintln(s.o.Stderr) // the end of the input, whatever stands before it
			line = ""
		}
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
	}
	fmt.Fprintln(s.o.Stderr, "nothing was changed")
	return statusError(wire.ExitRefused)
}

// preview is what a dry run said of a change.
type preview struct {
	matched   int
	flows     []wire.Flow // that can be changed
	failed    []wire.Failure
	truncated bool
}

// confirm shows what a change would take and asks whether that is meant. It returns the flows that
// were seen as selectors, nil where they are not all.
func (s *session) confirm(verb, what string, p preview) (seen []any, err error) {
	if len(p.flows) == 0 && len(p.failed) > 0 {
		return nil, s.failures(p.failed)
	}
	flows := p.flows
	for _, f := range p.failed {
		flows = append(flows, f.Flow)
	}
	if err := s.previewTable(flows); err != nil {
		return nil, err
	}
	if more := p.matched - min(len(flows), maxPreview); more > 0 {
		fmt.Fprintf(s.o.Stderr, "and %d more\n", more)
	}
	if n := len(p.failed); n > 0 {
		s.complain(fmt.Sprintf("%d of them can't be changed: %s", n, p.failed[0].Message), p.failed[0].Hint)
	}
	if what != "" {
		fmt.Fprintln(s.o.Stderr, what)
	}
	question := fmt.Sprintf("%s these %s?", verb, plural(p.matched, "flow"))
	if p.matched == 1 {
		question = verb + " this flow?"
	}
	if err := s.ask(question); err != nil {
		return nil, err
	}
	if p.truncated || len(flows) != p.matched {
		return nil, nil
	}
	return selectors(flows), nil
}

// previewTable shows the first flows beside the question, so that standard output has the result
// alone.
func (s *session) previewTable(flows []wire.Flow) error {
	t := s.newTableWriter(false, nil)
	t.w, t.width, t.paint = s.o.Stderr, terminalWidth(s.o.Stderr), s.paint(s.o.Stderr)
	for i := range flows[:min(len(flows), maxPreview)] {
		if err := t.write(nil, &flows[i]); err != nil {
			return err
		}
	}
	return t.close()
}

// selectors names flows by all that tells them from those that come after them.
func selectors(flows []wire.Flow) []any {
	named := make([]any, len(flows))
	for i, f := range flows {
		named[i] = wire.Selector{
			ID: f.ID, Family: f.Family, Protocol: f.Protocol, ProtoNum: &f.ProtoNum, Zone: f.Zone, Orig: withoutCounters(f.Orig), Start: f.Start,
		}
	}
	return named
}

// withoutCounters returns what names a direction.
func withoutCounters(t *wire.Tuple) *wire.Tuple {
	if t == nil {
		return nil
	}
	b := *t
	b.Packets, b.Bytes, b.Rate = nil, nil, nil
	return &b
}

// confirmKill asks before a kill, and narrows its parameters to the flows that were seen, of which it
// returns the number; 0 where they are not all. done says that there is nothing to kill: r is the
// result then.
func (s *session) confirmKill(p *wire.KillParams, r *wire.KillResult) (seen int, done bool, err error) {
	dry := *p
	dry.DryRun, dry.Reason = true, ""
	if _, err := s.call("conntrack.kill", dry, r); err != nil {
		return 0, true, err
	}
	s.sparedNote(r.Spared)
	if r.Matched == 0 {
		return 0, true, nil
	}
	flows, err := s.confirm(killVerb(p), "", preview{r.Matched, r.Flows, r.Failed, r.Truncated})
	if err != nil {
		return 0, true, err
	}
	most := r.Matched
	p.Max = &most
	if flows != nil {
		p.Filter, p.Flows, p.All, p.ExpectCount, p.CreatedBefore = nil, flows, false, nil, nil
	}
	return len(flows), false, nil
}

// grown is what ends a change that was refused because more flows match than a person saw: those that
// came since. matched is how many there are now.
func grown(seen, matched int) error {
	return &wire.Error{
		Code:    wire.LimitExceeded,
		Message: fmt.Sprintf("%s came since you were asked about %d; nothing was changed", plural(matched-seen, "flow"), seen),
		Hint:    "run it again, and see what it would take now",
	}
}

// isAboveLimit tells whether a change was refused because it would be too much.
func isAboveLimit(err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Code == wire.LimitExceeded
}

// killVerb says what a kill does.
func killVerb(p *wire.KillParams) string {
	switch {
	case p.Block != nil:
		return "Kill, cut and block"
	case p.Cut != nil:
		return "Kill and cut"
	}
	return "Kill"
}

// confirmModify is confirmKill for a modify; what says what is to be changed.
func (s *session) confirmModify(p *wire.ModifyParams, what string, r *wire.ModifyResult) (seen int, done bool, err error) {
	dry := *p
	dry.DryRun, dry.Reason = true, ""
	if _, err := s.call("conntrack.modify", dry, r); err != nil {
		return 0, true, err
	}
	s.sparedNote(r.Spared)
	matched := r.Matched - r.Gone
	if matched == 0 {
		return 0, true, nil
	}
	flows, err := s.confirm("Modify", what, preview{matched, r.Flows, r.Failed, r.Truncated})
	if err != nil {
		return 0, true, err
	}
	p.Max = &matched
	if flows != nil {
		p.Filter, p.Flows, p.All, p.ExpectCount, p.CreatedBefore = nil, flows, false, nil, nil
	}
	return len(flows), false, nil
}

// confirmFlush asks before a flush. none says that there is nothing to delete.
func (s *session) confirmFlush(p wire.FlushParams) (none bool, err error) {
	p.DryRun = true
	var r wire.FlushResult
	if _, err := s.call("conntrack.flush", p, &r); err != nil || r.Killed == 0 {
		return true, err
	}
	what := plural(r.Killed, "flow")
	if p.Family != "" {
		what += " of " + p.Family
	}
	if p.Zone != nil {
		what += fmt.Sprintf(" in zone %d", *p.Zone)
	}
	return false, s.ask("Delete " + what + "?")
}

// sparedNote says that the caller's own flows were left out.
func (s *session) sparedNote(n int) {
	switch {
	case s.g.Output != "table" || n == 0:
	case n == 1:
		fmt.Fprintln(s.o.Stderr, "spared 1 flow: your own connection or SSH session (--include-self takes it too)")
	default:
		fmt.Fprintf(s.o.Stderr, "spared %d flows: your own connection and SSH sessions (--include-self takes them too)\n", n)
	}
}

// goneNote says that flows had ended before they could be changed: those that the daemon says, and
// those that a person saw and it no longer found.
func (s *session) goneNote(gone, seen, matched int) {
	n := gone + max(0, seen-matched)
	if s.g.Output == "table" && n > 0 {
		fmt.Fprintf(s.o.Stderr, "%s had ended already\n", plural(n, "flow"))
	}
}

// sparing says what the daemon is to spare: the SSH session that this command runs in.
func (s *session) sparing(includeSelf bool) wire.Sparing {
	sp := wire.Sparing{IncludeSelf: includeSelf, SSHConnection: s.o.Getenv("SSH_CONNECTION")}
	if _, _, err := wire.ParseSSHConnection(sp.SSHConnection); err != nil {
		sp.SSHConnection = "" // sshd writes UNKNOWN where it has no socket
	}
	return sp
}
