package helper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"ctd/conntrack"
)

// Bounds of what is followed. Connections beyond pass unread.
const (
	maxConnections          = 16 << 10
	maxConnectionsPerClient = 512
	// maxKept and maxKeptPerClient bound the bytes that are kept: those that wait for others to become whole
	// messages, and requests that await their reply.
	maxKept          = 32 << 20
	maxKeptPerClient = 4 << 20
	// maxExpects and maxExpectsPerClient bound the expectations that wait. The kernel's own bound is for all namespaces
	// (net.netfilter.nf_conntrack_expect_max).
	maxExpects          = 512
	maxExpectsPerClient = 64
)

// Bounds of the lines of the log that others can cause, a second and at once.
const (
	remarksRate, remarksBurst = 1, 20
	linesRate, linesBurst     = 20, 500
)

// closeTime bounds the last search.
const closeTime = 10 * time.Second

// Helper lets RTSP streams in while it runs.
type Helper struct {
	cfg          Config
	kernel       kernel
	interception *interception
	queue        *queue
	verdicts     sink
	started      time.Time
	busy         bell // there are streams whose end must be noticed
	search       bell // something is sought in the table

	mu       sync.Mutex // holds what follows, and everything below it
	conns    map[conntrack.Tuple]conn
	followed int // connections in conns, which has them under both their tuples
	clients  map[netip.Addr]int
	byFlow   map[conntrack.Tuple]*stream
	ports    ports
	counters Counters

	older map[conntrack.Key]bool // connections that are older than the helper, by olderKey
	load  map[netip.Addr]*load   // by client
	total load

	sought    map[*alternative]*stream // whose flows are sought
	zones     []uint16                 // that are known
	zonesRead time.Time
	zoneless  bool // a connection was in none of them
	unwatched bool // the kernel tells of no flows that end

	// What others could make the log say without end: refusals and the like, and a line a session.
	remarks, lines *rate.Limiter
}

// Open finds out what the kernel can do, picks up what a predecessor left behind, and begins to read
// packets. The helper needs CAP_NET_ADMIN.
func Open(ctx context.Context, cfg Config) (*Helper, error) { return open(ctx, cfg) }

func open(ctx context.Context, cfg Config, ways ...probing) (*Helper, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg.complete()
	k, err := probe(ctx, cfg, ways...)
	if err != nil {
		return nil, fmt.Errorf("find out what the kernel can do: %w", err)
	}
	h := newHelper(cfg, k)
	if err := h.findOlder(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("look for connections: %w", err), h.Close())
	}
	if err := h.open(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func newHelper(cfg Config, k kernel) *Helper {
	return &Helper{
		cfg: cfg, kernel: k, started: time.Now(), busy: newBell(), search: newBell(),
		conns: make(map[conntrack.Tuple]conn), byFlow: make(map[conntrack.Tuple]*stream), ports: make(ports),
		clients: make(map[netip.Addr]int), sought: make(map[*alternative]*stream), older: make(map[conntrack.Key]bool),
		load: make(map[netip.Addr]*load), remarks: rate.NewLimiter(remarksRate, remarksBurst),
		lines: rate.NewLimiter(linesRate, linesBurst),
	}
}

// open holds the packets back that come by rules of a predecessor, until all is known.
func (h *Helper) open(ctx context.Context) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// The queue comes before the rules, which without a reader let everything pass.
	if h.queue, err = openQueue(ctx, &h.cfg, h.packet, h.lost); err != nil {
		return err
	}
	h.verdicts = h.queue
	if h.kernel.strategy == StrategyHelper && !h.queue.withConntrack {
		h.kernel.strategy = StrategyHybrid
	}
	if h.interception, err = install(h.cfg.Table, rulesOf(h.cfg, h.kernel.helper), h.cfg.Logger); err != nil {
		return err
	}
	if err := h.adopt(ctx); err != nil {
		return fmt.Errorf("pick up what was left behind: %w", err)
	}
	return nil
}

