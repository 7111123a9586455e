package cut

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// rig is a topology with a table and a cutter on its router.
type rig struct {
	*conntracktest.Topology
	t     *testing.T
	table *conntrack.Table
	cut   *Cutter
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{Topology: conntracktest.NewTopology(t), t: t}
	var err error
	if r.table, err = conntrack.Open(conntrack.Config{NetNS: r.Router.Name()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.table.Close() })
	if r.cut, err = Open(Config{Table: r.table}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.cut.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// flows returns the flows that a filter means.
func (r *rig) flows(filter string) []conntrack.Flow {
	r.t.Helper()
	f, err := conntrack.ParseFilter(filter)
	if err != nil {
		r.t.Fatal(err)
	}
	var flows []conntrack.Flow
	for flow, err := range r.table.Flows(context.Background(), f) {
		if err != nil {
			r.t.Fatal(err)
		}
		flows = append(flows, flow)
	}
	return flows
}

// kill deletes the one flow that a filter means.
func (r *rig) kill(filter string) []conntrack.Flow {
	r.t.Helper()
	flows := r.flows(filter)
	if len(flows) != 1 {
		r.t.Fatalf("%s: %d flows", filter, len(flows))
	}
	if err := r.table.Kill(context.Background(), []conntrack.Key{flows[0].Key()})[0]; err != nil {
		r.t.Fatal(err)
	}
	return flows
}

// end cuts the one flow that a filter means.
func (r *rig) end(filter string, o Options) Result {
	r.t.Helper()
	if err := r.cut.Prepare(nil, 1, Options{}); err != nil {
		r.t.Fatal(err)
	}
	flows := r.kill(filter)
	result, err := r.cut.Cut(context.Background(), flows, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return result
}

// wasReset tells whether an end of a connection learns of its end without sending anything.
func wasReset(c net.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	if errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return errors.Join(errors.New("no reset"), err)
}

// paths are the ways through the router. Each sets up its translation.
var paths = map[string]func(r *rig, v6 bool) conntracktest.Path{
	"no nat": func(_ *rig, v6 bool) conntracktest.Path { return conntracktest.Path{V6: v6} },
	"masquerade": func(r *rig, v6 bool) conntracktest.Path {
		r.Masquerade(`oifname "server"`)
		return conntracktest.Path{V6: v6}
	},
	"snat": func(r *rig, v6 bool) conntracktest.Path {
		r.SNAT(`oifname "server" tcp dport 5000`, netip.AddrPortFrom(r.RouterAddr(v6), 7777))
		return conntracktest.Path{V6: v6, Port: 5000}
	},
	"dnat": func(r *rig, v6 bool) conntracktest.Path {
		r.DNAT(`iifname "client" tcp dport 8080`, netip.AddrPortFrom(r.ServerAddr(v6), 5000))
		return conntracktest.Path{V6: v6, Port: 5000, Via: netip.AddrPortFrom(r.GateAddr(v6), 8080)}
	},
}

func TestCutTCP(t *testing.T) {
	conntracktest.Kernel(t)
	for name, path := range paths {
		for _, v6 := range []bool{false, true} {
			family := map[bool]string{false: "ipv4", true: "ipv6"}[v6]
			t.Run(name+" "+family, func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				p := path(r, v6)
				c := r.TCP(p)
				c.Client.SetDeadline(time.Time{})
				filter := "proto=tcp sport=" + portOf(c.Local)

				// The hole: the entry is deleted, and the connection goes on.
				r.kill(filter)
				c.Exchange("still there")

				result := r.end(filter, Options{For: time.Minute})
				if result.Probed != 2 || result.Sockets != 0 || result.Blocks != 0 {
					t.Errorf("%+v, want both ends probed", result)
				}
				if err := wasReset(c.Client); err != nil {
					t.Errorf("client: %v", err)
				}
				if err := wasReset(c.Server); err != nil {
					t.Errorf("server: %v", err)
				}
			})
		}
	}
}

func portOf(a netip.AddrPort) string { return strconv.Itoa(int(a.Port())) }

// TestCutNextPacket shows what happens without the segments that make silent ends notice: each end
// is reset at its next packet, also where connection tracking takes such packets for invalid, and
// the neighbour with the same server and port goes on.
func TestCutNextPacket(t *testing.T) {
	conntracktest.Kernel(t)
	for name, path := range paths {
		for _, loose := range []string{"0", "1"} {
			t.Run(name+" loose "+loose, func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				r.Router.Sysctl("net.netfilter.nf_conntrack_tcp_loose", loose)
				p := path(r, false)
				neighbour := r.TCP(conntracktest.Path{V6: p.V6, Port: 5001})
				for _, sender := range []string{"client", "server"} {
					c := r.TCP(p)
					if err := r.cut.Prepare(nil, 1, Options{}); err != nil {
						t.Fatal(err)
					}
					if err := r.cut.keepOut(r.kill("proto=tcp sport="+portOf(c.Local)), nil, Options{For: time.Minute}); err != nil {
						t.Fatal(err)
					}
					end := map[string]net.Conn{"client": c.Client, "server": c.Server}[sender]
					if _, err := end.Write([]byte("one packet")); err != nil {
						t.Fatal(err)
					}
					if err := wasReset(end); err != nil {
						t.Errorf("%s: %v", sender, err)
					}
					c.Close()
				}
				neighbour.Exchange("undisturbed")
				// Another one that gets the translated port meanwhile isn't cut either.
				if name == "snat" {
					r.TCP(p).Exchange("another")
				}
			})
		}
	}
}

// TestCutZones cuts a flow in a zone, while another of the same addresses is in another one.
func TestCutZones(t *testing.T) {
	r := newRig(t)
	// The zone is that of the source port, so that it isn't the addresses that tell them apart.
	r.Zone("tcp sport 1111", "", 7)
	r.Zone("tcp dport 1111", "", 7)
	zoned := r.TCP(conntracktest.Path{Port: 5000, SrcPort: 1111})
	if err := r.cut.Prepare(nil, 1, Options{}); err != nil {
		t.Fatal(err)
	}
	flows := r.kill("zone=7")
	// As if it were zone 8's: then it must not be cut.
	flows[0].Zone = 8
	if err := r.cut.keepOut(flows, nil, Options{For: time.Minute}); err != nil {
		t.Fatal(err)
	}
	zoned.Exchange("in another zone")
	if result := r.end("zone=7", Options{For: time.Minute}); result.Probed != 2 {
		t.Errorf("%+v", result)
	}
	for name, end := range map[string]net.Conn{"client": zoned.Client, "server": zoned.Server} {
		if err := wasReset(end); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCutDatagrams cuts UDP: nothing arrives any more, and with Reject the sender is told.
func TestCutDatagrams(t *testing.T) {
	conntracktest.Kernel(t)
	for _, v6 := range []bool{false, true} {
		for _, reject := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6 %v reject %v", v6, reject), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				r.Masquerade(`oifname "server"`)
				c := r.UDP(conntracktest.Path{V6: v6, Port: 5300})
				neighbour := r.UDP(conntracktest.Path{V6: v6, Port: 5301})
				r.end("proto=udp dport=5300", Options{For: time.Minute, Reject: reject})
				if err := c.Datagram("lost", 200*time.Millisecond); err == nil {
					t.Error("a datagram arrived")
				}
				c.Client.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				_, err := c.Client.Read(make([]byte, 1))
				if refused := errors.Is(err, syscall.ECONNREFUSED); refused != reject {
					t.Errorf("the sender: %v", err)
				}
				if err := neighbour.Datagram("undisturbed", time.Second); err != nil {
					t.Errorf("neighbour: %v", err)
				}
				if left := r.flows("proto=udp dport=5300"); len(left) != 0 {
					t.Errorf("left: %+v", left)
				}
			})
		}
	}
}

