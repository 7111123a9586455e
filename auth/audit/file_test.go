package audit

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func mkfifo(t testing.TB, path string) {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

// ids returns the IDs of the records in a file, in one text.
func ids(t testing.TB, path string) string {
	t.Helper()
	var all []string
	for _, r := range lines(t, path) {
		all = append(all, r.ID)
	}
	return strings.Join(all, " ")
}

func wantFiles(t testing.TB, path string, want ...string) {
	t.Helper()
	for i, w := range want {
		name := path
		if i > 0 {
			name = numbered(path, i)
		}
		if got := ids(t, name); got != w {
			t.Errorf("%s has %q, want %q", filepath.Base(name), got, w)
		}
	}
	if _, err := os.Stat(numbered(path, len(want))); err == nil {
		t.Errorf("there is a number %d", len(want))
	}
}

// filled returns a record whose line is more than half of the smallest file.
func filled(t testing.TB, cfg Config, id string, at time.Time) Record {
	t.Helper()
	if cfg.MaxSize > 2*maxLine {
		t.Fatal("the file is too large for one line to fill it by half")
	}
	r := begin(id, at)
	for len(r.Flows) < 150 {
		r.Flows = append(r.Flows, strings.Repeat("f", 60))
	}
	return r
}

func TestRotateBySize(t *testing.T) {
	cfg := newConfig(t)
	l := openLog(t, cfg)
	l.file.cfg.MaxSize = maxLine // smaller than a Config may have it, so that few lines do
	for _, id := range []string{"a", "b", "c"} {
		write(t, l, filled(t, l.file.cfg, id, t0))
	}
	wantFiles(t, cfg.File, "c", "b", "a")
	write(t, l, begin("d", t0), filled(t, l.file.cfg, "e", t0))
	wantFiles(t, cfg.File, "e", "c d", "b")
	// A number that isn't there is filled, and nothing is lost.
	if err := os.Remove(numbered(cfg.File, 1)); err != nil {
		t.Fatal(err)
	}
	write(t, l, filled(t, l.file.cfg, "f", t0))
	wantFiles(t, cfg.File, "f", "e", "b")
	if got := read(t, l, Query{}); len(got.Records) != 3 {
		t.Errorf("read %d, want 3", len(got.Records))
	}
	// Fewer files are to be kept.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"7", "07", "x", "1.gz"} {
		if err := os.WriteFile(cfg.File+"."+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg.MaxFiles = 1
	l = openLog(t, cfg)
	l.file.cfg.MaxSize = maxLine
	write(t, l, filled(t, l.file.cfg, "g", t0))
	wantFiles(t, cfg.File, "g")
	left, _ := filepath.Glob(cfg.File + ".*")
	for i := range left {
		left[i] = strings.TrimPrefix(left[i], cfg.File)
	}
	if want := []string{".07", ".1.gz", ".lock", ".x"}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}

func TestRotateByAge(t *testing.T) {
	cfg := newConfig(t)
	cfg.MaxAge = time.Hour
	l := openLog(t, cfg)
	write(t, l, begin("a", t0), begin("b", t0.Add(time.Hour-1)))
	wantFiles(t, cfg.File, "a b")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, cfg) // it knows the age of a file that is there
	write(t, l, begin("c", t0.Add(time.Hour)))
	wantFiles(t, cfg.File, "c", "a b")
	// The clock begins anew, and is set a while later.
	write(t, l, begin("d", t0.Add(-1000*time.Hour)), begin("e", t0.Add(time.Hour+1)))
	wantFiles(t, cfg.File, "c d e", "a b")
}

// TestRotateFails: a file that can't be set aside is written on, and set aside as soon as that works.
func TestRotateFails(t *testing.T) {
	cfg := newConfig(t)
	l := openLog(t, cfg)
	l.file.cfg.MaxSize = maxLine
	// A folder that isn't empty can't be replaced by a file.
	if err := os.MkdirAll(filepath.Join(cfg.File+".new", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, l, filled(t, l.file.cfg, "a", t0), filled(t, l.file.cfg, "b", t0))
	wantFiles(t, cfg.File, "a b")
	if st := l.Status(); st.Rotate == nil || st.Err != nil || st.Failed != 0 {
		t.Errorf("status %+v", st)
	}
	if err := os.RemoveAll(cfg.File + ".new"); err != nil {
		t.Fatal(err)
	}
	write(t, l, begin("c", t0.Add(rotateAgain-1)))
	wantFiles(t, cfg.File, "a b c")
	write(t, l, begin("d", t0.Add(rotateAgain)))
	wantFiles(t, cfg.File, "d", "a b c")
	if st := l.Status(); st.Rotate != nil {
		t.Errorf("status %+v", st)
	}
}

// TestMovedAway: what an administrator's logrotate does is noticed at the next record.
func TestMovedAway(t *testing.T) {
	cfg := newConfig(t)
	l := openLog(t, cfg)
	write(t, l, begin("a", t0))
	if err := os.Rename(cfg.File, cfg.File+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, l, begin("b", t0))
	wantFiles(t, cfg.File, "b", "a")
	if err := os.Remove(cfg.File); err != nil {
		t.Fatal(err)
	}
	write(t, l, begin("c", t0))
	wantFiles(t, cfg.File, "c", "a")
	if err := os.Truncate(cfg.File, 0); err != nil {
		t.Fatal(err)
	}
	write(t, l, begin("d", t0))
	wantFiles(t, cfg.File, "d", "a")
	if err := os.Rename(cfg.File, cfg.File+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, cfg.File, "", "d")

	// Where it can't be made anew, nothing is written and nothing pretended.
	dir := filepath.Dir(cfg.File)
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(begin("e", t0)); err == nil || !strings.Contains(err.Error(), "make its folder") {
		t.Errorf("without a folder: %v", err)
	}
	if err := l.Reopen(); err == nil {
		t.Error("opened anew without a folder")
	}
	if st := l.Status(); st.Err == nil || st.Failed != 1 {
		t.Errorf("status %+v", st)
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	write(t, l, begin("f", t0))
	wantFiles(t, cfg.File, "f", "d")
	if st := l.Status(); st.Err != nil || st.Failed != 1 {
		t.Errorf("status %+v", st)
	}
}

// TestTornLine: the half line that a crash leaves costs no other line.
func TestTornLine(t *testing.T) {
	for _, half := range []string{`{"time":"2026-11-22T04:15:00Z","ev`, "\x00\x00\x00", "{"} {
		cfg := newConfig(t)
		l := openLog(t, cfg)
		write(t, l, begin("a", t0))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(cfg.File, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(half); err != nil {
			t.Fatal(err)
		}
		f.Close()
		l = openLog(t, cfg)
		if got := read(t, l, Query{}); len(got.Records) != 1 {
			t.Errorf("%q: %+v", half, got)
		}
		write(t, l, begin("b", t0), begin("c", t0))
		if got := read(t, l, Query{}); len(got.Records) != 3 || got.Unread != 1 {
			t.Errorf("%q: read %d with %d unread, want 3 and 1", half, len(got.Records), got.Unread)
		}
	}
}

// TestOpenTakesTornFile: a file of records is opened however a crash has left it.
func TestOpenTakesTornFile(t *testing.T) {
	for _, text := range []string{
		"", "\n", "{", `{"time":`, "{\"ti\n{\"time\":\"2026-11-22T04:15:00Z\"}\n", "{\"ti\x00\x00",
		"\x00\x00\x00", strings.Repeat("\x00", 5000) + "\n{", strings.Repeat("\x00", maxBlank-50) + "\n{\"time\":\"2026-11-22T04:15:00Z\"}\n",
		strings.Repeat("\x00", maxBlank), strings.Repeat("\n", maxLine),
	} {
		cfg := newConfig(t)
		if err := os.WriteFile(cfg.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l := openLog(t, cfg)
		write(t, l, begin("a", t0))
		if got := read(t, l, Query{}); len(got.Records) != 1 {
			t.Errorf("%.20q: %+v", text, got)
		}
	}
}

// TestSomethingElseInItsPlace: what isn't a record is left alone, whenever it came there.
func TestSomethingElseInItsPlace(t *testing.T) {
	const other = "hello world\n"
	for name, put := range map[string]func(path string) error{
		"another file": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.WriteFile(path, []byte(other), 0o600)
		},
		"written anew": func(path string) error { return os.WriteFile(path, []byte(other), 0o600) },
	} {
		cfg := newConfig(t)
		l := openLog(t, cfg)
		write(t, l, begin("a", t0))
		if err := put(cfg.File); err != nil {
			t.Fatal(err)
		}
		if err := l.Reopen(); err == nil || !strings.Contains(err.Error(), "something else than records") {
			t.Errorf("%s: opened anew: %v", name, err)
		}
		if err := l.Write(begin("b", t0)); err == nil || !strings.Contains(err.Error(), "something else than records") {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(cfg.File); string(got) != other {
			t.Errorf("%s: it has %q, %v", name, got, err)
		}
		if err := os.Rename(cfg.File, cfg.File+".other"); err != nil {
			t.Fatal(err)
		}
		write(t, l, begin("c", t0))
		wantFiles(t, cfg.File, "c")
	}
}

// TestOpenRefusesOthers: however a file begins that isn't a record, nothing of it is touched.
func TestOpenRefusesOthers(t *testing.T) {
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	for _, text := range []string{
		"hello", "{\n  \"a\": 1\n}\n", `{"tim"`, "\n\n[]", strings.Repeat("\n", 300) + "hello",
		zeros(300) + "hello", zeros(1024) + "\x80\x02\x00", zeros(32<<10) + "\x01CD001", zeros(maxBlank + 1), zeros(maxBlank) + "{",
	} {
		cfg := newConfig(t)
		if err := os.WriteFile(cfg.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(cfg, nil); err == nil || !strings.Contains(err.Error(), cfg.File+" has something else than records") {
			t.Errorf("%.20q: %v", text, err)
		}
		if got, err := os.ReadFile(cfg.File); string(got) != text {
			t.Errorf("%.20q: it has %.20q, %v", text, got, err)
		}
	}
}

// TestOthersBeside: what isn't a record is left alone beside the record too. Where it is in the way, the record is
// written on until it is moved.
func TestOthersBeside(t *testing.T) {
	for _, c := range []struct {
		suffix  string
		inWay   bool
		records []string // that are numbered before
	}{
		{".new", true, nil},
		{".1", true, nil},
		{".2", true, []string{".1"}},
		{".2", false, nil}, // .1 is free
		{".3", false, []string{".1", ".2"}},
		{".100", false, nil},
		{".101", false, nil},
		{".20261101", false, nil},
	} {
		t.Run(c.suffix+strings.Join(c.records, ""), func(t *testing.T) {
			const other = "hello world\n"
			cfg := newConfig(t)
			l := openLog(t, cfg)
			l.file.cfg.MaxSize, l.file.cfg.MaxFiles = maxLine, 3
			for _, suffix := range c.records {
				if err := os.WriteFile(cfg.File+suffix, []byte(recordBegin), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			name := cfg.File + c.suffix
			if err := os.WriteFile(name, []byte(other), 0o600); err != nil {
				t.Fatal(err)
			}
			write(t, l, filled(t, l.file.cfg, "a", t0), filled(t, l.file.cfg, "b", t0))
			st := l.Status()
			if got := st.Rotate != nil && strings.Contains(st.Rotate.Error(), name+" has something else"); got != c.inWay || st.Err != nil {
				t.Errorf("status %+v", st)
			}
			if c.inWay == (ids(t, cfg.File) == "b") {
				t.Errorf("the record has %s", ids(t, cfg.File))
			}
			if got, err := os.ReadFile(name); string(got) != other {
				t.Errorf("it has %q, %v", got, err)
			}
			if err := os.Rename(name, cfg.File+".other"); err != nil {
				t.Fatal(err)
			}
			write(t, l, filled(t, l.file.cfg, "c", t0.Add(rotateAgain)))
			if st := l.Status(); st.Rotate != nil || ids(t, cfg.File) != "c" {
				t.Errorf("it is out of the way: %+v, the record has %s", st, ids(t, cfg.File))
			}
		})
	}
}

// TestRotatedIsNamed: errors name the record, and not what it was before it was renamed.
func TestRotatedIsNamed(t *testing.T) {
	cfg := newConfig(t)
	l := openLog(t, cfg)
	l.file.cfg.MaxSize = maxLine
	write(t, l, filled(t, l.file.cfg, "a", t0), filled(t, l.file.cfg, "b", t0))
	if err := os.WriteFile(cfg.File, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(begin("c", t0)); err == nil || !strings.Contains(err.Error(), cfg.File+" has something else") {
		t.Error(err)
	}
}

// TestLockRemoved: a second daemon is kept out by the record itself too.
func TestLockRemoved(t *testing.T) {
	cfg := newConfig(t)
	l := openLog(t, cfg)
	l.file.cfg.MaxSize = maxLine
	for what, do := range map[string]func() error{
		"opened":       func() error { return nil },
		"opened again": l.Reopen,
		"moved away": func() error {
			if err := os.Rename(cfg.File, cfg.File+".away"); err != nil {
				return err
			}
			return l.Write(begin("a", t0))
		},
		"set aside": func() error {
			return errors.Join(l.Write(filled(t, l.file.cfg, "b", t0)), l.Write(filled(t, l.file.cfg, "c", t0)))
		},
	} {
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := os.Remove(cfg.File + lockSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if _, err := Open(cfg, nil); !errors.Is(err, ErrLocked) {
			t.Errorf("%s: %v", what, err)
		}
		if err := l.Write(begin("d", t0)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, openLog(t, cfg), begin("e", t0))
}

func TestTakes(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "a.lock": true, "a.new": true, "a.1": true, "a.100": true,
		"a.0": false, "a.101": false, "a.20261101": false, "a.01": false, "a.-1": false, "a.+1": false, "a1": false, "a.": false, "a.1.gz": false, "a.htpasswd": false, "auth": false, "b": false,
	} {
		if got := Takes("a", name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
