package cut

import (
	"maps"
	"slices"

	"ctd/conntrack"
)

// Plan is what is going to be cut, as far as Prepare has to know of it. The zero value is nothing.
type Plan struct {
	flows int
	zones map[zone]bool
	pairs map[place]bool
}

// PlanOf returns the plan to cut flows.
func PlanOf(flows []conntrack.Flow) *Plan {
	p := &Plan{}
	for i := range flows {
		p.Add(flows[i])
	}
	return p
}

// Add adds a flow; to a nil plan nothing. Beyond MaxFlows, which can't be cut anyway, it only counts.
func (p *Plan) Add(f conntrack.Flow) {
	if p == nil {
		return
	}
	if p.flows++; p.flows > MaxFlows {
		return
	}
	if p.zones == nil {
		p.zones, p.pairs = map[zone]bool{}, map[place]bool{}
	}
	orig := zoneOf(&f, &f.Orig)
	p.zones[orig], p.zones[zoneOf(&f, &f.Reply)] = true, true
	p.pairs[place{Pair{f.Orig.Src, f.Orig.Dst}, orig}] = true
}

func (p *Plan) zoneList() []zone { return slices.Collect(maps.Keys(p.zones)) }