// TestCutLocal cuts connections of the router itself, whose sockets are closed at once, and leaves
// its listening sockets alone.
func TestCutLocal(t *testing.T) {
	conntracktest.Kernel(t)
	for _, v6 := range []bool{false, true} {
		for _, outgoing := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6 %v outgoing %v", v6, outgoing), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				from, to, addr := r.Client, r.Router, r.GateAddr(v6)
				if outgoing {
					from, to, addr = r.Router, r.Client, r.ClientAddr(v6)
				}
				listener := listen(t, to, netip.AddrPortFrom(addr, 5000))
				dialled, accepted := connect(t, from, listener)
				result := r.end("proto=tcp dport=5000", Options{For: time.Minute})
				if result.Sockets != 1 || result.Probed != 1 {
					t.Errorf("%+v", result)
				}
				local, remote := accepted, dialled
				if outgoing {
					local, remote = dialled, accepted
				}
				local.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := local.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
					t.Errorf("the router's socket: %v", err)
				}
				if err := wasReset(remote); err != nil {
					t.Errorf("the other end: %v", err)
				}
				connect(t, from, listener)
			})
		}
	}
}

func listen(t *testing.T, ns *conntracktest.NS, at netip.AddrPort) (l net.Listener) {
	t.Helper()
	var err error
	ns.Do(func() { l, err = net.Listen("tcp", at.String()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func connect(t *testing.T, ns *conntracktest.NS, l net.Listener) (dialled, accepted net.Conn) {
	t.Helper()
	var err error
	ns.Do(func() { dialled, err = net.DialTimeout("tcp", l.Addr().String(), 2*time.Second) })
	if err == nil {
		accepted, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled, accepted
}

// TestCutEnds shows that a tuple may be used again after its time, and that then nothing of ours is
// left.
func TestCutEnds(t *testing.T) {
	r := newRig(t)
	p := conntracktest.Path{Port: 5000, SrcPort: 1111}
	c := r.TCP(p)
	r.end("proto=tcp", Options{For: 2 * time.Second})
	c.Close()
	if _, err := r.DialTCP(p); err == nil {
		t.Error("connected while the tuple is kept out")
	}
	began := time.Now()
	conntracktest.Eventually(t, "a new connection", func() bool {
		_, err := r.DialTCP(p)
		return err == nil
	})
	t.Logf("after %v", time.Since(began))
	conntracktest.Eventually(t, "the end of the table", func() bool {
		return !strings.Contains(r.Router.Exec("nft", "list", "tables"), TablePrefix)
	})
}

func TestBlock(t *testing.T) {
	conntracktest.Kernel(t)
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6 %v", v6), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.Masquerade(`oifname "server"`)
			r.TCP(conntracktest.Path{V6: v6, Port: 5000})
			result := r.end("proto=tcp", Options{For: time.Second, Block: time.Minute, Comment: "tester: \"abuse\"\n"})
			if result.Blocks != 1 {
				t.Errorf("%+v", result)
			}
			if _, err := r.DialTCP(conntracktest.Path{V6: v6, Port: 5001}); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("another port of the same server: %v", err)
			}
			if err := r.DatagramPair(conntracktest.Path{V6: v6}, syscall.IPPROTO_UDP).Datagram("x", 200*time.Millisecond); err == nil {
				t.Error("a datagram arrived")
			}
			if _, err := r.DialTCP(conntracktest.Path{V6: v6, Port: 5000, Back: true}); err == nil {
				t.Error("the other direction was connected")
			}
			blocks, err := r.cut.Blocks()
			if err != nil || len(blocks) != 1 {
				t.Fatalf("%+v, %v", blocks, err)
			}
			b := blocks[0]
			if b.Src != r.ClientAddr(v6) || b.Dst != r.ServerAddr(v6) || b.Comment != "tester: abuse" || b.Left < 50*time.Second || b.Left > time.Minute {
				t.Errorf("%+v", b)
			}
			// The same block again, for longer.
			if err := r.cut.keepOut(nil, blocks, Options{Block: time.Hour}); err != nil {
				t.Fatal(err)
			}
			if again, err := r.cut.Blocks(); err != nil || len(again) != 1 || again[0].Left < 50*time.Minute && !older(t, 6, 12) {
				t.Errorf("blocked again: %+v, %v", again, err)
			}
			// And for a shorter time, which changes nothing.
			if err := r.cut.keepOut(nil, blocks, Options{Block: time.Second, Comment: "short"}); err != nil {
				t.Fatal(err)
			}
			if again, err := r.cut.Blocks(); err != nil || len(again) != 1 || again[0].Left < 50*time.Second || again[0].Comment == "short" {
				t.Errorf("blocked for a shorter time: %+v, %v", again, err)
			}
			for want := 1; want >= 0; want-- {
				if lifted, err := r.cut.Unblock(blocks); err != nil || len(lifted) != want {
					t.Errorf("lifted %+v, %v", lifted, err)
				}
			}
			r.TCP(conntracktest.Path{V6: v6, Port: 5001})
		})
	}
}

// older tells whether the kernel is older than a version.
func older(t *testing.T, major, minor int) bool {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a < major || a == major && b < minor
}

// TestFlushedByOthers makes the table anew, and whole again.
func TestFlushedByOthers(t *testing.T) {
	for _, script := range []string{"flush ruleset", "flush table inet ctd_cut", "delete chain inet ctd_cut prerouting"} {
		t.Run(script, func(t *testing.T) {
			r := newRig(t)
			if err := r.cut.Prepare(nil, 1, Options{}); err != nil {
				t.Fatal(err)
			}
			want := r.Router.Exec("nft", "list", "table", "inet", TablePrefix)
			r.Router.Nft(script)
			r.Router.Conntrack()
			if blocks, err := r.cut.Blocks(); err != nil || len(blocks) != 0 {
				t.Errorf("blocks %v, %v", blocks, err)
			}
			c := r.TCP(conntracktest.Path{})
			r.end("proto=tcp", Options{For: time.Minute})
			if err := wasReset(c.Client); err != nil {
				t.Error(err)
			}
			if script == "flush ruleset" { // the order of chains is the same only then
				r.Router.Nft("flush map inet ctd_cut ports4")
				if got := r.Router.Exec("nft", "list", "table", "inet", TablePrefix); got != want {
					t.Errorf("now\n%s\nwas\n%s", got, want)
				}
			}
		})
	}
}

// TestFlushedMeanwhile: others change the ruleset between a kill and its cut.
func TestFlushedMeanwhile(t *testing.T) {
	for _, script := range []string{"flush ruleset", "flush table inet ctd_cut"} {
		r := newRig(t)
		c := r.TCP(conntracktest.Path{})
		if err := r.cut.Prepare(nil, 1, Options{}); err != nil {
			t.Fatal(err)
		}
		flows := r.kill("proto=tcp")
		r.Router.Nft(script)
		if _, err := r.cut.Cut(t.Context(), flows, Options{For: time.Minute}); err != nil {
			t.Fatal(err)
		}
		for _, end := range []net.Conn{c.Client, c.Server} {
			if err := wasReset(end); err != nil {
				t.Errorf("%s: %v", script, err)
			}
		}
	}
}

// TestRestored: others load what they have saved, which the kernel takes for other sets than ours.
func TestRestored(t *testing.T) {
	r := newRig(t)
	r.UDP(conntracktest.Path{Port: 5000})
	r.end("proto=udp", Options{For: time.Minute, Block: time.Minute})
	saved := r.Router.Exec("nft", "list", "table", "inet", "ctd_cut")
	r.Router.Nft("delete table inet ctd_cut\n" + saved)
	blocks, err := r.cut.Blocks()
	if err != nil || len(blocks) != 1 {
		t.Errorf("blocks %+v, %v", blocks, err)
	}
	if lifted, err := r.cut.Unblock(blocks); err != nil || len(lifted) != 1 {
		t.Errorf("lifted %+v, %v", lifted, err)
	}
	c := r.TCP(conntracktest.Path{})
	r.end("proto=tcp", Options{For: time.Minute})
	if err := wasReset(c.Client); err != nil {
		t.Error(err)
	}
	// Also what was restored when we had none any more goes when we do.
	r.Router.Nft("delete table inet ctd_cut")
	other := r.open()
	if err := other.Prepare(nil, 1, Options{}); err != nil {
		t.Fatal(err)
	}
	other.expireNow()
	r.Router.Nft(strings.ReplaceAll(saved, "ctd_cut", other.Name()))
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if left := r.Router.Exec("nft", "list", "tables"); strings.Contains(left, other.Name()+"\n") {
		t.Errorf("left: %s", left)
	}
}

// expireNow is expire, when it is time.
func (c *Cutter) expireNow() {
	c.mu.Lock()
	c.until = time.Now()
	c.mu.Unlock()
	c.expire()
}

// TestOtherAnswer cuts what is cut already, with another answer: in one set an element is one or the
// other.
func TestOtherAnswer(t *testing.T) {
	r := newRig(t)
	r.UDP(conntracktest.Path{Port: 5000})
	r.end("dport=5000", Options{For: time.Minute, Block: time.Minute})
	victim := r.DatagramPair(conntracktest.Path{Port: 5001}, syscall.IPPROTO_UDP)
	if blocks, err := r.cut.Blocks(); err != nil || len(blocks) != 1 {
		t.Fatalf("%v, %v", blocks, err)
	} else if _, err := r.cut.Unblock(blocks); err != nil {
		t.Fatal(err)
	}
	if err := victim.Datagram("hello", time.Second); err != nil {
		t.Fatal(err)
	}
	flows := r.kill("dport=5001")
	for i, reject := range []bool{false, true, false, true} {
		if _, err := r.cut.Cut(t.Context(), flows, Options{For: time.Minute, Block: time.Minute, Reject: reject}); err != nil {
			t.Fatal(err)
		}
		_, _ = victim.Client.Write([]byte("x"))
		victim.Client.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := victim.Client.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNREFUSED) != reject {
			t.Errorf("cut %d, reject %v: %v", i, reject, err)
		}
	}
}

