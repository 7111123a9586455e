package auth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxFile bounds, in bytes, what is read of a file with users, tokens or passwords.
	maxFile = 4 << 20
	// lookEvery is how often it is looked whether a file has changed, at most.
	lookEvery = time.Second
	// settledAfter is how old a file must be for its times to show each further change: the kernel's
	// clock for them ticks a few hundred times a second only.
	settledAfter = 2 * time.Second
)

// watched is what was read of a file that is read again when it has changed. A file that can't be
// read, or is wrong, keeps what was there before and is logged, once; one that isn't there is empty.
type watched[T any] struct {
	path   string
	parse  func(text []byte) (T, error)
	now    func() time.Time
	logger *slog.Logger
	watchedKind

	mu     sync.Mutex
	looked time.Time         // when it was looked at last
	state  FileState         // as it was then; zero where it may have changed since, unseen
	sum    [sha256.Size]byte // of its text; zero where that couldn't be read
	broken error             // what was logged last; nil where all is well
	since  time.Time         // when it wasn't well first
	kept   bool              // whether value is what was in the file
	value  T
}

// watchedKind says what is asked of a watched file.
type watchedKind struct {
	guarded bool // nobody else may write it
	needed  bool // it isn't well where there is none
}

// FileState tells one content of a file from another: it is written to, or another one is under its name.
// Zero is one that isn't there.
type FileState struct {
	device, inode uint64
	size          int64
	changed       time.Time
	status        syscall.Timespec // also when its owner or mode has changed
}

// Settled tells whether each further change will show in the state. Until then the file is to be read again.
func (s FileState) Settled(now time.Time) bool { return now.Sub(s.changed) > settledAfter }

// watch returns what is in a file, now and later. The empty value of T is an empty file.
func watch[T any](path string, now func() time.Time, logger *slog.Logger, kind watchedKind, parse func([]byte) (T, error)) *watched[T] {
	w := &watched[T]{path: path, parse: parse, now: now, logger: logger, watchedKind: kind}
	w.get()
	return w
}

// get returns what is in the file, as of a second ago at most. It isn't to be changed.
func (w *watched[T]) get() T {
	if w == nil {
		var none T
		return none
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mayLook()
	return w.value
}

// sick returns why the file can't be used; nil where it can.
func (w *watched[T]) sick() *Trouble {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mayLook()
	if w.broken == nil {
		return nil
	}
	return &Trouble{Path: w.path, Since: w.since, Kept: w.kept, Err: w.broken}
}

// mayLook looks at the file where it hasn't been for a second. mu is held.
func (w *watched[T]) mayLook() {
	if now := w.now(); w.looked.IsZero() || now.Sub(w.looked) >= lookEvery || now.Before(w.looked) {
		w.looked = now
		w.look()
	}
}

// look reads the file where it has changed.
func (w *watched[T]) look() {
	state, err := StateOf(w.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		var none T
		w.state, w.sum, w.value, w.kept = FileState{}, [sha256.Size]byte{}, none, false
		if !w.needed {
			w.broken = nil
			return
		}
	case err == nil && state == w.state:
		return
	}
	var value T
	before := w.sum
	w.sum = [sha256.Size]byte{}
	if err == nil {
		var text []byte
		// A file that can't be read is tried again: what keeps it from that needn't be the file.
		if text, state, err = w.read(); err == nil {
			w.sum = sha256.Sum256(text)
			if w.sum == before {
				w.state = state
				return
			}
			value, err = w.parse(text)
		}
	}
	if err != nil {
		w.fail(state, inFile(w.path, err))
		return
	}
	w.state, w.value, w.kept, w.broken = state, value, true, nil
}

// fail notes that the file can't be used, and logs it where it wasn't.
func (w *watched[T]) fail(state FileState, err error) {
	w.state = state
	if w.broken == nil {
		w.since = w.looked
	}
	if w.broken == nil || w.broken.Error() != err.Error() {
		message := "a file can't be used; nobody of it is let in until it can"
		if w.kept {
			message = "a file can't be used; what was read of it before stays in force"
		}
		w.logger.Error(message, "file", w.path, "error", err)
	}
	w.broken = err
}

// read reads the file, and says which content that is; none where it can't be read, or isn't settled.
func (w *watched[T]) read() ([]byte, FileState, error) {
	f, err := openFile(w.path, unix.O_RDONLY)
	if err != nil {
		return nil, FileState{}, err
	}
	defer f.Close()
	if w.guarded {
		if err := guardedOpen(f, w.path); err != nil {
			return nil, FileState{}, err
		}
	}
	text, state, err := readOpen(f)
	if !state.Settled(w.now()) {
		state = FileState{}
	}
	return text, state, err
}

// StateOf returns the state of the file that is at a path now.
func StateOf(path string) (FileState, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return FileState{}, err
	}
	return stateOfInfo(fi), nil
}

func stateOfInfo(fi fs.FileInfo) FileState {
	s := FileState{size: fi.Size(), changed: fi.ModTime()}
	if sys, ok := fi.Sys().(*unixStat); ok {
		s.device, s.inode = sys.Dev, sys.Ino
		s.status = sys.Ctim
	}
	return s
}

// readOpen reads an open file from its beginning.
func readOpen(f *os.File) ([]byte, FileState, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, FileState{}, err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return text, stateOfInfo(fi), err
}

// openFile opens a regular file. In a folder of another user, who could make a symbolic link to any
// file of the machine, links aren't followed.
func openFile(path string, flags int) (*os.File, error) {
	fi, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	// Nothing waits for the writer of a pipe.
	flags |= unix.O_CLOEXEC | unix.O_NONBLOCK
	if owner := ownerOf(fi); owner != 0 && owner != uint32(os.Geteuid()) {
		flags |= unix.O_NOFOLLOW
	}
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("it is a symbolic link in a folder of another user; name the file itself")
	}
	if err != nil {
		return nil, err
	}
	return regular(f)
}

// regular returns an open file, unless it is none that has an end.
func regular(f *os.File) (*os.File, error) {
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
