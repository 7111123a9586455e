package audit

import "time"

// Where records go.
const (
	ToFile     = "file"
	ToJournald = "journald"
	ToNone     = "none" // nothing is recorded
)

// Config says where records go, and how much of them is kept.
type Config struct {
	To   string // ToFile, ToJournald or ToNone
	File string // path, of ToFile

	// A file that has MaxSize bytes, or whose first record is older than MaxAge, is set aside with a number
	// and a new one begun; at most MaxFiles are kept, the current one among them. MaxAge 0 is no bound.
	MaxSize  int64
	MaxFiles int
	MaxAge   time.Duration
}
