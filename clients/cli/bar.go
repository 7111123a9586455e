package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	// barDelay is how long a call takes before it shows how far it is.
	barDelay = time.Second
	// maxBar is how many columns the bar has at most.
	maxBar = 40
)

// progressVerbs are the methods of which it is known how far they are, and what they have done then.
var progressVerbs = map[string]string{
	"conntrack.kill": "killed", "conntrack.modify": "modified", "conntrack.import": "imported",
}

// bar shows on a terminal how far a call is, in one line that goes when the call has ended. A nil bar
// shows nothing.
type bar struct {
	did   string // e.g. killed
	width int    // of the terminal

	mu    sync.Mutex
	w     io.Writer
	from  time.Time // when it may be shown
	shown bool
	ended bool
}

// newBar returns the bar of a call; nil where the method tells nothing, or standard error is no
// terminal that can show it.
func (s *session) newBar(method string) *bar {
	did, width := progressVerbs[method], terminalWidth(s.o.Stderr)
	if did == "" || width == 0 || s.o.Getenv("TERM") == "dumb" {
		return nil
	}
	return &bar{did: did, width: width, w: s.o.Stderr, from: time.Now().Add(barDelay)}
}

// show shows that done of total are done.
func (b *bar) show(done, total int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || time.Now().Before(b.from) {
		return
	}
	b.shown = true
	fmt.Fprintf(b.w, "\r%s\x1b[K", b.line(done, total))
}

// line returns the line, which is shorter than the terminal is wide.
func (b *bar) line(done, total int) string {
	text := fmt.Sprintf("%s %d of %d", b.did, done, total)
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
	if b.shown {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
