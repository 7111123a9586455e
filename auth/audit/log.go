package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Errors of a log.
var (
	// ErrClosed says that the log was closed.
	ErrClosed = errors.New("the record is closed")
	// ErrLocked says that a daemon that lives writes the file.
	ErrLocked = errors.New("another daemon writes this file")
	// ErrNoJournal says that journald isn't there.
	ErrNoJournal = errors.New("journald isn't there")
)

// Bounds of a Config.
const (
	MinSize  = 64 << 10 // bytes; a quarter of it holds more than a burst of refusals
	MaxFiles = 100      // each reader opens them all
)

// sink is where lines go. Its methods are called one at a time.
type sink interface {
	// write writes a whole line, with its line break, or nothing of it.
	write(line []byte, r *Record) error
	// try tells whether a line could be written now, and leaves none.
	try() error
	// reopen opens anew what another process may have moved away.
	reopen() error
	close() error
}

// Log writes records. Its methods may be called from many goroutines.
type Log struct {
	cfg    Config
	logger *slog.Logger

	mu      sync.Mutex
	sink    sink // nil for ToNone
	file    *file
	closed  bool
	quota   *quota
	owed    owed
	status  Status
	reading chan struct{} // of maxReaders
	now     func() time.Time

	settleEvery time.Duration
}

// Status is how writing goes.
type Status struct {
	Err     error     // of the last write, or of trying whether one would go; nil where it went well
	Since   time.Time // when the failures began of which Err is the last
	Failed  uint64    // writes that failed since the log was opened
	Rotate  error     // why the file couldn't be set aside when it was last tried; it is written on
	Written uint64    // records that were written
}

// Open opens the log. The errors say what to do where the text of errno doesn't.
func Open(cfg Config, logger *slog.Logger) (*Log, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	l := &Log{
		cfg: cfg, logger: logger, quota: newQuota(cfg.MaxSize), reading: make(chan struct{}, maxReaders), now: time.Now,
		settleEvery: settleEvery,
	}
	switch cfg.To {
	case ToFile:
		f, err := openFile(cfg)
		if err != nil {
			return nil, fmt.Errorf("audit: %w", explain(cfg.File, err))
		}
		l.sink, l.file = f, f
	case ToJournald:
		j, err := openJournal()
		if err != nil {
			return nil, fmt.Errorf("audit: %w; start systemd-journald, or record into a file", err)
		}
		l.sink = j
	}
	return l, nil
}

// Check says what is wrong with a configuration: an error begins with the setting, as the configuration
// file names it.
func (c Config) Check() error {
	switch c.To {
	case ToNone, ToJournald, "":
		return nil
	case ToFile:
	default:
		return fmt.Errorf("to: %q is none of %s, %s and %s", c.To, ToFile, ToJournald, ToNone)
	}
	switch {
	case c.File == "":
		return errors.New("file: a path is needed")
	case c.MaxSize < MinSize:
		return fmt.Errorf("max_size: %d bytes are too few; at least %d", c.MaxSize, MinSize)
	case c.MaxFiles < 1 || c.MaxFiles > MaxFiles:
		return fmt.Errorf("max_files: %d is not from 1 to %d", c.MaxFiles, MaxFiles)
	case c.MaxAge < 0:
		return fmt.Errorf("max_age: %v is below 0", c.MaxAge)
	}
	return nil
}

// explain says what to do about a file that can't be opened.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, ErrLocked):
		return fmt.Errorf("%s: %w; each daemon needs a file of its own", path, err)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w; make its folder, and give it to the user that the daemon runs as", err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w; the user that the daemon runs as must own the folder and the file", err)
	}
	return err
}

// Kept tells whether records are kept at all.
func (l *Log) Kept() bool { return l != nil && l.sink != nil }

// To says where records go.
func (l *Log) To() string {
	if !l.Kept() {
		return ToNone
	}
	return l.cfg.To
}

// Path returns the path of the file; empty where there is none.
func (l *Log) Path() string {
	if !l.Kept() || l.file == nil {
		return ""
	}
	return l.cfg.File
}

// Write writes a record, cut down to maxLine bytes. When it returns nil, the kernel or journald has
// the whole line; else nothing of it is left. Refusals that are too many are counted instead, and
// the next one that is written says how many there were. An end that can't be written is kept, which
// ErrOwed says, and written before anything else: the change was made.
//
// Lines aren't synced (fsync(2)): they outlive the daemon however it ends, while a power failure loses
// the seconds that the kernel hadn't written back yet. It also loses the table, so that no changed flow
// outlives its record; and a sync a line would make every kill wait for the disk, and wear out flash.
func (l *Log) Write(r Record) error {
	if !l.Kept() {
		return nil
	}
	if r.Time.IsZero() {
		r.Time = l.now().UTC()
	}
	line, err := r.line()
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if r.Event == Refusal {
		suppressed, ok := l.quota.take(&r, len(line), l.now())
		if !ok {
			return nil
		}
		if suppressed > 0 {
			r.Suppressed = suppressed
			if line, err = r.line(); err != nil {
				return fmt.Errorf("audit: %w", err)
			}
		}
	}
	if err := l.write(line, &r); err != nil {
		switch {
		case r.Event == Refusal:
			l.quota.putBack(&r)
		case r.Event == End && l.owe(line, &r):
			err = fmt.Errorf("%w; %w", err, ErrOwed)
		}
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// write writes a line, after what is owed, and notes how it went; l.mu is held.
func (l *Log) write(line []byte, r *Record) error {
	err := l.settle()
	if err == nil {
		err = l.sink.write(line, r)
	}
	if err != nil {
		l.status.Failed++
	} else {
		l.status.Written++
	}
	l.note(err)
	return err
}

// note notes how writing went, and has it tried again where it failed; l.mu is held.
func (l *Log) note(err error) {
	if err != nil && l.status.Err == nil {
		l.status.Since = l.now()
	}
	l.status.Err = err
	if err != nil {
		l.settleLater()
	}
	if l.file == nil {
		return
	}
	if l.file.rotated {
		l.file.rotated = false
		l.quota.begin()
	}
	if failed := l.file.rotateErr; failed != nil && l.status.Rotate == nil {
		l.logger.Warn("the audit file can't be set aside and grows on", "file", l.cfg.File, "error", failed)
	}
	l.status.Rotate = l.file.rotateErr
}

// Status tells how writing goes.
func (l *Log) Status() Status {
	if !l.Kept() {
		return Status{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// Reopen opens the file anew, which another process may have moved away. Each write looks whether it
// was, so this only lets go of the old one at once.
func (l *Log) Reopen() error {
	if !l.Kept() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if err := l.sink.reopen(); err != nil {
		return fmt.Errorf("audit: %w", explain(l.cfg.File, err))
	}
	return nil
}

// Close closes the log. What is written afterwards is an error.
func (l *Log) Close() error {
	if !l.Kept() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	if len(l.owed.ends) > 0 {
		l.note(l.settle()) // the daemon's log has those for which there is still no room
	}
	if l.owed.timer != nil {
		l.owed.timer.Stop()
	}
	l.closed = true
	return l.sink.close()
}
