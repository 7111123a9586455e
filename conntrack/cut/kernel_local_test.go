package cut

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctd/conntrack/conntracktest"
)

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
				local.SetReadDeadline(time.Now().Add(conntracktest.Patience()))
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
	ns.Do(func() { dialled, err = net.DialTimeout("tcp", l.Addr().String(), conntracktest.Patience()) })
	if err == nil {
		accepted, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled, accepted
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
		c.SetReadDeadline(time.Now().Add(conntracktest.Patience()))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("%v: %v", c.LocalAddr(), err)
		}
	}
}
