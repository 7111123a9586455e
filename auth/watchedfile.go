package auth

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxFile bounds, in bytes, what is read of a file with users, tokens or passwords.
	maxFile = 4 << 20
	// lookEvery is how often it is looked whether a file has changed, at most.
	lookEvery = time.Second
)

// watched is what was read of a file that is read again when it has changed. A file that can't be
// read, or is wrong, keeps what was there before and is logged, once; one that isn't there is empty.
type watched[T any] struct {
	path   string
	parse  func(text []byte) (T, error)
	now    func() time.Time
	logger *slog.Logger

	mu     sync.Mutex
	looked time.Time // when it was looked at last
	state  fileState // as it was then
	broken string    // what was logged last; empty where all is well
	value  T
}

// fileState tells one content of a file from another.
type fileState struct {
	device, inode uint64
	size          int64
	changed       time.Time
}

// watch returns what is in a file, now and later. The empty value of T is an empty file.
func watch[T any](path string, now func() time.Time, logger *slog.Logger, parse func([]byte) (T, error)) *watched[T] {
	w := &watched[T]{path: path, parse: parse, now: now, logger: logger}
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
	if now := w.now(); w.looked.IsZero() || now.Sub(w.looked) >= lookEvery || now.Before(w.looked) {
		w.looked = now
		w.look()
	}
	return w.value
}

// look reads the file where it has changed.
func (w *watched[T]) look() {
	state, err := stateOf(w.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		var none T
		w.state, w.value, w.broken = fileState{}, none, ""
		return
	case err == nil && state == w.state:
		return
	}
	var value T
	if err == nil {
		var text []byte
		if text, state, err = readFile(w.path); err == nil {
			value, err = w.parse(text)
		}
	}
	if err != nil {
		w.state = state
		if text := err.Error(); text != w.broken {
			w.broken = text
			w.logger.Error("a file can't be used; what was read of it before stays in force", "file", w.path, "error", err)
		}
		return
	}
	w.state, w.value, w.broken = state, value, ""
}

func stateOf(path string) (fileState, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return fileState{}, err
	}
	return stateOfInfo(fi), nil
}

func stateOfInfo(fi fs.FileInfo) fileState {
	s := fileState{size: fi.Size(), changed: fi.ModTime()}
	if sys, ok := fi.Sys().(*unixStat); ok {
		s.device, s.inode = sys.Dev, sys.Ino
	}
	return s
}

// readFile reads a file, and says which content that is.
func readFile(path string) ([]byte, fileState, error) {
	f, err := openFile(path, unix.O_RDONLY)
	if err != nil {
		return nil, fileState{}, err
	}
	defer f.Close()
	return readOpen(f)
}

// readOpen reads an open file from its beginning.
func readOpen(f *os.File) ([]byte, fileState, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, fileState{}, err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), maxFile)
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
		return nil, fmt.Errorf("%s is a symbolic link in a folder of another user; name the file itself", path)
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
		err = fmt.Errorf("%s is no regular file", f.Name())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
