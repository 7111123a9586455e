package rpc

import (
	"io"
	"sync/atomic"
)

// sendAhead is a writer that sends in the background, so that a list is read from the kernel
// while the piece before is on its way to the caller. It holds two pieces at most: a caller who
// reads slowly slows the list down.
type sendAhead struct {
	w          io.Writer
	full, free chan []byte // nil before the first Write
	ended      chan struct{}
	closed     bool
	failed     atomic.Pointer[error]
}

// Write takes a copy of b. Its error is that of a write before.
func (s *sendAhead) Write(b []byte) (int, error) {
	if s.full == nil {
		s.start()
	}
	s.full <- append((<-s.free)[:0], b...)
	if err := s.failed.Load(); err != nil {
		return 0, *err
	}
	return len(b), nil
}

func (s *sendAhead) start() {
	s.full, s.free, s.ended = make(chan []byte, 1), make(chan []byte, 2), make(chan struct{})
	s.free <- nil
	s.free <- nil
	go func() {
		defer close(s.ended)
		for b := range s.full {
			if s.failed.Load() == nil {
				if _, err := s.w.Write(b); err != nil {
					s.failed.Store(&err)
				}
			}
			s.free <- b
		}
	}()
}

// Close waits until everything is sent and returns the first error. It must be called before the
// writer behind goes away, and may be called again.
func (s *sendAhead) Close() error {
	if s.full != nil && !s.closed {
		s.closed = true
		close(s.full)
		<-s.ended
	}
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}