// TestManyBlocks lifts many blocks at once.
func TestManyBlocks(t *testing.T) {
	r := newRig(t)
	blocks := make([]Block, 20_000)
	for i := range blocks {
		blocks[i] = Block{Src: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Zone: uint16(i % 3)}
	}
	if err := r.cut.keepOut(nil, blocks, Options{Block: time.Minute}); err != nil {
		t.Fatal(err)
	}
	there, err := r.cut.Blocks()
	if err != nil || len(there) != len(blocks) {
		t.Fatalf("%d blocks, %v", len(there), err)
	}
	began := time.Now()
	lifted, err := r.cut.Unblock(there)
	if took := time.Since(began); err != nil || len(lifted) != len(blocks) || took > 3*time.Second {
		t.Errorf("%d lifted in %v: %v", len(lifted), took, err)
	}
	if there, err := r.cut.Blocks(); err != nil || len(there) != 0 {
		t.Errorf("%d blocks left, %v", len(there), err)
	}
}

// TestFull refuses, before anything is deleted, what there is no room for.
func TestFull(t *testing.T) {
	r := newRig(t)
	if err := r.cut.Prepare(nil, MaxFlows, Options{Block: time.Minute}); err != nil {
		t.Error(err)
	}
	if err := r.cut.Prepare(nil, MaxFlows+1, Options{}); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	r.UDP(conntracktest.Path{Port: 5000})
	r.end("proto=udp", Options{For: 2 * time.Second, Block: time.Minute})
	if err := r.cut.Prepare(nil, MaxFlows, Options{}); !errors.Is(err, ErrFull) {
		t.Errorf("one flow is kept out: %v", err)
	}
	if err := r.cut.Prepare(nil, MaxFlows-1, Options{Block: time.Minute}); err != nil {
		t.Error(err)
	}
	conntracktest.Eventually(t, "the end of the cut", func() bool { return r.cut.Prepare(nil, MaxFlows, Options{}) == nil })
	if err := r.cut.Prepare(nil, MaxBlocks, Options{Block: time.Minute}); !errors.Is(err, ErrFull) {
		t.Errorf("one pair is blocked: %v", err)
	}
	blocks, err := r.cut.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.cut.Unblock(blocks); err != nil {
		t.Fatal(err)
	}
	if err := r.cut.Prepare(nil, MaxBlocks, Options{Block: time.Minute}); err != nil {
		t.Error(err)
	}
	// Zones have sets of their own.
	flows := make([]conntrack.Flow, MaxZones)
	for i := range flows {
		flows[i].Zone = uint16(i)
	}
	if err := r.cut.Prepare(flows, len(flows), Options{}); err != nil {
		t.Error(err)
	}
	flows[0].Zone = MaxZones
	if err := r.cut.Prepare(flows, len(flows), Options{}); !errors.Is(err, ErrFull) {
		t.Errorf("one zone more: %v", err)
	}
}

