package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// logPatience is how long a line of the log waits for a reader who has fallen behind. As long as that one reads
	// nothing, further lines wait for nothing.
	logPatience = time.Second
	// maxLogPiece is how much a pipe takes without waiting once poll(2) says that it can be written to (PIPE_BUF,
	// linux/limits.h).
	maxLogPiece = 4096
)

// logWriter writes lines of the log to a file of which the other end may not be read any more: a journal that hangs,
// a pipe to a program that has stopped. Then lines are lost, which is said in the next one; calls go on.
type logWriter struct {
	file     *os.File
	fd       int
	patience time.Duration
	form     logForm

	mu   sync.Mutex
	lost int  // lines, since the last that was written
	torn bool // what was written last has no end
}

// logForm returns what writes lines of a form.
type logForm func(w io.Writer) slog.Handler

// newLogWriter returns a writer to w that waits for no reader, where w is a file.
func newLogWriter(w io.Writer, form logForm) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return w
	}
	return &logWriter{file: f, fd: int(f.Fd()), patience: logPatience, form: form}
}

// Write is io.Writer's, for whole lines.
func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	patience := w.patience
	if w.lost > 0 {
		patience = 0
		if w.write(w.note(), patience) == nil {
			w.lost = 0
		}
	}
	if w.lost > 0 || w.write(line, patience) != nil {
		w.lost++
	}
	return len(line), nil
}

// note is the line that says how many are lost.
func (w *logWriter) note() []byte {
	var b bytes.Buffer
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of the log are lost here, as nobody read them", 0)
	r.Add("lines", w.lost)
	if w.torn {
		b.WriteByte('\n')
	}
	_ = w.form(&b).Handle(context.Background(), r) // a buffer takes all
	return b.Bytes()
}

var errLogStalled = errors.New("nobody reads the log")

// write writes a line in pieces that don't wait.
func (w *logWriter) write(line []byte, patience time.Duration) error {
	for len(line) > 0 {
		if !w.ready(patience) {
			return errLogStalled
		}
		n, err := w.file.Write(line[:min(len(line), maxLogPiece)])
		if n > 0 {
			w.torn = line[n-1] != '\n'
		}
		if err != nil {
			return err
		}
		line = line[n:]
	}
	return nil
}

// ready waits until the file can be written to.
func (w *logWriter) ready(patience time.Duration) bool {
	for deadline := time.Now().Add(patience); ; {
		fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLOUT}} // #nosec G115 -- a descriptor fits
		n, err := unix.Poll(fds, int(max(0, time.Until(deadline)/time.Millisecond)))
		if !errors.Is(err, unix.EINTR) {
			return n > 0 || err != nil // where nothing is known, as a file that isn't there, writing says it
		}
	}
}
