package cut

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

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
			if _, err := r.DialTCPWithin(conntracktest.Path{V6: v6, Port: 5000, Back: true}, time.Second); err == nil {
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
			if _, err := r.cut.keepOut(nil, blocks, Options{Block: time.Hour}); err != nil {
				t.Fatal(err)
			}
			if again, err := r.cut.Blocks(); err != nil || len(again) != 1 || again[0].Left < 50*time.Minute && !older(t, 6, 12) {
				t.Errorf("blocked again: %+v, %v", again, err)
			}
			// And for a shorter time, which changes nothing.
			if _, err := r.cut.keepOut(nil, blocks, Options{Block: time.Second, Comment: "short"}); err != nil {
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
	if err := victim.Datagram("hello", conntracktest.Patience()); err != nil {
		t.Fatal(err)
	}
	flows := r.kill("dport=5001")
	for i, reject := range []bool{false, true, false, true} {
		if _, err := r.cut.Cut(t.Context(), flows, Options{For: time.Minute, Block: time.Minute, Reject: reject}); err != nil {
			t.Fatal(err)
		}
		_, _ = victim.Client.Write([]byte("x"))
		victim.Client.SetReadDeadline(time.Now().Add(map[bool]time.Duration{false: 100 * time.Millisecond, true: conntracktest.Patience()}[reject]))
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
	began := time.Now()
	if _, err := r.cut.keepOut(nil, blocks, Options{Block: 10 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	made := time.Since(began)
	there, err := r.cut.Blocks()
	if err != nil || len(there) != len(blocks) {
		t.Fatalf("%d blocks, %v", len(there), err)
	}
	began = time.Now()
	lifted, err := r.cut.Unblock(there)
	if took := time.Since(began); err != nil || len(lifted) != len(blocks) || took > max(conntracktest.Slow(3*time.Second), 10*made) {
		t.Errorf("%d lifted in %v, made in %v: %v", len(lifted), took, made, err)
	}
	if there, err := r.cut.Blocks(); err != nil || len(there) != 0 {
		t.Errorf("%d blocks left, %v", len(there), err)
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
