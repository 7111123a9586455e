package auth

import (
	"time"

	"golang.org/x/time/rate"
)

// Budget bounds how much a principal does in a minute. All sessions and credentials of one name share
// one. A nil Budget bounds nothing.
type Budget struct {
	calls, kills *rate.Limiter // nil is no bound
}

// NewBudget returns a budget of so many calls, and so many flows killed or changed, a minute; 0 is no
// bound.
func NewBudget(calls, kills int) *Budget {
	return &Budget{calls: perMinute(calls), kills: perMinute(kills)}
}

func perMinute(n int) *rate.Limiter {
	if n <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(float64(n)/time.Minute.Seconds()), n)
}

func (b *Budget) takeCall() (wait time.Duration) {
	if b == nil || b.calls == nil || b.calls.Allow() {
		return 0
	}
	return untilRoom(b.calls, 1)
}

func (b *Budget) takeKills(n int) (ok bool, room int, wait time.Duration) {
	if b == nil || b.kills == nil || b.kills.AllowN(time.Now(), n) {
		return true, 0, 0
	}
	room = max(0, int(b.kills.Tokens()))
	if n > b.kills.Burst() {
		return false, room, 0
	}
	return false, room, untilRoom(b.kills, n)
}

// giveBackKills gives back n that were taken and not used. What is more than a minute's is lost.
func (b *Budget) giveBackKills(n int) {
	if b != nil && b.kills != nil && n > 0 {
		b.kills.AllowN(time.Now(), -n)
	}
}

// untilRoom returns how long until there is room for n, at least a moment.
func untilRoom(l *rate.Limiter, n int) time.Duration {
	short := float64(n) - l.Tokens()
	return max(time.Millisecond, time.Duration(short/float64(l.Limit())*float64(time.Second)))
}
