package auth

import (
	"context"
	"errors"
	"testing"
	"time"
)

// queue makes a caller wait at a gate, and returns where it tells what became of it.
func queue(t *testing.T, ctx context.Context, g *gate, clean bool) chan error {
	t.Helper()
	g.mu.Lock()
	before := len(g.clean) + len(g.other)
	g.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- g.enter(ctx, clean) }()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		g.mu.Lock()
		waits := len(g.clean)+len(g.other) > before || before == maxWaiting
		g.mu.Unlock()
		if waits {
			return done
		}
		if time.Now().After(end) {
			t.Fatal("it doesn't wait")
		}
	}
}

func TestGate(t *testing.T) {
	g := &gate{free: 1}
	if err := g.enter(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	names := []string{"first", "second", "other", "cancelled"}
	dones := []chan error{
		queue(t, t.Context(), g, true), queue(t, t.Context(), g, true), queue(t, t.Context(), g, false), queue(t, cancelled, g, true),
	}
	cancel()
	if err := <-dones[3]; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for _, want := range []int{1, 0, 2} { // the latest first, and those who did something wrong at the end
		g.leave()
		if err := <-dones[want]; err != nil {
			t.Errorf("%s: %v", names[want], err)
		}
		for i, done := range dones {
			select {
			case err := <-done:
				t.Errorf("%s came in at the same time: %v", names[i], err)
			default:
			}
		}
	}
	g.leave()
	if g.free != 1 {
		t.Errorf("%d may enter, want 1", g.free)
	}
}

func TestGateIsBounded(t *testing.T) {
	g := &gate{free: 1}
	if err := g.enter(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	var all []chan error
	for i := range maxWaiting {
		all = append(all, queue(t, t.Context(), g, i != 5))
	}
	dropped := func(i int) {
		t.Helper()
		var slowed *SlowedError
		select {
		case err := <-all[i]:
			if !errors.As(err, &slowed) {
				t.Errorf("%d: %v", i, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%d waits still", i)
		}
	}
	all = append(all, queue(t, t.Context(), g, true))
	dropped(5) // the one from whose address something wrong came
	all = append(all, queue(t, t.Context(), g, true))
	dropped(0) // else the first to come
	if n := len(g.clean) + len(g.other); n != maxWaiting {
		t.Errorf("%d wait, want %d", n, maxWaiting)
	}
	for range maxWaiting {
		g.leave()
	}
	for i, done := range all {
		if i == 0 || i == 5 {
			continue
		}
		if err := <-done; err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
}