// TestFirewalls cuts where firewalls drop what they take for invalid, at both ends and on the router.
func TestFirewalls(t *testing.T) {
	conntracktest.Kernel(t)
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6 %v", v6), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.Masquerade(`oifname "server"`)
			for _, ns := range []*conntracktest.NS{r.Client, r.Server} {
				ns.Nft("table inet fw { chain in { type filter hook input priority 0; ct state invalid drop; }; }")
			}
			// A common recipe. At its priority it would be before ours by the order of making.
			r.Router.Nft("table inet fw { chain pre { type filter hook prerouting priority -150; tcp flags & syn == 0 ct state new drop; }; }")
			for i := range 8 { // their numbers are anywhere
				c := r.TCP(conntracktest.Path{V6: v6, Port: uint16(5000 + i)})
				r.end(fmt.Sprintf("proto=tcp dport=%d", 5000+i), Options{For: time.Minute})
				for name, end := range map[string]net.Conn{"client": c.Client, "server": c.Server} {
					if err := wasReset(end); err != nil {
						t.Errorf("connection %d, %s: %v", i, name, err)
					}
				}
			}
		})
	}
}

// TestUnreachable: ends that are not there don't keep others from being told.
func TestUnreachable(t *testing.T) {
	r := newRig(t)
	absent := make([]conntrack.Flow, 1000)
	for i := range absent {
		f := &absent[i]
		f.Orig = conntrack.Tuple{
			Proto: conntrack.TCP, Src: netip.AddrFrom4([4]byte{10, 1, 0, byte(10 + i%200)}), SrcPort: uint16(1000 + i),
			Dst: r.ServerAddr(false), DstPort: 80,
		}
		f.Reply = f.Orig.Inverse()
	}
	var ends []net.Conn
	for range 20 {
		c := r.TCP(conntracktest.Path{Port: 5000})
		ends = append(ends, c.Client, c.Server)
	}
	flows := r.flows("proto=tcp dport=5000")
	var keys []conntrack.Key
	for i := range flows {
		keys = append(keys, flows[i].Key())
	}
	r.table.Kill(t.Context(), keys)
	result, err := r.cut.Cut(t.Context(), append(absent, flows...), Options{For: time.Minute})
	if err != nil || result.Probed != 2*(len(absent)+len(flows)) || result.Untold != 0 {
		t.Errorf("%+v, %v", result, err)
	}
	for i, end := range ends {
		if err := wasReset(end); err != nil {
			t.Errorf("end %d: %v", i, err)
		}
	}
}

