package rpc

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strconv"
	"time"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

func (s *Service) registerFlows(r *Registry) {
	Register(r, Method{
		Name: "conntrack.list", Role: wire.RoleViewer, Result: wire.ListResult{},
		Summary: "Lists the flows that match a filter.",
		Example: `{"filter": {"proto": "tcp", "dport": [80, 443]}, "limit": 10}`,
	}, s.list)
	Register(r, Method{
		Name: "conntrack.get", Role: wire.RoleViewer, Result: wire.Flow{},
		Summary: "Returns one flow, by a tuple of either direction or by id.",
		Example: `{"flow": {"protocol": "tcp", "orig": {"src": "10.0.0.7", "dst": "192.0.2.1", "sport": 40000, "dport": 443}}}`,
	}, s.get)
	Register(r, Method{
		Name: "conntrack.count", Role: wire.RoleViewer, Result: wire.CountResult{},
		Summary: "Counts the flows that match a filter, in all or by a field.",
		Example: `{"filter": "proto=tcp", "by": "dst"}`,
	}, s.count)
}

func (s *Service) list(ctx context.Context, p *wire.ListParams) (any, error) {
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	filter, err := readFilter(p.Filter)
	if err != nil {
		return nil, err
	}
	if p.Limit < 0 || p.Offset < 0 {
		return nil, invalidParams("limit and offset can't be negative")
	}
	l := &flowList{limit: p.Limit, offset: p.Offset}
	if l.fields, err = newFieldSet(p.Fields); err != nil {
		return nil, err
	}
	opts := []conntrack.ListOption{conntrack.CountScanned(&l.scanned)}
	switch p.Table {
	case "dying":
		opts = append(opts, conntrack.From(conntrack.Dying))
	case "unconfirmed":
		opts = append(opts, conntrack.From(conntrack.Unconfirmed))
	}
	if p.Zero {
		switch principal := PrincipalFrom(ctx); {
		case principal == nil || !principal.May(wire.RoleOperator):
			return nil, &wire.Error{
				Code: wire.PermissionDenied, Message: "zero takes the counts away from every other reader and needs the role operator",
				Hint: "list without zero",
			}
		case p.Table != "" && p.Table != "conntrack":
			return nil, invalidParams("zero: only the flows of the main table can be reset")
		case p.Limit > 0 || p.Offset > 0:
			return nil, invalidParams("zero: with limit or offset the counts of flows that aren't shown would be lost")
		case filter.Uses("rate"):
			return nil, invalidParams("zero: a rate is known only after the counters were read, and then of every flow")
		}
		n, err := table.Count(ctx, filter) // each of which is changed
		if err != nil {
			return nil, err
		}
		if err := table.begin(ctx, n); err != nil {
			return nil, err
		}
		opts = append(opts, conntrack.Zeroing())
	}
	switch {
	case p.Rates || filter.Uses("rate") || sortsBy(p.Sort, "rate"):
		l.flows = sampled(ctx, table, filter, opts)
	default:
		l.flows = table.Flows(ctx, filter, opts...)
	}
	if p.Sort != "" {
		if l.flows, err = sorted(l.flows, p.Sort, p.Offset, p.Limit, &l.matched); err != nil {
			return nil, err
		}
		l.counted = true
	}
	if l.counted || p.Rates || filter.Uses("rate") {
		l.flows = s.holding(ctx, l.flows)
	}
	return l, nil
}

const (
	// maxHolding is how many lists and counts may hold flows at a time, which bounds the memory that they take
	// together, and maxHoldingEach how many of one caller: those of who reads slowly keep nobody else waiting.
	maxHolding, maxHoldingEach = 3, 1
	// holdWait is how long more of them wait. They are in the way of the caller's other calls meanwhile.
	holdWait = 2 * time.Second
)

// holding gives the flows of a sequence that holds some, when fewer than maxHolding others do.
func (s *Service) holding(ctx context.Context, flows iter.Seq2[conntrack.Flow, error]) iter.Seq2[conntrack.Flow, error] {
	return func(yield func(conntrack.Flow, error) bool) {
		giveBack, ok, err := s.holders.take(ctx, holdWait)
		if err == nil && !ok {
			err = &wire.Error{
				Code: wire.Busy, Message: "other lists that are sorted or sampled, or counts, are under way",
				Hint: "one by one: try again when yours has ended; a list without sort and rates never waits",
			}
		}
		if err != nil {
			yield(conntrack.Flow{}, err)
			return
		}
		defer giveBack()
		flows(yield)
	}
}

// flowList is the result of conntrack.list: wire.ListResult, written as the dump goes.
type flowList struct {
	flows         iter.Seq2[conntrack.Flow, error]
	fields        *fieldSet
	limit, offset int
	matched       int
	counted       bool // matched is counted by whoever makes flows
	scanned       int
}

