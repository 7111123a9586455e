package wire

import "time"

// AuditParams are the parameters of server.audit.
type AuditParams struct {
	Since     *time.Time `json:"since,omitempty" doc:"only records from this time on"`
	Until     *time.Time `json:"until,omitempty" doc:"only records before this time"`
	Principal string     `json:"principal,omitempty" doc:"only those of this name"`
	From      string     `json:"from,omitempty" doc:"only those from this address or network, or unix"`
	Method    string     `json:"method,omitempty" doc:"only those of this method"`
	Outcome   string     `json:"outcome,omitempty" doc:"only those that ended so: ok, a code such as permission_denied, or unknown for changes whose end was not recorded"`
	Kind      string     `json:"kind,omitempty" doc:"changes or refusals; both where absent" enum:",change,refusal"`
	Text      string     `json:"text,omitempty" doc:"only those with this text in flows, parameters or reason"`
	Limit     int        `json:"limit,omitempty" doc:"how many at most, the latest; 100 where absent, at most 10000"`
}

// AuditResult is the result of server.audit.
type AuditResult struct {
	Records   []AuditRecord `json:"records" doc:"the latest that fit, in the order of time"`
	Truncated bool          `json:"truncated" doc:"whether there are earlier ones that fit"`
	Unread    int           `json:"unread,omitempty" doc:"lines that could not be read"`
}

// AuditRecord is one change or refusal.
type AuditRecord struct {
	Time            time.Time `json:"time" doc:"when it began"`
	Kind            string    `json:"kind" doc:"what it was" enum:"change,refusal"`
	ID              string    `json:"id" doc:"of the record"`
	Principal       string    `json:"principal" doc:"who; empty for nobody. Without via it is only what the caller claimed"`
	Role            string    `json:"role,omitempty" doc:"the caller's role then"`
	Via             string    `json:"via,omitempty" doc:"how the caller was recognised; absent where nobody was"`
	Credential      string    `json:"credential,omitempty" doc:"which credential, e.g. a token's name"`
	From            string    `json:"from" doc:"address and port, or unix"`
	Protocol        string    `json:"protocol,omitempty" doc:"json-rpc or xml-rpc"`
	Method          string    `json:"method" doc:"method that was called; empty where none was reached"`
	Params          any       `json:"params,omitempty" doc:"its parameters, without secrets"`
	ParamsTruncated bool      `json:"params_truncated,omitempty" doc:"params were too long and are a text with their beginning"`
	Reason          string    `json:"reason,omitempty" doc:"why, as the caller said"`
	Matched         *int      `json:"matched,omitempty" doc:"entries that were found"`
	Flows           []string  `json:"flows,omitempty" doc:"the first of them"`
	FlowsTruncated  bool      `json:"flows_truncated,omitempty" doc:"there are more"`
	Outcome         string    `json:"outcome" doc:"ok, a code, or unknown: the daemon ended before the change did"`
	Message         string    `json:"message,omitempty" doc:"the error's"`
	Changed         *int      `json:"changed,omitempty" doc:"entries that were changed"`
	Failed          int       `json:"failed,omitempty" doc:"entries that could not be"`
	TookMS          int64     `json:"took_ms,omitempty" doc:"milliseconds that it took"`
	Suppressed      int       `json:"suppressed,omitempty" doc:"refusals before this one that were too many to be recorded"`
}
