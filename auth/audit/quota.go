package audit

import (
	"time"

	"golang.org/x/time/rate"
)

// How many refusals are written. Callers could else push the changes out of what is kept by calling
// for nothing: a file is set aside when it is full.
const (
	strangerBurst = 20 // of nobody, of all together; then one a second
	strangerEvery = time.Second
	knownBurst    = 50 // of callers who were recognised; then ten a second
	knownEvery    = time.Second / 10

	// Each of both kinds has this part of a file, and beyond it one record a minute: of files of 10 MiB
	// it takes 2.5 MiB each, and 1.4 MiB a day if a record has 1 KiB.
	quotaPart  = 4
	quotaEvery = time.Minute
)

// quota bounds how many refusals are written.
type quota struct {
	most            int64 // bytes of a file that each kind has; 0 is no bound
	stranger, known bucket
}

// bucket is the quota of one kind of refusal.
type bucket struct {
	usual, late *rate.Limiter
	used        int64 // bytes in the file
	suppressed  int   // since the last that was written
	owed        int   // how many that one said
}

func newQuota(maxSize int64) *quota {
	return &quota{
		most: maxSize / quotaPart,
		stranger: bucket{
			usual: rate.NewLimiter(rate.Every(strangerEvery), strangerBurst), late: rate.NewLimiter(rate.Every(quotaEvery), 1),
		},
		known: bucket{
			usual: rate.NewLimiter(rate.Every(knownEvery), knownBurst), late: rate.NewLimiter(rate.Every(quotaEvery), 1),
		},
	}
}

func (q *quota) of(r *Record) *bucket {
	if r.Via == "" {
		return &q.stranger
	}
	return &q.known
}

// take tells whether a refusal may be written, and how many before it were not.
func (q *quota) take(r *Record, size int, now time.Time) (suppressed int, ok bool) {
	b := q.of(r)
	limit := b.usual
	if q.most > 0 && b.used+int64(size) > q.most {
		limit = b.late
	}
	if !limit.AllowN(now, 1) {
		b.suppressed++
		return 0, false
	}
	b.used += int64(size)
	b.owed, b.suppressed = b.suppressed, 0
	return b.owed, true
}

// putBack says that the last one that might be written could not be.
func (q *quota) putBack(r *Record) {
	b := q.of(r)
	b.suppressed += b.owed + 1
}

// begin says that a new file was begun.
func (q *quota) begin() { q.stranger.used, q.known.used = 0, 0 }
