package audit

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestQuotaOfRefusals: a flood leaves a few lines, the next one that is written says how many it was, and
// changes are always written.
func TestQuotaOfRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, via string
		burst     int
		every     time.Duration
	}{
		{"nobody", "", strangerBurst, strangerEvery},
		{"a principal", "token", knownBurst, knownEvery},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newConfig(t)
			l := openLog(t, cfg)
			now := t0
			l.now = func() time.Time { return now }
			flood := func(n int) {
				for i := range n {
					r := refusal(fmt.Sprint(i), now)
					r.Via = tt.via
					write(t, l, r)
				}
			}
			flood(1000)
			if got := lines(t, cfg.File); len(got) != tt.burst || got[0].Suppressed != 0 {
				t.Fatalf("%d lines of a burst, want %d; %+v", len(got), tt.burst, got[0])
			}
			write(t, l, begin("change", now))
			other := refusal("other", now)
			if other.Via = "token"; tt.via != "" {
				other.Via = ""
			}
			write(t, l, other) // has a quota of its own
			now = now.Add(tt.every)
			flood(10)
			got := lines(t, cfg.File)
			if last := got[len(got)-1]; len(got) != tt.burst+3 || last.Suppressed != 1000-tt.burst {
				t.Errorf("%d lines, the last says %d; want %d, %d", len(got), last.Suppressed, tt.burst+3, 1000-tt.burst)
			}
			now = now.Add(tt.every)
			flood(1)
			got = lines(t, cfg.File)
			if last := got[len(got)-1]; last.Suppressed != 9 {
				t.Errorf("the next says %d, want 9", last.Suppressed)
			}
		})
	}
}

// TestQuotaOfFile: refusals take a quarter of a file and then one a minute, so that an hour's flood doesn't
// drive out changes.
func TestQuotaOfFile(t *testing.T) {
	cfg := newConfig(t)
	cfg.MaxSize = 4 * MinSize
	l := openLog(t, cfg)
	now := t0
	l.now = func() time.Time { return now }
	write(t, l, begin("change", now))
	flood := func(hours int) {
		for end := now.Add(time.Duration(hours) * time.Hour); now.Before(end); now = now.Add(100 * time.Millisecond) {
			r := refusal("x", now)
			r.Message = strings.Repeat("m", 300)
			write(t, l, r)
		}
	}
	flood(1)
	fi, err := os.Stat(cfg.File)
	if err != nil || fi.Size() < cfg.MaxSize/quotaPart || fi.Size() > cfg.MaxSize/quotaPart+70*700 {
		t.Errorf("%d bytes of %d, %v", fi.Size(), cfg.MaxSize, err)
	}
	if _, err := os.Stat(numbered(cfg.File, 1)); err == nil {
		t.Error("the change was set aside")
	}
	// A new file has the quota again.
	if err := os.Remove(cfg.File); err != nil {
		t.Fatal(err)
	}
	write(t, l, begin("next", now))
	flood(1)
	if fi, err := os.Stat(cfg.File); err != nil || fi.Size() < cfg.MaxSize/quotaPart {
		t.Errorf("%d bytes of a new file, %v", fi.Size(), err)
	}
}

// TestQuotaIsPutBack: a refusal that couldn't be written is one of those that the next one counts.
func TestQuotaIsPutBack(t *testing.T) {
	cfg := newConfig(t)
	l := openLog(t, cfg)
	now := t0
	l.now = func() time.Time { return now }
	for range strangerBurst + 5 {
		write(t, l, refusal("x", now))
	}
	dir := cfg.File[:strings.LastIndexByte(cfg.File, '/')]
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	now = now.Add(strangerEvery)
	if err := l.Write(refusal("y", now)); err == nil {
		t.Fatal("written without a folder")
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	now = now.Add(strangerEvery)
	write(t, l, refusal("z", now))
	got := lines(t, cfg.File)
	if last := got[len(got)-1]; last.ID != "z" || last.Suppressed != 6 {
		t.Errorf("the next says %d of %s, want 6", last.Suppressed, last.ID)
	}
}
