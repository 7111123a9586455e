package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Bounds of a reading.
const (
	maxReaders = 2       // at a time
	maxHeld    = 8 << 20 // bytes of lines of a Result
	maxPending = 1024    // ends whose begin wasn't found yet
)

// Errors of a reading.
var (
	// ErrReading says that others read already.
	ErrReading = errors.New("the record is being read by others")
	// ErrNotRead says that records don't go where they could be read.
	ErrNotRead = errors.New("records go where they can't be read from")
)

// Kinds of records.
const (
	Change  = "change"
	Refused = "refusal"
)

// Unknown is the outcome of a change whose end isn't recorded: it is under way, or the daemon ended before
// it did.
const Unknown = "unknown"

// Query says which records are wanted. What is empty means all.
type Query struct {
	Since, Until time.Time // from the one on, and before the other
	Principal    string
	From         netip.Prefix // with an address inside
	Unix         bool         // by the Unix socket
	Method       string
	Outcome      string
	Kind         string // Change or Refused
	Text         string // in flows, parameters or reason, in upper or lower case
	Limit        int    // the latest so many; at least 1
}

// Result is what was found.
type Result struct {
	// Records are in the order of time. Those of a change have the Event Begin and what their end says
	// too, and the outcome Unknown where there is none.
	Records   []Record
	Truncated bool // there are earlier ones that fit
	Unread    int  // lines that could not be read
}

// Read returns the records that a query wants. It reads from the latest backwards, and keeps nobody from
// writing.
func (l *Log) Read(ctx context.Context, q Query) (Result, error) {
	if l.Path() == "" {
		return Result{}, ErrNotRead
	}
	select {
	case l.reading <- struct{}{}:
		defer func() { <-l.reading }()
	default:
		return Result{}, ErrReading
	}
	files, err := openAll(l.cfg)
	if err != nil {
		return Result{}, fmt.Errorf("audit: %w", err)
	}
	defer closeAll(files)
	r := newReading(q)
	for _, f := range files {
		err := backwards(ctx, f, r.line)
		if errors.Is(err, errEnough) {
			break
		}
		if err != nil {
			return Result{}, fmt.Errorf("audit: read %s: %w", f.Name(), err)
		}
	}
	return r.result(), nil
}

// Readable tells whether Read could open the files, which it needs as they are now; what writes has its own open.
func (l *Log) Readable() error {
	if l.Path() == "" {
		return nil
	}
	files, err := openAll(l.cfg)
	closeAll(files)
	return err
}

// errEnough ends a reading that has all that is wanted.
var errEnough = errors.New("enough")

// reading takes lines, the latest first.
type reading struct {
	q       Query
	text    string
	found   []Record // the latest first
	held    int      // bytes of the lines of found
	more    bool
	unread  int
	pending map[string]Record // ends by ID
	order   []string          // IDs of pending in the order of their coming; may have such that are gone
}

func newReading(q Query) *reading {
	return &reading{q: q, text: strings.ToLower(q.Text), pending: map[string]Record{}}
}

// line takes one line; nil stands for one that is too long.
func (r *reading) line(line []byte) error {
	// Most that is too early needn't be read whole: only a begin may be, whose end is waiting.
	if t, ok := lineTime(line); ok && t.Before(r.q.Since) && len(r.pending) == 0 {
		return nil
	}
	var rec Record
	if err := json.Unmarshal(line, &rec); err != nil || !rec.whole() {
		r.unread++
		return nil
	}
	switch rec.Event {
	case End:
		return r.end(rec)
	case Begin:
		end, ok := r.pending[rec.ID]
		delete(r.pending, rec.ID)
		if ok {
			rec.join(&end)
		} else {
			rec.Outcome = Unknown
		}
	}
	return r.offer(rec, len(line))
}

// whole tells whether a line was a record at all.
func (r *Record) whole() bool {
	return !r.Time.IsZero() && r.ID != "" && (r.Event == Begin || r.Event == End || r.Event == Refusal)
}

// join adds to a begin what its end says.
func (r *Record) join(end *Record) {
	r.Outcome, r.Message, r.Changed, r.Failed, r.TookMS = end.Outcome, end.Message, end.Changed, end.Failed, end.TookMS
	if end.Matched != nil {
		r.Matched = end.Matched
	}
	if len(r.Flows) == 0 {
		r.Flows, r.FlowsTruncated = end.Flows, end.FlowsTruncated
	}
}

// end keeps an end until its begin is found.
func (r *reading) end(rec Record) error {
	if _, twice := r.pending[rec.ID]; twice {
		r.unread++
		return nil
	}
	r.pending[rec.ID] = rec
	r.order = append(r.order, rec.ID)
	if len(r.order) < 2*maxPending && len(r.pending) <= maxPending {
		return nil
	}
	r.order = slices.DeleteFunc(r.order, func(id string) bool { _, waits := r.pending[id]; return !waits })
	if len(r.pending) <= maxPending {
		return nil
	}
	oldest := r.pending[r.order[0]]
	delete(r.pending, oldest.ID)
	r.order = r.order[1:]
	return r.offer(oldest, 0)
}

// offer takes a record that fits.
func (r *reading) offer(rec Record, size int) error {
	if !r.fits(&rec) {
		return nil
	}
	if len(r.found) >= r.q.Limit || r.held+size > maxHeld {
		r.more = true
		return errEnough
	}
	r.found = append(r.found, rec)
	r.held += size
	return nil
}

// result returns what was found. Ends whose begins are no longer kept come first.
func (r *reading) result() Result {
	if !r.more {
		for _, id := range r.order {
			if end, ok := r.pending[id]; ok && r.offer(end, 0) != nil {
				break
			}
		}
	}
	slices.Reverse(r.found)
	slices.SortStableFunc(r.found, func(a, b Record) int { return a.Time.Compare(b.Time) })
	return Result{Records: r.found, Truncated: r.more, Unread: r.unread}
}

// fits tells whether a record is wanted.
func (r *reading) fits(rec *Record) bool {
	q := &r.q
	kind := Change
	if rec.Event == Refusal {
		kind = Refused
	}
	return !rec.Time.Before(q.Since) && (q.Until.IsZero() || rec.Time.Before(q.Until)) &&
		(q.Principal == "" || rec.Principal == q.Principal) &&
		(q.Method == "" || rec.Method == q.Method) &&
		(q.Outcome == "" || rec.Outcome == q.Outcome) &&
		(q.Kind == "" || kind == q.Kind) &&
		q.fromFits(rec.From) &&
		(r.text == "" || rec.says(r.text))
}

func (q *Query) fromFits(from string) bool {
	isUnix := strings.HasPrefix(from, "unix")
	if q.Unix {
		return isUnix
	}
	if !q.From.IsValid() {
		return true
	}
	if isUnix {
		return false
	}
	a, err := netip.ParseAddrPort(from)
	if err != nil {
		addr, err := netip.ParseAddr(from)
		if err != nil {
			return false
		}
		a = netip.AddrPortFrom(addr, 0)
	}
	return q.From.Contains(a.Addr().Unmap().WithZone(""))
}

// says tells whether a text, in lower case, is in what a record is about.
func (r *Record) says(text string) bool {
	in := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	return in(r.Reason) || slices.ContainsFunc(r.Flows, in) || in(plain(r.Params))
}

// plain returns JSON without the escapes that whoever looks for a text doesn't think of, such as that of >.
func plain(text json.RawMessage) string {
	if !strings.Contains(string(text), `\u`) {
		return string(text)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return string(text)
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
	return b.String()
}
