package wire

// ReconcileParams are the parameters of conntrack.reconcile.
type ReconcileParams struct {
	Filter Filter `json:"filter,omitempty" doc:"which flows the rule is about; an empty filter needs keep or all"`
	Keep   Filter `json:"keep,omitempty" doc:"a filter: which of them may remain; none where absent"`
	DryRun bool   `json:"dry_run,omitempty" doc:"only say what would be killed, after one pass"`
	Max    *int   `json:"max,omitempty" doc:"kill nothing where more than so many have to go at first, and stop where it would be more in all; 1000 where absent"`
	Passes *int   `json:"passes,omitempty" doc:"at most so many passes, of 100, until two in a row find nothing; 10 where absent. A watch makes more where it needs them"`
	Watch  any    `json:"watch,omitempty" doc:"then go on for so long, in whole seconds or such as \"30s\" or \"5m\", at most 10 minutes: new flows that may not remain are killed as they begin"`

	All    bool   `json:"all,omitempty" doc:"with an empty filter: yes, every flow"`
	Reason string `json:"reason,omitempty" doc:"for the log"`

	Cutting
	Sparing
}

// ReconcileResult is the result of conntrack.reconcile.
type ReconcileResult struct {
	Killed    int       `json:"killed" doc:"flows that were killed, a flow that came again each time"`
	Matched   int       `json:"matched" doc:"flows that might not remain, in all passes, without those that are spared"`
	Gone      int       `json:"gone" doc:"flows that had ended, or become others, before they could be killed"`
	Spared    int       `json:"spared" doc:"flows that might not remain and are the caller's own, see include_self"`
	Changed   bool      `json:"changed" doc:"whether anything was killed"`
	Passes    int       `json:"passes" doc:"how many times the table was gone through"`
	Settled   bool      `json:"settled" doc:"whether only what may remain is there: two passes in a row found nothing else, or at the end of a watch the last one, or in a dry run the only one"`
	Watched   float64   `json:"watched" doc:"seconds of the watch"`
	Lost      int       `json:"lost" doc:"times that the kernel left new flows out in the watch; a pass followed each"`
	Flows     []Flow    `json:"flows" doc:"what was killed, or would be; at most 1000 of them"`
	Truncated bool      `json:"truncated" doc:"whether flows or failed leaves out some"`
	Failed    []Failure `json:"failed,omitempty" doc:"what the kernel refused, at most 1000 of them, and what ended it early; a flow that was refused once isn't tried again"`

	Cut *CutResult `json:"cut,omitempty" doc:"what was done to end the connections; only with cut or block"`
}
