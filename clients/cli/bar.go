package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"ctd/rpc/wire"
)

const (
	// barDelay is how long a call takes before it shows how far it is.
	barDelay = time.Second
	// maxBar is how many columns the bar has at most.
	maxBar = 40
)

// progressVerbs are the methods of which it is known how far they are, and what they do to flows. That
// a flow is done doesn't say that it was changed: it may have ended before, or be refused.
var progressVerbs = map[string]string{
	"conntrack.kill": "killed", "conntrack.modify": "modified", "conntrack.import": "imported",
}

// bar shows on a terminal how far a call is, in one line that goes when the call has ended. A nil bar
// shows nothing.
type bar struct {
	did   string       // e.g. killed; empty where nothing is changed
	width int          // of the terminal; 0: it is not shown, only how far the call is is kept
	over  func() error // not nil once the command is interrupted

	mu          sync.Mutex
	w           io.Writer
	from        time.Time // when it may be shown
	shown       bool
	ended       bool
	interrupted bool
	done, total int // as was told last
}

// startBar makes the bar of a call that begins the session's; nil where the method tells nothing. A
// dry run changes nothing.
func (s *session) startBar(method string, dryRun bool) *bar {
	s.bar = nil
	did := progressVerbs[method]
	if did == "" {
		return nil
	}
	s.bar = &bar{did: did, width: terminalWidth(s.o.Stderr), over: s.ctx.Err, w: s.o.Stderr, from: time.Now().Add(barDelay)}
	if dryRun {
		s.bar.did = ""
	}
	if s.o.Getenv("TERM") == "dumb" {
		s.bar.width = 0
	}
	return s.bar
}

// isDryRun tells whether the parameters of a method with progress ask for a dry run.
func isDryRun(params any) bool {
	switch p := params.(type) {
	case wire.KillParams:
		return p.DryRun
	case wire.ModifyParams:
		return p.DryRun
	}
	return false
}

// show shows that done of total are done.
func (b *bar) show(done, total int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done, b.total = done, total
	if b.ended || b.width == 0 || time.Now().Before(b.from) {
		return
	}
	b.shown = true
	fmt.Fprintf(b.w, "\r%s\x1b[K", b.line(done, total))
}

// line returns the line, which is shorter than the terminal is wide.
func (b *bar) line(done, total int) string {
	text := fmt.Sprintf("done %d of %d", done, total)
	columns := min(maxBar, b.width-len(text)-len(" []")-1)
	if columns < 3 || total == 0 {
		return text[:min(len(text), b.width-1)]
	}
	full := columns * done / total
	return text + " [" + strings.Repeat("#", full) + strings.Repeat(" ", columns-full) + "]"
}

// end takes the bar away.
func (b *bar) end() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.interrupted = b.over != nil && b.over() != nil
	if b.shown {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}

// leftAt says how far a change was when it was interrupted, by what was told last: the daemon may have
// done more. It is empty where no change was.
func (b *bar) leftAt() string {
	if b == nil {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.interrupted || b.did == "":
		return ""
	case b.done == 0:
		return "interrupted: some flows may have been " + b.did
	}
	return fmt.Sprintf("interrupted: at least %d of %s were done", b.done, plural(b.total, "flow"))
}
