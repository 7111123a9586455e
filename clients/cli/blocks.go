package cli

import (
	"fmt"
	"strconv"

	"ctd/rpc/wire"
)

type blocksCmd struct {
	Filter []string `arg:"" optional:"" help:"Which blocks: src=, dst=, addr=, net=, family=, zone=."`
}

func (blocksCmd) Help() string {
	return `What ctd kill --block keeps apart, and for how long still.

Examples:

  ctd blocks
  ctd blocks addr=10.3.0.7 -o json`
}

func (b *blocksCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	var r wire.BlocksResult
	printed, err := s.call("conntrack.blocks", wire.BlocksParams{Filter: filterText(b.Filter)}, &r)
	if err != nil || printed {
		return err
	}
	return s.blocks(r.Blocks)
}

type unblockCmd struct {
	Filter     []string `arg:"" optional:"" help:"Which blocks: src=, dst=, addr=, net=, family=, zone=."`
	All        bool     `help:"Without a filter: yes, every block."`
	DryRun     bool     `help:"Only say what would be lifted."`
	Reason     string   `placeholder:"TEXT" help:"For the daemon's log."`
	FailIfNone bool     `help:"Exit with 1 where nothing matches."`
}

func (unblockCmd) Help() string {
	return `Lifts blocks before their time is over.

Examples:

  ctd unblock addr=10.3.0.7
  ctd unblock --all --dry-run`
}

func (u *unblockCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	if len(u.Filter) == 0 && !u.All {
		return &usageError{message: "unblock: no filter", hint: "say which blocks, e.g. addr=10.3.0.7, or --all for every one"}
	}
	var r wire.UnblockResult
	printed, err := s.call("conntrack.unblock", wire.UnblockParams{
		Filter: filterText(u.Filter), All: u.All, DryRun: u.DryRun, Reason: u.Reason,
	}, &r)
	if err != nil {
		return err
	}
	if !printed {
		if len(r.Blocks) > 0 {
			if err := s.blocks(r.Blocks); err != nil {
				return err
			}
		}
		if s.g.Output == "table" {
			n, did := r.Unblocked, "lifted"
			if u.DryRun {
				n, did = r.Matched, "would lift"
			}
			fmt.Fprintf(s.out, "%s %s\n", did, plural(n, "block"))
		}
	}
	return s.matched(u.FailIfNone, r.Matched)
}

// blocks prints blocks in the form of the output.
func (s *session) blocks(blocks []wire.Block) error {
	if s.g.Output == "jsonl" {
		for i := range blocks {
			if err := s.encode(blocks[i]); err != nil {
				return err
			}
		}
		return nil
	}
	t := s.newTable([]tableColumn{{title: "SRC"}, {title: "DST"}, {title: "ZONE"}, {title: "LEFT", right: true}, {title: "COMMENT"}})
	for i := range blocks {
		b := &blocks[i]
		zone := ""
		if b.Zone != 0 {
			zone = strconv.Itoa(int(b.Zone))
		}
		if err := t.row([]string{b.Src, b.Dst, zone, humanSeconds(b.Left), b.Comment}); err != nil {
			return err
		}
	}
	return t.close()
}
