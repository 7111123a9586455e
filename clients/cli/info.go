package cli

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"ctd/rpc/wire"
)

type infoCmd struct{}

func (infoCmd) Help() string {
	return `Examples:

  ctd info
  ctd info -o json`
}

func (infoCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	var r wire.InfoResult
	printed, err := s.call("server.info", wire.Empty{}, &r)
	if err != nil || printed {
		return err
	}
	if s.g.Output == "jsonl" {
		return s.encode(r)
	}
	for _, line := range []pair{
		{"version", r.Version},
		{"kernel", r.Kernel},
		{"hostname", r.Hostname},
		{"netns", r.NetNS},
		{"started", r.Started.Format(time.RFC3339)},
	} {
		if line.value == "" {
			continue
		}
		if _, err := fmt.Fprintf(s.out, "%-9s  %s\n", line.key, oneLine(line.value)); err != nil {
			return err
		}
	}
	p := s.paint(s.o.Stdout)
	for _, name := range slices.Sorted(maps.Keys(r.Capabilities)) {
		has := p.green("yes")
		if !r.Capabilities[name] {
			has = p.yellow("no")
		}
		if _, err := fmt.Fprintf(s.out, "%-20s  %s\n", oneLine(name), has); err != nil {
			return err
		}
	}
	return nil
}
