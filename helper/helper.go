package helper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"strings"
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

	older map[olderKey]uint32  // ids of connections that are older than the helper
	load  map[netip.Addr]*load // by client
	total load

	sought    map[*alternative]*stream // whose flows are sought
	zones     []uint16                 // that are known
	zonesRead time.Time
	zoneless  bool // a connection was in none of them
	unwatched bool // the kernel tells of no flows that end

	// What others could make the log say without end: refusals and the like, and a line a session.
	remarks, lines *rate.Limiter
}

// conn is a connection, and which of its directions a tuple is.
type conn struct {
	*connection
	dir int
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
		clients: make(map[netip.Addr]int), sought: make(map[*alternative]*stream), older: make(map[olderKey]uint32),
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

// find returns the connection of a segment, which may have begun with it. A connection whose entry
// can't be had isn't followed.
func (h *Helper) find(seg *segment, ct []byte) conn {
	t := seg.tuple()
	begins := seg.flags&(flagSYN|flagACK) == flagSYN
	if c, ok := h.conns[t]; ok {
		if !begins || c.dir == fromClient && c.dirs[fromClient].isn == seg.seq || !c.over() {
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
	if c, ok := h.conns[f.Orig]; ok && c.dir == fromClient {
		c.flow, c.known = f, true
		h.index(c.connection)
		return h.conns[t]
	}
	return h.pickUp(seg, t, f)
}

// pickUp takes up a connection whose SYN wasn't seen: where this is the answer to it, which says where both
// sides begin, or where the connection is older than the helper. Any other had its beginning unread: what
// its segments begin with may be anything.
func (h *Helper) pickUp(seg *segment, t conntrack.Tuple, f conntrack.Flow) conn {
	// The kernel lets a SYN-ACK by in any state, which the other end doesn't heed. Only in this one it is the
	// answer, and says where the client begins.
	answer := seg.flags&(flagSYN|flagACK) == flagSYN|flagACK && f.Reply == t && f.State == tcpSynRecv
	place := olderKey{f.Orig, f.Zone}
	if id, older := h.older[place]; !answer && (!older || id != f.ID || f.State != tcpEstablished) {
		if len(seg.payload()) > 0 {
			h.passBy(&f)
		}
		return conn{}
	}
	delete(h.older, place)
	c := h.newConnection(f, true)
	if answer {
		c.dirs[fromServer].begun = false
		c.dirs[fromClient].begin(seg.ack)
	}
	h.follow(c)
	return h.conns[t]
}

// olderKey names a connection that is older than the helper.
type olderKey struct {
	orig conntrack.Tuple
	zone uint16
}

// maxOlder bounds them.
const maxOlder = 64 << 10

// findOlder notes the connections that are there already.
func (h *Helper) findOlder(ctx context.Context) error {
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(h.cfg.Ports), " ", ","), "[]")
	filter, err := conntrack.ParseFilter(fmt.Sprintf("proto=tcp state=ESTABLISHED dport=%[1]s or proto=tcp state=ESTABLISHED reply_sport=%[1]s", list))
	if err != nil {
		return err
	}
	for f, err := range h.cfg.Table.Flows(ctx, filter) {
		switch {
		case errors.Is(err, conntrack.ErrInterrupted): // some may be missing, which aren't helped then
			return nil
		case err != nil:
			return err
		case len(h.older) < maxOlder:
			h.older[olderKey{f.Orig, f.Zone}] = f.ID
		}
	}
	return nil
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
	if h.clients[client] >= maxConnectionsPerClient || h.followed >= maxConnections && !h.forgetOne() {
		h.counters.Limited++
		return conn{}
	}
	h.clients[client]++
	h.followed++
	h.index(c)
	return h.conns[c.flow.Orig]
}

// index has a connection found by the tuples of its entry, and no longer by those that it had.
func (h *Helper) index(c *connection) {
	h.unindex(c)
	c.tuples = c.tuples[:0]
	h.place(c, fromClient, c.flow.Orig)
	if c.known && c.flow.Reply != c.flow.Orig {
		h.place(c, fromServer, c.flow.Reply)
	}
}

// place has a connection found by a tuple. One that was found by it is over: the table has no two flows of
// one tuple.
func (h *Helper) place(c *connection, dir int, t conntrack.Tuple) {
	if other := h.conns[t].connection; other != nil && other != c {
		h.drop(other, "its place was taken")
	}
	h.conns[t] = conn{c, dir}
	c.tuples = append(c.tuples, t)
}

func (h *Helper) unindex(c *connection) {
	for _, t := range c.tuples {
		if h.conns[t].connection == c {
			delete(h.conns, t)
		}
	}
}

// roomTries is how many connections are looked at to make room for another.
const roomTries = 64

// forgetOne makes room at the cost of a connection that may never come about, or that is idle and has no
// streams: of those, a random one.
func (h *Helper) forgetOne() bool {
	tries := 0
	for _, c := range h.conns {
		if !c.known || c.streamCount() == 0 && time.Since(c.seen) > idleCheck {
			h.forget(c.connection)
			return true
		}
		if tries++; tries == roomTries {
			break
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
	if len(c.tuples) == 0 { // it isn't followed
		return
	}
	h.unindex(c)
	c.tuples = nil
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
