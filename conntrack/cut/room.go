package cut

import (
	"fmt"
	"slices"
	"time"
)

const (
	// MaxFlows is how many flows may be kept out at a time. Each takes about 400 bytes of the
	// kernel's memory.
	MaxFlows = 1 << 16
	// MaxBlocks is how many pairs of addresses may be kept apart at a time.
	MaxBlocks = 1 << 16
	// MaxZones is how many conntrack zones what is kept out may be of.
	MaxZones = 256
)

// room counts what is kept out, so that it is known before a flow is deleted whether it can be cut.
// It counts once more what is kept out already and is given a new time.
type room struct {
	size int
	used []lease
}

// lease is room that is used until a time.
type lease struct {
	n     int
	until time.Time
}

// check fails where there is no room for n more.
func (r *room) check(n int, what string) error {
	now := time.Now()
	r.used = slices.DeleteFunc(r.used, func(l lease) bool { return !now.Before(l.until) })
	used := 0
	for _, l := range r.used {
		used += l.n
	}
	if used+n > r.size {
		return fmt.Errorf("%w: there is no room for so many more %s just now", ErrFull, what)
	}
	return nil
}

func (r *room) take(n int, d time.Duration) {
	if n > 0 {
		r.used = append(r.used, lease{n, time.Now().Add(d)})
	}
}
