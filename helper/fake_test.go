package helper

import (
	"context"
	"iter"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ctd/conntrack"
)

// fakeTable is a table in memory, as far as the helper uses one.
type fakeTable struct {
	flows   []conntrack.Flow
	expects []conntrack.Expect
	nextID  uint32
	marks   map[conntrack.Tuple]uint32
	refuse  error // of Create and CreateExpect
	seqAdj  bool
	touched map[conntrack.Tuple]int // changes of timeouts
}

func newFakeTable() *fakeTable {
	return &fakeTable{marks: map[conntrack.Tuple]uint32{}, touched: map[conntrack.Tuple]int{}}
}

func (f *fakeTable) Flows(_ context.Context, filter conntrack.Filter, _ ...conntrack.ListOption) iter.Seq2[conntrack.Flow, error] {
	return func(yield func(conntrack.Flow, error) bool) {
		for _, fl := range slices.Clone(f.flows) {
			if filter.Match(&fl) && !yield(fl, nil) {
				return
			}
		}
	}
}

func (f *fakeTable) find(k conntrack.Key) int {
	return slices.IndexFunc(f.flows, func(fl conntrack.Flow) bool {
		return (fl.Orig == k.Orig || fl.Reply == k.Orig) && fl.Zone == k.Zone && (k.ID == 0 || k.ID == fl.ID)
	})
}

func (f *fakeTable) Get(_ context.Context, k conntrack.Key) (conntrack.Flow, error) {
	k.ID = 0
	if i := f.find(k); i >= 0 {
		return f.flows[i], nil
	}
	return conntrack.Flow{}, conntrack.ErrNotFound
}

func (f *fakeTable) Kill(_ context.Context, keys []conntrack.Key) []error {
	errs := make([]error, len(keys))
	for i, k := range keys {
		at := f.find(k)
		if at < 0 {
			errs[i] = conntrack.ErrNotFound
			continue
		}
		f.flows = slices.Delete(f.flows, at, at+1)
	}
	return errs
}

func (f *fakeTable) Modify(_ context.Context, keys []conntrack.Key, c conntrack.Change) []error {
	errs := make([]error, len(keys))
	for i, k := range keys {
		at := f.find(k)
		switch {
		case at < 0:
			errs[i] = conntrack.ErrNotFound
		case c.Mark != nil:
			f.flows[at].Mark = f.flows[at].Mark&^c.Mark.Mask | c.Mark.Value
		case c.Timeout != nil:
			f.flows[at].Timeout = *c.Timeout
			f.touched[k.Orig]++
		}
	}
	return errs
}

func (f *fakeTable) Create(_ context.Context, fl conntrack.Flow) (conntrack.Flow, error) {
	if f.refuse != nil {
		return conntrack.Flow{}, f.refuse
	}
	for _, t := range []conntrack.Tuple{fl.Orig, fl.Reply} {
		if f.find(conntrack.Key{Orig: t, Zone: fl.Zone}) >= 0 {
			return conntrack.Flow{}, conntrack.ErrExists
		}
	}
	f.nextID++
	fl.ID = f.nextID
	fl.Status |= conntrack.StatusExpected
	f.flows = append(f.flows, fl)
	return fl, nil
}

func (f *fakeTable) AdjustSeq(_ context.Context, k conntrack.Key, reply bool, s conntrack.SeqAdj) error {
	at := f.find(k)
	if at < 0 || !f.seqAdj {
		return conntrack.ErrNoSeqAdj
	}
	dir := 0
	if reply {
		dir = 1
	}
	f.flows[at].SeqAdj[dir] = s
	return nil
}

func (f *fakeTable) EndedFlows(context.Context) (iter.Seq2[conntrack.Flow, error], error) {
	return nil, conntrack.ErrNoEvents
}

