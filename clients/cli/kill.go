package cli

import (
	"fmt"
	"time"

	"ctd/rpc/wire"
)

// choice is which flows a change is about; kill and modify share it.
type choice struct {
	Filter []string `arg:"" optional:"" help:"Which flows, as key=value words, or their ids."`
	DryRun bool     `help:"Only say what would be done."`
	Max    *int     `placeholder:"N" help:"Do nothing where more than so many match; the daemon's limit is 1000."`
	All    bool     `help:"Without a filter: yes, every flow."`

	ExpectCount   *int       `placeholder:"N" help:"Do nothing where not just so many match."`
	CreatedBefore *time.Time `placeholder:"TIME" help:"Only flows that began before this time, e.g. 2026-11-22T04:15:00Z."`

	Yes         bool `short:"y" help:"Don't ask. Without a terminal, and in every form of output but the table, nothing is asked anyway."`
	IncludeSelf bool `help:"Also your own connection to the daemon and your SSH session, which are spared otherwise."`

	Reason     string `placeholder:"TEXT" help:"For the daemon's log."`
	FailIfNone bool   `help:"Exit with 1 where nothing matches."`
}

// selected returns filter or ids; an empty choice without --all is refused here already.
func (c *choice) selected(verb string) (filter wire.Filter, ids []any, err error) {
	if len(c.Filter) == 0 && !c.All {
		return nil, nil, &usageError{
			message: verb + ": no filter", hint: "say which flows, e.g. addr=10.3.0.7, or --all for every one",
		}
	}
	if c.Max != nil && *c.Max < 0 {
		return nil, nil, usagef("--max can't be below 0")
	}
	if c.ExpectCount != nil && *c.ExpectCount < 0 {
		return nil, nil, usagef("--expect-count can't be below 0")
	}
	return selection(c.Filter)
}

type killCmd struct {
	choice
	cutFlags
}

func (killCmd) Help() string {
	return `Deleting the entry of an established TCP connection does not end it: the next packet makes a new
entry. --cut ends it: both ends get a reset at once, and packets of the connection are kept out for
30 seconds, or for the time given. What is no TCP is dropped, or with --reject answered with port
unreachable. --block keeps the two addresses apart for longer: see ctd blocks.

The kernel compares a flow's id and addresses before it deletes it. A new connection with the
same addresses and ports may have the same id; it is told apart by its start alone, where the
caller's flow has one (-o json) and net.netfilter.nf_conntrack_timestamp is on.

On a terminal it shows what it would kill and asks; --yes, or -y, is for scripts. What was seen is
killed then, and nothing that came in between: where more than 1000 match and others came, nothing.

Your own connection to the daemon and the SSH session that you are in (SSH_CONNECTION) are spared,
unless you say --include-self. On the router itself, where sudo or a tunnel hides which session is
yours, or the one that SSH_CONNECTION names has ended (tmux, screen), all SSH sessions to the router
are, on port 22.

Examples:

  ctd kill addr=10.3.0.7 --dry-run
  ctd kill addr=10.3.0.7 --cut
  ctd kill src=10.3.0.7 dport=25 --cut=1m --block 10m --reason 'ticket 4711'
  ctd kill proto=tcp,udp src=10.3.0.0/16 'dport=!22' --yes
  ctd kill 1234567890 --fail-if-none`
}

func (k *killCmd) Run(s *session) error {
	filter, ids, err := k.selected("kill")
	if err != nil {
		return err
	}
	p := wire.KillParams{
		Filter: filter, Flows: ids, DryRun: k.DryRun, Max: k.Max, ExpectCount: k.ExpectCount, CreatedBefore: k.CreatedBefore,
		All: k.All, Reason: k.Reason, Cutting: k.cutting(), Sparing: s.sparing(k.IncludeSelf),
	}
	r, printed, err := s.kill(p, s.asks(k.Yes, k.DryRun))
	if err != nil {
		return err
	}
	if !printed {
		n, did := r.Killed, "killed"
		if k.DryRun {
			n, did = r.Matched, "would kill"
		}
		if err := s.changed(did, n, r.Flows, r.Truncated); err != nil {
			return err
		}
		if err := k.print(s, r.Cut, r.Killed); err != nil {
			return err
		}
	}
	if err := s.failures(r.Failed); err != nil {
		return err
	}
	return s.matched(k.FailIfNone, r.Matched)
}

// kill kills, and asks before where that is wanted. What a person has seen in the preview is not in
// the result again.
func (s *session) kill(p wire.KillParams, asks bool) (r wire.KillResult, printed bool, err error) {
	seen, asked := 0, p
	if asks {
		var done bool
		if seen, done, err = s.confirmKill(&p, &r); done {
			return r, false, err
		}
		r = wire.KillResult{}
	}
	if printed, err = s.call("conntrack.kill", p, &r); err != nil {
		if asks && seen == 0 && isAboveLimit(err) {
			asked.DryRun, asked.Reason = true, ""
			if _, again := s.call("conntrack.kill", asked, &r); again == nil && r.Matched > *p.Max {
				err = grown(*p.Max, r.Matched)
			}
		}
		return r, printed, err
	}
	if asks {
		r.Flows, r.Truncated = nil, false
	} else {
		s.sparedNote(r.Spared)
	}
	s.goneNote(r.Gone, seen, r.Matched)
	return r, printed, nil
}

// changed prints what a change did: the flows, and in the table a sum.
func (s *session) changed(did string, n int, flows []wire.Flow, truncated bool) error {
	if len(flows) > 0 || s.g.Output != "table" {
		if err := s.flows(flows); err != nil {
			return err
		}
	}
	if s.g.Output != "table" {
		return nil
	}
	text := did + " " + plural(n, "flow")
	if truncated {
		text += fmt.Sprintf(" (the first %d are shown)", len(flows))
	}
	_, err := fmt.Fprintln(s.out, text)
	return err
}
