package cli

import (
	"fmt"

	"ctd/rpc/wire"
)

type flushCmd struct {
	Family string  `default:"" enum:",ipv4,ipv6" placeholder:"ipv4|ipv6" help:"Only flows of this family."`
	Zone   *uint16 `placeholder:"N" help:"Only flows of this zone."`
	All    bool    `help:"Yes, every flow (of the family and zone)."`
	DryRun bool    `help:"Only count what would go."`
	Yes    bool    `short:"y" help:"Don't ask. Without a terminal, and in every form of output but the table, nothing is asked anyway."`
}

func (flushCmd) Help() string {
	return `On a terminal it says how many there are and asks; --yes, or -y, is for scripts. Nothing is spared:
your own connection to the daemon goes too.

Examples:

  ctd flush --all --dry-run
  ctd flush --all --family ipv6 --zone 7 --yes`
}

func (f *flushCmd) Run(s *session) error {
	p := wire.FlushParams{Family: f.Family, Zone: f.Zone, All: f.All, DryRun: f.DryRun}
	if f.All && s.asks(f.Yes, f.DryRun) {
		none, err := s.confirmFlush(p)
		if none && err == nil {
			_, err = fmt.Fprintln(s.out, "deleted 0 flows")
		}
		if none || err != nil {
			return err
		}
	}
	return s.flush("conntrack.flush", "flow", f.All, f.DryRun, p)
}

// flush is `ctd flush` and `ctd expect flush`.
func (s *session) flush(method, noun string, all, dryRun bool, params any) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	if !all {
		return &usageError{message: "flush deletes every " + noun, hint: "say --all if you mean it, and --dry-run to see how many"}
	}
	var r wire.FlushResult
	printed, err := s.call(method, params, &r)
	if err != nil || printed {
		return err
	}
	if s.g.Output == "jsonl" {
		return s.encode(r)
	}
	did := "deleted"
	if dryRun {
		did = "would delete"
	}
	_, err = fmt.Fprintf(s.out, "%s %s\n", did, plural(r.Killed, noun))
	return err
}
