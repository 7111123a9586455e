package conntrack_test

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"

	"golang.org/x/sys/unix"
)

// TestKernelImportTCP moves a connection when the client has yet to hear of what the server has
// received, so that the first packet on the new router is one that is sent again, and its answer
// speaks of data that this router never saw. A flow that is made with the window scales alone doesn't
// get over that; Import's does.
func TestKernelImportTCP(t *testing.T) {
	bothFamilies(t, func(t *testing.T, v6 bool) {
		for _, tt := range []struct {
			name   string
			move   func(*conntrack.Table, conntrack.Flow) error
			goesOn bool
		}{
			{"Create", func(table *conntrack.Table, f conntrack.Flow) error {
				_, err := table.Create(t.Context(), f)
				return err
			}, false},
			{"Import", func(table *conntrack.Table, f conntrack.Flow) error {
				return table.Import(t.Context(), []conntrack.Flow{f}, conntrack.OnConflictSkip)[0].Err
			}, true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				p := conntracktest.NewPair(t)
				p.Client.Sysctl("net.ipv4.tcp_retrans_collapse", "0")
				p.Client.Sysctl("net.ipv4.tcp_early_retrans", "0") // no probe that sends the last segment again
				client, server := p.Dial(v6)
				exchange(t, client, server)
				p.Client.Nft("table inet lost {\n chain input {\n type filter hook input priority 0\n meta l4proto tcp drop\n }\n}")
				// Two segments, which arrive, but whose acknowledgements don't.
				sent := bytes.Repeat([]byte("x"), 2000)
				for _, part := range [][]byte{sent[:1000], sent[1000:]} {
					if _, err := client.Write(part); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := io.ReadFull(server, make([]byte, len(sent))); err != nil {
					t.Fatal(err)
				}
				f, err := list(t, open(t, p.A), conntrack.Filter{})[0].Replayable()
				if err != nil {
					t.Fatal(err)
				}
				if scale := f.TCP.WScale; scale[0] == 0 || scale[1] == 0 {
					t.Fatalf("window scales %v, want some", scale)
				}
				if err := tt.move(open(t, p.B), f); err != nil {
					t.Fatal(err)
				}
				p.Switch()
				// From now on the client sends nothing new before the first segment is acknowledged.
				conntracktest.Eventually(t, "the first segment is sent again", func() bool { return resent(t, client) > 0 })
				p.Client.Nft("delete table inet lost")
				went := echo(client, server) == nil
				invalid := p.Invalid(p.B)
				if went != tt.goesOn || (invalid == 0) != tt.goesOn {
					t.Errorf("goes on: %v with %d packets invalid; want %v", went, invalid, tt.goesOn)
				}
			})
		}
	})
}

// exchange sends a few bytes from the client to the server and back.
func exchange(t *testing.T, client, server net.Conn) {
	t.Helper()
	if err := echo(client, server); err != nil {
		t.Fatal(err)
	}
}

// resent returns how often a connection has sent segments again.
func resent(t *testing.T, c net.Conn) (n uint32) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return info.Total_retrans
}

func echo(client, server net.Conn) error {
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		if _, err := way[0].Write([]byte("hello")); err != nil {
			return err
		}
		if err := way[1].SetReadDeadline(time.Now().Add(conntracktest.Patience())); err != nil {
			return err
		}
		if _, err := io.ReadFull(way[1], make([]byte, 5)); err != nil {
			return err
		}
	}
	return nil
}

// TestKernelImportHandshake moves a connection that is being opened: the packet of one side is lost,
// and the client begins again through the new router.
func TestKernelImportHandshake(t *testing.T) {
	conntracktest.Kernel(t)
	for state, deaf := range map[string]func(*conntracktest.Pair) *conntracktest.NS{
		"SYN_SENT": func(p *conntracktest.Pair) *conntracktest.NS { return p.Server },
		"SYN_RECV": func(p *conntracktest.Pair) *conntracktest.NS { return p.Client },
	} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			p := conntracktest.NewPair(t)
			ns := deaf(p)
			ns.Nft("table inet lost {\n chain input {\n type filter hook input priority 0\n meta l4proto tcp drop\n }\n}")
			if state == "SYN_SENT" {
				p.B.Nft("insert rule inet pair forward ct state new accept") // until there is an answer
			}
			dial := p.Dialling(false)
			a := open(t, p.A)
			var f conntrack.Flow
			conntracktest.Eventually(t, state, func() bool {
				flows := list(t, a, conntrack.Filter{})
				if len(flows) == 1 && flows[0].StateName() == state {
					f, _ = flows[0].Replayable()
				}
				return f.Has(conntrack.AttrState)
			})
			if r := open(t, p.B).Import(t.Context(), []conntrack.Flow{f}, conntrack.OnConflictFail)[0]; r.Err != nil {
				t.Fatal(r.Err)
			}
			p.Switch()
			ns.Nft("delete table inet lost")
			client, server, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, client, server)
			if n := p.Invalid(p.B); n != 0 {
				t.Errorf("%d packets were invalid", n)
			}
		})
	}
}
