package ctdclienttest

import (
	"fmt"

	"ctd/rpc/wire"
)

// export gives the flows that match without what can't be written.
func (s *Server) export(p map[string]any) (any, *wire.Error) {
	hits, err := s.match(p["filter"])
	if err != nil {
		return nil, err
	}
	r := wire.ExportResult{Flows: []wire.Flow{}, Matched: len(hits), Time: Time()}
	for _, i := range hits {
		f := s.flows[i]
		if f.Timeout == nil {
			r.Failed = append(r.Failed, wire.Failure{Flow: f, Code: wire.Unsupported, Message: "it is in a flow table", Hint: "take it off"})
			continue
		}
		orig, reply := *f.Orig, *f.Reply
		orig.Packets, orig.Bytes, reply.Packets, reply.Bytes = nil, nil, nil, nil
		f.ID, f.Use, f.NAT, f.Status, f.Orig, f.Reply = 0, nil, "", nil, &orig, &reply
		r.Flows = append(r.Flows, f)
	}
	r.Exported = len(r.Flows)
	return r, nil
}

// importFlows compares flows by protocol and the original direction alone. One whose source is
// 203.0.113.13 is refused.
func (s *Server) importFlows(p map[string]any) (any, *wire.Error) {
	var params wire.ImportParams
	if err := wire.Decode(p, &params, true); err != nil {
		return nil, err.(*wire.Error)
	}
	places := map[string]int{}
	for i := range s.flows {
		places[name(&s.flows[i])] = i
	}
	at := func(f *wire.Flow) int {
		if i, ok := places[name(f)]; ok {
			return i
		}
		return -1
	}
	for i := range params.Flows {
		f := &params.Flows[i]
		if f.Timeout == nil {
			return nil, &wire.Error{Code: wire.InvalidParams, Message: fmt.Sprintf("flows[%d].timeout is missing", i)}
		}
		if params.OnConflict == "fail" && at(f) >= 0 {
			return nil, &wire.Error{Code: wire.AlreadyExists, Message: "the tuples of 1 flow are taken; nothing was created"}
		}
	}
	var r wire.ImportResult
	for _, f := range params.Flows {
		i := at(&f)
		if f.Mark == nil {
			f.Mark = new(uint32)
		}
		switch {
		case f.Orig.Src == "203.0.113.13":
			r.Failed = append(r.Failed, wire.Failure{Flow: f, Code: wire.LimitExceeded, Message: "the namespace has no rule with labels", Hint: "add one"})
		case i < 0:
			r.Created++
			if f.Master != nil {
				r.Orphans++
			}
			if !params.DryRun {
				places[name(&f)] = len(s.flows)
				s.flows = append(s.flows, f)
			}
		case params.OnConflict == "replace" && *s.flows[i].Mark != *f.Mark:
			r.Replaced++
			if !params.DryRun {
				s.flows[i] = f
			}
		default:
			r.Skipped++
		}
	}
	r.Changed = !params.DryRun && r.Created+r.Replaced > 0
	return r, nil
}

func name(f *wire.Flow) string {
	port := func(p *uint16) uint16 {
		if p == nil {
			return 0
		}
		return *p
	}
	return fmt.Sprint(f.Protocol, f.Zone, f.Orig.Src, f.Orig.Dst, port(f.Orig.SPort), port(f.Orig.DPort))
}
