package cli

import (
	"fmt"
	"time"

	"ctd/clients/ctdclient"
	"ctd/rpc/wire"
)

// exportFormat is the version of what `ctd export` prints.
const exportFormat = 1

// exportHead is the first line of an export. Whoever reads it expects an end.
type exportHead struct {
	Format int         `json:"ctd_export"`
	Filter wire.Filter `json:"filter,omitempty"`
}

// exportEnd is the last line of a whole export.
type exportEnd struct {
	Exported *int      `json:"exported"` // lines of flows since the head
	LeftOut  int       `json:"left_out,omitempty"`
	Time     time.Time `json:"time,omitzero"`
}

type exportCmd struct {
	Filter []string `arg:"" optional:"" help:"Which flows, as key=value words; all where none are given."`
}

func (exportCmd) Help() string {
	return `Prints a flow a line, in JSON, for ctd import. The first line is a head and the last one an end
that says how many flows there are: an export that broke off has none, and ctd import refuses it.
With -o json it is the daemon's result as it is, in one piece.

Examples:

  ctd export addr=192.168.1.2
  ctd export proto=tcp > flows.jsonl
  ctd export addr=192.168.1.2 | ctd --server "$CTD_SERVER" import --dry-run`
}

func (e *exportCmd) Run(s *session) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	listing := c.Export(s.ctx, wire.ExportParams{Filter: filterText(e.Filter)})
	if err := e.print(s, listing); err != nil {
		return err
	}
	sum := listing.Summary()
	if err := s.failures(sum.Failed); err != nil {
		return err
	}
	if sum.Partial {
		s.complain("the export leaves out flows that can't be made again: see failed", "")
		return statusError(wire.ExitOther)
	}
	return nil
}

func (e *exportCmd) print(s *session, listing *ctdclient.Listing) error {
	if s.g.Output == "json" {
		if err := listing.CopyTo(s.out); err != nil {
			return err
		}
		return s.out.WriteByte('\n')
	}
	shown := 0
	head := func() error { return s.encode(exportHead{exportFormat, filterText(e.Filter)}) }
	w := &jsonlWriter{w: s.out}
	for raw, err := range listing.Raw() {
		if err == nil && shown == 0 {
			err = head()
		}
		if err == nil {
			err = w.write(raw, nil)
		}
		if err != nil {
			return err
		}
		shown++
	}
	if shown == 0 {
		if err := head(); err != nil {
			return err
		}
	}
	sum := listing.Summary()
	if shown != sum.Exported {
		return fmt.Errorf("the daemon sent %d flows and speaks of %d", shown, sum.Exported)
	}
	return s.encode(exportEnd{Exported: &shown, LeftOut: sum.Matched - sum.Exported, Time: sum.Time})
}
