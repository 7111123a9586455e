package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// fileMode lets only the owner read the record.
	fileMode = 0o600
	// openFlags: the last part of the path may be no link, which whoever owns the folder could let point
	// anywhere, and no FIFO that nobody reads keeps the daemon waiting.
	openFlags = unix.O_RDWR | unix.O_APPEND | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	// rotateAgain is how long after a file couldn't be set aside it is tried again.
	rotateAgain = time.Minute
)

// file is a sink into a file.
type file struct {
	cfg  Config
	lock *os.File // is locked (flock(2)) while the daemon lives

	f     *os.File
	first time.Time // of the first record; zero where there is none
	torn  bool      // the file ends within a line

	rotated   bool  // a new file was begun; whoever reads it sets it to false
	rotateErr error // why the file couldn't be set aside at the last try
	tried     time.Time
}

func openFile(cfg Config) (*file, error) {
	lock, err := lockFile(cfg.File + lockSuffix)
	if err != nil {
		return nil, err
	}
	s := &file{cfg: cfg, lock: lock}
	if err := s.reopen(); err != nil {
		s.unlock()
		return nil, err
	}
	return s, nil
}

// recordBegin is what each line begins with.
const recordBegin = `{"time":`

// maxBlank bounds what may be blank before the first record.
const maxBlank = 1 << 20

// own refuses a file that begins with something else than a record, as a mistaken path may name anybody's, and
// anybody may put another in its place. A crash may leave the beginning of a record, or line breaks (see try), and
// a power failure zeros; with a disk's image they go on, or something else follows.
func own(f *os.File) error {
	// It is asked before each line, and mostly of the first bytes alone.
	r := bufio.NewReaderSize(io.NewSectionReader(f, 0, math.MaxInt64), 256)
	at := 0 // how much of recordBegin the line has so far
	for range maxBlank + 1 {
		switch c, err := r.ReadByte(); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case c == 0 || c == '\n':
			at = 0
			continue
		case c != recordBegin[at]:
			return errNotOwn(f.Name())
		}
		if at++; at == len(recordBegin) {
			return nil
		}
	}
	return errNotOwn(f.Name())
}

func errNotOwn(name string) error {
	return fmt.Errorf("%s has something else than records, so that nothing is written into it; name another file, or move this one away", name)
}

// ownAt is own of the file at a path, if there is one.
func ownAt(path string) error {
	f, err := openRegular(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return own(f)
}

// lockFile locks a file that it makes beside the record, as the record itself is set aside.
func lockFile(name string) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, fileMode)
		if err != nil {
			return nil, err
		}
		if err := flock(f); err != nil {
			f.Close()
			return nil, err
		}
		// Who had the lock before may have removed the file since it was opened here.
		mine, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		if there, err := os.Lstat(name); err == nil && os.SameFile(mine, there) {
			return f, nil
		}
		f.Close()
	}
}

// flock locks an open file.
func flock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

func (s *file) unlock() {
	_ = os.Remove(s.lock.Name()) // one that stays does no harm
	s.lock.Close()
}

// reopen opens the file at the path and lets go of the one before. Where it fails that one stays.
func (s *file) reopen() error {
	f, err := openRegular(s.cfg.File, openFlags|unix.O_CREAT)
	if err != nil {
		return err
	}
	same, err := s.has(f)
	if err == nil && !same {
		err = flock(f) // too, as somebody may remove the file that is locked
	}
	if err == nil {
		err = own(f)
	}
	first, torn := time.Time{}, false
	if err == nil {
		first, torn, err = look(f)
	}
	if err != nil {
		f.Close()
		return err
	}
	if s.f != nil {
		s.rotated = true
	}
	if same {
		f.Close()
		f = s.f // which has the lock
	} else if s.f != nil {
		s.f.Close()
	}
	s.f, s.first, s.torn = f, first, torn
	return nil
}

// has tells whether a file is the one that is open.
func (s *file) has(f *os.File) (bool, error) {
	if s.f == nil {
		return false, nil
	}
	mine, err := s.f.Stat()
	if err != nil {
		return false, err
	}
	other, err := f.Stat()
	return err == nil && os.SameFile(mine, other), err
}

// openRegular opens a file and refuses what is none.
func openRegular(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, fileMode)
	if err != nil {
		if errors.Is(err, unix.ELOOP) {
			return nil, fmt.Errorf("%s is a symbolic link; name the file itself", path)
		}
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s is no regular file; name another, or remove it", path)
	}
	return f, nil
}

// look finds out since when a file has records, and whether it ends within a line as a crash or a full
// disk leaves it.
func look(f *os.File) (first time.Time, torn bool, err error) {
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return time.Time{}, false, err
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], fi.Size()-1); err != nil {
		return time.Time{}, false, err
	}
	head := make([]byte, 256)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return time.Time{}, false, err
	}
	first, ok := lineTime(head[:n])
	if !ok {
		first = fi.ModTime()
	}
	return first, last[0] != '\n', nil
}

// lineTime reads the time with which a line begins.
func lineTime(line []byte) (time.Time, bool) {
	rest, ok := strings.CutPrefix(string(line[:min(len(line), 64)]), recordBegin+`"`)
	if !ok {
		return time.Time{}, false
	}
	text, _, ok := strings.Cut(rest, `"`)
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	return t, err == nil
}

