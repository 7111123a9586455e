package rpc

import (
	"context"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"ctd/rpc/wire"
)

// What requests may take of the daemon's memory, estimated in bytes: their bodies, and what is made of
// them. A small body can become something big, so that its length says little.
const (
	// knownMemory and strangerMemory are for all requests at a time: of callers who are known, and of others.
	knownMemory    = 32 << 20
	strangerMemory = 8 << 20
	// knownMost and strangerMost are for one: the first is an import of wire.MaxImport flows.
	knownMost    = 30 << 20
	strangerMost = 256 << 10
	// freeMemory is what every request has, so that small ones are served whatever others take.
	freeMemory = 64 << 10
	// memoryPiece is how much is taken at a time.
	memoryPiece = 64 << 10
	// collectedMemory is from where on the garbage of a request is collected at its end, and tightMemory how
	// much the process may have before garbage is collected eagerly, while there are such requests.
	collectedMemory = 4 << 20
	tightMemory     = 64 << 20
)

// The estimates of what a body becomes, in bytes.
const (
	valueMemory  = 64  // a value
	memberMemory = 112 // a member of an object, beside its name and value
	objectMemory = 256 // an object without its members
	itemMemory   = 192 // an item of a list, and what a method makes of it
	packedMemory = 768 // the same for an object or a list, beside its packed bytes
	textMemory   = 2   // a byte of a text
)

// memory is what requests take together.
type memory struct{ left atomic.Int64 }

func newMemory(bytes int64) *memory {
	m := &memory{}
	m.left.Store(bytes)
	return m
}

func (m *memory) take(n int64) bool {
	if m.left.Add(-n) < 0 {
		m.left.Add(n)
		return false
	}
	return true
}

// claim is what one request takes. nil takes as much as it likes.
type claim struct {
	memory     *memory
	most       int64
	used, held int64 // what it uses, and has taken of memory beyond freeMemory
}

// take takes n bytes more.
func (c *claim) take(n int) *wire.Error {
	if c == nil {
		return nil
	}
	c.used += int64(n)
	need := c.used - freeMemory - c.held
	switch {
	case c.used > c.most:
		return &wire.Error{
			Code: wire.LimitExceeded, Message: "the request has too many values",
			Hint: "split it into several",
		}
	case need <= 0:
		return nil
	}
	if need = max(need, memoryPiece); !c.memory.take(need) {
		return &wire.Error{
			Code: wire.Busy, Message: "other requests take all the memory that there is for requests of this size",
			Hint: "try again in a moment, or split it into several",
		}
	}
	before := c.held
	if c.held += need; before < collectedMemory && c.held >= collectedMemory {
		bigRequests.begin()
	}
	return nil
}

// tightness holds the memory of the process tight (runtime/debug.SetMemoryLimit) while there are big requests: the
// garbage of a few of them could be more than all that is in use. At other times a limit would cost time
// where much is in use, as by the ids of pyctd's sessions.
type tightness struct {
	mu     sync.Mutex
	big    int
	before int64 // the limit at other times
}

var bigRequests tightness

func (t *tightness) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.big++; t.big == 1 {
		t.before = debug.SetMemoryLimit(-1)
		debug.SetMemoryLimit(min(t.before, tightMemory))
	}
}

func (t *tightness) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.big--; t.big == 0 {
		debug.SetMemoryLimit(t.before)
	}
}

// give gives n bytes back, to be taken again.
func (c *claim) give(n int) {
	if c != nil {
		c.used -= int64(n)
	}
}

// mark returns how much is used, for item.
func (c *claim) mark() int64 {
	if c == nil {
		return 0
	}
	return c.used
}

// item makes a value that was read an item of a list. before is what mark returned before it was read:
// what was taken since is given back for what is packed.
func (c *claim) item(v any, before int64) (any, *wire.Error) {
	switch v.(type) {
	case map[string]any, []any:
	default:
		return v, c.take(itemMemory)
	}
	packed := wire.Pack(v)
	if c != nil {
		c.used = before
	}
	return packed, c.take(packedMemory + packed.Len())
}

// end gives all back to the other requests. Of a big request it is collected first: otherwise the garbage of those
// that came one after the other would be more than what is in use.
func (c *claim) end() {
	if c.held >= collectedMemory {
		runtime.GC()
		bigRequests.end()
	}
	c.memory.left.Add(c.held)
	c.used, c.held = 0, 0
}

type claimKey struct{}

func withClaim(ctx context.Context, c *claim) context.Context {
	return context.WithValue(ctx, claimKey{}, c)
}

func claimFrom(ctx context.Context) *claim {
	c, _ := ctx.Value(claimKey{}).(*claim)
	return c
}

// statusOfRefused returns the HTTP status of a request whose document is not looked at, or not to its end;
// 0 is 200.
func statusOfRefused(h http.Header, err *wire.Error) int {
	if err.Code != wire.Busy {
		return 0
	}
	h.Set("Retry-After", "1")
	h.Set("Connection", "close") // otherwise the rest of the body is awaited before the answer is sent
	return err.Code.HTTPStatus()
}
