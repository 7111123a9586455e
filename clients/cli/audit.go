package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"ctd/rpc/wire"
)

type auditCmd struct {
	Since      string `placeholder:"TIME" help:"From this time on: 90s, 1h, 2d (ago), 15:04 (today), 2006-01-02, 2006-01-02T15:04:05, in local time, or with a zone as RFC 3339 has it."`
	Until      string `placeholder:"TIME" help:"Before this time."`
	User       string `placeholder:"NAME" help:"Only what this user did."`
	From       string `placeholder:"ADDR" help:"Only from this address or network, or unix."`
	Method     string `placeholder:"METHOD" help:"Only calls of this method, e.g. conntrack.kill."`
	Outcome    string `placeholder:"CODE" help:"Only what ended so: ok, a code such as permission_denied, or unknown for changes whose end isn't recorded."`
	Changes    bool   `help:"Only changes."`
	Refusals   bool   `help:"Only refusals."`
	Text       string `placeholder:"TEXT" help:"Only with this text in flows, parameters or reason."`
	Limit      int    `placeholder:"N" default:"100" help:"At most so many, the latest: from 1 to 10000, 100 where it isn't given."`
	FailIfNone bool   `help:"Exit with 1 where there is none."`
}

func (auditCmd) Help() string {
	return `Shows who changed what, and who was refused, the latest last. A name with a question mark was only
claimed by somebody who wasn't recognised; (unknown) stands for one that nobody has, as people type passwords where the
name belongs. The outcome unknown is that of a change which is under way, or during which
the daemon ended. It needs the role admin.

Examples:

  ctd audit --since 1h
  ctd audit --changes --user jane --since 2026-11-22
  ctd audit --text 10.3.0.7 --limit 20
  ctd audit --refusals --from 10.0.0.0/8 -o jsonl`
}

func (a *auditCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	p, err := a.params(time.Now())
	if err != nil {
		return err
	}
	var r wire.AuditResult
	printed, err := s.call("server.audit", p, &r)
	if err != nil {
		return err
	}
	if !printed {
		if err := s.auditRecords(&r); err != nil {
			return err
		}
	}
	if r.Unread > 0 {
		_ = s.out.Flush()
		s.complain(plural(r.Unread, "line")+" of the record could not be read", "")
	}
	return s.matched(a.FailIfNone, len(r.Records))
}

func (a *auditCmd) params(now time.Time) (p wire.AuditParams, err error) {
	p = wire.AuditParams{Principal: a.User, From: a.From, Method: a.Method, Outcome: a.Outcome, Text: a.Text, Limit: a.Limit}
	switch {
	case a.Limit < 1:
		return p, usagef("--limit: %d is not from 1 to 10000", a.Limit)
	case a.Changes && a.Refusals:
		return p, usagef("give --changes or --refusals; without either there are both")
	case a.Changes:
		p.Kind = "change"
	case a.Refusals:
		p.Kind = "refusal"
	}
	if p.Since, err = pointInTime("--since", a.Since, now); err != nil {
		return p, err
	}
	if p.Until, err = pointInTime("--until", a.Until, now); err != nil {
		return p, err
	}
	if p.Since != nil && p.Until != nil && p.Until.Before(*p.Since) {
		return p, usagef("--until %s is before --since %s", a.Until, a.Since)
	}
	return p, nil
}

// pointInTime reads a time: so long ago, or a time of the clock's; nil for none.
func pointInTime(flag, text string, now time.Time) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	if strings.Trim(text, "0123456789dhms") == "" {
		ago, err := seconds(text)
		if err != nil {
			return nil, &usageError{message: flag + ": " + err.Error()}
		}
		t := now.Add(-time.Duration(ago) * time.Second)
		return &t, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return &t, nil
	}
	if t, err := time.ParseInLocation("15:04", text, now.Location()); err == nil {
		t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, now.Location())
		return &t, nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04", time.DateTime} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return &t, nil
		}
	}
	return nil, &usageError{message: fmt.Sprintf("%s: %q is no time", flag, text), hint: "such as 1h, 2d, 15:04, 2006-01-02 or 2006-01-02T15:04:05"}
}

func (s *session) auditRecords(r *wire.AuditResult) error {
	if s.g.Output == "jsonl" {
		for i := range r.Records {
			if err := s.encode(&r.Records[i]); err != nil {
				return err
			}
		}
		return nil
	}
	t := s.newTable([]tableColumn{
		{title: "TIME"},
		{title: "WHO"},
		{title: "FROM", drop: 2},
		{title: "METHOD"},
		{title: "OUTCOME"},
		{title: "MATCHED", right: true, drop: 1},
		{title: "CHANGED", right: true},
		{title: "WHAT"},
	})
	t.whole = "jsonl"
	t.colours = func(col int, cell, text string) string {
		if t.cols[col].title != "OUTCOME" {
			return text
		}
		switch cell {
		case "ok":
			return t.paint.green(text)
		case "unknown":
			return t.paint.yellow(text)
		}
		return t.paint.red(text)
	}
	for i := range r.Records {
		if err := t.row(auditRow(&r.Records[i])); err != nil {
			return err
		}
	}
	if err := t.close(); err != nil {
		return err
	}
	n := strconv.Itoa(len(r.Records))
	if r.Truncated {
		s.note(&t, "the latest %s; earlier ones with --limit or --until", n)
	} else {
		s.note(&t, "%s", plural(len(r.Records), "record"))
	}
	return nil
}

// auditRow returns the cells of a record.
func auditRow(r *wire.AuditRecord) []string {
	who := r.Principal
	if who != "" && who != "(unknown)" && r.Via == "" {
		who += "?" // it is only claimed
	}
	return []string{
		r.Time.Local().Format(time.DateTime), who, r.From, r.Method, r.Outcome, count(r.Matched), count(r.Changed), auditWhat(r),
	}
}

func count(n *int) string {
	if n == nil {
		return ""
	}
	return strconv.Itoa(*n)
}

// auditWhat says in short what was meant, why, and what went wrong.
func auditWhat(r *wire.AuditRecord) string {
	var parts []string
	if len(r.Flows) > 0 {
		first := r.Flows[0]
		switch more := len(r.Flows) - 1; {
		case r.Matched != nil && *r.Matched > 1:
			first += fmt.Sprintf(" and %d more", *r.Matched-1)
		case more > 0:
			first += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, first)
	}
	if r.Reason != "" {
		parts = append(parts, strconv.Quote(r.Reason))
	}
	if r.Message != "" {
		parts = append(parts, r.Message)
	}
	if r.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", r.Failed))
	}
	if r.Suppressed > 0 {
		parts = append(parts, fmt.Sprintf("%s before it left out", plural(r.Suppressed, "refusal")))
	}
	return strings.Join(parts, "; ")
}
