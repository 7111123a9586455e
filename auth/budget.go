package auth

import (
	"cmp"
	"container/list"
	"math"
	"sync"
	"time"
)

// maxBudgets bounds of how many names it is kept what they did. Names come from issuers and proxies too.
const maxBudgets = 4096

// Budget bounds how much a principal does in a minute. All that a name does counts, whatever it shows. How
// much that may be is looked up at each use, as sessions outlive a reload. A nil Budget bounds nothing.
type Budget struct {
	of           *budgets
	name         string
	calls, kills int // a minute; 0 is the default
}

func (b *Budget) takeCall() (wait time.Duration) {
	if b == nil {
		return 0
	}
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	most := cmp.Or(b.calls, b.of.defaults.Calls)
	_, _, wait = b.of.tallies(b.name, most > 0).calls.take(b.of.since(), most, 1)
	return wait
}

func (b *Budget) takeKills(n int) (ok bool, room int, wait time.Duration) {
	if b == nil {
		return true, 0, 0
	}
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	most := cmp.Or(b.kills, b.of.defaults.Kills)
	return b.of.tallies(b.name, most > 0).kills.take(b.of.since(), most, n)
}

// giveBackKills gives back n that were taken and not used. What is more than was done in the last minute is lost.
func (b *Budget) giveBackKills(n int) {
	if b == nil || n <= 0 {
		return
	}
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.of.tallies(b.name, false).kills.giveBack(b.of.since(), n)
}

// budgets are what the names did in the last minute. They outlive a reload, so that none begins anew by
// it. Of more than maxBudgets those go that did something the longest ago.
type budgets struct {
	now   func() time.Time
	began time.Time // what times are counted from: a clock that is set changes nothing

	mu       sync.Mutex
	defaults Defaults // those of the authenticator in force
	byName   map[string]*list.Element
	recent   list.List // of *tallies, latest first
}

// tallies are what a name did.
type tallies struct {
	name         string
	calls, kills tally
}

func newBudgets(now func() time.Time) *budgets {
	return &budgets{now: now, began: now(), byName: map[string]*list.Element{}}
}

func (b *budgets) since() time.Duration { return b.now().Sub(b.began) }

func (b *budgets) setDefaults(d Defaults) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.defaults = d
}

// tallies returns those of a name. Where there are none, they are kept from now on if it is bounded. mu is
// held.
func (b *budgets) tallies(name string, bounded bool) *tallies {
	if e, ok := b.byName[name]; ok {
		b.recent.MoveToFront(e)
		return e.Value.(*tallies)
	}
	if !bounded {
		return &tallies{}
	}
	if b.recent.Len() >= maxBudgets {
		delete(b.byName, b.recent.Remove(b.recent.Back()).(*tallies).name)
	}
	t := &tallies{name: name}
	b.byName[name] = b.recent.PushFront(t)
	return t
}

// tallied is over how many seconds a tally counts.
const tallied = 60

// tally is how much a name did of one kind in each of the last seconds. A bound holds for any minute, to the
// second, and all numbers are held against the same: a token may have another than the user of its name.
type tally struct {
	last int64 // the latest second
	by   [tallied]int32
}

// done returns how much was done in the last minute; now is since the budgets began.
func (t *tally) done(now time.Duration) (n int) {
	second := max(t.last, int64(now/time.Second)) // a clock that goes back takes nothing away
	for i := max(t.last, second-tallied) + 1; i <= second; i++ {
		t.by[i%tallied] = 0
	}
	t.last = second
	for _, d := range t.by {
		n += int(d)
	}
	return n
}

// take takes n if the number most has room for them, 0 being no bound. Else it returns how long until there is,
// which is 0 where n are more than a minute's.
func (t *tally) take(now time.Duration, most, n int) (ok bool, room int, wait time.Duration) {
	done := t.done(now)
	n, room = max(0, n), max(0, most-done)
	if most == 0 || n <= room {
		t.by[t.last%tallied] += int32(min(n, math.MaxInt32-done)) // the sum fits an int32 too
		return true, 0, 0
	}
	if n > most {
		return false, room, 0
	}
	second := t.last
	for left := done; left > most-n; { // the oldest goes first
		second++
		left -= int(t.by[second%tallied])
	}
	return false, room, time.Duration(second)*time.Second - now
}

// giveBack gives n back. It takes them off the oldest, which are forgotten the soonest: whichever of the last
// minute's they were, what was really done is counted for as long as it has to be.
func (t *tally) giveBack(now time.Duration, n int) {
	t.done(now)
	for second := t.last + 1; second <= t.last+tallied && n > 0; second++ {
		d := &t.by[second%tallied]
		back := min(n, int(*d))
		*d, n = *d-int32(back), n-back
	}
}
