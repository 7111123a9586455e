package rpc

import (
	"context"
	"iter"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

func (s *Service) registerExport(r *Registry) {
	Register(r, Method{
		Name: "conntrack.export", Role: wire.RoleViewer, Result: wire.ExportResult{},
		Summary: "Lists flows so that they can be made again, here or on another router.",
		Example: `{"filter": {"addr": "10.0.0.7"}}`,
	}, s.export)
	Register(r, Method{
		Name: "conntrack.import", Role: wire.RoleAdmin, Changes: true, Result: wire.ImportResult{},
		Summary: "Makes the flows of an export.",
		Example: `{"flows": [{"protocol": "udp", "orig": {"src": "10.0.0.7", "dst": "192.0.2.1", "sport": 5060, "dport": 5060}, "timeout": 120}], "on_conflict": "replace"}`,
	}, s.importFlows)
}

func (s *Service) export(ctx context.Context, p *wire.ExportParams) (any, error) {
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	filter, err := readFilter(p.Filter)
	if err != nil {
		return nil, err
	}
	if filter.Uses("rate") {
		return nil, &wire.Error{
			Code: wire.Unsupported, Message: "filter: rate: an export can't wait for samples",
			Hint: "leave rate out",
		}
	}
	return &flowExport{flows: table.Flows(ctx, filter)}, nil
}

// flowExport is the result of conntrack.export: wire.ExportResult, written as the dump goes.
type flowExport struct {
	flows iter.Seq2[conntrack.Flow, error]
}

func (x *flowExport) stream(_ context.Context, e encoder) error {
	w := flowWriter{e: e}
	matched := 0
	var failed []failure
	failures := 0
	e.beginObject()
	e.key("flows")
	e.beginArray()
	for f, err := range x.flows {
		if err != nil {
			return err
		}
		if err := e.err(); err != nil {
			return err // the caller has gone
		}
		if f.Status&conntrack.StatusDying != 0 {
			continue // it is on its way out of the table
		}
		matched++
		r, err := f.Replayable()
		if err == nil {
			w.writeReplayable(&r)
			continue
		}
		if failures++; failures <= maxShown {
			bad := f // f itself would cost an allocation each time
			failed = append(failed, failure{&bad, ErrorOf(err)})
		}
	}
	e.endArray()
	e.key("matched")
	e.int(int64(matched))
	e.key("exported")
	e.int(int64(matched - failures))
	writeFailed(w, failed)
	e.key("time")
	e.time(time.Now().UTC())
	e.endObject()
	return nil
}

// writeReplayable writes what Replayable returned: of a wire.Flow the members that can be written
// and say something.
func (w *flowWriter) writeReplayable(f *conntrack.Flow) {
	e := w.e
	e.beginObject()
	e.key("family")
	e.str(f.Family().String())
	e.key("protocol")
	e.str(f.Proto().String())
	if f.Zone != 0 {
		e.key("zone")
		e.uint(uint64(f.Zone))
	}
	for i, t := range []*conntrack.Tuple{&f.Orig, &f.Reply} {
		e.key([...]string{"orig", "reply"}[i])
		e.beginObject()
		w.tuple("", t)
		e.endObject()
	}
	if f.Has(conntrack.AttrState) {
		e.key("state")
		e.str(f.StateName())
	}
	e.key("timeout")
	e.uint(uint64(f.Timeout / time.Second))
	if f.Status != 0 {
		e.key("status")
		e.beginArray()
		for i := range 32 {
			if f.Status&(1<<i) != 0 {
				e.str(conntrack.StatusBitName(i))
			}
		}
		e.endArray()
	}
	if f.Mark != 0 {
		e.key("mark")
		e.uint(uint64(f.Mark))
	}
	if !f.Labels.IsZero() {
		e.key("labels")
		e.beginArray()
		for _, bit := range f.Labels.Bits() {
			e.int(int64(bit))
		}
		e.endArray()
	}
	if f.Helper != "" {
		e.key("helper")
		e.str(f.Helper)
	}
	if !f.Master.IsZero() {
		e.key("master")
		e.beginObject()
		w.tuple("", &f.Master)
		e.key("protocol")
		e.str(f.Master.Proto.String())
		e.endObject()
	}
	w.protocolInfo(f)
	e.endObject()
}
