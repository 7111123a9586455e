package ctdclienttest

import (
	"encoding/json"
	"strings"
	"time"

	"ctd/rpc/wire"
)

// AuditRecords are the record of a new server.
func AuditRecords() []wire.AuditRecord {
	return []wire.AuditRecord{
		{
			Time: Time(), Kind: "change", ID: "a1", Principal: "jane", Role: "operator", Via: "token", Credential: "desk", From: "10.0.0.1:4711",
			Protocol: "json-rpc", Method: "conntrack.kill", Params: map[string]any{"filter": "addr=10.3.0.7", "max": json.Number("5000000000")},
			Reason: "line is full", Matched: new(3), Flows: []string{"tcp 10.3.0.7:40000 -> 192.0.2.1:443", "tcp 10.3.0.7:40001 -> 192.0.2.1:443"},
			FlowsTruncated: true, Outcome: "ok", Changed: new(2), Failed: 1, TookMS: 3,
		},
		{
			Time: Time().Add(time.Second), Kind: "refusal", ID: "a2", Principal: "mallory\u009b2J", From: "[2001:db8::7]:1000", Protocol: "xml-rpc",
			Method: "login", Outcome: "unauthenticated", Message: "the credentials are not right", Suppressed: 980,
		},
		{
			Time: Time().Add(time.Minute), Kind: "change", ID: "a3", Principal: "root", Role: "admin", Via: "unix", From: "unix",
			Protocol: "json-rpc", Method: "conntrack.flush", Outcome: "unknown",
		},
	}
}

// audit gives the records of a kind since a time that have a text in their flows. Those before 2000
// can't be read.
func (s *Server) audit(params map[string]any) (any, *wire.Error) {
	var p wire.AuditParams
	if err := wire.Decode(params, &p, true); err != nil {
		return nil, err.(*wire.Error)
	}
	r := wire.AuditResult{Records: []wire.AuditRecord{}}
	for _, rec := range AuditRecords() {
		if (p.Kind == "" || p.Kind == rec.Kind) && (p.Since == nil || !rec.Time.Before(*p.Since)) && (p.Principal == "" || p.Principal == rec.Principal) &&
			strings.Contains(strings.Join(rec.Flows, " "), p.Text) {
			r.Records = append(r.Records, rec)
		}
	}
	if n := len(r.Records); p.Limit > 0 && n > p.Limit {
		r.Records, r.Truncated = r.Records[n-p.Limit:], true
	}
	if p.Until != nil && p.Until.Year() < 2000 {
		r.Unread = 2
	}
	return r, nil
}
