package auth

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// queue makes a caller wait at a gate, and returns where it tells what became of it.
func queue(t *testing.T, ctx context.Context, g *gate, at standing) chan error {
	t.Helper()
	g.mu.Lock()
	before := g.waiting()
	g.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- g.enter(ctx, at) }()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		g.mu.Lock()
		waits := g.waiting() > before || before == maxWaiting
		g.mu.Unlock()
		if waits {
			return done
		}
		if time.Now().After(end) {
			t.Fatal("it doesn't wait")
		}
	}
}

// oneByOne is a gate where one is in at a time.
func oneByOne() *gate { return &gate{most: [standings]int{1, 1, 1, 1}} }

// TestGateReserve: what is likely to be right doesn't wait for a guess to end, and guesses don't take its
// place.
func TestGateReserve(t *testing.T) {
	g := newGateOf(2)
	for _, at := range []standing{attacked, attacked, clean} {
		if err := g.enter(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	guess, right := queue(t, t.Context(), g, bad), queue(t, t.Context(), g, known)
	g.leave() // one of the three
	if err := <-right; err != nil {
		t.Error(err)
	}
	g.leave()
	g.leave()
	select {
	case <-guess:
		t.Error("a guess took the place that is kept")
	case <-time.After(20 * time.Millisecond):
	}
	g.leave()
	if err := <-guess; err != nil {
		t.Error(err)
	}
	g.leave()
	if g.busy != 0 {
		t.Errorf("%d are in, want none", g.busy)
	}
}

func TestGate(t *testing.T) {
	g := oneByOne()
	if err := g.enter(t.Context(), clean); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	var names []string
	var dones []chan error
	add := func(ctx context.Context, name string, at standing) {
		names = append(names, name)
		dones = append(dones, queue(t, ctx, g, at))
	}
	add(t.Context(), "bad", bad)
	add(t.Context(), "first", clean)
	add(t.Context(), "older", clean)
	add(t.Context(), "oldish", clean)
	add(t.Context(), "old", clean)
	add(t.Context(), "new", clean)
	add(t.Context(), "attacked", attacked)
	add(t.Context(), "known", known)
	add(cancelled, "cancelled", known)
	cancel()
	if err := <-dones[8]; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for _, want := range []string{"known", "new", "old", "oldish", "first", "older", "attacked", "bad"} {
		g.leave()
		if err := <-dones[slices.Index(names, want)]; err != nil {
			t.Errorf("%s: %v", want, err)
		}
		for i, done := range dones {
			select {
			case err := <-done:
				t.Errorf("%s came in with %s: %v", names[i], want, err)
			default:
			}
		}
	}
	g.leave()
	if g.busy != 0 {
		t.Errorf("%d are in, want none", g.busy)
	}
}

// TestGateStarvesNobody: whoever comes meanwhile, of whatever standing that comes after, the first of a
// standing gets its turn.
func TestGateStarvesNobody(t *testing.T) {
	g := oneByOne()
	if err := g.enter(t.Context(), clean); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := queue(t, ctx, g, attacked)
	for i := range 10 * oldestEach {
		// One in four of another standing, as the turns of the oldest are.
		at := attacked
		if i%oldestEach == oldestEach-1 {
			at = clean
		}
		queue(t, ctx, g, at)
		g.leave()
		select {
		case err := <-first:
			if err != nil {
				t.Error(err)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("the first waits still")
}

func TestGateIsBounded(t *testing.T) {
	g := oneByOne()
	if err := g.enter(t.Context(), clean); err != nil {
		t.Fatal(err)
	}
	var all []chan error
	for i := range maxWaiting {
		at := clean
		if i == 5 {
			at = bad
		}
		all = append(all, queue(t, t.Context(), g, at))
	}
	dropped := func(i int) {
		t.Helper()
		select {
		case err := <-all[i]:
			if !errors.As(err, new(*SlowedError)) {
				t.Errorf("%d: %v", i, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%d waits still", i)
		}
	}
	all = append(all, queue(t, t.Context(), g, clean))
	dropped(5) // the worst standing
	all = append(all, queue(t, t.Context(), g, clean))
	dropped(0) // else the first to come
	all = append(all, queue(t, t.Context(), g, bad))
	dropped(len(all) - 1) // it is the worst itself
	if n := g.waiting(); n != maxWaiting {
		t.Errorf("%d wait, want %d", n, maxWaiting)
	}
	for range maxWaiting {
		g.leave()
	}
	for i, done := range all {
		if i == 0 || i == 5 || i == len(all)-1 {
			continue
		}
		if err := <-done; err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
}
