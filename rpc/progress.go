package rpc

import (
	"context"
	"net/http"
	"time"

	"ctd/rpc/wire"
)

const (
	// progressPause is between two interim answers.
	progressPause = 250 * time.Millisecond
	// changeChunk is how many flows are changed between two reports.
	changeChunk = 2 << 10
)

// progress tells a caller who asked how far a call is. It belongs to the call's goroutine; a nil one
// tells nobody.
type progress struct {
	send func(done, total int)
	last time.Time // of the last report, at first of the beginning
	now  func() time.Time
}

type progressKey struct{}

func withProgress(ctx context.Context, p *progress) context.Context {
	return context.WithValue(ctx, progressKey{}, p)
}

// progressFrom returns how to tell the caller how far a call is; nil where it didn't ask.
func progressFrom(ctx context.Context) *progress {
	p, _ := ctx.Value(progressKey{}).(*progress)
	return p
}

// report tells the caller that done of total are done, unless it was told a moment ago.
func (p *progress) report(done, total int) {
	if p == nil {
		return
	}
	if now := p.now(); now.Sub(p.last) >= progressPause {
		p.last = now
		p.send(done, total)
	}
}

// newProgress returns how to tell the sender of a request how far its call is; nil where it doesn't
// ask, or can't be told. It writes to w, so that nothing else may do so while the call works.
func newProgress(w http.ResponseWriter, r *http.Request) *progress {
	if r.Header.Get(wire.ProgressHeader) == "" || !r.ProtoAtLeast(1, 1) {
		return nil
	}
	return &progress{last: time.Now(), now: time.Now, send: func(done, total int) {
		w.Header().Set(wire.ProgressHeader, wire.Progress{Done: done, Total: total}.String())
		w.WriteHeader(http.StatusProcessing)
		w.Header().Del(wire.ProgressHeader) // it is not of the answer
	}}
}
