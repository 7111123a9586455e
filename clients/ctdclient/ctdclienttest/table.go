package ctdclienttest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"ctd/rpc/wire"
)

// Time is when every list was made.
func Time() time.Time { return time.Date(2026, 11, 22, 4, 20, 0, 0, time.UTC) }

// Flows returns the flows of a new server: one of each kind that clients print differently.
func Flows() []wire.Flow {
	return []wire.Flow{
		{
			ID: 1234567890, Family: "ipv4", Protocol: "tcp", ProtoNum: 6,
			Orig:  &wire.Tuple{Src: "192.168.1.2", Dst: "19.2.3.216", SPort: new(uint16(59480)), DPort: new(uint16(22)), Packets: new(uint64(14)), Bytes: new(uint64(1576))},
			Reply: &wire.Tuple{Src: "19.2.3.216", Dst: "192.168.1.2", SPort: new(uint16(22)), DPort: new(uint16(59480)), Packets: new(uint64(25)), Bytes: new(uint64(1924))},
			State: "ESTABLISHED", Timeout: new(uint32(431999)), Status: []string{"seen_reply", "assured", "confirmed"},
			Mark: new(uint32(0)), Use: new(uint32(1)),
		},
		{
			ID: 4000000001, Family: "ipv4", Protocol: "udp", ProtoNum: 17,
			Orig:    &wire.Tuple{Src: "10.0.0.1", Dst: "10.0.0.2", SPort: new(uint16(5353)), DPort: new(uint16(53)), Packets: new(uint64(1)), Bytes: new(uint64(60))},
			Reply:   &wire.Tuple{Src: "10.0.0.2", Dst: "198.51.100.1", SPort: new(uint16(53)), DPort: new(uint16(4000)), Packets: new(uint64(0)), Bytes: new(uint64(5_000_000_000))},
			Timeout: new(uint32(29)), Status: []string{"confirmed", "src_nat"}, NAT: "snat",
			Mark: new(uint32(0xfffffff0)), Use: new(uint32(1)), Zone: 7, Labels: []int{3, 127},
		},
		{
			ID: 77, Family: "ipv6", Protocol: "icmpv6", ProtoNum: 58,
			Orig:    &wire.Tuple{Src: "fd00::1", Dst: "fd00::2", Type: new(uint8(128)), Code: new(uint8(0)), ID: new(uint16(9))},
			Reply:   &wire.Tuple{Src: "fd00::2", Dst: "fd00::1", Type: new(uint8(129)), Code: new(uint8(0)), ID: new(uint16(9))},
			Timeout: new(uint32(30)), Status: []string{"confirmed"}, Mark: new(uint32(16)), Use: new(uint32(2)),
		},
	}
}

// Expects returns the expectations of a new server.
func Expects() []wire.Expect {
	return []wire.Expect{{
		ID: 77, Family: "ipv4", Protocol: "tcp", ProtoNum: 6,
		Tuple:   &wire.Tuple{Src: "192.168.1.2", Dst: "19.2.3.216", SPort: new(uint16(0)), DPort: new(uint16(34567))},
		Mask:    &wire.Tuple{Src: "255.255.255.255", Dst: "255.255.255.255", SPort: new(uint16(0)), DPort: new(uint16(65535))},
		Master:  &wire.Tuple{Protocol: "tcp", Src: "192.168.1.2", Dst: "19.2.3.216", SPort: new(uint16(59480)), DPort: new(uint16(21))},
		Timeout: new(uint32(299)), Helper: "ftp",
	}}
}

// Many returns n flows.
func Many(n int) []wire.Flow {
	flows := make([]wire.Flow, n)
	for i := range flows {
		flows[i] = Flows()[0]
		flows[i].ID = uint32(i + 1)
		flows[i].Orig.SPort, flows[i].Reply.DPort = new(uint16(i)), new(uint16(i))
	}
	return flows
}

// Offloaded returns two flows, of which the first is in a flow table and has no timeout.
func Offloaded() []wire.Flow {
	flows := Flows()[:2]
	flows[0].Timeout = nil
	return flows
}

// fields are the fields of a filter that the server knows.
func fields(f *wire.Flow) map[string]string {
	port := func(p *uint16) string {
		if p == nil {
			return ""
		}
		return fmt.Sprint(*p)
	}
	// A flow that was imported may have neither.
	replySrc, mark := "", "0"
	if f.Reply != nil {
		replySrc = f.Reply.Src
	}
	if f.Mark != nil {
		mark = fmt.Sprint(*f.Mark)
	}
	return map[string]string{
		"proto": f.Protocol, "family": f.Family, "state": f.State, "src": f.Orig.Src, "dst": f.Orig.Dst,
		"sport": port(f.Orig.SPort), "dport": port(f.Orig.DPort), "id": fmt.Sprint(f.ID), "addr": f.Orig.Src,
		"reply_src": replySrc, "zone": fmt.Sprint(f.Zone), "helper": f.Helper, "bytes": "", "mark": mark,
	}
}

