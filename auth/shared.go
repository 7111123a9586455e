package auth

import (
	"log/slog"
	"sync"
	"time"
)

// shared is what outlives a reload: all that was learned, and which authenticator is the one in force.
type shared struct {
	now        func() time.Time
	slowing    *slowing
	remembered *remembered // passwords
	places     *remembered
	gate       *gate
	budgets    *budgets
	told       *toldOnce

	mu                sync.Mutex
	current, previous *Authenticator // nil: none
	flights           map[proof]*flight
}

func newShared(now func() time.Time) *shared {
	return &shared{
		now: now, slowing: newSlowing(now), remembered: newRemembered(now, rememberFor), places: newRemembered(now, knowFor), gate: newGate(), budgets: newBudgets(now),
		told: &toldOnce{}, flights: map[proof]*flight{},
	}
}

// install makes a the one in force.
func (s *shared) install(a *Authenticator) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.previous, s.current = s.current, a
	s.budgets.setDefaults(a.limits)
}

// uninstall takes a out of force. Where its successor has not come, the one before is it again: a
// reload may fail after its authenticator was made.
func (s *shared) uninstall(a *Authenticator) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch a {
	case s.current:
		if s.current, s.previous = s.previous, nil; s.current != nil {
			s.budgets.setDefaults(s.current.limits)
		}
	case s.previous:
		s.previous = nil
	}
}

// valid returns what asks the authenticator that is in force then.
func (s *shared) valid(ask func(a *Authenticator) bool) func() bool {
	return func() bool {
		s.mu.Lock()
		a := s.current
		s.mu.Unlock()
		return a != nil && ask(a)
	}
}

// maxTold bounds for how many names the same is said.
const maxTold = 256

// toldOnce keeps one thing from being logged again and again.
type toldOnce struct {
	mu   sync.Mutex
	keys map[string]bool
}

func (t *toldOnce) warn(logger *slog.Logger, text, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if key := text + name; !t.keys[key] && len(t.keys) < maxTold {
		if t.keys == nil {
			t.keys = map[string]bool{}
		}
		t.keys[key] = true
		logger.Warn(text, "name", name)
	}
}
