package rpc

import (
	"context"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

// changeResult is wire.KillResult or wire.ModifyResult, or the greater part of wire.ReconcileResult.
type changeResult struct {
	verb    string // the member that says how many: killed or modified
	n       int
	matched int
	gone    int
	spared  int
	tried   int // of those that are to be killed
	flows   []conntrack.Flow
	cut     *wire.CutResult // nil where nothing was to be cut

	more func(e encoder) // writes the members that only this change has; nil: none

	failures
}

// failures are the first ones of a change.
type failures struct {
	failed    []failure
	truncated bool // whether the result leaves out something
}

// failure is a flow that could not be changed; without a flow it is what kept the others from being
// tried.
type failure struct {
	flow *conntrack.Flow
	err  *wire.Error
}

// show adds flows to those that the result shows.
func (r *changeResult) show(flows ...conntrack.Flow) {
	room := min(maxShown-len(r.flows), len(flows))
	r.flows = append(r.flows, flows[:room]...)
	r.truncated = r.truncated || room < len(flows)
}

func (r *changeResult) changes() (changed, failed int) { return r.n, len(r.failed) }

// full tells whether the result shows no more flows.
func (r *changeResult) full() bool { return len(r.flows) >= maxShown }

// fail adds a failure to those that the result shows. flow is nil where it is not one flow's.
func (r *failures) fail(flow *conntrack.Flow, err error) {
	r.truncated = r.truncated || flow == nil || len(r.failed) >= maxShown
	if len(r.failed) < maxShown || flow == nil {
		r.failed = append(r.failed, failure{flow, ErrorOf(err)})
	}
}

func (r *changeResult) stream(_ context.Context, e encoder) error {
	w := flowWriter{e: e}
	e.beginObject()
	e.key(r.verb)
	e.int(int64(r.n))
	e.key("matched")
	e.int(int64(r.matched))
	e.key("gone")
	e.int(int64(r.gone))
	e.key("spared")
	e.int(int64(r.spared))
	e.key("changed")
	e.boolean(r.n > 0)
	if r.more != nil {
		r.more(e)
	}
	e.key("flows")
	e.beginArray()
	for i := range r.flows {
		w.write(&r.flows[i])
	}
	e.endArray()
	e.key("truncated")
	e.boolean(r.truncated)
	if r.cut != nil {
		e.key("cut")
		if err := encodeValue(e, r.cut); err != nil {
			return err
		}
	}
	writeFailed(w, r.failed)
	e.endObject()
	return nil
}

// writeFailed writes the member failed where there is a failure.
func writeFailed(w flowWriter, failed []failure) {
	if len(failed) == 0 {
		return
	}
	e := w.e
	e.key("failed")
	e.beginArray()
	for i := range failed {
		e.beginObject()
		if flow := failed[i].flow; flow != nil {
			e.key("flow")
			w.write(flow)
		}
		writeFailedMembers(e, failed[i].err)
		e.endObject()
	}
	e.endArray()
}

func writeFailedMembers(e encoder, err *wire.Error) {
	e.key("code")
	e.str(string(err.Code))
	e.key("message")
	e.str(err.Message)
	if err.Hint != "" {
		e.key("hint")
		e.str(err.Hint)
	}
}
