package cut

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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
	if err := r.cut.Prepare(&Plan{}, Options{}); err != nil {
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
	if err := c.SetReadDeadline(time.Now().Add(conntracktest.Patience())); err != nil {
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
					if err := r.cut.Prepare(&Plan{}, Options{}); err != nil {
						t.Fatal(err)
					}
					if _, err := r.cut.keepOut(r.kill("proto=tcp sport="+portOf(c.Local)), nil, Options{For: time.Minute}); err != nil {
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
	if err := r.cut.Prepare(&Plan{}, Options{}); err != nil {
		t.Fatal(err)
	}
	flows := r.kill("zone=7")
	// As if it were zone 8's: then it must not be cut.
	flows[0].Zone = 8
	if _, err := r.cut.keepOut(flows, nil, Options{For: time.Minute}); err != nil {
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
				c.Client.SetReadDeadline(time.Now().Add(map[bool]time.Duration{false: 200 * time.Millisecond, true: conntracktest.Patience()}[reject]))
				_, err := c.Client.Read(make([]byte, 1))
				if refused := errors.Is(err, syscall.ECONNREFUSED); refused != reject {
					t.Errorf("the sender: %v", err)
				}
				if err := neighbour.Datagram("undisturbed", conntracktest.Patience()); err != nil {
					t.Errorf("neighbour: %v", err)
				}
				if left := r.flows("proto=udp dport=5300"); len(left) != 0 {
					t.Errorf("left: %+v", left)
				}
			})
		}
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
