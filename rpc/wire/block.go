package wire

// Block keeps two addresses apart: packets from src to dst, of every protocol.
type Block struct {
	Family  string `json:"family" enum:"ipv4,ipv6"`
	Src     string `json:"src" doc:"source address"`
	Dst     string `json:"dst" doc:"destination address"`
	Zone    uint16 `json:"zone" doc:"zone in which they are kept apart"`
	Left    uint32 `json:"left" doc:"seconds until it ends by itself"`
	Comment string `json:"comment,omitempty" doc:"who made it, and the reason that was given; at most 100 bytes"`
}

// BlocksParams are the parameters of conntrack.blocks.
type BlocksParams struct {
	Filter Filter `json:"filter,omitempty" doc:"which blocks, by src, dst, addr, net, family or zone; all where absent"`
}

// BlocksResult is the result of conntrack.blocks.
type BlocksResult struct {
	Blocks []Block `json:"blocks" doc:"those that end first come first"`
}

// UnblockParams are the parameters of conntrack.unblock.
type UnblockParams struct {
	Filter Filter `json:"filter,omitempty" doc:"which blocks, by src, dst, addr, net, family or zone; an empty filter needs all"`
	All    bool   `json:"all,omitempty" doc:"with an empty filter: yes, every block"`
	DryRun bool   `json:"dry_run,omitempty" doc:"only say what would be lifted"`
	Reason string `json:"reason,omitempty" doc:"for the log"`
}

// UnblockResult is the result of conntrack.unblock.
type UnblockResult struct {
	Unblocked int     `json:"unblocked" doc:"blocks that were lifted"`
	Matched   int     `json:"matched" doc:"blocks that were meant"`
	Changed   bool    `json:"changed" doc:"whether anything was lifted"`
	Blocks    []Block `json:"blocks" doc:"what was lifted, or would be"`
}
