package rpc

import (
	"context"
	"sync"
	"time"
)

// turns bounds how many calls of a kind are under way, of all callers and of each by its name.
type turns struct {
	all, each int

	mu    sync.Mutex
	taken int
	by    map[string]int
	freed chan struct{} // closed when the next one is given back
}

func newTurns(all, each int) *turns {
	return &turns{all: all, each: each, by: make(map[string]int), freed: make(chan struct{})}
}

// take takes a turn for the context's caller, and waits so long for one. Where there is none, ok is false,
// or the error is ctx's.
func (t *turns) take(ctx context.Context, wait time.Duration) (giveBack func(), ok bool, err error) {
	name := ""
	if p := PrincipalFrom(ctx); p != nil {
		name = p.Name()
	}
	end := time.NewTimer(wait)
	defer end.Stop()
	for {
		freed := t.try(name)
		if freed == nil {
			return sync.OnceFunc(func() { t.giveBack(name) }), true, nil
		}
		if wait == 0 {
			return nil, false, nil
		}
		select {
		case <-freed:
		case <-end.C:
			return nil, false, nil
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// try takes a turn, or returns what is closed when one is given back.
func (t *turns) try(name string) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken >= t.all || t.by[name] >= t.each {
		return t.freed
	}
	t.taken++
	t.by[name]++
	return nil
}

func (t *turns) giveBack(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	if t.by[name]--; t.by[name] == 0 {
		delete(t.by, name)
	}
	close(t.freed)
	t.freed = make(chan struct{})
}
