package auth

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// TestBudget: numbers of one's own count, else the defaults, else there is no bound.
func TestBudget(t *testing.T) {
	for name, tt := range map[string]struct {
		own, defaults    Defaults
		calls, kills     int // that there is room for; 0 is any number
		tooMany, forever int // kills for which there is no room now, or never
	}{
		"nothing":         {},
		"defaults":        {defaults: Defaults{3, 5}, calls: 3, kills: 5, tooMany: 1, forever: 6},
		"more":            {own: Defaults{4, 50}, defaults: Defaults{3, 5}, calls: 4, kills: 50, tooMany: 50, forever: 51},
		"fewer":           {own: Defaults{1, 1}, defaults: Defaults{3, 5}, calls: 1, kills: 1, tooMany: 1, forever: 2},
		"kills alone":     {own: Defaults{0, 2}, kills: 2, tooMany: 1, forever: 3},
		"calls alone":     {defaults: Defaults{2, 0}, calls: 2},
		"one of each":     {own: Defaults{Calls: 2}, defaults: Defaults{Kills: 2}, calls: 2, kills: 2, tooMany: 2, forever: 3},
		"its own, no def": {own: Defaults{2, 2}, calls: 2, kills: 2, tooMany: 2, forever: 3},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBudgets(newClock().now)
			b.setDefaults(tt.defaults)
			p := NewPrincipal(parsedGrant{calls: tt.own.Calls, kills: tt.own.Kills}.identity("jane", ViaToken, "", b))
			for i := range max(tt.calls, 100) {
				if wait := p.TakeCall(); (wait > 0) != (tt.calls > 0 && i >= tt.calls) || wait > time.Minute {
					t.Fatalf("call %d waits %v", i+1, wait)
				}
				if tt.calls > 0 && i == tt.calls {
					break
				}
			}
			if tt.kills == 0 {
				if ok, _, _ := p.TakeKills(1 << 20); !ok {
					t.Error("kills are bounded")
				}
				return
			}
			if ok, room, wait := p.TakeKills(tt.forever); ok || room != tt.kills || wait != 0 {
				t.Errorf("%d kills: %v, room %d, wait %v", tt.forever, ok, room, wait)
			}
			if ok, room, _ := p.TakeKills(tt.kills); !ok {
				t.Fatalf("%d kills: there is room for %d", tt.kills, room)
			}
			if ok, room, wait := p.TakeKills(tt.tooMany); ok || room != 0 || wait <= 0 || wait > time.Minute {
				t.Errorf("%d more kills: %v, room %d, wait %v", tt.tooMany, ok, room, wait)
			}
			p.GiveBackKills(2 * tt.kills)
			if ok, _, _ := p.TakeKills(tt.kills); !ok {
				t.Error("what was given back is lost")
			}
			if ok, _, _ := p.TakeKills(1); ok {
				t.Error("more was given back than there is in a minute")
			}
		})
	}
}

// TestBudgetOfAName: what a name did counts for all that it shows, each of which keeps its own number.
func TestBudgetOfAName(t *testing.T) {
	type use struct {
		most, n int // what is shown has this number; 0 is no bound
		ok      bool
		room    int
	}
	for name, uses := range map[string][]use{
		"they don't add up":        {{100, 100, true, 0}, {10, 1, false, 0}, {100, 1, false, 0}},
		"the fewer first":          {{10, 10, true, 0}, {100, 91, false, 90}, {100, 90, true, 0}, {10, 1, false, 0}},
		"each at its own":          {{10, 4, true, 0}, {100, 5, true, 0}, {10, 2, false, 1}, {10, 1, true, 0}, {100, 90, true, 0}},
		"beside one without bound": {{10, 1, true, 0}, {0, 1000, true, 0}, {10, 1, false, 0}, {0, 1000, true, 0}},
		"three":                    {{5, 1, true, 0}, {10, 1, true, 0}, {20, 1, true, 0}, {5, 3, false, 2}, {10, 8, false, 7}, {20, 18, false, 17}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBudgets(newClock().now)
			for i, u := range uses {
				p := NewPrincipal(parsedGrant{kills: u.most}.identity("bob", ViaToken, "", b))
				if ok, room, _ := p.TakeKills(u.n); ok != u.ok || room != u.room {
					t.Fatalf("use %d: %v, room %d, want %v, %d", i+1, ok, room, u.ok, u.room)
				}
			}
			other := NewPrincipal(parsedGrant{kills: 10}.identity("joe", ViaToken, "", b))
			if ok, _, _ := other.TakeKills(10); !ok {
				t.Error("another's counts too")
			}
		})
	}
}

// TestGivenBack: what is given back has room again by each number of the name.
func TestGivenBack(t *testing.T) {
	b := newBudgets(newClock().now)
	user := NewPrincipal(parsedGrant{kills: 50}.identity("bob", ViaPassword, "", b))
	token := NewPrincipal(parsedGrant{kills: 10}.identity("bob", ViaToken, "", b))
	take := func(p *Principal, n int) {
		t.Helper()
		if ok, room, _ := p.TakeKills(n); !ok {
			t.Fatalf("%d: there is room for %d", n, room)
		}
	}
	take(token, 1)
	token.GiveBackKills(1)
	take(user, 10)
	user.GiveBackKills(10)
	take(token, 10)
	token.GiveBackKills(-3)
	token.GiveBackKills(0)
	take(user, 40)
	if ok, room, _ := user.TakeKills(1); ok || room != 0 {
		t.Errorf("more than were given back: room %d", room)
	}
}

