package audit

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkWrite writes the two records of a change.
func BenchmarkWrite(b *testing.B) {
	cfg := newConfig(b)
	cfg.MaxSize = 64 << 20
	l := openLog(b, cfg)
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprint(i)
		write(b, l, begin(id, time.Now()), end(id, time.Now()))
	}
}

// BenchmarkRead reads 100,000 changes, of which none fits.
func BenchmarkRead(b *testing.B) {
	l := openLog(b, newConfig(b))
	l.file.cfg.MaxSize, l.cfg.MaxSize = 1<<30, 1<<30
	for i := range 100_000 {
		id := fmt.Sprint(i)
		write(b, l, begin(id, t0), end(id, t0))
	}
	for name, q := range map[string]Query{"text": {Text: "nowhere"}, "since": {Since: t0.Add(1)}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if got := read(b, l, q); len(got.Records) != 0 {
					b.Fatal(got)
				}
			}
		})
	}
}