// TestStray: a packet out of order of another connection, which got the translated port of one that
// was cut, resets nobody.
func TestStray(t *testing.T) {
	r := newRig(t)
	p := paths["snat"](r, false)
	cut := r.TCP(p)
	r.end("proto=tcp", Options{For: time.Minute})
	cut.Close()
	other := r.TCP(p)
	if other.Peer != cut.Peer {
		t.Fatalf("the other one has %v, not %v", other.Peer, cut.Peer)
	}
	from, err := conntrack.Open(conntrack.Config{NetNS: r.Server.Name()})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	var sockets rawSockets
	defer sockets.close()
	to := conntrack.Tuple{Proto: conntrack.TCP, Src: other.Peer.Addr(), SrcPort: other.Peer.Port(), Dst: r.ServerAddr(false), DstPort: p.Port}
	for _, mark := range probeMarks {
		if err := sockets.send(from, &to, mark); err != nil {
			t.Fatal(err)
		}
	}
	conntracktest.Eventually(t, "invalid packets", func() bool {
		return !strings.Contains(r.Router.Exec("nft", "list", "chain", "inet", "ctd", "flows"), "packets 0 ")
	})
	other.Exchange("undisturbed")
}

// TestCutLocalDatagrams closes connected sockets of the router itself, one of them bound to an
// interface, and leaves the others alone.
func TestCutLocalDatagrams(t *testing.T) {
	r := newRig(t)
	server := r.DatagramPair(conntracktest.Path{Port: 5300}, syscall.IPPROTO_UDP).Server.(net.PacketConn)
	open := func(local, device string) net.Conn {
		t.Helper()
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
			if device == "" {
				return nil
			}
			cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) })
			return errors.Join(cerr, err)
		}}
		var err error
		d.LocalAddr, err = net.ResolveUDPAddr("udp", local)
		if err != nil {
			t.Fatal(err)
		}
		var c net.Conn
		r.Router.Do(func() { c, err = d.Dial("udp", r.ServerAddr(false).String()+":5300") })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	plain, bound := open(":6001", ""), open(":6002", "server")
	var unconnected net.PacketConn
	var err error
	r.Router.Do(func() { unconnected, err = net.ListenPacket("udp4", ":6003") })
	if err != nil {
		t.Fatal(err)
	}
	defer unconnected.Close()
	if _, err := unconnected.WriteTo([]byte("x"), server.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{plain, bound} {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	conntracktest.Eventually(t, "flows", func() bool { return len(r.flows("proto=udp sport=6001-6003")) == 3 })
	for sport, want := range map[string]int{"6001": 1, "6002": 1, "6003": 0} {
		if result := r.end("proto=udp sport="+sport, Options{For: time.Minute}); result.Sockets != want {
			t.Errorf("port %s: %+v, want %d sockets closed", sport, result, want)
		}
	}
	for _, c := range []net.Conn{plain, bound} {
		c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("%v: %v", c.LocalAddr(), err)
		}
	}
}

