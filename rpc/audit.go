package rpc

import (
	"context"
	"encoding/json"
	"time"

	"ctd/rpc/wire"
)

// Auditor keeps the record of changes and refusals. Its methods may be called from many goroutines.
type Auditor interface {
	// Begin notes a change that is about to be made. Where it fails, nothing may be changed.
	Begin(c AuditedCall) (id string, err error)
	// End notes what became of it.
	End(id string, c AuditedCall, o AuditOutcome)
	// Refused notes a call that was refused.
	Refused(c AuditedCall, o AuditOutcome)
}

// AuditedCall is a call as the record has it. Nothing in it is a secret.
type AuditedCall struct {
	Principal Principal // nil for nobody
	Claimed   string    // the name that somebody gave who wasn't recognised
	From      string    // address and port, or unix
	Protocol  string    // json-rpc or xml-rpc; empty where none was reached
	Method    string
	Params    json.RawMessage // bounded by maxAuditedParams
	Truncated bool            // Params is a text with the beginning of what was longer
	Reason    string

	Matched        *int // nil where it isn't known before
	Flows          []string
	FlowsTruncated bool
}

// AuditOutcome is what became of a call.
type AuditOutcome struct {
	Err     *wire.Error // nil: it was done
	Changed *int        // nil where the method doesn't say
	Failed  int
	Took    time.Duration
}

// Audit reads the record, for server.audit.
type Audit func(ctx context.Context, p wire.AuditParams) (wire.AuditResult, error)
