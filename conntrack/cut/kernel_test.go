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
	r.cut = New(Config{Table: r.table})
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
	if err := r.cut.Prepare(); err != nil {
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
					if err := r.cut.Prepare(); err != nil {
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
	if err := r.cut.Prepare(); err != nil {
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
		return !strings.Contains(r.Router.Exec("nft", "list", "tables"), DefaultName)
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
			if err := r.cut.Prepare(); err != nil {
				t.Fatal(err)
			}
			want := r.Router.Exec("nft", "list", "table", "inet", DefaultName)
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
				if got := r.Router.Exec("nft", "list", "table", "inet", DefaultName); got != want {
					t.Errorf("now\n%s\nwas\n%s", got, want)
				}
			}
		})
	}
}

// TestFlushedMeanwhile: others flush the ruleset between a kill and its cut.
func TestFlushedMeanwhile(t *testing.T) {
	r := newRig(t)
	c := r.TCP(conntracktest.Path{})
	if err := r.cut.Prepare(); err != nil {
		t.Fatal(err)
	}
	flows := r.kill("proto=tcp")
	r.Router.Nft("flush ruleset")
	r.Router.Conntrack()
	if _, err := r.cut.Cut(t.Context(), flows, Options{For: time.Minute}); err != nil {
		t.Fatal(err)
	}
	for _, end := range []net.Conn{c.Client, c.Server} {
		if err := wasReset(end); err != nil {
			t.Error(err)
		}
	}
}

// TestLeftBehind deletes what a killed predecessor left, and nothing of others.
func TestLeftBehind(t *testing.T) {
	r := newRig(t)
	before := r.Router.Exec("nft", "list", "ruleset")
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
	next := New(Config{Table: r.table})
	if err := next.Clear(); err != nil {
		t.Fatal(err)
	}
	if after := r.Router.Exec("nft", "list", "ruleset"); after != before {
		t.Errorf("after Clear:\n%s\nbefore:\n%s", after, before)
	}
	if err := next.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if after := r.Router.Exec("nft", "list", "ruleset"); after != before {
		t.Errorf("after Close:\n%s\nbefore:\n%s", after, before)
	}
	if err := next.Prepare(); err == nil {
		t.Error("prepared after Close")
	}
}
