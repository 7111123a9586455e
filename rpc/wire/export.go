package wire

import "time"

// ExportParams are the parameters of conntrack.export.
type ExportParams struct {
	Filter Filter `json:"filter,omitempty" doc:"which flows; all where absent. It can't name a rate"`
}

// ExportResult is the result of conntrack.export.
type ExportResult struct {
	Flows    []Flow    `json:"flows" doc:"the flows as conntrack.create and conntrack.import take them, in no order: without id, use, nat, counters, start, secctx and the status bits that the kernel sets itself. Less than a second left is shown as one"`
	Matched  int       `json:"matched" doc:"flows that the filter matched"`
	Exported int       `json:"exported" doc:"how many of them are in flows"`
	Failed   []Failure `json:"failed,omitempty" doc:"those that can't be made again, and why; at most 1000 of them"`
	Time     time.Time `json:"time" doc:"when the dump ended"`
}

// MaxImport is how many flows one conntrack.import takes.
const MaxImport = 16384

// ImportParams are the parameters of conntrack.import.
type ImportParams struct {
	Flows      []Flow `json:"flows" doc:"the flows, at most 16384, in any order. As conntrack.export gives them, or conntrack.list: what can't be written is passed over, and a timeout of 0 is taken for 1. TCP connections are not held to their windows (flag 8, be_liberal), which the kernel can't be told"`
	OnConflict string `json:"on_conflict,omitempty" doc:"where a tuple of a flow is another's already: skip leaves what is there (the default); replace makes the new flow in its place, unless the two differ in their timeouts alone; fail makes none of all the flows. Of flows of the list that have a tuple in common skip makes the first, replace the last" enum:"skip,replace,fail"`
	DryRun     bool   `json:"dry_run,omitempty" doc:"only say what would be done"`
	Reason     string `json:"reason,omitempty" doc:"for the log"`
}

// ImportResult is the result of conntrack.import. Of a dry run it counts what would be done.
type ImportResult struct {
	Created   int       `json:"created" doc:"flows that were made"`
	Replaced  int       `json:"replaced" doc:"flows that were made in place of others with their tuples"`
	Skipped   int       `json:"skipped" doc:"flows whose tuples were there, and left; with replace also those that have a tuple of a later one of the list"`
	Orphans   int       `json:"orphans" doc:"those of created and replaced that were made without their master, because it is neither in the table nor among the flows"`
	Changed   bool      `json:"changed" doc:"whether anything was created or replaced"`
	Truncated bool      `json:"truncated" doc:"whether failed leaves out some"`
	Failed    []Failure `json:"failed,omitempty" doc:"what the kernel refused; at most 1000 of them"`
}
