// Package audit keeps the record of what callers changed and what they were refused: JSON, a record a
// line, in a file or in journald. A change has two records with the same ID: one before it is made, so
// that it isn't made where it can't be written, and one after. No record has a secret in it.
package audit

import (
	"encoding/json"
	"time"
)

// Event is what a record tells.
type Event string

// The events.
const (
	Begin   Event = "begin"   // a change is about to be made
	End     Event = "end"     // it has ended
	Refusal Event = "refusal" // a call was refused, and changed nothing
)

// Record is one line. What isn't known or means nothing for the event is left out.
type Record struct {
	Time  time.Time `json:"time"`
	Event Event     `json:"event"`
	ID    string    `json:"id"` // the same in begin and end; else unique

	// Who, and from where.
	Principal  string `json:"principal,omitempty"` // name; empty for nobody. In a refusal it may be only claimed: see Via
	Role       string `json:"role,omitempty"`
	Via        string `json:"via,omitempty"`        // how recognised; empty where nobody was
	Credential string `json:"credential,omitempty"` // which credential, e.g. a token's name
	From       string `json:"from,omitempty"`       // address and port, or unix

	// What. An end repeats of it only Method and Principal.
	Protocol        string          `json:"protocol,omitempty"`
	Method          string          `json:"method,omitempty"`
	Params          json.RawMessage `json:"params,omitempty"`
	ParamsTruncated bool            `json:"params_truncated,omitempty"` // Params were too long and are a text with their beginning
	Reason          string          `json:"reason,omitempty"`           // the caller's
	Matched         *int            `json:"matched,omitempty"`          // how many entries were found
	Flows           []string        `json:"flows,omitempty"`            // the first of them
	FlowsTruncated  bool            `json:"flows_truncated,omitempty"`  // there are more

	// What became of it: of an end and a refusal.
	Outcome    string `json:"outcome,omitempty"` // ok, or the code of the error
	Message    string `json:"message,omitempty"` // the error's
	Changed    *int   `json:"changed,omitempty"` // how many entries were changed
	Failed     int    `json:"failed,omitempty"`  // how many could not be
	TookMS     int64  `json:"took_ms,omitempty"`
	Suppressed int    `json:"suppressed,omitempty"` // refusals before this one that were not written, as they were too many
}
