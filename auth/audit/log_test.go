package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var t0 = time.Date(2026, 11, 22, 4, 15, 0, 0, time.UTC)

func newConfig(t testing.TB) Config {
	t.Helper()
	return Config{To: ToFile, File: filepath.Join(t.TempDir(), "audit.log"), MaxSize: 10 << 20, MaxFiles: 3}
}

func openLog(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// begin is a record of a change that is about to be made.
func begin(id string, at time.Time) Record {
	return Record{
		Time: at, Event: Begin, ID: id, Principal: "jane", Role: "operator", Via: "token", Credential: "desk", From: "10.0.0.1:4711",
		Protocol: "json-rpc", Method: "conntrack.kill", Params: json.RawMessage(`{"filter":"bytes=>1K","reason":"spam"}`), Reason: "spam",
		Matched: new(2), Flows: []string{"tcp 10.3.0.7:40000>192.0.2.1:443"},
	}
}

func end(id string, at time.Time) Record {
	return Record{Time: at, Event: End, ID: id, Principal: "jane", Method: "conntrack.kill", Outcome: "ok", Changed: new(2), TookMS: 3}
}

func refusal(id string, at time.Time) Record {
	return Record{
		Time: at, Event: Refusal, ID: id, Principal: "mallory", From: "[2001:db8::7]:1000", Protocol: "xml-rpc", Method: "conntrack.kill",
		Outcome: "unauthenticated", Message: "the caller is not known",
	}
}

func write(t testing.TB, l *Log, records ...Record) {
	t.Helper()
	for _, r := range records {
		if err := l.Write(r); err != nil {
			t.Fatalf("%s %s: %v", r.Event, r.ID, err)
		}
	}
}

func read(t testing.TB, l *Log, q Query) Result {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = 100
	}
	got, err := l.Read(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// lines returns the lines of a file; each must be a record.
func lines(t testing.TB, path string) []Record {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var records []Record
	for line := range strings.Lines(string(b)) {
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		records = append(records, r)
	}
	return records
}

func TestWriteAndRead(t *testing.T) {
	cfg := newConfig(t)
	l := openLog(t, cfg)
	want := []Record{begin("a", t0), refusal("b", t0.Add(time.Second)), end("a", t0.Add(2*time.Second))}
	write(t, l, want...)
	if diff := cmp.Diff(want, lines(t, cfg.File)); diff != "" {
		t.Errorf("the file (-want +got):\n%s", diff)
	}
	fi, err := os.Stat(cfg.File)
	if err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
	}
	joined := begin("a", t0)
	joined.Outcome, joined.Changed, joined.TookMS = "ok", new(2), 3
	if diff := cmp.Diff(Result{Records: []Record{joined, want[1]}}, read(t, l, Query{})); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if st := l.Status(); st.Written != 3 || st.Err != nil {
		t.Errorf("status %+v", st)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(begin("c", t0)); !errors.Is(err, ErrClosed) {
		t.Errorf("written after the end: %v", err)
	}
	if left, _ := filepath.Glob(cfg.File + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// It goes on where it was.
	l = openLog(t, cfg)
	write(t, l, begin("c", t0.Add(time.Minute)))
	if got := read(t, l, Query{}); len(got.Records) != 3 || got.Records[2].Outcome != Unknown {
		t.Errorf("after a restart: %+v", got)
	}
}

func TestNothingIsKept(t *testing.T) {
	for _, to := range []string{ToNone, ""} {
		l := openLog(t, Config{To: to})
		write(t, l, begin("a", t0))
		if _, err := l.Read(t.Context(), Query{Limit: 1}); !errors.Is(err, ErrNotRead) || l.Kept() || l.To() != ToNone {
			t.Errorf("%q: kept %v, to %q, %v", to, l.Kept(), l.To(), err)
		}
	}
	var none *Log
	if err := errors.Join(none.Write(begin("a", t0)), none.Reopen(), none.Close()); err != nil || none.Kept() {
		t.Errorf("no log: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const hosts = "127.0.0.1 localhost\n{\"time\":\"2026-11-22T04:15:00Z\"}\n"
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(plain, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	ok := Config{To: ToFile, MaxSize: MinSize, MaxFiles: 1}
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no such place":            {func(c *Config) { c.To = "syslog" }, "to: \"syslog\" is none of file, journald and none"},
		"no path":                  {func(c *Config) { c.File = "" }, "file: a path is needed"},
		"too small":                {func(c *Config) { c.MaxSize-- }, "max_size: 65535 bytes are too few; at least 65536"},
		"no file":                  {func(c *Config) { c.MaxFiles = 0 }, "max_files: "},
		"too many files":           {func(c *Config) { c.MaxFiles = MaxFiles + 1 }, "max_files: "},
		"max_age: -1ns is below 0": {func(c *Config) { c.MaxAge = -1 }, "max_age: -1ns is below 0"},
		"no folder":                {func(c *Config) { c.File = filepath.Join(dir, "none", "audit.log") }, "make its folder"},
		"a folder":                 {func(c *Config) { c.File = dir }, "is a directory"},
		"a link":                   {func(c *Config) { c.File = filepath.Join(dir, "link") }, "is a symbolic link"},
		"a device":                 {func(c *Config) { c.File = "/dev/null" }, ""},
		"under no folder":          {func(c *Config) { c.File = filepath.Join(plain, "audit.log") }, "not a directory"},
		"another's file":           {func(c *Config) { c.File = filepath.Join(dir, "hosts") }, "name another file, or move this one away"},
		"taken by another":         {func(c *Config) { c.File = filepath.Join(dir, "taken") }, "needs a file of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := ok
			cfg.File = filepath.Join(dir, "audit.log")
			tt.change(&cfg)
			if name == "taken by another" {
				openLog(t, cfg)
			}
			if name == "a device" {
				cfg.File = filepath.Join(dir, "pipe")
				mkfifo(t, cfg.File)
				tt.want = "no regular file"
			}
			l, err := Open(cfg, nil)
			if err == nil {
				_ = l.Close()
				t.Fatal("it opened")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q, want %q in it", err, tt.want)
			}
		})
	}
	if b, err := os.ReadFile(filepath.Join(dir, "hosts")); string(b) != hosts {
		t.Errorf("it has been written into: %q, %v", b, err)
	}
	if err := ok.Check(); err == nil {
		t.Error("without a path it is right")
	}
}

// TestConcurrentWriters: each line is whole, and none is lost, while the file is set aside again and again
// and others read.
func TestConcurrentWriters(t *testing.T) {
	const writers, each = 8, 1000
	cfg := newConfig(t)
	cfg.MaxSize, cfg.MaxFiles = 128<<10, MaxFiles
	l := openLog(t, cfg)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	readers := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				readers <- n
				return
			default:
			}
			got, err := l.Read(t.Context(), Query{Limit: 10000})
			if err != nil || got.Unread > 0 || len(got.Records) < n {
				t.Errorf("a reader: %d records after %d, %d unread, %v", len(got.Records), n, got.Unread, err)
			}
			n = len(got.Records)
		}
	}()
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				r := begin(fmt.Sprintf("%d-%d", w, i), time.Now().UTC())
				r.Reason = strings.Repeat("x", i%400)
				if err := l.Write(r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	<-readers
	seen := map[string]bool{}
	files, _ := filepath.Glob(cfg.File + "*")
	for _, name := range files {
		if strings.HasSuffix(name, ".lock") {
			continue
		}
		if fi, err := os.Stat(name); err != nil || fi.Size() > cfg.MaxSize {
			t.Errorf("%s has %d bytes, %v", name, fi.Size(), err)
		}
		for _, r := range lines(t, name) {
			if seen[r.ID] {
				t.Errorf("%s is there twice", r.ID)
			}
			seen[r.ID] = true
		}
	}
	if len(seen) != writers*each {
		t.Errorf("%d of %d records", len(seen), writers*each)
	}
	if len(files) < 10 {
		t.Errorf("only %d files", len(files))
	}
	if got := read(t, l, Query{Limit: 10000}); len(got.Records) != writers*each || got.Truncated {
		t.Errorf("%d read, truncated %v", len(got.Records), got.Truncated)
	}
}
