package auth

import (
	"cmp"
	"container/list"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
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
	_, _, wait = b.of.tallies(b.name, most > 0).calls.take(b.of.now(), most, 1)
	return wait
}

func (b *Budget) takeKills(n int) (ok bool, room int, wait time.Duration) {
	if b == nil {
		return true, 0, 0
	}
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	most := cmp.Or(b.kills, b.of.defaults.Kills)
	return b.of.tallies(b.name, most > 0).kills.take(b.of.now(), most, n)
}

// giveBackKills gives back n that were taken and not used. What is more than a minute's is lost.
func (b *Budget) giveBackKills(n int) {
	if b == nil || n <= 0 {
		return
	}
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.of.tallies(b.name, false).kills.giveBack(b.of.now(), cmp.Or(b.kills, b.of.defaults.Kills), n)
}

// budgets are what the names did in the last minute. They outlive a reload, so that none begins anew by
// it. Of more than maxBudgets those go that did something the longest ago.
type budgets struct {
	now func() time.Time

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
	return &budgets{now: now, byName: map[string]*list.Element{}}
}

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
	t := &tallies{name: name, calls: tally{}, kills: tally{}}
	b.byName[name] = b.recent.PushFront(t)
	return t
}

// tally is what a name did of one kind, held against each number a minute that bounds it: a token may
// have another than the user of the same name.
type tally map[int]*limiter

type limiter struct {
	*rate.Limiter
	asked time.Time // when its number was last asked for room
}

// take takes n if the number most has room for them, 0 being no bound. They count for all numbers.
func (t tally) take(now time.Time, most, n int) (ok bool, room int, wait time.Duration) {
	if most > 0 {
		l := t.limiter(now, most)
		if !l.AllowN(now, n) {
			room = max(0, int(l.TokensAt(now)))
			if n <= most {
				wait = untilRoom(l.Limiter, now, n)
			}
			return false, room, wait
		}
	}
	for other, l := range t {
		if other != most {
			l.AllowN(now, min(n, max(0, int(l.TokensAt(now)))))
		}
	}
	return true, 0, 0
}

// giveBack gives n back to the number that they were taken by. Of the others it isn't known how many they had
// room for.
func (t tally) giveBack(now time.Time, most, n int) {
	if l, ok := t[most]; ok {
		l.AllowN(now, -n)
	}
}

// limiter returns that of a number. A new one begins with what was done already, and takes the place of
// those that nobody has asked for a minute, as after a reload.
func (t tally) limiter(now time.Time, most int) *limiter {
	l, ok := t[most]
	if !ok {
		done := 0.0
		for other, l := range t {
			done = max(done, float64(other)-l.TokensAt(now))
			if now.Sub(l.asked) > time.Minute {
				delete(t, other)
			}
		}
		l = &limiter{Limiter: rate.NewLimiter(rate.Limit(float64(most)/time.Minute.Seconds()), most)}
		l.AllowN(now, min(most, int(math.Round(done))))
		t[most] = l
	}
	l.asked = now
	return l
}

// untilRoom returns how long until there is room for n, at least a moment.
func untilRoom(l *rate.Limiter, now time.Time, n int) time.Duration {
	short := float64(n) - l.TokensAt(now)
	return max(time.Millisecond, time.Duration(short/float64(l.Limit())*float64(time.Second)))
}
