package auth

import "container/list"

// ranks is how many ranks a rankedTable has.
const ranks = 16

// rankedTable is a table of bounded size. Where it is full, what has the lowest rank makes room, and of
// those what was set the longest ago: so whoever fills it with what weighs little drives out nothing that
// weighs much.
type rankedTable[K comparable, V any] struct {
	max   int
	byKey map[K]*list.Element // of *rankedEntry[K, V]
	ranks [ranks]list.List    // latest first
}

type rankedEntry[K comparable, V any] struct {
	key   K
	value V
	rank  int
}

func newRankedTable[K comparable, V any](maximum int) *rankedTable[K, V] {
	return &rankedTable[K, V]{max: maximum, byKey: map[K]*list.Element{}}
}

// get returns what is at a key, which may be changed there; nil where there is nothing.
func (t *rankedTable[K, V]) get(key K) *V {
	if e, ok := t.byKey[key]; ok {
		return &e.Value.(*rankedEntry[K, V]).value
	}
	return nil
}

// set puts a value at a key, with a rank; one beyond the highest is the highest.
func (t *rankedTable[K, V]) set(key K, value V, rank int) {
	rank = min(max(rank, 0), ranks-1)
	t.remove(key)
	if len(t.byKey) >= t.max {
		t.makeRoom()
	}
	t.byKey[key] = t.ranks[rank].PushFront(&rankedEntry[K, V]{key, value, rank})
}

func (t *rankedTable[K, V]) makeRoom() {
	for i := range t.ranks {
		if e := t.ranks[i].Back(); e != nil {
			t.remove(e.Value.(*rankedEntry[K, V]).key)
			return
		}
	}
}

func (t *rankedTable[K, V]) remove(key K) {
	if e, ok := t.byKey[key]; ok {
		t.ranks[e.Value.(*rankedEntry[K, V]).rank].Remove(e)
		delete(t.byKey, key)
	}
}

// sweep removes what is over.
func (t *rankedTable[K, V]) sweep(over func(*V) bool) {
	for key, e := range t.byKey {
		if over(&e.Value.(*rankedEntry[K, V]).value) {
			t.remove(key)
		}
	}
}
