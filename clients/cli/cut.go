package cli

import (
	"fmt"

	"github.com/alecthomas/kong"

	"ctd/rpc/wire"
)

// cutFlags are the flags that say how connections are ended.
type cutFlags struct {
	Cut    optionalTime `placeholder:"=TIME" help:"Also end the connections, and keep their packets out for 30 seconds or the time given: --cut=5m."`
	Block  string       `placeholder:"TIME" help:"Also keep the addresses apart, e.g. 10m; ends the connections too."`
	Reject bool         `help:"With --cut: answer what is no TCP with port unreachable, instead of dropping it."`
}

func (c *cutFlags) cutting() wire.Cutting {
	cutting := wire.Cutting{Reject: c.Reject}
	if c.Cut.text != "" {
		cutting.Cut = c.Cut.text
	} else if c.Cut.given {
		cutting.Cut = true
	}
	if c.Block != "" {
		cutting.Block = c.Block
	}
	return cutting
}

// optionalTime is a flag that may have a time behind =.
type optionalTime struct {
	given bool
	text  string
}

// Decode is kong.MapperValue's.
func (o *optionalTime) Decode(ctx *kong.DecodeContext) error {
	o.given = true
	if ctx.Scan.Peek().Type == kong.FlagValueToken {
		return ctx.Scan.PopValueInto("time", &o.text)
	}
	return nil
}

// IsBool is kong.BoolMapperValue's: the flag takes no word behind it.
func (*optionalTime) IsBool() bool { return true }

// print says what was done to end the connections of flows that were killed.
func (f *cutFlags) print(s *session, c *wire.CutResult, killed int) error {
	if c == nil || killed == 0 || s.g.Output != "table" {
		return nil
	}
	text := fmt.Sprintf("cut for %s", humanSeconds(c.Seconds))
	if c.Probed > 0 {
		text += ", " + plural(c.Probed, "end") + " told at once"
	}
	if c.Untold > 0 {
		text += ", " + plural(c.Untold, "end") + " not told before their next packet"
	}
	if c.Sockets > 0 {
		text += ", " + plural(c.Sockets, "socket") + " of the router closed"
	}
	switch {
	case c.Blocks > 0:
		text += ", " + plural(c.Blocks, "pair") + " of addresses blocked"
	case f.Block != "":
		text += ", no addresses blocked: they are your own connection's or both the router's, or blocked for longer already"
	}
	_, err := fmt.Fprintln(s.out, text)
	return err
}