// TestTally: a bound holds for each minute, to the second, and the wait is that until there is room.
func TestTally(t *testing.T) {
	type use struct {
		at      time.Duration // since the beginning
		most, n int
		ok      bool
		room    int
		wait    time.Duration
	}
	const s, all = time.Second, math.MaxInt
	for name, uses := range map[string][]use{
		"a minute later":       {{0, 5, 5, true, 0, 0}, {59 * s, 5, 1, false, 0, s}, {60 * s, 5, 5, true, 0, 0}, {60 * s, 5, 5, false, 0, 60 * s}},
		"at any second":        {{119 * s, 1, 1, true, 0, 0}, {120 * s, 1, 1, false, 0, 59 * s}, {179 * s, 1, 1, true, 0, 0}},
		"within a second":      {{s / 2, 1, 1, true, 0, 0}, {s - 1, 1, 1, false, 0, 59*s + 1}, {60*s - 1, 1, 1, false, 0, 1}, {60 * s, 1, 1, true, 0, 0}},
		"bit by bit":           {{0, 4, 1, true, 0, 0}, {10 * s, 4, 2, true, 0, 0}, {20 * s, 4, 2, false, 1, 40 * s}, {20 * s, 4, 3, false, 1, 50 * s}, {60 * s, 4, 3, false, 2, 10 * s}},
		"after long":           {{0, 1, 1, true, 0, 0}, {1e6 * time.Hour, 1, 1, true, 0, 0}, {1e6 * time.Hour, 1, 1, false, 0, 60 * s}},
		"none":                 {{0, 9, 9, true, 0, 0}, {0, 1, 0, true, 0, 0}, {0, 9, -5, true, 0, 0}, {0, 9, 1, false, 0, 60 * s}},
		"more than a minute's": {{0, 5, 6, false, 5, 0}, {0, 5, all, false, 5, 0}, {0, 5, 1, true, 0, 0}, {0, 5, 6, false, 4, 0}},
		"more than fit":        {{0, 0, all, true, 0, 0}, {s, 0, all, true, 0, 0}, {s, all, all, false, all - math.MaxInt32, 59 * s}, {s, 5, 5, false, 0, 59 * s}, {60 * s, 5, 5, true, 0, 0}},
		"a clock goes back":    {{100 * s, 2, 1, true, 0, 0}, {50 * s, 2, 1, true, 0, 0}, {-s, 2, 1, false, 0, 161 * s}, {159 * s, 2, 1, false, 0, s}, {160 * s, 2, 2, true, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			var kept tally
			for i, u := range uses {
				if ok, room, wait := kept.take(u.at, u.most, u.n); ok != u.ok || room != u.room || wait != u.wait {
					t.Fatalf("use %d: %v, room %d, wait %v, want %v, %d, %v", i+1, ok, room, wait, u.ok, u.room, u.wait)
				}
			}
		})
	}
	var kept tally
	kept.take(0, 10, 4)
	kept.take(30*s, 10, 4)
	kept.giveBack(40*s, 5) // of the oldest first: what remains may have been done as late as that
	if n := kept.done(60 * s); n != 3 {
		t.Errorf("%d are left, want 3", n)
	}
	if n := kept.done(90 * s); n != 0 {
		t.Errorf("%d are left of a minute ago", n)
	}
	kept.giveBack(90*s, 5)
	if n := kept.done(90 * s); n != 0 {
		t.Errorf("%d are left of none", n)
	}
}

func TestBudgetsAreBounded(t *testing.T) {
	b := newBudgets(newClock().now)
	b.setDefaults(Defaults{Calls: 1})
	call := func(name string) bool {
		return NewPrincipal(parsedGrant{}.identity(name, ViaToken, "", b)).TakeCall() == 0
	}
	call("jane")
	// Those who call stay, whatever comes by.
	for i := range 3 * maxBudgets {
		call(fmt.Sprint("passer-by ", i))
		if i%100 == 0 {
			if before := b.byName["jane"]; before == nil {
				t.Fatalf("forgotten after %d others", i)
			}
			call("jane")
		}
	}
	if len(b.byName) != maxBudgets || b.recent.Len() != maxBudgets {
		t.Errorf("%d and %d names are kept, want %d", len(b.byName), b.recent.Len(), maxBudgets)
	}
	b.setDefaults(Defaults{})
	if call("somebody else"); b.byName["somebody else"] != nil {
		t.Error("one without bounds is kept")
	}
}

// TestBudgetOfFailedReload: numbers of a configuration that came to nothing don't count.
func TestBudgetOfFailedReload(t *testing.T) {
	f := newFixture(t, nil)
	p := f.must(f.login("jane", "secret"))
	a, wrong := newAuthenticator(f.cfg, Defaults{Kills: 1}, f.secret, f.a, f.log.logger(), f.c.now)
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	if ok, _, _ := p.TakeKills(2); ok {
		t.Error("the new numbers don't count")
	}
	a.Close()
	if ok, _, _ := p.TakeKills(2); !ok {
		t.Error("the numbers count of what was taken back")
	}
}
