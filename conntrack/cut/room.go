package cut

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
)

const (
	// MaxFlows is how many flows may be kept out at a time. Each takes about 400 bytes of the
	// kernel's memory.
	MaxFlows = 1 << 16
	// MaxBlocks is how many pairs of addresses may be kept apart at a time.
	MaxBlocks = 1 << 16
	// MaxZones is how many conntrack zones what is kept out may be of.
	MaxZones = 256

	maxTuples = 2 * MaxFlows
)

// room remembers the tuples that are kept out, by the keys of their elements: so it is known before a
// flow is deleted whether it can be cut, and what a cut would shorten: the kernel takes seconds to list
// a set that is full.
type room struct {
	sets  map[zone]*[numSets]map[string]tuple
	n     int
	swept int // n after what had ended was last forgotten
	epoch int // counts the times that others changed the ruleset
}

// check fails where there is no room for n more, whichever they are.
func (r *room) check(n int, what string) error {
	if r.n+n > maxTuples || r.n > 2*r.swept+maxElements {
		r.sweep()
	}
	if r.n+n > maxTuples {
		return fmt.Errorf("%w: there is no room for so many more %s just now", ErrFull, what)
	}
	return nil
}

// sweep forgets what has ended.
func (r *room) sweep() {
	now := time.Now()
	for _, sets := range r.sets {
		for _, set := range sets {
			for key, t := range set {
				if !t.until.After(now) {
					delete(set, key)
					r.n--
				}
			}
		}
	}
	r.swept = r.n
}

// longer returns those of e that are blocks, new, or last longer than the one that is there, each once;
// and the ones that they take the place of. One that is there and lasts longer stays as it is, its answer
// too: whoever asked for it is to get what was asked for, and a shorter cut with another answer has its
// packets kept out all the same.
func (r *room) longer(e elements, now time.Time) (fresh, old elements) {
	fresh, old = elements{}, elements{}
	for z, sets := range e {
		for i, list := range sets {
			place := setPlace(i)
			if place >= firstTupleSet {
				list = eachOnce(list)
			}
			for i := range list {
				left := r.get(z, place, list[i].Key).until.Sub(now)
				if left > list[i].Timeout {
					continue
				}
				if left > 0 {
					old.put(z, place, nftables.SetElement{Key: list[i].Key})
				}
				fresh.put(z, place, list[i])
			}
		}
	}
	return fresh, old
}

// eachOnce returns the one that lasts longest of those that have the same key: flows that share a
// direction, as those without ports behind one address do.
func eachOnce(list []nftables.SetElement) []nftables.SetElement {
	slices.SortFunc(list, func(a, b nftables.SetElement) int {
		return cmp.Or(bytes.Compare(a.Key, b.Key), cmp.Compare(b.Timeout, a.Timeout))
	})
	return slices.CompactFunc(list, func(a, b nftables.SetElement) bool { return bytes.Equal(a.Key, b.Key) })
}

// tuple is what is remembered of one: until when it is kept out, as of which epoch.
type tuple struct {
	until time.Time
	epoch int
}

func (r *room) get(z zone, place setPlace, key []byte) tuple {
	if sets := r.sets[z]; sets != nil {
		return sets[place][string(key)]
	}
	return tuple{}
}

// take remembers the tuples of e, which were added after now.
func (r *room) take(e elements, now time.Time) {
	for z, sets := range e {
		for place := firstTupleSet; place < numSets; place++ {
			for i := range sets[place] {
				r.put(z, place, sets[place][i].Key, now.Add(sets[place][i].Timeout))
			}
		}
	}
}

// put remembers until when a tuple is kept out; the zero time is for one that isn't.
func (r *room) put(z zone, place setPlace, key []byte, until time.Time) {
	if r.sets == nil {
		r.sets = map[zone]*[numSets]map[string]tuple{}
	}
	if r.sets[z] == nil {
		r.sets[z] = &[numSets]map[string]tuple{}
	}
	set := r.sets[z][place]
	if set == nil {
		set = map[string]tuple{}
		r.sets[z][place] = set
	}
	if _, there := set[string(key)]; !there {
		r.n++
	}
	set[string(key)] = tuple{until, r.epoch}
}

// doubtful returns those of e of which it isn't known whether others have taken them out.
func (r *room) doubtful(e elements) elements {
	doubt := elements{}
	for z, sets := range e {
		for place := firstTupleSet; place < numSets; place++ {
			for i := range sets[place] {
				key := sets[place][i].Key
				if t := r.get(z, place, key); !t.until.IsZero() && t.epoch != r.epoch {
					doubt.put(z, place, nftables.SetElement{Key: key})
				}
			}
		}
	}
	return doubt
}
