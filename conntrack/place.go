package conntrack

import "slices"

// place is what at most one flow can have: a tuple in the zone of its direction.
type place struct {
	tuple Tuple // without zone
	zone  uint16
}

// placeOf returns where a tuple is that a flow of a zone has in one of its directions.
func placeOf(t Tuple, zone uint16) place {
	if t.Zone != 0 {
		zone = t.Zone // the direction's own
	}
	t.Zone = 0
	return place{t, zone}
}

// places returns what no other flow can have beside f.
func (f *Flow) places() [2]place {
	return [2]place{placeOf(f.Orig, f.Zone), placeOf(f.Reply, f.Zone)}
}

// MasterKey is where the kernel looks for a flow's master: in the flow's zone.
func (f *Flow) MasterKey() Key {
	k := Key{Orig: f.Master, Zone: f.Zone}
	k.Orig.Zone = f.Orig.Zone
	return k
}

// place returns where the flow that is named has to be.
func (k *Key) place() place { return placeOf(*k.tuple(), k.Zone) }

// mastersFirst returns the indexes of flows in such an order that a master comes before the flows
// that are related to it.
func mastersFirst(flows []Flow) []int {
	var at map[place]int
	for i := range flows {
		if !flows[i].Master.IsZero() {
			at = make(map[place]int, len(flows))
			break
		}
	}
	order := make([]int, len(flows))
	for i := range flows {
		order[i] = i
		if at != nil {
			at[placeOf(flows[i].Orig, flows[i].Zone)] = i
		}
	}
	if at == nil {
		return order
	}
	depths := make([]int, len(flows))
	for i := range flows {
		for f := &flows[i]; !f.Master.IsZero() && depths[i] < maxMasters; depths[i]++ {
			key := f.MasterKey()
			master, ok := at[key.place()]
			if !ok {
				break
			}
			f = &flows[master]
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return depths[a] - depths[b] })
	return order
}

// maxMasters bounds how far up the masters of masters are looked at. H.323 has two; a chain that
// bites its own tail has no end.
const maxMasters = 16
