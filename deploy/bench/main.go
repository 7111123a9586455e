// Ctd-bench measures the daemon against conntrack(8), and against a loop that only receives, side by
// side in one run: what is compared runs in turns, and the medians are put in proportion. It makes
// tables in network namespaces of its own, as root, and writes its findings as a document.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	var b bench
	flag.StringVar(&b.ctd, "ctd", "bin/ctd", "the daemon's binary")
	flag.IntVar(&b.flows, "flows", 1_000_000, fmt.Sprintf("flows in the large table; a multiple of %d", 5*flowUnit))
	flag.IntVar(&b.runs, "runs", 3, "how often each long measurement is made")
	flag.IntVar(&b.calls, "calls", 100, fmt.Sprintf("how often each short measurement is made; a multiple of %d", block))
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ctd-bench:", err)
		os.Exit(1)
	}
}

// bench is what to measure, and what was.
type bench struct {
	ctd                string
	flows, runs, calls int

	dir  string
	rows []row
}

// row is one line of the findings.
type row struct {
	what, against string
	ours, theirs  string
	ratio         float64
	bar           string
	kept          bool
}

func (b *bench) run(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	if b.flows <= 0 || b.flows%(5*flowUnit) != 0 || b.runs < 1 || b.calls < block || b.calls%block != 0 {
		return fmt.Errorf("-flows must be a multiple of %d, -calls of %d, -runs at least 1", 5*flowUnit, block)
	}
	if b.dir, err = os.MkdirTemp("", "ctd-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	restore, err := raiseMax(b.flows)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()

	for _, part := range []struct {
		name  string
		flows int
		fn    func(context.Context, *rig, *daemon) error
	}{
		// The small table first: all namespaces share one hash table, so that what is left of a
		// large one would cost both sides time.
		{"kill", b.flows / 5, b.killing},
		{"large", b.flows, b.large},
	} {
		if err := b.with(ctx, part.name, part.flows, part.fn); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if err := b.rtsp(ctx); err != nil {
		return fmt.Errorf("rtsp: %w", err)
	}
	return b.write()
}

// with runs fn on a fresh table with a fresh daemon.
func (b *bench) with(ctx context.Context, name string, flows int, fn func(context.Context, *rig, *daemon) error) (err error) {
	progress("loading %d flows", flows)
	r, err := newRig(ctx, name, b.dir, flows)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	d, err := startDaemon(ctx, b.ctd, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	return fn(ctx, r, d)
}

// large measures reading, on the large table.
func (b *bench) large(ctx context.Context, r *rig, d *daemon) error {
	idle, _, err := d.rss()
	if err != nil {
		return err
	}
	b.memory("resident memory of the idle daemon", idle, 20<<20)

	if err := b.listAll(ctx, r, d); err != nil {
		return err
	}
	share := r.n / groups
	for _, part := range []struct {
		what, against string
		filter        map[string]any
		args          []string
		bar           float64
	}{
		{
			fmt.Sprintf("list %d of %d flows by one IPv4 source", share, r.n),
			"`conntrack -L -s ADDRESS`",
			map[string]any{"src": oneSource},
			[]string{"-L", "-s", oneSource},
			0.25,
		},
		{
			fmt.Sprintf("list %d of %d flows by mark", r.n/marks, r.n),
			"`conntrack -L -m MARK`",
			map[string]any{"mark": oneMark},
			[]string{"-L", "-m", fmt.Sprint(oneMark)},
			1.1,
		},
	} {
		progress("%s", part.what)
		took, err := inTurns(b.runs,
			func(int) (time.Duration, error) {
				took, _, err := d.list(ctx, part.filter, share)
				return took, err
			},
			func(int) (time.Duration, error) { return r.conntrack(ctx, part.args...) })
		if err != nil {
			return err
		}
		b.compare(part.what, part.against, took[0], took[1], part.bar)
	}

	progress("get one flow")
	took, err := inTurns(b.calls/block,
		inBlocks(func(i int) (time.Duration, error) {
			begin := time.Now()
			err := d.call(ctx, "conntrack.get", map[string]any{"flow": flowAt(groups*i + 2).selector()}, nil)
			return time.Since(begin), err
		}),
		inBlocks(func(i int) (time.Duration, error) {
			return r.conntrack(ctx, append([]string{"-G"}, flowAt(groups*i+2).args()...)...)
		}))
	if err != nil {
		return err
	}
	b.compare("get one flow, kept-alive connection (p50)", "starting `conntrack -G`", took[0], took[1], 0.1)
	return nil
}

// listAll measures a list of the whole table, and the memory that it takes.
func (b *bench) listAll(ctx context.Context, r *rig, d *daemon) error {
	progress("list %d flows", r.n)
	before, _, err := d.rss()
	if err != nil {
		return err
	}
	if err := d.resetPeak(); err != nil {
		return err
	}
	var bytes int64
	took, err := inTurns(b.runs,
		func(int) (took time.Duration, err error) {
			took, bytes, err = d.list(ctx, nil, r.n)
			return took, err
		},
		func(int) (time.Duration, error) { return r.conntrack(ctx, "-L", "-o", "xml") },
		func(int) (time.Duration, error) { return r.bareDump() },
	)
	if err != nil {
		return err
	}
	_, peak, err := d.rss()
	if err != nil {
		return err
	}
	what := fmt.Sprintf("list %d flows, %d MB of JSON", r.n, bytes/1e6)
	b.compare(what, "`conntrack -L -o xml >/dev/null`", took[0], took[1], 0.7)
	b.compare(what, "a loop that receives and decodes nothing", took[0], took[2], 1.3)
	b.memory(fmt.Sprintf("growth of the daemon's peak memory over these %d lists", b.runs), max(0, peak-before), 32<<20)
	return nil
}

// killing measures deletion. What was killed is put back before the next turn.
func (b *bench) killing(ctx context.Context, r *rig, d *daemon) error {
	share := r.n / groups
	for _, part := range []struct {
		what, against string
		group         int
		source        string
		bar           float64
	}{
		{"by one IPv4 source", "`conntrack -D -s ADDRESS`", 0, oneSource, 0.2},
		{"by a /16", "`conntrack -D -s NETWORK`", 1, oneNet, 0.85},
	} {
		what := fmt.Sprintf("kill %d of %d flows %s", share, r.n, part.what)
		progress("%s", what)
		again := func(took time.Duration, err error) (time.Duration, error) {
			if err != nil {
				return 0, err
			}
			if err := r.holds(ctx, r.n-share); err != nil {
				return 0, fmt.Errorf("after the kill: %w", err)
			}
			return took, r.load(ctx, func(i int) bool { return i%groups == part.group })
		}
		filter := map[string]any{"src": part.source}
		took, err := inTurns(b.runs,
			func(int) (time.Duration, error) { return again(d.kill(ctx, map[string]any{"filter": filter}, share)) },
			func(int) (time.Duration, error) { return again(r.conntrack(ctx, "-D", "-s", part.source)) },
			func(int) (time.Duration, error) {
				return again(d.kill(ctx, map[string]any{"filter": filter, "cut": true}, share))
			})
		if err != nil {
			return err
		}
		b.compare(what, part.against, took[0], took[1], part.bar)
		b.compare(what+", and cut the connections", "the same without", took[2], took[0], 3)
	}

	progress("kill one flow")
	if 2*b.calls > share {
		return fmt.Errorf("-calls %d: at most %d with so few flows", b.calls, share/2)
	}
	took, err := inTurns(b.calls/block,
		inBlocks(func(i int) (time.Duration, error) {
			return d.kill(ctx, map[string]any{"flows": []any{flowAt(groups*2*i + 3).selector()}}, 1)
		}),
		inBlocks(func(i int) (time.Duration, error) {
			return r.conntrack(ctx, append([]string{"-D"}, flowAt(groups*(2*i+1)+3).args()...)...)
		}))
	if err != nil {
		return err
	}
	b.compare("kill one flow, kept-alive connection (p50)", "starting `conntrack -D`", took[0], took[1], 0.1)
	return nil
}

// inTurns calls each side n times, one after the other in turns, so that what else the machine
// does meets all alike, and returns each side's median.
func inTurns(n int, sides ...func(turn int) (time.Duration, error)) (medians []time.Duration, err error) {
	took := make([][]time.Duration, len(sides))
	for turn := range n {
		for i, side := range sides {
			t, err := side(turn)
			if err != nil {
				return nil, err
			}
			took[i] = append(took[i], t)
		}
	}
	for _, t := range took {
		medians = append(medians, median(t))
	}
	return medians, nil
}

// block is how many single calls make a turn: who keeps a connection open calls more than once.
const block = 10

// inBlocks makes a turn of block calls, and the turn's time their median.
func inBlocks(call func(i int) (time.Duration, error)) func(turn int) (time.Duration, error) {
	return func(turn int) (time.Duration, error) {
		var took []time.Duration
		for i := range block {
			t, err := call(turn*block + i)
			if err != nil {
				return 0, err
			}
			took = append(took, t)
		}
		return median(took), nil
	}
}

func median(t []time.Duration) time.Duration {
	t = slices.Sorted(slices.Values(t))
	return (t[(len(t)-1)/2] + t[len(t)/2]) / 2
}

// compare notes two times that should be at most bar in proportion.
func (b *bench) compare(what, against string, ours, theirs time.Duration, bar float64) {
	ratio := float64(ours) / float64(theirs)
	b.rows = append(b.rows, row{what, against, duration(ours), duration(theirs), ratio, fmt.Sprintf("<= %.2f", bar), ratio <= bar})
}

// rates notes two times that n of something took, as rates, without a bar.
func (b *bench) rates(what, against string, n int, ours, theirs time.Duration) {
	rate := func(d time.Duration) string { return fmt.Sprintf("%.0f/s", float64(n)/d.Seconds()) }
	b.rows = append(b.rows, row{what: what, against: against, ours: rate(ours), theirs: rate(theirs), ratio: float64(ours) / float64(theirs)})
}

// added notes two times of which ours is the longer, and by how much, without a bar.
func (b *bench) added(what, against string, ours, theirs time.Duration) {
	b.rows = append(b.rows, row{
		what: what + ", " + duration(ours-theirs) + " more", against: against,
		ours: duration(ours), theirs: duration(theirs), ratio: float64(ours) / float64(theirs),
	})
}

// memory notes an amount that should be at most bar.
func (b *bench) memory(what string, bytes, bar int64) {
	b.rows = append(b.rows, row{
		what: what, ours: fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)),
		bar: fmt.Sprintf("<= %d MiB", bar>>20), kept: bytes <= bar,
	})
}

func duration(d time.Duration) string {
	if d < 100*time.Millisecond {
		return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