// matches knows key=value[,value...], with ! for not; networks, ranges and comparisons match
// everything.
func matches(filter any, known map[string]string) (bool, *wire.Error) {
	text, _ := filter.(string)
	for word := range strings.FieldsSeq(text) {
		key, list, ok := strings.Cut(word, "=")
		have, there := known[key]
		if !ok || !there {
			e := &wire.Error{Code: wire.InvalidParams, Message: fmt.Sprintf("filter: unknown field %q", key)}
			names := []string{}
			for name := range known {
				names = append(names, name)
			}
			if near := wire.Nearest(key, names); near != "" {
				e.Message += fmt.Sprintf(": did you mean %q?", near)
			}
			return false, e
		}
		if strings.ContainsAny(list, "/<>") {
			continue
		}
		hit := strings.HasPrefix(list, "!")
		for value := range strings.SplitSeq(list, ",") {
			not, negated := strings.CutPrefix(value, "!")
			if negated {
				hit = hit && have != not
			} else {
				hit = hit || have == value
			}
		}
		if !hit {
			return false, nil
		}
	}
	return true, nil
}

func (s *Server) match(filter any) ([]int, *wire.Error) {
	hits := []int{}
	for i := range s.flows {
		ok, err := matches(filter, fields(&s.flows[i]))
		if err != nil {
			return nil, err
		}
		if ok {
			hits = append(hits, i)
		}
	}
	return hits, nil
}

// choose is match for methods that change something: an empty filter needs all, ids may stand in
// its place, and more than max is refused.
func (s *Server) choose(p map[string]any, member string) ([]int, *wire.Error) {
	if ids, ok := p[member].([]any); ok {
		hits := []int{}
		for i := range s.flows {
			if slices.ContainsFunc(ids, func(id any) bool { return fmt.Sprint(id) == fmt.Sprint(s.flows[i].ID) }) {
				hits = append(hits, i)
			}
		}
		return hits, nil
	}
	if p["filter"] == nil && p["all"] != true {
		return nil, &wire.Error{Code: wire.InvalidParams, Message: "an empty filter needs all", Hint: "set all to true"}
	}
	hits, err := s.match(p["filter"])
	if before, ok := p["created_before"].(string); ok {
		t, _ := time.Parse(time.RFC3339Nano, before)
		hits = slices.DeleteFunc(hits, func(i int) bool { return s.flows[i].Start.IsZero() || !s.flows[i].Start.Before(t) })
	}
	if n := p["expect_count"]; err == nil && n != nil && fmt.Sprint(n) != fmt.Sprint(len(hits)) {
		return nil, &wire.Error{Code: wire.Conflict, Message: fmt.Sprintf("%d flows match, not %v as expected", len(hits), n), Hint: "list again"}
	}
	if m := p["max"]; err == nil && m != nil && fmt.Sprint(m) < fmt.Sprint(len(hits)) {
		return nil, &wire.Error{Code: wire.LimitExceeded, Message: fmt.Sprintf("%d flows match, more than max %v", len(hits), m), Hint: "nothing was done; raise max"}
	}
	return hits, err
}

func (s *Server) list(p map[string]any) (any, *wire.Error) {
	hits, err := s.match(p["filter"])
	if err != nil {
		return nil, err
	}
	flows := []wire.Flow{}
	for _, i := range hits {
		flows = append(flows, s.flows[i])
	}
	if p["sort"] == "-bytes" {
		total := func(f wire.Flow) uint64 {
			if f.Orig.Bytes == nil {
				return 0
			}
			return *f.Orig.Bytes + *f.Reply.Bytes
		}
		slices.SortStableFunc(flows, func(a, b wire.Flow) int { return cmp.Compare(total(b), total(a)) })
	}
	if limit := atoi(p["limit"]); limit > 0 {
		flows = flows[:min(limit, len(flows))]
	}
	return wire.ListResult{Flows: flows, Matched: len(hits), Scanned: len(s.flows), Time: Time()}, nil
}

func atoi(v any) int {
	n := 0
	_, _ = fmt.Sscan(fmt.Sprint(v), &n)
	return n
}
