package auth

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// maxWaiting bounds how many attempts wait to be looked at.
const maxWaiting = 64

// stale is after how long an attempt may be made again that had to make room for newer ones.
const stale = time.Second

// oldestEach says that one in so many turns goes to who has waited the longest of the same standing.
const oldestEach = 4

// standing is how likely an attempt is right, by what is known of where it comes from. Those that are
// likelier are looked at first.
type standing uint8

const (
	known    standing = iota // the same name logged in from there a while ago
	clean                    // nothing wrong came from there
	attacked                 // nor here, but the name is being attacked
	bad                      // something wrong did
	standings
)

// gate bounds how many passwords are hashed at a time: addresses that have guessed wrong take half of the processors
// at most, and what is likelier to be right may take more, so that it doesn't wait for a guess to end. Of the same
// standing who came last is mostly served first, as under attack the first to come have given up the
// first. Where too many wait, the first to come of the worst standing goes.
type gate struct {
	mu    sync.Mutex
	busy  int
	most  [standings]int        // how many may be hashed for one of a standing to begin
	lists [standings][]*waiting // the latest last
	turns [standings]int        // how many each has had
}

type waiting struct{ enter chan bool } // true: it is its turn; false: it had to make room

func newGate() *gate { return newGateOf(runtime.GOMAXPROCS(0)) }

func newGateOf(processors int) *gate {
	half := max(1, processors/2)
	// A first attempt for an attacked name may well be right: it doesn't wait for a whole guess.
	first := max(half, min(2, processors))
	all := max(processors, first+1)
	return &gate{most: [standings]int{known: all, clean: all, attacked: first, bad: half}}
}

// enter waits for a turn, which leave ends. The error is a *SlowedError, or the context's.
func (g *gate) enter(ctx context.Context, at standing) error {
	g.mu.Lock()
	if g.busy < g.most[at] {
		g.busy++
		g.mu.Unlock()
		return nil
	}
	w := &waiting{make(chan bool, 1)}
	g.lists[at] = append(g.lists[at], w)
	if g.waiting() > maxWaiting {
		for i := range g.lists {
			if list := &g.lists[len(g.lists)-1-i]; len(*list) > 0 {
				g.take(list, 0).enter <- false
				break
			}
		}
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
	i := slices.Index(g.lists[at], w)
	if i >= 0 {
		g.take(&g.lists[at], i)
	}
	g.mu.Unlock()
	if i < 0 && <-w.enter {
		g.leave()
	}
	return ctx.Err()
}

// waiting returns how many wait.
func (g *gate) waiting() (n int) {
	for _, list := range g.lists {
		n += len(list)
	}
	return n
}

// take takes who is at a place out of a list.
func (g *gate) take(list *[]*waiting, i int) *waiting {
	w := (*list)[i]
	*list = slices.Delete(*list, i, i+1)
	return w
}

// leave gives the turn to the next.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy--
	for i := range g.lists {
		list := &g.lists[i]
		if len(*list) == 0 || g.busy >= g.most[i] {
			continue
		}
		next := len(*list) - 1
		if g.turns[i]++; g.turns[i]%oldestEach == 0 {
			next = 0
		}
		g.busy++
		g.take(list, next).enter <- true
		return
	}
}
