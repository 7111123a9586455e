package cli

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strconv"

	"ctd/rpc/wire"
)

type countCmd struct {
	Filter     []string `arg:"" optional:"" help:"Which flows, as key=value words; all where none are given."`
	By         string   `default:"" enum:",src,dst,dport,proto,state,mark,zone,user" placeholder:"FIELD" help:"Count by src, dst, dport, proto, state, mark, zone or user."`
	FailIfNone bool     `help:"Exit with 1 where nothing matches."`
}

func (countCmd) Help() string {
	return `Examples:

  ctd count proto=udp
  ctd count --by src state=ESTABLISHED`
}

func (c *countCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl", "csv"); err != nil {
		return err
	}
	var r wire.CountResult
	printed, err := s.call("conntrack.count", wire.CountParams{Filter: filterText(c.Filter), By: c.By}, &r)
	if err != nil {
		return err
	}
	if !printed {
		if err := c.print(s, &r); err != nil {
			return err
		}
	}
	return s.matched(c.FailIfNone, r.Count)
}

func (c *countCmd) print(s *session, r *wire.CountResult) error {
	switch {
	case c.By == "" && s.g.Output == "table":
		_, err := fmt.Fprintln(s.out, r.Count)
		return err
	case s.g.Output == "jsonl":
		return c.jsonl(s, r)
	case s.g.Output == "csv":
		return c.csv(s, r)
	}
	t := s.newTable([]tableColumn{{title: "COUNT", right: true}, {title: c.title()}})
	for _, g := range r.Groups {
		if err := t.row([]string{strconv.Itoa(g.Count), g.Key}); err != nil {
			return err
		}
	}
	return t.close()
}

func (c *countCmd) title() string {
	return map[string]string{
		"src": "SRC", "dst": "DST", "dport": "DPORT", "proto": "PROTO", "state": "STATE",
		"mark": "MARK", "zone": "ZONE", "user": "USER",
	}[c.By]
}

func (c *countCmd) jsonl(s *session, r *wire.CountResult) error {
	enc := json.NewEncoder(s.out)
	if c.By == "" {
		return enc.Encode(r)
	}
	for _, g := range r.Groups {
		if err := enc.Encode(g); err != nil {
			return err
		}
	}
	return nil
}

func (c *countCmd) csv(s *session, r *wire.CountResult) error {
	w := csv.NewWriter(s.out)
	w.UseCRLF = true
	records := [][]string{{"count"}, {strconv.Itoa(r.Count)}}
	if c.By != "" {
		records = [][]string{{"count", "key"}}
		for _, g := range r.Groups {
			records = append(records, []string{strconv.Itoa(g.Count), g.Key})
		}
	}
	return w.WriteAll(records)
}
