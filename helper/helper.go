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
	// maxBuffered bounds the bytes of all connections that wait for others to become whole messages.
	maxBuffered = 32 << 20
	// maxExpects bounds the expectations that wait. The kernel's own bound is for all namespaces
	// (net.netfilter.nf_conntrack_expect_max).
	maxExpects = 512
)

// remarksRate and remarksBurst bound the lines of the log that others can cause.
const (
	remarksRate  = 1 // a second
	remarksBurst = 20
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
	buffered int // bytes that wait, in all directions of all connections
	byFlow   map[conntrack.Tuple]*stream
	ports    ports
	counters Counters

	sought    map[*stream]bool // whose flows are sought
	zones     []uint16         // that are known
	zonesRead time.Time
	zoneless  bool // a connection was in none of them

	remarks *rate.Limiter // of what others could make the log say without end
}

// conn is a connection, and which of its directions a tuple is.
type conn struct {
	*connection
	dir int
}

// Open finds out what the kernel can do, picks up what a predecessor left behind, and begins to read
// packets. The helper needs CAP_NET_ADMIN.
func Open(ctx context.Context, cfg Config) (*Helper, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg.complete()
	k, err := probe(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("find out what the kernel can do: %w", err)
	}
	h := newHelper(cfg, k)
	if err := h.open(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func newHelper(cfg Config, k kernel) *Helper {
	return &Helper{
		cfg: cfg, kernel: k, started: time.Now(), busy: newBell(), search: newBell(),
		conns: make(map[conntrack.Tuple]conn), byFlow: make(map[conntrack.Tuple]*stream), ports: make(ports),
		clients: make(map[netip.Addr]int), sought: make(map[*stream]bool), remarks: rate.NewLimiter(remarksRate, remarksBurst),
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
				h.forget(c.connection)
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

// find returns the connection of a segment, which may have begun with it. A connection whose entry
// can't be had isn't followed.
func (h *Helper) find(seg *segment, ct []byte) conn {
	t := seg.tuple()
	begins := seg.flags&(flagSYN|flagACK) == flagSYN
	if c, ok := h.conns[t]; ok {
		if !begins || c.dir == fromClient && c.dirs[fromClient].began(seg.first()) {
			return c
		}
		h.drop(c.connection, "begun anew")
	}
	if begins {
		// Its entry isn't in the table before it has left the router.
		return h.follow(h.newConnection(conntrack.Flow{Orig: t, Zone: zoneOf(ct)}, false))
	}
	f, err := h.entry(t, ct)
	if err != nil {
		return conn{}
	}
	if f.Mark&h.cfg.MarkBit != 0 { // it has left, and is here by rules that don't heed that
		return conn{}
	}
	if f.Orig != t && f.Reply != t { // with a zone for each direction tuples don't tell whose they are
		return conn{}
	}
	if c, ok := h.conns[f.Orig]; ok {
		c.flow, c.known = f, true
		h.conns[f.Reply] = conn{c.connection, fromServer}
	} else {
		h.follow(h.newConnection(f, true))
	}
	return h.conns[t]
}

// entry returns the flow that a packet's tuple is a direction of: as it came with the packet, or from
// the table.
func (h *Helper) entry(t conntrack.Tuple, ct []byte) (conntrack.Flow, error) {
	if ct != nil {
		return conntrack.ParseFlow(ct)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	f, err := h.cfg.Table.Get(ctx, conntrack.Key{Orig: t})
	if !errors.Is(err, conntrack.ErrNotFound) {
		return f, err
	}
	return h.inZone(ctx, t)
}

// inZone looks for a flow in the zones that are known. Where several have the tuple, none is the one.
func (h *Helper) inZone(ctx context.Context, t conntrack.Tuple) (conntrack.Flow, error) {
	var found []conntrack.Flow
	for _, zone := range h.zones {
		if f, err := h.cfg.Table.Get(ctx, conntrack.Key{Orig: t, Zone: zone}); err == nil {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		h.zoneless = true
		h.search.wake()
		return conntrack.Flow{}, conntrack.ErrNotFound
	}
	return found[0], nil
}

func zoneOf(ct []byte) uint16 {
	if ct == nil {
		return 0
	}
	f, err := conntrack.ParseFlow(ct)
	if err != nil {
		return 0
	}
	return f.Zone
}

// follow takes up a connection.
func (h *Helper) follow(c *connection) conn {
	client := c.client()
	if h.clients[client] >= maxConnectionsPerClient || h.followed >= maxConnections && !h.forgetUnknown() {
		h.counters.Limited++
		return conn{}
	}
	h.clients[client]++
	h.followed++
	h.conns[c.flow.Orig] = conn{c, fromClient}
	if c.known {
		h.conns[c.flow.Reply] = conn{c, fromServer}
	}
	return h.conns[c.flow.Orig]
}

// forgetUnknown makes room at the cost of a connection that may never come about: of those, a random one.
func (h *Helper) forgetUnknown() bool {
	for _, c := range h.conns {
		if !c.known {
			h.forget(c.connection)
			return true
		}
	}
	return false
}

// drop ends what a connection registered and follows it no more.
func (h *Helper) drop(c *connection, reason string) {
	c.endAll(reason)
	h.forget(c)
}

// forget follows a connection no more.
func (h *Helper) forget(c *connection) {
	c.releaseHeld()
	if c.timer != nil {
		c.timer.Stop()
	}
	if h.conns[c.flow.Orig].connection != c {
		return
	}
	delete(h.conns, c.flow.Orig)
	if h.conns[c.flow.Reply].connection == c {
		delete(h.conns, c.flow.Reply)
	}
	h.followed--
	if h.clients[c.client()]--; h.clients[c.client()] == 0 {
		delete(h.clients, c.client())
	}
	for dir := range c.dirs {
		c.dirs[dir].drop()
	}
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

// limited tells whether a client may have no more streams.
func (h *Helper) limited(client netip.Addr) bool {
	all, own := 0, 0
	for t, c := range h.conns {
		if t != c.flow.Orig {
			continue
		}
		n := c.streamCount()
		for _, q := range c.pending[fromClient] {
			if q.setup != nil {
				n++
			}
		}
		all += n
		if c.client() == client {
			own += n
		}
	}
	return all >= h.cfg.MaxSessions || own >= h.cfg.MaxSessionsPerClient
}

// refuse counts what isn't registered for a reason of safety.
func (h *Helper) refuse(c *connection, reason string) {
	h.counters.Refused++
	h.remark(c, "an RTSP stream isn't let in", "reason", reason)
}

// remark logs what a client or server could repeat without end: a few of it, and the counters have all.
func (h *Helper) remark(c *connection, message string, more ...any) {
	level := slog.LevelInfo
	if !h.remarks.Allow() {
		level = slog.LevelDebug
	}
	h.cfg.Logger.Log(context.Background(), level, message, append([]any{"client", c.client(), "server", c.server()}, more...)...)
}

func (h *Helper) killExpects(es []conntrack.Expect) {
	if len(es) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	for i, err := range h.cfg.Table.KillExpects(ctx, es) {
		if err != nil && !errors.Is(err, conntrack.ErrNotFound) {
			h.cfg.Logger.Warn("an expectation is left behind", "expectation", es[i].Tuple, "error", err)
		}
	}
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
