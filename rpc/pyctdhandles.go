package rpc

import (
	"hash/maphash"
	"math/bits"
	"sort"
)

// handlesPiece is how many handles are allocated at a time, so that growing never needs room for all of
// them twice. The first of them begin with less.
const handlesPiece, handlesFirst = 1024, 16

// handle is the id of a flow in a session, and the number of the last view that showed it.
type handle struct {
	flow     flowKey
	id, view uint32
}

// handles are those of a session, some 70 bytes each, where two maps would take 300: sessions may hold
// hundreds of thousands. The zero value is ready.
type handles struct {
	pieces [][]handle // by id, which only grows; each but the last is full
	// index has where each is, counted from 1, in the slot that its flow's hash names or the next free one; 0 is
	// free. Its length is a power of two, and a quarter of it at least is free.
	index []uint32
	seed  maphash.Seed
}

// count returns how many there are.
func (h *handles) count() int {
	if len(h.pieces) == 0 {
		return 0
	}
	return (len(h.pieces)-1)*handlesPiece + len(h.pieces[len(h.pieces)-1])
}

func (h *handles) at(i int) *handle { return &h.pieces[i/handlesPiece][i%handlesPiece] }

// of returns the handle of a flow, which is good until one is added or dropped; nil where it has none.
func (h *handles) of(flow *flowKey) *handle {
	if len(h.index) == 0 {
		return nil
	}
	if i := h.index[h.slot(flow)]; i > 0 {
		return h.at(int(i) - 1)
	}
	return nil
}

// slot returns the slot that has a flow, or a free one for it.
func (h *handles) slot(flow *flowKey) uint64 {
	mask := uint64(len(h.index) - 1)
	for slot := maphash.Comparable(h.seed, *flow) & mask; ; slot = (slot + 1) & mask {
		if i := h.index[slot]; i == 0 || h.at(int(i)-1).flow == *flow {
			return slot
		}
	}
}

// indexed makes the index anew, with room for n.
func (h *handles) indexed(n int) {
	if len(h.index) == 0 {
		h.seed = maphash.MakeSeed()
	}
	h.index = make([]uint32, 1<<bits.Len(uint(n+n/3+1)))
	for i := range h.count() {
		h.index[h.slot(&h.at(i).flow)] = uint32(i + 1)
	}
}

// add adds the handle of a flow that has none. Its id is greater than all before.
func (h *handles) add(n handle) {
	last := len(h.pieces) - 1
	if last < 0 || len(h.pieces[last]) == handlesPiece {
		room := handlesPiece
		if last < 0 {
			room = handlesFirst // many sessions see few flows
		}
		h.pieces = append(h.pieces, make([]handle, 0, room))
		last++
	}
	h.pieces[last] = append(h.pieces[last], n)
	if count := h.count(); count > len(h.index)/4*3 {
		h.indexed(count)
	} else {
		h.index[h.slot(&n.flow)] = uint32(count)
	}
}

// flow returns which flow has an id.
func (h *handles) flow(id uint32) (flow flowKey, ok bool) {
	i := sort.Search(h.count(), func(i int) bool { return h.at(i).id >= id })
	if i == h.count() || h.at(i).id != id {
		return flowKey{}, false
	}
	return h.at(i).flow, true
}

// drop drops the handles that ended tells.
func (h *handles) drop(ended func(*handle) bool) {
	left, count := 0, h.count()
	for i := range count {
		if n := h.at(i); !ended(n) {
			*h.at(left) = *n
			left++
		}
	}
	if left == count {
		return
	}
	full, rest := left/handlesPiece, left%handlesPiece
	if rest > 0 {
		h.pieces[full] = h.pieces[full][:rest]
		full++
	}
	clear(h.pieces[full:])
	h.pieces = h.pieces[:full]
	h.indexed(left)
}
