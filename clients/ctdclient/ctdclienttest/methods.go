package ctdclienttest

import (
	"fmt"
	"slices"
	"strings"

	"ctd/rpc/wire"
)

// method answers one call; s.mu is held.
func (s *Server) method(call Call) (any, *wire.Error) {
	p := call.Params
	switch call.Method {
	case "conntrack.list":
		return s.list(p)
	case "conntrack.get":
		return s.get(p["flow"])
	case "conntrack.count":
		return s.count(p)
	case "conntrack.kill":
		return s.kill(p)
	case "conntrack.blocks":
		return wire.BlocksResult{Blocks: blocks()}, nil
	case "conntrack.unblock":
		r := wire.UnblockResult{Matched: 1, Unblocked: 1, Changed: true, Blocks: blocks()}
		if p["dry_run"] == true {
			r.Unblocked, r.Changed = 0, false
		}
		return r, nil
	case "conntrack.reconcile":
		return s.reconcile(p)
	case "conntrack.modify":
		return s.modify(p)
	case "conntrack.create":
		return s.create(p)
	case "conntrack.export":
		return s.export(p)
	case "conntrack.import":
		return s.importFlows(p)
	case "conntrack.flush":
		n := len(s.flows)
		if p["dry_run"] != true {
			s.flows = nil
		}
		return wire.FlushResult{Killed: n}, nil
	case "conntrack.stats":
		r := wire.StatsResult{
			Entries: uint32(len(s.flows)), Max: 262144, Buckets: 65536, ExpectMax: 1024,
			Total: wire.CPUStats{Found: 5_000_000_000, Drop: 2},
		}
		if p["per_cpu"] == true {
			r.PerCPU = []wire.CPUStats{{CPU: new(uint16(0)), Found: 5_000_000_000, Drop: 2}, {CPU: new(uint16(1))}}
		}
		return r, nil
	case "helper.status", "helper.sessions", "helper.rules":
		return s.helperMethod(call)
	case "server.info":
		return wire.InfoResult{
			Version: "1.2.3", Kernel: "6.18.0", Hostname: "router", Started: Time(),
			Capabilities: map[string]bool{"accounting": false, "events": true},
		}, nil
	case "server.doctor":
		return s.doctor, nil
	case "server.audit":
		return s.audit(p)
	case "server.whoami":
		return wire.WhoamiResult{Name: "root", Role: wire.RoleAdmin, Via: "unix"}, nil
	}
	return s.expectMethod(call)
}

func (s *Server) get(flow any) (any, *wire.Error) {
	sel := wire.Selector{}
	if m, ok := flow.(map[string]any); ok {
		if err := wire.Decode(m, &sel, true); err != nil {
			return nil, err.(*wire.Error)
		}
	} else if err := wire.Decode(flow, &sel.ID, true); err != nil {
		return nil, err.(*wire.Error)
	}
	for i := range s.flows {
		f := &s.flows[i]
		byTuple := sel.Orig != nil && sel.Orig.Src == f.Orig.Src && sel.Orig.Dst == f.Orig.Dst && sel.Protocol == f.Protocol
		if sel.ID == f.ID || byTuple {
			return f, nil
		}
	}
	return nil, &wire.Error{Code: wire.NotFound, Message: "no such flow", Hint: "it may have ended", Errno: "ENOENT"}
}

func (s *Server) count(p map[string]any) (any, *wire.Error) {
	hits, err := s.match(p["filter"])
	if err != nil {
		return nil, err
	}
	r := wire.CountResult{Count: len(hits)}
	if by, ok := p["by"].(string); ok {
		for _, i := range hits {
			key := fields(&s.flows[i])[by]
			at := slices.IndexFunc(r.Groups, func(g wire.CountGroup) bool { return g.Key == key })
			if at < 0 {
				r.Groups = append(r.Groups, wire.CountGroup{Key: key})
				at = len(r.Groups) - 1
			}
			r.Groups[at].Count++
		}
	}
	return r, nil
}

func (s *Server) kill(p map[string]any) (any, *wire.Error) {
	hits, err := s.choose(p, "flows")
	if err != nil {
		return nil, err
	}
	r := wire.KillResult{Matched: len(hits), Flows: []wire.Flow{}}
	var rest []wire.Flow
	for i, f := range s.flows {
		if slices.Contains(hits, i) {
			r.Flows = append(r.Flows, f)
		} else {
			rest = append(rest, f)
		}
	}
	if p["reason"] == "refuse" {
		r.Failed = []wire.Failure{{Flow: r.Flows[0], Code: wire.PermissionDenied, Message: "the kernel refuses", Hint: "be root"}}
		r.Flows = r.Flows[1:]
		return r, nil
	}
	if p["dry_run"] != true {
		s.flows = rest
		r.Killed, r.Changed = len(hits), len(hits) > 0
		if p["cut"] != nil || p["block"] != nil {
			r.Cut = &wire.CutResult{Seconds: 30, Blocks: 1, Sockets: 1, Probed: 2}
		}
	}
	return r, nil
}

func blocks() []wire.Block {
	return []wire.Block{{Family: "ipv4", Src: "10.3.0.7", Dst: "192.0.2.1", Left: 599, Comment: "root: ticket 4711"}}
}

