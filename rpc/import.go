package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// onConflicts are the values of on_conflict.
var onConflicts = map[string]conntrack.OnConflict{
	"":        conntrack.OnConflictSkip,
	"skip":    conntrack.OnConflictSkip,
	"replace": conntrack.OnConflictReplace,
	"fail":    conntrack.OnConflictFail,
}

func (s *Service) importFlows(ctx context.Context, p *wire.ImportParams) (any, error) {
	noteReason(ctx, p.Reason)
	if len(p.Flows) > wire.MaxImport {
		return nil, &wire.Error{
			Code:    wire.LimitExceeded,
			Message: fmt.Sprintf("flows: %d are more than %d; nothing was done", len(p.Flows), wire.MaxImport),
			Hint:    "import them in several calls, masters before the flows that are related to them",
		}
	}
	on := onConflicts[p.OnConflict]
	flows := make([]conntrack.Flow, len(p.Flows))
	for i := range p.Flows {
		var err error
		if flows[i], err = readReplayable(fmt.Sprintf("flows[%d]", i), &p.Flows[i]); err != nil {
			return nil, err
		}
	}
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	for i := range flows {
		if err := table.mayMake(fmt.Sprintf("flows[%d]", i), &flows[i]); err != nil {
			return nil, err
		}
	}
	if table.isBound() && on == conntrack.OnConflictReplace {
		return nil, &wire.Error{
			Code: wire.PermissionDenied, Message: "on_conflict: what would be replaced may be outside of your networks",
			Hint: "import with skip, and kill before what may go",
		}
	}
	do := table.Import
	if p.DryRun {
		do = table.CanImport
	} else if len(flows) > 0 {
		if err := table.begin(ctx, len(flows), flowTexts(flows)...); err != nil {
			return nil, err
		}
	}
	results := do(ctx, flows, on)
	r := &importResult{dryRun: p.DryRun}
	if err := conflicts(flows, results); err != nil && on == conntrack.OnConflictFail {
		return nil, err
	}
	var stopped error // ctx's, of the flows that nobody tried
	for i := range results {
		if err := results[i].Err; err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			stopped = ctx.Err()
			continue
		}
		r.add(&flows[i], &results[i])
	}
	if stopped != nil {
		return r.cancelled(stopped)
	}
	return r, nil
}

// readReplayable reads a flow to be imported. One that no kernel would make is refused before any is
// made.
func readReplayable(path string, w *wire.Flow) (conntrack.Flow, error) {
	f, err := readFlow(path, w)
	if err != nil {
		return f, err
	}
	if f, err = conntrack.CheckImport(f); err != nil {
		e := *ErrorOf(err)
		e.Message = path + ": " + e.Message
		return f, &e
	}
	return f, nil
}

// maxNamed is how many flows a message names.
const maxNamed = 3

// conflicts returns the error that names the first flows whose tuples are taken; nil where none are.
func conflicts(flows []conntrack.Flow, results []conntrack.Imported) error {
	n := 0
	var named []string
	for i := range results {
		if !errors.Is(results[i].Err, conntrack.ErrExists) {
			continue
		}
		if n++; n <= maxNamed {
			named = append(named, flowText(&flows[i]))
		}
	}
	if n == 0 {
		return nil
	}
	more := ""
	if n > maxNamed {
		more = " and others"
	}
	return &wire.Error{
		Code:    wire.AlreadyExists,
		Message: fmt.Sprintf("the tuples of %d of %d flows are taken: %s%s; nothing was created", n, len(flows), strings.Join(named, ", "), more),
		Hint:    "import with on_conflict skip or replace, or kill what has the tuples",
	}
}

func flowText(f *conntrack.Flow) string {
	if f.Zone != 0 {
		return fmt.Sprintf("%s in zone %d", f.Orig, f.Zone)
	}
	return f.Orig.String()
}

// importResult is wire.ImportResult.
type importResult struct {
	dryRun                              bool
	created, replaced, skipped, orphans int
	failures
}

func (r *importResult) add(f *conntrack.Flow, im *conntrack.Imported) {
	switch {
	case im.Err != nil:
		r.fail(f, importError(f, im.Err))
	case im.Outcome == conntrack.OutcomeCreated:
		r.created++
	case im.Outcome == conntrack.OutcomeReplaced:
		r.replaced++
	case im.Outcome == conntrack.OutcomeSkipped:
		r.skipped++
	}
	if im.Orphan && im.Err == nil {
		r.orphans++
	}
}

// importError returns what a caller is told of a flow that could not be made.
func importError(f *conntrack.Flow, err error) *wire.Error {
	e := ErrorOf(err)
	switch {
	case errors.Is(err, unix.ENOSPC) && !f.Labels.IsZero():
		e.Hint = "add a rule that uses labels (ct label in nftables, connlabel in iptables) and import again, or take labels out of the flow"
	case errors.Is(err, unix.EOPNOTSUPP) && f.Helper != "":
		e.Hint = "the kernel has no helper " + quoted(f.Helper) + " for this protocol: load its module and import again, or take helper out of the flow"
	}
	return e
}

// cancelled returns the error that ended an import half way, or where something was made before,
// the result with it.
func (r *importResult) cancelled(err error) (any, error) {
	if r.created+r.replaced == 0 || r.dryRun {
		return nil, err
	}
	r.fail(nil, err)
	return r, nil
}

func (r *importResult) changes() (changed, failed int) {
	if !r.dryRun {
		changed = r.created + r.replaced
	}
	return changed, len(r.failed)
}

func (r *importResult) stream(_ context.Context, e encoder) error {
	e.beginObject()
	e.key("created")
	e.int(int64(r.created))
	e.key("replaced")
	e.int(int64(r.replaced))
	e.key("skipped")
	e.int(int64(r.skipped))
	e.key("orphans")
	e.int(int64(r.orphans))
	e.key("changed")
	e.boolean(!r.dryRun && r.created+r.replaced > 0)
	e.key("truncated")
	e.boolean(r.truncated)
	writeFailed(flowWriter{e: e}, r.failed)
	e.endObject()
	return nil
}
