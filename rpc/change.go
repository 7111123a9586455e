package rpc

import (
	"context"
	"fmt"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// maxRecordedFlows is how many entries a record names.
const maxRecordedFlows = 100

// change is what one call changes. Every call has one; what may change something, the guarded table lets
// only after begin.
type change struct {
	auditor Auditor // nil: nothing is recorded
	call    AuditedCall
	params  Params
	secrets int  // how many of the first arguments are
	open    bool // begin was called, and recorded it
	taken   int  // from the caller's budget
	id      string
	began   time.Time
}

type changeKey struct{}

func changeFrom(ctx context.Context) *change {
	c, _ := ctx.Value(changeKey{}).(*change)
	return c
}

// withChange returns a context for a call of a method.
func (r *Registry) withChange(ctx context.Context, name string, p Params) (context.Context, *change) {
	c := &change{auditor: r.auditor, params: p, began: time.Now()}
	c.call.Method = loggedName(name)
	if m := r.methods[name]; m != nil {
		c.secrets = m.Secrets
	}
	return context.WithValue(ctx, changeKey{}, c), c
}

// begin is called before n entries are changed, of which some are named. It takes them from the caller's
// budget and records the change; where it fails nothing may be changed. A call may begin several
// times, as it finds more; all of that is one change.
func (c *change) begin(ctx context.Context, n int, flows ...string) error {
	principal := PrincipalFrom(ctx)
	if c == nil || principal == nil {
		return errNotBegun
	}
	if !principal.Valid() { // it ended during a call that takes long
		return errEnded()
	}
	if ok, room, wait := principal.TakeKills(n); !ok {
		return errBudget(n, room, wait)
	}
	c.taken += n
	c.call.Principal = principal
	if c.open {
		return nil
	}
	if c.auditor == nil {
		c.open = true
		return nil
	}
	c.fill(ctx)
	c.call.Matched, c.call.Flows, c.call.FlowsTruncated = &n, flows, len(flows) < n
	var err error
	if c.id, err = c.auditor.Begin(c.call); err != nil {
		principal.GiveBackKills(n)
		return err
	}
	c.open = true
	return nil
}

func errBudget(n, room int, wait time.Duration) error {
	err := &wire.Error{
		Code:    wire.RateLimited,
		Message: fmt.Sprintf("%d entries would be changed, and you have %d left of what you may change in a minute; nothing was changed", n, room),
		Hint:    "narrow the filter: so many are more than a minute's",
	}
	if wait > 0 {
		err.Hint = fmt.Sprintf("narrow the filter, or try again in %s", wait.Round(time.Second)+time.Second)
	}
	return err
}

// fill notes who calls, from where and with what.
func (c *change) fill(ctx context.Context) {
	if c.call.Principal == nil {
		c.call.Principal = PrincipalFrom(ctx)
	}
	c.call.From = CallerFrom(ctx).From
	if p := ProtocolFrom(ctx); p != 0 {
		c.call.Protocol = p.String()
	}
	if c.call.Principal != nil && c.call.Params == nil { // what strangers send isn't recorded
		c.call.Params, c.call.Truncated = recordedParams(c.params, c.secrets)
	}
}

// end records what became of a call, where it changed something or was refused.
func (c *change) end(ctx context.Context, result any, failed *wire.Error) {
	if c == nil {
		return
	}
	o := AuditOutcome{Err: failed, Took: time.Since(c.began)}
	if c.open && failed == nil { // of one that failed it isn't known what was done before
		o.Changed, o.Failed = changesOf(result)
		if o.Changed != nil && *o.Changed < c.taken {
			c.call.Principal.GiveBackKills(c.taken - *o.Changed)
		}
	}
	switch {
	case c.auditor == nil:
	case c.open:
		c.auditor.End(c.id, c.call, o)
	case isRefusal(failed):
		c.fill(ctx)
		c.auditor.Refused(c.call, o)
	}
}

// refused records a request that was refused before a method was reached.
func (r *Registry) refused(ctx context.Context, protocol Protocol, failed *wire.Error) {
	ctx, c := r.withChange(WithProtocol(ctx, protocol), "", Params{})
	c.end(ctx, nil, failed)
}

// isRefusal tells whether a call failed because its caller may not make it. What the kernel doesn't
// permit has an errno.
func isRefusal(e *wire.Error) bool {
	return e != nil && e.Errno == "" &&
		(e.Code == wire.Unauthenticated || e.Code == wire.PermissionDenied || e.Code == wire.RateLimited)
}

// changesOf returns how many entries a call changed, and how many it could not change; nil where the
// result doesn't say.
func changesOf(result any) (changed *int, failed int) {
	n := 0
	switch r := result.(type) {
	case counted:
		n, failed = r.changes()
	case wire.FlushResult:
		n = r.Killed
	case wire.UnblockResult:
		n = r.Unblocked
	case flowResult, expectResult: // of a create
		n = 1
	default:
		return nil, 0
	}
	return &n, failed
}

// by notes who calls by a session of the method's own.
func (c *change) by(p Principal) {
	if c != nil {
		c.call.Principal = p
	}
}

// noteReason notes why the caller makes a change, for the log and the record.
func noteReason(ctx context.Context, text string) {
	CallLogFrom(ctx).reason(text)
	if c := changeFrom(ctx); c != nil {
		c.call.Reason = printable(text)
	}
}

// claim notes the name that somebody gives who isn't known. It may be a secret: the auditor keeps only a name
// that it knows.
func (c *change) claim(name string) {
	if c != nil {
		c.call.Claimed = name
	}
}

// firstTexts names the first of what is changed, for a record.
func firstTexts[T any](all []T, text func(*T) string) []string {
	texts := make([]string, min(len(all), maxRecordedFlows))
	for i := range texts {
		texts[i] = text(&all[i])
	}
	return texts
}

func flowTexts(flows []conntrack.Flow) []string { return firstTexts(flows, flowText) }