func (h *Helper) lost() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counters.Lost++
}

// guarded runs what isn't about one packet. What breaks there must not end the daemon.
func (h *Helper) guarded(fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() {
		if r := recover(); r != nil {
			h.cfg.Logger.Error("the RTSP helper stumbled", "error", r, "stack", string(debug.Stack()))
		}
	}()
	fn()
}

// packet reads a packet and sees to it that it gets a verdict.
func (h *Helper) packet(p packet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counters.Packets++
	var c conn
	defer func() {
		if r := recover(); r != nil {
			h.cfg.Logger.Error("a packet broke the RTSP helper, and passes", "error", r, "stack", string(debug.Stack()))
			h.verdicts.accept(p.id)
			if c.connection != nil {
				h.drop(c.connection, "broken")
			}
		}
	}()
	seg, err := parseSegment(p.data)
	if err != nil {
		h.counters.Malformed++
		h.verdicts.accept(p.id)
		return
	}
	if c = h.find(&seg, p.ct); c.connection == nil {
		h.verdicts.accept(p.id)
		return
	}
	c.segment(c.dir, p.id, &seg)
}

// Run works until ctx ends or the helper can't go on.
func (h *Helper) Run(ctx context.Context) error {
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return h.sweep(ctx) })
	tasks.Go(func() error { return h.watchEnds(ctx) })
	tasks.Go(func() error { return h.searches(ctx) })
	tasks.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case err := <-h.queue.broken:
			return err
		}
	})
	return tasks.Wait()
}

// Close takes back everything: rules, queue, expectations and flows. Packets that wait are dropped, and
// sent again by their senders.
func (h *Helper) Close() error {
	var errs []error
	if h.interception != nil {
		errs = append(errs, h.interception.close())
	}
	if h.queue != nil {
		h.mu.Lock()
		for _, c := range h.conns {
			c.releaseHeld()
		}
		h.mu.Unlock()
		errs = append(errs, h.queue.close())
	}
	h.mu.Lock()
	for _, c := range h.conns {
		h.drop(c.connection, "the helper ends")
	}
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	h.findExpected(ctx)
	return errors.Join(append(errs, h.kernel.close())...)
}

// refuse counts what isn't registered for a reason of safety.
func (h *Helper) refuse(c *connection, reason string) {
	h.counters.Refused++
	h.remark(c, "an RTSP stream isn't let in", "reason", reason)
}

// level is the level of a line that others can cause: what is too much is for debugging alone.
func level(l *rate.Limiter) slog.Level {
	if l.Allow() {
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// remark logs what a client or server could repeat without end: a few of it, and the counters have all.
func (h *Helper) remark(c *connection, message string, more ...any) {
	h.cfg.Logger.Log(context.Background(), level(h.remarks), message, append([]any{"client", c.client(), "server", c.server()}, more...)...)
}

// killExpects deletes expectations, and tells whether one was gone already: media have come by it, or its
// time was over.
func (h *Helper) killExpects(es []conntrack.Expect) (gone bool) {
	if len(es) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	for i, err := range h.cfg.Table.KillExpects(ctx, es) {
		switch {
		case errors.Is(err, conntrack.ErrNotFound):
			gone = true
		case err != nil:
			h.cfg.Logger.Warn("an expectation is left behind", "expectation", es[i].Tuple, "error", err)
		}
	}
	return gone
}

func (h *Helper) killFlows(flows []conntrack.Flow) {
	if len(flows) == 0 {
		return
	}
	keys := make([]conntrack.Key, len(flows))
	for i := range flows {
		keys[i] = flows[i].Key()
		delete(h.byFlow, flows[i].Orig)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	for i, err := range h.cfg.Table.Kill(ctx, keys) {
		if err != nil && !errors.Is(err, conntrack.ErrNotFound) {
			h.cfg.Logger.Warn("a related flow is left behind", "flow", keys[i].Orig, "error", err)
		}
	}
}