func (l *flowList) stream(_ context.Context, e encoder) error {
	w := flowWriter{e: e, fields: l.fields}
	e.beginObject()
	e.key("flows")
	e.beginArray()
	seen := 0
	for f, err := range l.flows {
		if err != nil {
			return err
		}
		if err := e.err(); err != nil {
			return err // the caller has gone
		}
		seen++
		if seen > l.offset && (l.limit == 0 || seen <= l.offset+l.limit) {
			w.write(&f)
		}
	}
	if !l.counted {
		l.matched = seen
	}
	e.endArray()
	e.key("matched")
	e.int(int64(l.matched))
	e.key("scanned")
	e.int(int64(l.scanned))
	e.key("time")
	e.time(time.Now().UTC())
	e.endObject()
	return nil
}

// maxSorted bounds the flows that a list holds to sort them, and maxSampled those of which it holds
// the counters for their rates. Streaming lists hold none.
const (
	maxSorted  = 20_000
	maxSampled = 100_000
)

// sampleTime is the time between the two samples of rates.
const sampleTime = time.Second

// sortKeys compare two flows by a field.
var sortKeys = map[string]func(a, b *conntrack.Flow) int{
	"bytes":   func(a, b *conntrack.Flow) int { return cmp.Compare(totalBytes(a), totalBytes(b)) },
	"packets": func(a, b *conntrack.Flow) int { return cmp.Compare(totalPackets(a), totalPackets(b)) },
	"timeout": func(a, b *conntrack.Flow) int { return cmp.Compare(a.Timeout, b.Timeout) },
	"age":     func(a, b *conntrack.Flow) int { return cmp.Compare(b.Start, a.Start) },
	"rate":    func(a, b *conntrack.Flow) int { return cmp.Compare(a.OrigRate+a.ReplyRate, b.OrigRate+b.ReplyRate) },
	"src":     func(a, b *conntrack.Flow) int { return a.Orig.Src.Compare(b.Orig.Src) },
	"dst":     func(a, b *conntrack.Flow) int { return a.Orig.Dst.Compare(b.Orig.Dst) },
	"sport":   func(a, b *conntrack.Flow) int { return cmp.Compare(a.Orig.SrcPort, b.Orig.SrcPort) },
	"dport":   func(a, b *conntrack.Flow) int { return cmp.Compare(a.Orig.DstPort, b.Orig.DstPort) },
	"mark":    func(a, b *conntrack.Flow) int { return cmp.Compare(a.Mark, b.Mark) },
	"zone":    func(a, b *conntrack.Flow) int { return cmp.Compare(a.Zone, b.Zone) },
	"proto":   func(a, b *conntrack.Flow) int { return cmp.Compare(a.Proto(), b.Proto()) },
	"state":   func(a, b *conntrack.Flow) int { return cmp.Compare(a.StateName(), b.StateName()) },
	"id":      func(a, b *conntrack.Flow) int { return cmp.Compare(a.ID, b.ID) },
}

func totalBytes(f *conntrack.Flow) uint64   { return f.OrigCounter.Bytes + f.ReplyCounter.Bytes }
func totalPackets(f *conntrack.Flow) uint64 { return f.OrigCounter.Packets + f.ReplyCounter.Packets }

// sortsBy tells whether a sort parameter names a field.
func sortsBy(sort, field string) bool { return sort == field || sort == "-"+field }

// sorted returns flows in the order of a field, "-" before it for descending. It holds at most
// maxSorted of them; where a limit is given, no more than offset and limit ask for (and as many
// again while they come in).
func sorted(flows iter.Seq2[conntrack.Flow, error], by string, offset, limit int, matched *int,
) (iter.Seq2[conntrack.Flow, error], error) {
	field, descending := by, false
	if by[0] == '-' {
		field, descending = by[1:], true
	}
	compare := sortKeys[field]
	if compare == nil {
		err := invalidParams("sort: no field %s to sort by", quoted(field))
		err.Hint = "sort by " + joinSorted(sortKeys)
		return nil, err
	}
	keep := maxSorted
	if limit > 0 && limit <= maxSorted-offset {
		keep = offset + limit
	} else if limit > 0 {
		return nil, &wire.Error{
			Code: wire.LimitExceeded, Message: "sort: offset and limit together are above " + strconv.Itoa(maxSorted),
			Hint: "list without sort, which has no limit, and sort what you get",
		}
	}
	order := func(a, b conntrack.Flow) int {
		c := compare(&a, &b)
		if descending {
			c = -c
		}
		return c
	}
	return func(yield func(conntrack.Flow, error) bool) {
		var held []conntrack.Flow
		for f, err := range flows {
			if err != nil {
				yield(f, err)
				return
			}
			*matched++
			held = append(held, f)
			switch {
			case limit > 0 && len(held) >= 2*keep:
				slices.SortStableFunc(held, order)
				held = held[:keep]
			case limit == 0 && len(held) > maxSorted:
				yield(f, &wire.Error{
					Code: wire.LimitExceeded, Message: "sort: more than " + strconv.Itoa(maxSorted) + " flows match",
					Hint: "give a limit, narrow the filter, or list without sort",
				})
				return
			}
		}
		slices.SortStableFunc(held, order)
		for _, f := range held {
			if !yield(f, nil) {
				return
			}
		}
	}, nil
}

