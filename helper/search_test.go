package helper

import (
	"testing"
	"time"

	"ctd/conntrack"
)

// arrives does what the kernel does when media come that an expectation of a rig is about.
func (r *rig) arrives(from string) conntrack.Flow {
	e := r.table.expects[0]
	r.table.expects = r.table.expects[1:]
	orig := udpTuple(r.t, from+" "+"0.0.0.0:0")
	orig.Dst, orig.DstPort = e.Tuple.Dst, e.Tuple.DstPort
	reply := orig.Inverse()
	reply.Src, reply.SrcPort = e.NAT.Tuple.Src, e.NAT.Tuple.SrcPort
	f := conntrack.Flow{Orig: orig, Reply: reply, ID: 900 + uint32(len(r.table.flows)), Master: e.Master, Status: conntrack.StatusExpected, Timeout: time.Second}
	r.table.flows = append(r.table.flows, f)
	return f
}

// TestSearch: the flows that the kernel made of expectations are given their session's time, and go
// with it. Those of another connection stay.
func TestSearch(t *testing.T) {
	r := newRig(t, Config{})
	c := r.lan(2)
	c.setup(1, asked)
	c.agree(1, asked) // the server doesn't say its ports
	f := r.arrives("198.51.100.9:7000")
	other := f
	other.Orig.SrcPort, other.Reply.DstPort, other.Master.SrcPort = 9, 9, 9
	r.table.flows = append(r.table.flows, other)
	c.ask(2, "PAUSE")
	c.ok(2)
	r.h.findExpected(t.Context())
	if got, _ := r.table.Get(t.Context(), f.Key()); got.Timeout != minIdle {
		t.Errorf("the flow has %v", got.Timeout)
	}
	if s := r.h.Sessions(); len(s[0].Streams[0].Flows) != 1 || len(s[0].Streams[0].Expects) != 1 {
		t.Errorf("%+v", s)
	}
	c.ask(3, "TEARDOWN")
	c.ok(3)
	if left := r.table.udp(); len(left) != 1 || left[0].Orig != other.Orig {
		t.Errorf("left: %v", r.shown())
	}

	// One that comes just before the end, and wasn't found yet.
	c.setup(4, asked)
	c.agree(4, asked)
	r.arrives("198.51.100.9:7002")
	c.flag(fromClient, flagRST)
	r.h.findExpected(t.Context())
	if left := r.table.udp(); len(left) != 1 || left[0].Orig != other.Orig || len(r.table.expects) > 0 {
		t.Errorf("left: %v", r.shown())
	}
}

// TestZones: a connection in a zone is found once it is known that there is such a zone.
func TestZones(t *testing.T) {
	r := newRig(t, Config{})
	r.zone = 5
	first := r.lan(2)
	first.setup(1, asked)
	first.agree(1, granted)
	r.want()
	if !r.h.zoneless {
		t.Fatal("nobody looks for zones")
	}
	r.h.findZones(t.Context())
	second := r.lan(2 + 1)
	second.setup(1, asked)
	second.agree(1, granted)
	if got := r.table.udp(); len(got) != 2 || got[0].Zone != 5 {
		t.Errorf("%+v", got)
	}
}

// TestLeft: a connection whose mark says that it has left isn't followed again.
func TestLeft(t *testing.T) {
	r := newRig(t, Config{})
	c := r.lan(2)
	c.say(fromClient, "GET / HTTP/1.1\r\n\r\n")
	if r.h.followed != 0 || r.table.flows[0].Mark&DefaultMarkBit == 0 {
		t.Fatalf("%d followed, mark %#x", r.h.followed, r.table.flows[0].Mark)
	}
	c.setup(1, asked)
	c.agree(1, granted)
	r.want()
}