func (f *fakeTable) Expects(context.Context) iter.Seq2[conntrack.Expect, error] {
	return func(yield func(conntrack.Expect, error) bool) {
		for _, e := range slices.Clone(f.expects) {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (f *fakeTable) CreateExpect(_ context.Context, e conntrack.Expect) (conntrack.Expect, error) {
	if f.refuse != nil {
		return conntrack.Expect{}, f.refuse
	}
	for _, x := range f.expects {
		if x.Tuple == e.Tuple {
			return conntrack.Expect{}, conntrack.ErrExists
		}
	}
	f.nextID++
	e.ID = f.nextID
	f.expects = append(f.expects, e)
	return e, nil
}

func (f *fakeTable) AddExpect(ctx context.Context, e conntrack.Expect) (conntrack.Expect, error) {
	return f.CreateExpect(ctx, e)
}

func (f *fakeTable) KillExpects(_ context.Context, es []conntrack.Expect) []error {
	errs := make([]error, len(es))
	for i, e := range es {
		at := slices.IndexFunc(f.expects, func(x conntrack.Expect) bool { return x.ID == e.ID })
		if at < 0 {
			errs[i] = conntrack.ErrNotFound
			continue
		}
		f.expects = slices.Delete(f.expects, at, at+1)
	}
	return errs
}

func (f *fakeTable) InNetNS(func() error) error { return unix.EPERM }
func (f *fakeTable) NetNS() *os.File            { return nil }

// udp returns the UDP flows of the table.
func (f *fakeTable) udp() (flows []conntrack.Flow) {
	for _, fl := range f.flows {
		if fl.Orig.Proto == conntrack.UDP {
			flows = append(flows, fl)
		}
	}
	return flows
}

// rig is a helper on a table in memory, and its verdicts.
type rig struct {
	t     *testing.T
	h     *Helper
	table *fakeTable
	sent  map[uint32][]byte
	last  []byte // packet of the last verdict
	next  uint32
	zone  uint16 // of new connections
}

func newRig(t *testing.T, cfg Config) *rig {
	r := &rig{t: t, table: newFakeTable(), sent: map[uint32][]byte{}}
	cfg.Table = r.table
	cfg.complete()
	r.h = newHelper(cfg, kernel{strategy: StrategyHybrid, helper: "Q.931", expectMax: 20, expectTimeout: borrowedHelperExpectTimeout, function: "sip"})
	r.h.verdicts = r
	return r
}

func (r *rig) accept(id uint32) { r.replace(id, r.sent[id]) }
func (r *rig) replace(id uint32, packet []byte) {
	if _, ok := r.sent[id]; !ok {
		r.t.Errorf("a second verdict about packet %d", id)
	}
	delete(r.sent, id)
	r.last = packet
}

// take gives a packet to the helper and returns the payload that went out; "" where it waits.
func (r *rig) take(packet []byte) string {
	r.next++
	r.sent[r.next] = packet
	r.last = nil
	r.h.packet(r.wrap(packet))
	if r.last == nil {
		return ""
	}
	s, err := parseSegment(r.last)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(s.payload())
}

func (r *rig) wrap(data []byte) packet { return packet{id: r.next, data: data} }

// call is a control connection of a rig.
type call struct {
	*rig
	client, public, server, real netip.AddrPort // the client inside and outside, the server outside and inside
	seq                          [2]uint32
}

// dial opens a connection from a masqueraded client, whose entry has a helper.
func (r *rig) dial(client, public, server, real string) *call {
	c := &call{
		rig: r, client: netip.MustParseAddrPort(client), public: netip.MustParseAddrPort(public),
		server: netip.MustParseAddrPort(server), real: netip.MustParseAddrPort(real), seq: [2]uint32{1000, 5000},
	}
	f := conntrack.Flow{
		Orig:  conntrack.Tuple{Src: c.client.Addr(), SrcPort: c.client.Port(), Dst: c.server.Addr(), DstPort: c.server.Port(), Proto: conntrack.TCP},
		Reply: conntrack.Tuple{Src: c.real.Addr(), SrcPort: c.real.Port(), Dst: c.public.Addr(), DstPort: c.public.Port(), Proto: conntrack.TCP},
		ID:    uint32(1000 + len(r.table.flows)), Helper: "Q.931", Mark: 7, Status: conntrack.StatusSNAT, State: tcpEstablished, Zone: r.zone,
	}
	f.Set(conntrack.AttrState)
	r.take(c.packet(fromClient, flagSYN, ""))
	r.table.flows = append(r.table.flows, f)
	r.take(c.packet(fromServer, flagSYN|flagACK, ""))
	c.seq = [2]uint32{1001, 5001}
	r.take(c.packet(fromClient, flagACK, ""))
	return c
}

func (c *call) packet(dir int, flags uint8, payload string) []byte {
	if dir == fromClient {
		return tcpPacket(c.client, c.server, c.seq[0], c.seq[1], flags, payload)
	}
	return tcpPacket(c.real, c.public, c.seq[1], c.seq[0], flags, payload)
}

// say sends a message and returns what goes out.
func (c *call) say(dir int, text string) string {
	p := c.packet(dir, flagACK, text)
	c.seq[dir] += uint32(len(text))
	return c.take(p)
}

func (c *call) flag(dir int, flags uint8) {
	if flags&flagRST != 0 { // as the kernel does
		if i := c.table.find(conntrack.Key{Orig: c.tuple()}); i >= 0 {
			c.table.flows[i].State = tcpClose
		}
	}
	c.take(c.packet(dir, flags, ""))
}

func (c *call) tuple() conntrack.Tuple {
	return conntrack.Tuple{Src: c.client.Addr(), SrcPort: c.client.Port(), Dst: c.server.Addr(), DstPort: c.server.Port(), Proto: conntrack.TCP}
}