// TestBlockLocal doesn't keep the router apart from itself.
func TestBlockLocal(t *testing.T) {
	r := newRig(t)
	listener := listen(t, r.Router, netip.MustParseAddrPort("127.0.0.1:5000"))
	connect(t, r.Router, listener)
	if result := r.end("proto=tcp dport=5000", Options{For: time.Second, Block: time.Minute}); result.Blocks != 0 || result.Sockets == 0 { // the first one's reset closes the other
		t.Errorf("%+v", result)
	}
	connect(t, r.Router, listener)
}

// TestLeftBehind deletes what a killed predecessor left, and nothing of others.
func TestLeftBehind(t *testing.T) {
	r := newRig(t)
	before := r.Router.Exec("nft", "-s", "list", "ruleset")
	if r.cut.Name() != "ctd_cut" {
		t.Errorf("the table's name is %s", r.cut.Name())
	}
	r.TCP(conntracktest.Path{V6: true})
	r.UDP(conntracktest.Path{})
	r.end("proto=tcp", Options{For: time.Minute, Block: time.Minute, Comment: "tester"})
	r.end("proto=udp", Options{For: time.Minute, Block: time.Minute, Reject: true})
	ours := r.Router.Exec("nft", "list", "ruleset")
	if ours == before {
		t.Fatal("Prepare made nothing")
	}
	// What nft(8) lists it must be able to read, because people save it.
	r.Router.Nft("flush ruleset\n" + ours)
	// Another process has a table of its own, and leaves that of one that lives alone.
	second := r.open()
	if second.Name() != "ctd_cut_2" {
		t.Errorf("the second one's table is %s", second.Name())
	}
	if err := second.Prepare(nil, 1, Options{}); err != nil {
		t.Fatal(err)
	}
	if both := r.Router.Exec("nft", "list", "tables"); !strings.Contains(both, "ctd_cut\n") || !strings.Contains(both, "ctd_cut_2\n") {
		t.Errorf("there are %s", both)
	}
	// As if both were killed: their claims go, and their tables stay.
	for _, c := range []*Cutter{r.cut, second} {
		if err := c.claim.close(); err != nil {
			t.Fatal(err)
		}
	}
	next := r.open()
	if after := r.Router.Exec("nft", "-s", "list", "ruleset"); after != before {
		t.Errorf("after Open:\n%s\nbefore:\n%s", after, before)
	}
	if err := next.Prepare(nil, 1, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if after := r.Router.Exec("nft", "-s", "list", "ruleset"); after != before {
		t.Errorf("after Close:\n%s\nbefore:\n%s", after, before)
	}
	if err := next.Prepare(nil, 1, Options{}); !errors.Is(err, ErrClosed) {
		t.Errorf("prepared after Close: %v", err)
	}
}

// open opens another Cutter, as another process would.
func (r *rig) open() *Cutter {
	r.t.Helper()
	c, err := Open(Config{Table: r.table})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}
