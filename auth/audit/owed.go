package audit

import (
	"errors"
	"time"
)

const (
	// maxOwed bounds the ends that couldn't be written. There are no more than changes that were under way when
	// writing began to fail: before the first is written none begins.
	maxOwed = 1000
	// settleEvery is how often it is tried again where nobody writes.
	settleEvery = 10 * time.Second
)

// ErrOwed says that an end isn't written yet, and will be before anything else.
var ErrOwed = errors.New("it is written as soon as it can be")

// owed are ends that could not be written, the earliest first.
type owed struct {
	ends  []owedEnd
	timer *time.Timer // runs while writing fails; nil where it never did
}

type owedEnd struct {
	line   []byte
	record Record
}

// owe keeps an end that could not be written, and tells whether there was room. l.mu is held.
func (l *Log) owe(line []byte, r *Record) bool {
	if len(l.owed.ends) >= maxOwed {
		return false
	}
	l.owed.ends = append(l.owed.ends, owedEnd{line, *r})
	return true
}

// settle writes what is owed, as far as it can; l.mu is held.
func (l *Log) settle() error {
	for len(l.owed.ends) > 0 {
		e := &l.owed.ends[0]
		if err := l.sink.write(e.line, &e.record); err != nil {
			return err
		}
		l.status.Written++
		l.owed.ends[0] = owedEnd{}
		l.owed.ends = l.owed.ends[1:]
	}
	l.owed.ends = nil
	return nil
}

// settleLater has writing tried again in a while; l.mu is held.
func (l *Log) settleLater() {
	if l.owed.timer == nil {
		l.owed.timer = time.AfterFunc(l.settleEvery, l.settleNow)
	} else {
		l.owed.timer.Reset(l.settleEvery)
	}
}

// settleNow writes what is owed, or tries again later. Where nothing is, it finds out whether something could be
// written: nobody may have a change to make until then, and what says that none can be made has to end.
func (l *Log) settleNow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.status.Err == nil {
		return
	}
	try := l.settle
	if len(l.owed.ends) == 0 {
		try = l.sink.try
	}
	l.note(try())
}