// sampled dumps the table twice, sampleTime apart, and returns the flows of the second dump with
// their rates. A flow that is new in the second has none.
func sampled(ctx context.Context, t Table, filter conntrack.Filter, opts []conntrack.ListOption,
) iter.Seq2[conntrack.Flow, error] {
	first, hint := filter, "narrow the filter"
	if filter.Uses("rate") {
		first = conntrack.Filter{} // rates aren't known before the second dump
		hint = "list with rates and without rate in the filter, which then is heeded before sampling"
	}
	return func(yield func(conntrack.Flow, error) bool) {
		began := time.Now()
		before := make(map[flowKey]sample)
		for f, err := range t.Flows(ctx, first) {
			if err != nil {
				yield(f, err)
				return
			}
			if len(before) == maxSampled {
				yield(f, &wire.Error{
					Code: wire.LimitExceeded, Message: "rates: more than " + strconv.Itoa(maxSampled) + " flows to sample",
					Hint: hint,
				})
				return
			}
			before[keyOf(&f)] = sample{f.OrigCounter.Bytes, f.ReplyCounter.Bytes, time.Since(began)}
		}
		select {
		case <-time.After(sampleTime):
		case <-ctx.Done():
			yield(conntrack.Flow{}, ctx.Err())
			return
		}
		for f, err := range t.Flows(ctx, first, opts...) {
			if err != nil {
				yield(f, err)
				return
			}
			setRate(&f, before, time.Since(began))
			if filter.Match(&f) && !yield(f, nil) {
				return
			}
		}
	}
}

// sample is what a flow's counters were, and when: each flow has its own time, because a dump takes
// long.
type sample struct {
	orig, reply uint64
	at          time.Duration
}

func setRate(f *conntrack.Flow, before map[flowKey]sample, now time.Duration) {
	old, ok := before[keyOf(f)]
	if !ok || !f.Has(conntrack.AttrCounters) || f.OrigCounter.Bytes < old.orig || f.ReplyCounter.Bytes < old.reply {
		return
	}
	seconds := (now - old.at).Seconds()
	f.OrigRate = float64(f.OrigCounter.Bytes-old.orig) / seconds
	f.ReplyRate = float64(f.ReplyCounter.Bytes-old.reply) / seconds
	f.Set(conntrack.AttrRate)
}

func (s *Service) get(ctx context.Context, p *wire.GetParams) (any, error) {
	sel, err := readSelector("flow", p.Flow)
	if err != nil {
		return nil, err
	}
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	f, err := table.Get(ctx, sel.key)
	if err != nil {
		return nil, err
	}
	if !sel.fits(&f) {
		return nil, conntrack.ErrNotFound
	}
	return flowResult(f), nil
}

// flowResult is a flow as the result of a method.
type flowResult conntrack.Flow

func (r flowResult) stream(_ context.Context, e encoder) error {
	f := conntrack.Flow(r)
	w := flowWriter{e: e}
	w.write(&f)
	return nil
}

// maxGroups bounds the groups of a count: they are held until all is counted.
const maxGroups = 100_000

// groupKeys returns a flow's value of a field to count by.
var groupKeys = map[string]func(f *conntrack.Flow) string{
	"src":   func(f *conntrack.Flow) string { return f.Orig.Src.String() },
	"dst":   func(f *conntrack.Flow) string { return f.Orig.Dst.String() },
	"proto": func(f *conntrack.Flow) string { return f.Proto().String() },
	"state": (*conntrack.Flow).StateName,
	"mark":  func(f *conntrack.Flow) string { return strconv.FormatUint(uint64(f.Mark), 10) },
	"zone":  func(f *conntrack.Flow) string { return strconv.Itoa(int(f.Zone)) },
	"user":  func(f *conntrack.Flow) string { return f.User },
	"dport": func(f *conntrack.Flow) string {
		if !f.Proto().HasPorts() {
			return "" // as of every flow without the field
		}
		return strconv.Itoa(int(f.Orig.DstPort))
	},
}

func (s *Service) count(ctx context.Context, p *wire.CountParams) (any, error) {
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	filter, err := readFilter(p.Filter)
	if err != nil {
		return nil, err
	}
	if p.By == "" && !filter.Uses("rate") {
		n, err := table.Count(ctx, filter)
		return wire.CountResult{Count: n}, err
	}
	flows := table.Flows(ctx, filter)
	if filter.Uses("rate") {
		flows = sampled(ctx, table, filter, nil)
	}
	flows = s.holding(ctx, flows)
	key := groupKeys[p.By]
	var result wire.CountResult
	counts := make(map[string]int)
	for f, err := range flows {
		if err != nil {
			return nil, err
		}
		result.Count++
		if key == nil {
			continue
		}
		counts[key(&f)]++
		if len(counts) > maxGroups {
			return nil, &wire.Error{
				Code: wire.LimitExceeded, Message: "by: more than " + strconv.Itoa(maxGroups) + " groups",
				Hint: "narrow the filter",
			}
		}
	}
	for k, n := range counts {
		result.Groups = append(result.Groups, wire.CountGroup{Key: k, Count: n})
	}
	slices.SortFunc(result.Groups, func(a, b wire.CountGroup) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Key, b.Key))
	})
	return result, nil
}