// reconcile makes one pass. With the reason "restless" it does not settle.
func (s *Server) reconcile(p map[string]any) (any, *wire.Error) {
	all := map[string]any{"filter": p["filter"], "all": p["all"] == true || p["keep"] != nil, "max": p["max"]}
	hits, err := s.choose(all, "flows")
	if err != nil {
		return nil, err
	}
	if keep, ok := p["keep"].(string); ok {
		for alternative := range strings.SplitSeq(keep, " or ") {
			keeps, err := s.match(alternative)
			if err != nil {
				return nil, err
			}
			hits = slices.DeleteFunc(hits, func(i int) bool { return slices.Contains(keeps, i) })
		}
	}
	r := wire.ReconcileResult{Matched: len(hits), Flows: []wire.Flow{}, Passes: 3, Settled: p["reason"] != "restless"}
	var rest []wire.Flow
	for i, f := range s.flows {
		if slices.Contains(hits, i) {
			r.Flows = append(r.Flows, f)
		} else {
			rest = append(rest, f)
		}
	}
	if p["dry_run"] == true {
		r.Passes, r.Settled = 1, len(hits) == 0
		return r, nil
	}
	s.flows = rest
	r.Killed, r.Changed = len(hits), len(hits) > 0
	if watch := atoi(p["watch"]); watch > 0 {
		r.Watched, r.Lost = float64(watch), 2
	}
	return r, nil
}

func (s *Server) modify(p map[string]any) (any, *wire.Error) {
	var set wire.Set
	if err := wire.Decode(p["set"], &set, true); err != nil {
		return nil, err.(*wire.Error)
	}
	hits, err := s.choose(p, "flows")
	if err != nil {
		return nil, err
	}
	r := wire.ModifyResult{Matched: len(hits), Flows: []wire.Flow{}}
	for _, i := range hits {
		if p["dry_run"] != true {
			if set.Timeout != nil {
				s.flows[i].Timeout = set.Timeout
			}
			var mark uint32
			if set.Mark != nil && wire.Decode(set.Mark, &mark, true) == nil {
				s.flows[i].Mark = &mark
			}
			r.Modified, r.Changed = r.Modified+1, true
		}
		r.Flows = append(r.Flows, s.flows[i])
	}
	return r, nil
}

func (s *Server) create(p map[string]any) (any, *wire.Error) {
	var params wire.CreateParams
	if err := wire.Decode(p, &params, true); err != nil {
		return nil, err.(*wire.Error)
	}
	f := params.Flow
	for _, old := range s.flows {
		if old.Orig.Src == f.Orig.Src && old.Orig.Dst == f.Orig.Dst && !params.DryRun && old.Protocol == f.Protocol {
			return nil, &wire.Error{Code: wire.AlreadyExists, Message: "there is such a flow", Errno: "EEXIST"}
		}
	}
	if f.Reply == nil {
		f.Reply = &wire.Tuple{Src: f.Orig.Dst, Dst: f.Orig.Src, SPort: f.Orig.DPort, DPort: f.Orig.SPort}
	}
	f.ID = 5
	if f.Mark == nil {
		f.Mark = new(uint32(0))
	}
	if !params.DryRun {
		s.flows = append(s.flows, f)
	}
	return f, nil
}

func (s *Server) expectMethod(call Call) (any, *wire.Error) {
	p := call.Params
	switch call.Method {
	case "expect.list":
		r := wire.ExpectListResult{Expects: []wire.Expect{}}
		for _, e := range s.expects {
			ok, err := matches(p["filter"], map[string]string{"helper": e.Helper, "id": fmt.Sprint(e.ID)})
			if err != nil {
				return nil, err
			}
			if ok {
				r.Expects = append(r.Expects, e)
			}
		}
		r.Matched = len(r.Expects)
		return r, nil
	case "expect.get":
		for _, e := range s.expects {
			if fmt.Sprint(p["expect"]) == fmt.Sprint(e.ID) {
				return e, nil
			}
		}
		return nil, &wire.Error{Code: wire.NotFound, Message: "no such expectation"}
	case "expect.create":
		var params wire.ExpectCreateParams
		if err := wire.Decode(p, &params, true); err != nil {
			return nil, err.(*wire.Error)
		}
		e := wire.Expect{
			ID: 78, Family: "ipv4", Protocol: params.Tuple.Protocol, ProtoNum: 17, Tuple: &params.Tuple, Mask: params.Mask,
			Timeout: &params.Timeout, Helper: params.Helper, Function: params.Function, Class: params.Class, NAT: params.NAT,
		}
		return e, nil
	case "expect.kill":
		r := wire.ExpectKillResult{Matched: len(s.expects), Expects: s.expects}
		if p["dry_run"] != true {
			r.Killed, r.Changed = r.Matched, true
			s.expects = []wire.Expect{}
		}
		return r, nil
	case "expect.flush":
		return wire.FlushResult{Killed: len(s.expects)}, nil
	}
	return nil, &wire.Error{Code: wire.MethodNotFound, Message: "no method " + call.Method}
}