// write appends a line with one write(2).
func (s *file) write(line []byte, r *Record) error {
	size, err := s.follow()
	if err != nil {
		return err
	}
	if s.due(size, len(line), r.Time) && r.Time.Sub(s.tried).Abs() >= rotateAgain {
		// Where it can't be set aside it is written on: no record is lost by that, and no change refused.
		if s.rotateErr = s.rotate(); s.rotateErr == nil {
			size, s.tried = 0, time.Time{}
		} else {
			s.tried = r.Time
		}
	}
	if s.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := s.f.Write(line)
	if err == nil {
		s.torn = false
		if s.first.IsZero() {
			s.first = r.Time
		}
		return nil
	}
	if n > 0 {
		// Nobody else writes the file, so that what is behind size is a part of this line.
		if undo := s.f.Truncate(size); undo != nil {
			s.torn = true
			err = errors.Join(err, undo)
		}
	}
	return err
}

// follow opens the file anew where it was moved away or deleted, and returns its size.
func (s *file) follow() (size int64, err error) {
	there, err := os.Lstat(s.cfg.File)
	if err == nil {
		mine, err := s.f.Stat()
		if err != nil {
			return 0, err
		}
		if os.SameFile(mine, there) {
			if mine.Size() == 0 { // it may have been emptied
				s.first, s.torn = time.Time{}, false
			}
			return mine.Size(), own(s.f) // or written anew
		}
	}
	if err := s.reopen(); err != nil {
		return 0, explain(s.cfg.File, err)
	}
	fi, err := s.f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// due tells whether the file is to be set aside before a line is written. A clock that is behind, as where a router
// starts without one, makes no file old: each start would push records out.
func (s *file) due(size int64, line int, now time.Time) bool {
	if size == 0 {
		return false
	}
	return size+int64(line) > s.cfg.MaxSize || s.cfg.MaxAge > 0 && !s.first.IsZero() && now.Sub(s.first) >= s.cfg.MaxAge
}

// rotate sets the file aside and begins a new one. Where it fails, or a file that isn't a record's is in the way, the
// old one is written on; each step leaves all records in files that are read.
func (s *file) rotate() error {
	next := s.cfg.File + newSuffix
	if err := ownAt(next); err != nil {
		return err
	}
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := create(next, s.cfg.File)
	if err != nil {
		return err
	}
	if err = flock(f); err == nil {
		err = s.shift()
	}
	if err == nil {
		err = os.Rename(next, s.cfg.File)
	}
	if err != nil {
		f.Close()
		_ = os.Remove(next)
		return err
	}
	s.f.Close()
	s.f, s.first, s.torn, s.rotated = f, time.Time{}, false, true
	s.prune()
	return nil
}

// create makes a file that is about to be renamed, which errors name as it will be.
func create(path, name string) (*os.File, error) {
	fd, err := unix.Open(path, openFlags|unix.O_CREAT|unix.O_EXCL, fileMode)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// shift makes the current file number 1, and each before it one more, up to the first that isn't
// there. Only where all are there the oldest is overwritten.
func (s *file) shift() error {
	last := s.cfg.MaxFiles - 1
	if last == 0 {
		return nil // the new file takes the place
	}
	free := 1
	for ; free <= last; free++ {
		name := numbered(s.cfg.File, free)
		if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
			break
		}
		if err := ownAt(name); err != nil {
			return err
		}
	}
	free = min(free, last)
	for i := free; i > 1; i-- {
		if err := os.Rename(numbered(s.cfg.File, i-1), numbered(s.cfg.File, i)); err != nil {
			return err
		}
	}
	return os.Rename(s.cfg.File, numbered(s.cfg.File, 1))
}

// prune removes files that are more than are kept, as there may be where fewer are than before. What isn't a
// record is in nobody's way.
func (s *file) prune() {
	entries, err := os.ReadDir(filepath.Dir(s.cfg.File))
	if err != nil {
		return // they are only old
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(s.cfg.File))
		name := s.cfg.File + rest
		if ok && numberOf(rest) >= s.cfg.MaxFiles && ownAt(name) == nil {
			_ = os.Remove(name)
		}
	}
}

// What follows the record's name in those of the files beside it that aren't set aside.
const (
	lockSuffix = ".lock"
	newSuffix  = ".new" // the one that is about to be begun
)

// Takes tells whether a file is one of a record's by its name: the record itself, its lock, one that is about to be
// begun or one that was set aside.
func Takes(record, name string) bool {
	rest, ok := strings.CutPrefix(name, record)
	return ok && (rest == "" || rest == lockSuffix || rest == newSuffix || numberOf(rest) > 0)
}

// numbered returns the path of a file that was set aside; 1 is the latest.
func numbered(path string, n int) string { return path + "." + strconv.Itoa(n) }

// numberOf returns the number of a file that was set aside by what follows the record's name; 0 where it is none, as
// a date of logrotate's is.
func numberOf(rest string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "."))
	if err != nil || n < 1 || n > MaxFiles || numbered("", n) != rest {
		return 0
	}
	return n
}

// try is sink's. It takes the room of a line and gives it back; what a crash leaves of it, readers pass over.
func (s *file) try() error {
	size, err := s.follow()
	if err != nil {
		return err
	}
	n, err := s.f.Write(bytes.Repeat([]byte{'\n'}, maxLine))
	if n > 0 {
		err = errors.Join(err, s.f.Truncate(size))
	}
	return err
}

func (s *file) close() error {
	err := s.f.Close()
	s.unlock()
	return err
}
