package auth

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// maxWaiting bounds how many attempts wait to be looked at.
const maxWaiting = 64

// stale is after how long an attempt may be made again that had to make room for newer ones.
const stale = time.Second

// gate bounds how many passwords are hashed at a time: half of the processors are left to all else. Who
// waits is served after those who came later, as under attack the first to come have given up the
// first, and callers from whose address nothing wrong came before all others. Where too many wait, the
// first to come goes, of those from whom something wrong came if there is one.
type gate struct {
	mu           sync.Mutex
	free         int
	clean, other []*waiting // the latest last
}

type waiting struct{ enter chan bool } // true: it is its turn; false: it had to make room

func newGate() *gate { return &gate{free: max(1, runtime.GOMAXPROCS(0)/2)} }

// enter waits for a turn, which leave ends. The error is a *SlowedError, or the context's.
func (g *gate) enter(ctx context.Context, clean bool) error {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	w := &waiting{make(chan bool, 1)}
	if clean {
		g.clean = append(g.clean, w)
	} else {
		g.other = append(g.other, w)
	}
	if len(g.clean)+len(g.other) > maxWaiting {
		from := &g.other
		if len(g.other) == 0 {
			from = &g.clean
		}
		(*from)[0].enter <- false
		*from = append((*from)[:0], (*from)[1:]...)
	}
	g.mu.Unlock()
	select {
	case mine := <-w.enter:
		if !mine {
			return &SlowedError{Wait: stale}
		}
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	waited := take(&g.clean, w) || take(&g.other, w)
	g.mu.Unlock()
	if !waited && <-w.enter {
		g.leave()
	}
	return ctx.Err()
}

// take takes w out of a list, and tells whether it was there.
func take(list *[]*waiting, w *waiting) bool {
	for i, one := range *list {
		if one == w {
			*list = append((*list)[:i], (*list)[i+1:]...)
			return true
		}
	}
	return false
}

// leave gives the turn to the next.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, list := range []*[]*waiting{&g.clean, &g.other} {
		if n := len(*list); n > 0 {
			(*list)[n-1].enter <- true
			(*list)[n-1] = nil
			*list = (*list)[:n-1]
			return
		}
	}
	g.free++
}
