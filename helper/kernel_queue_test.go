package helper

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"

	"github.com/florianl/go-nfqueue/v2"
)

// queued is a packet from a queue.
type queued struct {
	from, to netip.AddrPort
	flags    byte // of TCP
	data     string
	whole    []byte
}

func (q queued) String() string {
	return fmt.Sprintf("%s -> %s flags %#02x %q", q.from, q.to, q.flags, q.data)
}

// queueReader lets all packets of a queue pass and keeps them.
type queueReader struct {
	table  *conntrack.Table
	number uint16

	mu      sync.Mutex
	packets []queued
	count   int // of all packets so far
}

func newReader(t testing.TB, table *conntrack.Table, number uint16) *queueReader {
	t.Helper()
	nf, err := nfqueue.Open(&nfqueue.Config{
		NetNS: int(table.NetNS().Fd()), NfQueue: number, MaxPacketLen: 0xffff, MaxQueueLen: 256, Copymode: nfqueue.NfQnlCopyPacket,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &queueReader{table: table, number: number}
	ctx, stop := context.WithCancel(context.Background())
	err = nf.RegisterWithErrorFunc(ctx, func(a nfqueue.Attribute) int {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.packets = append(r.packets, parsePacket(*a.Payload))
		r.count++
		if err := nf.SetVerdict(*a.PacketID, nfqueue.NfAccept); err != nil {
			t.Errorf("verdict: %v", err)
		}
		return 0
	}, func(error) int {
		if ctx.Err() != nil {
			return 1
		}
		return 0
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = nf.Close()
	})
	return r
}

func parsePacket(b []byte) queued {
	q := queued{whole: bytes.Clone(b)}
	var src, dst netip.Addr
	if b[0]>>4 == 4 {
		src, _ = netip.AddrFromSlice(b[12:16])
		dst, _ = netip.AddrFromSlice(b[16:20])
		b = b[int(b[0]&15)*4:]
	} else {
		src, _ = netip.AddrFromSlice(b[8:24])
		dst, _ = netip.AddrFromSlice(b[24:40])
		b = b[40:]
	}
	q.from = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	q.to = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	q.flags = b[13]
	q.data = string(b[int(b[12]>>4)*4:])
	return q
}

// take returns the packets so far, and begins anew.
func (r *queueReader) take() []queued {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.packets
	r.packets = nil
	return all
}

// way is a connection through the router, or to or from it.
type way struct {
	name string
	path conntracktest.Path
	// own is the side that is the router itself: "client", "server" or "both".
	own string
	// late says that the connection is known to be one to the ports only after its SYN.
	late bool
}

const rtspPort = 554

// ways returns one of each kind. Client ports tell them apart.
func ways(tp *conntracktest.Topology, v6 bool) []way {
	at := func(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }
	all := []way{
		{name: "forwarded"},
		{name: "masqueraded"},
		{name: "forwarded port", path: conntracktest.Path{Via: at(tp.GateAddr(v6), 0)}},
		{name: "forwarded port of another number", path: conntracktest.Path{Via: at(tp.GateAddr(v6), 8080)}, late: true},
		{name: "forwarded port to another number", path: conntracktest.Path{Via: at(tp.GateAddr(v6), 8554), Port: 5000}},
		{name: "from the router", own: "client"},
		{name: "to the router", own: "server"},
		{name: "within the router", own: "both"},
	}
	for i := range all {
		p := &all[i].path
		p.V6, p.SrcPort = v6, uint16(20000+i)
		if v6 {
			p.SrcPort += 100
		}
		if p.Port == 0 {
			p.Port = rtspPort
		}
	}
	return all
}

// forwardPorts sets up the translations of ways.
func forwardPorts(tp *conntracktest.Topology) {
	for _, v6 := range []bool{false, true} {
		family := map[bool]string{false: "ip", true: "ip6"}[v6]
		server := tp.ServerAddr(v6)
		tp.DNAT(family+" daddr "+tp.GateAddr(v6).String()+" tcp dport 554", netip.AddrPortFrom(server, 0))
		tp.DNAT(family+" daddr "+tp.GateAddr(v6).String()+" tcp dport 8080", netip.AddrPortFrom(server, rtspPort))
		tp.DNAT(family+" daddr "+tp.GateAddr(v6).String()+" tcp dport 8554", netip.AddrPortFrom(server, 5000))
	}
	tp.Masquerade("tcp sport { 20001, 20101 }")
}

// open opens the connection of a way.
func (w way) open(t *testing.T, tp *conntracktest.Topology) (client, server net.Conn) {
	t.Helper()
	if w.own == "" {
		c, err := tp.DialTCP(w.path)
		if err != nil {
			t.Fatal(err)
		}
		return c.Client, c.Server
	}
	from, to, target := tp.Client, tp.Server, tp.ServerAddr(w.path.V6)
	if w.own != "server" {
		from = tp.Router
	}
	if w.own != "client" {
		to, target = tp.Router, tp.RouterAddr(w.path.V6)
	}
	address := netip.AddrPortFrom(target, w.path.Port).String()
	var l net.Listener
	var err error
	to.Do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from.Do(func() {
		d := net.Dialer{Timeout: conntracktest.Patience(), LocalAddr: &net.TCPAddr{Port: int(w.path.SrcPort)}}
		client, err = d.Dial("tcp", address)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// exchange sends a text each way.
func exchange(t *testing.T, client, server net.Conn, text string) {
	t.Helper()
	for _, c := range [][2]net.Conn{{client, server}, {server, client}} {
		if _, err := c[0].Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := c[1].SetReadDeadline(time.Now().Add(conntracktest.Patience())); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := c[1].Read(got); err != nil || string(got) != text {
			t.Fatalf("received %q, %v", got, err)
		}
	}
}

// check fails the test unless the packets are those of the handshake and of a text each way, all of the
// way's connection and none twice.
func (w way) check(t *testing.T, packets []queued, text string) {
	t.Helper()
	seen := map[string]bool{}
	for i, p := range packets {
		direction := "client "
		switch w.path.SrcPort {
		case p.from.Port():
		case p.to.Port():
			direction = "server "
		default:
			t.Errorf("of another connection: %v", p)
		}
		switch {
		case p.flags&(flagSYN|flagACK) == flagSYN:
			seen[direction+"SYN"] = true
		case p.flags&flagSYN != 0:
			seen[direction+"SYN-ACK"] = true
		case p.data != "":
			seen[direction+p.data] = true
		}
		for _, q := range packets[:i] {
			if bytes.Equal(p.whole, q.whole) {
				t.Errorf("twice: %v", p)
			}
		}
	}
	for _, want := range []string{"client SYN", "server SYN-ACK", "client " + text, "server " + text} {
		if (want == "client SYN" && w.late) == seen[want] {
			t.Errorf("%s is queued: %v; all packets: %v", want, seen[want], packets)
		}
	}
}

// flowOf returns the flow of a client's port.
func flowOf(t *testing.T, table Table, port uint16) conntrack.Flow {
	t.Helper()
	for f, err := range table.Flows(t.Context(), conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Orig.SrcPort == port {
			return f
		}
	}
	t.Fatalf("no flow from port %d", port)
	return conntrack.Flow{}
}

// queued returns how many packets the kernel has put into the queue so far.
func (r *queueReader) queued(t testing.TB) int {
	t.Helper()
	var b []byte
	if err := r.table.InNetNS(func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 7 && fields[0] == strconv.Itoa(int(r.number)) {
			n, err := strconv.Atoi(fields[7])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no queue %d in\n%s", r.number, b)
	return 0
}

// settle waits until no packet of a connection is under way: none comes into the queue for a while, and
// all that did have been read.
func (r *queueReader) settle(t testing.TB) (all []queued) {
	t.Helper()
	last := -1
	conntracktest.Eventually(t, "nothing is under way", func() bool {
		time.Sleep(conntracktest.Slow(20 * time.Millisecond))
		now := r.queued(t)
		r.mu.Lock()
		defer r.mu.Unlock()
		rest := now == last && now == r.count
		last = now
		return rest
	})
	return r.take()
}

// installer is a way in which the rules come about.
type installer struct {
	name  string
	late  bool // flows whose port is known late get the helper too; the rules of iptables see packets before that
	start func(t *testing.T, tp *conntracktest.Topology, table *conntrack.Table) (skip string)
}

var installers = []installer{
	{"installed", true, func(t *testing.T, _ *conntracktest.Topology, table *conntrack.Table) string {
		installed(t, table, rulesOf(Config{}, borrowedHelper))
		return ""
	}},
	{"tables of one protocol", true, func(t *testing.T, _ *conntracktest.Topology, table *conntrack.Table) string {
		i := installed(t, table, rulesOf(Config{}, borrowedHelper))
		if _, err := i.remove(i.families()); err != nil {
			t.Fatal(err)
		}
		i.how = flavours[len(flavours)-1]
		if err := i.restore(); err != nil {
			t.Fatal(err)
		}
		return ""
	}},
	{FormIPTables, false, func(t *testing.T, tp *conntracktest.Topology, _ *conntrack.Table) string {
		runScript(t, tp.Router, FormIPTables, Config{})
		return ""
	}},
	{FormNFT, true, func(t *testing.T, tp *conntracktest.Topology, table *conntrack.Table) string {
		if !hasNFTQueue(t, table) {
			return "the kernel has no queue of nft's"
		}
		runScript(t, tp.Router, FormNFT, Config{})
		return ""
	}},
}

// TestKernelQueued: packets of RTSP connections arrive at the queue, in both directions and once.
func TestKernelQueued(t *testing.T) {
	for _, in := range installers {
		t.Run(in.name, func(t *testing.T) {
			t.Parallel()
			tp := conntracktest.NewTopology(t)
			forwardPorts(tp)
			table := tableIn(t, tp.Router)
			if why := in.start(t, tp, table); why != "" {
				t.Log(why)
				return
			}
			r := newReader(t, table, DefaultQueue)
			for _, v6 := range []bool{false, true} {
				for _, w := range ways(tp, v6) {
					t.Run(fmt.Sprintf("%s v6 %v", w.name, v6), func(t *testing.T) { testWay(t, tp, table, r, w, in.late) })
				}
			}
		})
	}
}

func testWay(t *testing.T, tp *conntracktest.Topology, table *conntrack.Table, r *queueReader, w way, late bool) {
	client, server := w.open(t, tp)
	exchange(t, client, server, "hello")
	w.check(t, r.settle(t), "hello")

	f := flowOf(t, table, w.path.SrcPort)
	want := borrowedHelper
	if w.late && !late {
		want = ""
	}
	if f.Helper != want {
		t.Errorf("the flow's helper is %q, want %q", f.Helper, want)
	}

	mark := conntrack.Change{Mark: &conntrack.MaskedMark{Value: DefaultMarkBit, Mask: DefaultMarkBit}}
	if err := table.Modify(t.Context(), []conntrack.Key{f.Key()}, mark)[0]; err != nil {
		t.Fatal(err)
	}
	r.settle(t) // what came before the mark
	exchange(t, client, server, "inside")
	client.Close()
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("the end of the connection: %v", err)
	}
	server.Close()
	conntracktest.Eventually(t, "the connection's last packet", func() bool {
		f := flowOf(t, table, w.path.SrcPort)
		return f.StateName() == "TIME_WAIT"
	})
	if packets := r.settle(t); len(packets) > 0 {
		t.Errorf("queued in spite of the mark: %v", packets)
	}
	if err := table.Kill(t.Context(), []conntrack.Key{f.Key()})[0]; err != nil {
		t.Fatal(err)
	}
}

// TestKernelNotQueued: no packet of anything else arrives at the queue, and without a reader all pass.
func TestKernelNotQueued(t *testing.T) {
	tp := conntracktest.NewTopology(t)
	forwardPorts(tp)
	table := tableIn(t, tp.Router)
	i := installed(t, table, rulesOf(Config{Interfaces: []string{"client", "server"}}, borrowedHelper))
	t.Run("without a reader", func(t *testing.T) {
		for _, v6 := range []bool{false, true} {
			for _, w := range ways(tp, v6) {
				client, server := w.open(t, tp)
				exchange(t, client, server, "hello")
			}
		}
	})
	r := newReader(t, table, DefaultQueue)
	r.settle(t) // of the connections before
	// The server's port 5000 is one of the ports for those only that come by the router's 8554; and a
	// client's port is none.
	for _, p := range []conntracktest.Path{{Port: 5000}, {Port: 5001, SrcPort: 8554}, {Port: 5002, V6: true}} {
		tp.TCP(p)
	}
	tp.UDP(conntracktest.Path{Port: 8554})
	tp.Router.Nft("add chain inet ctd raw { type filter hook prerouting priority -300; }\nadd rule inet ctd raw tcp dport 7070 notrack\n" +
		"add rule inet ctd raw tcp sport 7070 notrack")
	tp.TCP(conntracktest.Path{Port: 7070}) // which isn't tracked
	if packets := r.settle(t); len(packets) > 0 {
		t.Errorf("queued: %v", packets)
	}
	if err := i.close(); err != nil {
		t.Fatal(err)
	}
	tp.TCP(conntracktest.Path{Port: rtspPort})
	if packets := r.settle(t); len(packets) > 0 {
		t.Errorf("queued after close: %v", packets)
	}
	for _, tt := range []struct {
		name string
		cfg  Config
	}{
		{"other interfaces", Config{Interfaces: []string{"eth0", "clien", "server2"}}},
		{"other family", Config{Families: []conntrack.Family{conntrack.FamilyIPv6}}},
		{"other port", Config{Ports: []uint16{553, 555}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := installed(t, table, rulesOf(tt.cfg, borrowedHelper))
			c := tp.TCP(conntracktest.Path{Port: rtspPort})
			if packets := r.settle(t); len(packets) > 0 {
				t.Errorf("queued: %v", packets)
			}
			if f := flowOf(t, table, c.Local.Port()); f.Helper != "" {
				t.Errorf("the flow's helper is %q", f.Helper)
			}
			if err := i.close(); err != nil {
				t.Fatal(err)
			}
		})
	}
	if strings.Contains(everything(tp.Router), TableName) {
		t.Error("a table is left")
	}
}
