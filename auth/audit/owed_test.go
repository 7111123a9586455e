package audit

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

var errFull = errors.New("full")

// fullSink writes to another, except while it is full.
type fullSink struct {
	sink
	full bool
}

func (s *fullSink) write(line []byte, r *Record) error {
	if s.full {
		return errFull
	}
	return s.sink.write(line, r)
}

func (s *fullSink) try() error {
	if s.full {
		return errFull
	}
	return s.sink.try()
}

// openFull returns a log whose disk can be made full.
func openFull(t *testing.T) (*Log, *fullSink) {
	t.Helper()
	l := openLog(t, newConfig(t))
	s := &fullSink{sink: l.sink}
	l.sink, l.settleEvery = s, time.Hour
	return l, s
}

// TestOwedEnds: an end that can't be written is, before all else, as soon as it can be.
func TestOwedEnds(t *testing.T) {
	l, s := openFull(t)
	write(t, l, begin("a", t0), begin("b", t0))
	s.full = true
	for _, id := range []string{"a", "b"} {
		if err := l.Write(end(id, t0.Add(time.Second))); !errors.Is(err, ErrOwed) || !errors.Is(err, errFull) {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, r := range []Record{begin("c", t0), refusal("d", t0)} {
		if err := l.Write(r); !errors.Is(err, errFull) || errors.Is(err, ErrOwed) {
			t.Errorf("%s: %v", r.ID, err)
		}
	}
	if st := l.Status(); st.Failed != 4 || st.Written != 2 || st.Err == nil {
		t.Errorf("status %+v", st)
	}
	s.full = false
	write(t, l, begin("e", t0.Add(2*time.Second)))
	got := ""
	for _, r := range lines(t, l.cfg.File) {
		got += fmt.Sprintf("%s %s, ", r.Event, r.ID)
	}
	if got != "begin a, begin b, end a, end b, begin e, " {
		t.Error(got)
	}
	for _, r := range read(t, l, Query{}).Records {
		if (r.Outcome == "ok") != (r.ID != "e") {
			t.Errorf("%s: %s", r.ID, r.Outcome)
		}
	}
	if st := l.Status(); st.Failed != 4 || st.Written != 5 || st.Err != nil {
		t.Errorf("status %+v", st)
	}
}

// TestOwedEndsAreWrittenInTime: also where nobody writes anything else, and at the end.
func TestOwedEndsAreWrittenInTime(t *testing.T) {
	for _, way := range []string{"timer", "close"} {
		l, s := openFull(t)
		if way == "timer" {
			l.settleEvery = time.Millisecond
		}
		write(t, l, begin("a", t0))
		l.mu.Lock()
		s.full = true
		l.mu.Unlock()
		if err := l.Write(end("a", t0)); !errors.Is(err, ErrOwed) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond) // it is tried in vain
		l.mu.Lock()
		s.full = false
		l.mu.Unlock()
		if way == "close" {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for began := time.Now(); len(lines(t, l.cfg.File)) != 2; time.Sleep(time.Millisecond) {
			if time.Since(began) > 10*time.Second {
				t.Fatalf("%s: it isn't written", way)
			}
		}
		if st := l.Status(); st.Err != nil || st.Failed != 1 || st.Written != 2 {
			t.Errorf("%s: status %+v", way, st)
		}
	}
}

// TestOwedEndsAreBounded: what is more than is kept, whoever writes is told of.
func TestOwedEndsAreBounded(t *testing.T) {
	l, s := openFull(t)
	s.full = true
	for i := range maxOwed + 10 {
		if err := l.Write(end(fmt.Sprint(i), t0)); errors.Is(err, ErrOwed) != (i < maxOwed) || !errors.Is(err, errFull) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	s.full = false
	write(t, l, begin("a", t0))
	if got := lines(t, l.cfg.File); len(got) != maxOwed+1 || got[0].ID != "0" || got[maxOwed].ID != "a" {
		t.Errorf("%d lines", len(got))
	}
}

// TestFailureEnds: that nothing can be written is said no longer than it is so, also where nobody tries.
func TestFailureEnds(t *testing.T) {
	l, s := openFull(t)
	l.settleEvery = time.Millisecond
	write(t, l, begin("a", t0))
	l.mu.Lock()
	s.full = true
	l.mu.Unlock()
	if err := l.Write(begin("b", t0)); !errors.Is(err, errFull) || errors.Is(err, ErrOwed) {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Millisecond) // it is tried in vain
	first := l.Status()
	if first.Err == nil {
		t.Error("it goes well on a full disk")
	}
	l.mu.Lock()
	s.full = false
	l.mu.Unlock()
	for began := time.Now(); l.Status().Err != nil; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("it is still said")
		}
	}
	if st := l.Status(); st.Failed != 1 || st.Written != 1 {
		t.Errorf("status %+v", st)
	}
	wantFiles(t, l.cfg.File, "a")
	if fi, err := os.Stat(l.cfg.File); err != nil || fi.Size() > maxLine {
		t.Errorf("trying left something: %v, %v", fi.Size(), err)
	}
}
