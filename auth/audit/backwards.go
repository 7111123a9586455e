package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// readBlock is how much is read at a time.
	readBlock = 64 << 10
	// maxRead bounds a line that is read; a daemon of another version may write longer ones.
	maxRead = 4 * maxLine
)

// openAll opens the files of a record, the latest first. The daemon may set the current one aside in
// the meantime: then a file comes by two names and is taken once, and none is missed, as numbers only grow.
func openAll(cfg Config) ([]*os.File, error) {
	var files []*os.File
	var infos []os.FileInfo
	for i := range cfg.MaxFiles {
		name := cfg.File
		if i > 0 {
			name = numbered(cfg.File, i)
		}
		f, err := openRegular(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			var fi os.FileInfo
			if fi, err = f.Stat(); err == nil {
				if seen(infos, fi) {
					f.Close()
					continue
				}
				files, infos = append(files, f), append(infos, fi)
				continue
			}
			f.Close()
		}
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func seen(infos []os.FileInfo, fi os.FileInfo) bool {
	for _, other := range infos {
		if os.SameFile(other, fi) {
			return true
		}
	}
	return false
}

// backwards calls fn for each line of a file, without its line break, the last first. What follows the last
// line break is being written, and left out. A line of more than maxRead bytes is nil. The bytes are fn's
// until it returns.
func backwards(ctx context.Context, f *os.File, fn func(line []byte) error) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	b := &backward{fn: fn}
	buf := make([]byte, readBlock)
	for at := fi.Size(); at > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(at, readBlock)
		block := buf[:n]
		// Whoever empties the file meanwhile takes its lines from this reading too.
		if _, err := f.ReadAt(block, at-n); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		at -= n
		if err := b.block(block); err != nil {
			return err
		}
	}
	if !b.begun {
		return nil
	}
	return b.call(nil)
}

// backward puts lines together.
type backward struct {
	fn    func([]byte) error
	rest  []byte // the end of a line whose beginning comes later
	long  bool   // that line is too long; rest has nothing of it
	begun bool   // the last line break was found
}

// block takes the block before the last one.
func (b *backward) block(block []byte) error {
	for {
		i := bytes.LastIndexByte(block, '\n')
		if i < 0 {
			break
		}
		if b.begun {
			if err := b.call(block[i+1:]); err != nil {
				return err
			}
		}
		b.begun = true
		block = block[:i]
	}
	switch {
	case !b.begun || b.long:
	case len(block)+len(b.rest) > maxRead:
		b.rest, b.long = nil, true
	default:
		b.rest = slices.Concat(block, b.rest)
	}
	return nil
}

// call gives fn the line that begins with head.
func (b *backward) call(head []byte) error {
	line, long := head, b.long || len(head)+len(b.rest) > maxRead
	if len(b.rest) > 0 {
		line = slices.Concat(head, b.rest)
	}
	b.rest, b.long = nil, false
	if long {
		return b.fn(nil)
	}
	if len(line) == 0 { // between a torn line and the next
		return nil
	}
	return b.fn(line)
}
