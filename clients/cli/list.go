package cli

import (
	"encoding/json"
	"strconv"

	"ctd/clients/ctdclient"
	"ctd/rpc/wire"
)

type listCmd struct {
	Filter     []string `arg:"" optional:"" help:"Which flows, as key=value words; all where none are given."`
	Limit      int      `placeholder:"N" help:"At most so many flows."`
	Offset     int      `placeholder:"N" help:"Leave out so many first."`
	Sort       string   `placeholder:"FIELD" help:"Sort by bytes, packets, timeout, age, rate, src, dst, sport, dport, mark, zone, proto, state or id; with - before it, largest first: --sort=-bytes."`
	Fields     []string `placeholder:"FIELD" help:"Only these members, e.g. id,orig,reply.bytes."`
	Rates      bool     `help:"Measure for a second and add the rate of each direction."`
	Zero       bool     `help:"Reset the counters of what is listed. Every other reader loses these counts."`
	Table      string   `default:"conntrack" enum:"conntrack,dying,unconfirmed" help:"Which table: conntrack, dying or unconfirmed."`
	FailIfNone bool     `help:"Exit with 1 where nothing matches."`
}

func (listCmd) Help() string {
	return `The filter's words are ANDed, the values of one word ORed: proto=tcp,udp dport=80,443.
An exclamation mark negates a value: src=10.0.0.0/8,!10.0.0.5

Examples:

  ctd list proto=tcp dport=22
  ctd list addr=10.0.0.0/8 'bytes=>1K' --sort=-bytes --limit 10
  ctd list state=ESTABLISHED -o csv --fields id,orig.src,orig.dst
  ctd list -o conntrack`
}

func (l *listCmd) Run(s *session) error {
	if l.Limit < 0 || l.Offset < 0 {
		return usagef("--limit and --offset can't be below 0")
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	p := wire.ListParams{
		Filter: filterText(l.Filter), Sort: l.Sort, Limit: l.Limit, Offset: l.Offset,
		Fields: splitList(l.Fields), Rates: l.Rates, Zero: l.Zero,
	}
	if l.Table != "conntrack" {
		p.Table = l.Table
	}
	listing := c.Listing(s.ctx, p)
	if s.g.Output == "json" {
		if err := listing.CopyTo(s.out); err != nil {
			return err
		}
		if err := s.out.WriteByte('\n'); err != nil {
			return err
		}
	} else if err := l.print(s, listing, p.Fields); err != nil {
		return err
	}
	return s.matched(l.FailIfNone, listing.Summary().Matched)
}

func (l *listCmd) print(s *session, listing *ctdclient.Listing, fields []string) error {
	w, err := s.newFlowWriter(l.Rates, fields)
	if err != nil {
		return err
	}
	shown := 0
	for raw, err := range listing.Raw() {
		if err != nil {
			if shown > 0 {
				_ = w.close() // what came is printed before the error
			}
			return err
		}
		shown++
		if s.g.Output == "jsonl" {
			err = w.write(raw, nil)
		} else {
			var f wire.Flow
			if err := json.Unmarshal(raw, &f); err != nil {
				return err
			}
			err = w.write(raw, &f)
		}
		if err != nil {
			return err
		}
	}
	if err := w.close(); err != nil {
		return err
	}
	if t, ok := w.(*tableWriter); ok {
		if matched := listing.Summary().Matched; matched != shown {
			s.note(&t.table, "%s of %d", strconv.Itoa(shown), matched)
		} else {
			s.note(&t.table, "%s", plural(shown, "flow"))
		}
	}
	return nil
}

// matched ends the command with status 1 where nothing matched and --fail-if-none asks for it.
func (s *session) matched(failIfNone bool, n int) error {
	if failIfNone && n == 0 {
		return statusError(wire.ExitNoMatch)
	}
	return nil
}
