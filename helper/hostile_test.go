package helper

import (
	"fmt"
	"strings"
	"testing"

	"ctd/conntrack"
)

// streaming is a call with a stream.
func (r *rig) streaming() *call {
	c := r.lan(2)
	c.setup(1, asked)
	c.agree(1, granted)
	r.want(rtpFlow, rtcpFlow)
	return c
}

// TestHostileSegments: what the ends of a connection don't heed ends no stream, whoever sent it.
func TestHostileSegments(t *testing.T) {
	for name, send := range map[string]func(c *call){
		"SYN with another number": func(c *call) {
			c.take(tcpPacket(c.client, c.server, 0xdeadbeef, 0, flagSYN, ""))
		},
		"the first SYN late":    func(c *call) { c.take(tcpPacket(c.client, c.server, 1000, 0, flagSYN, "")) },
		"SYN-ACK with a number": func(c *call) { c.take(tcpPacket(c.real, c.public, c.seq[1]+1<<20, c.seq[0], flagSYN|flagACK, "")) },
		"RST beside the number": func(c *call) { c.take(tcpPacket(c.client, c.server, c.seq[0]+20000, 0, flagRST, "")) },
		"FIN ahead":             func(c *call) { c.take(tcpPacket(c.client, c.server, c.seq[0]+20000, c.seq[1], flagFIN|flagACK, "")) },
		"reply to nothing":      func(c *call) { c.agree(77, "RTP/AVP;unicast;client_port=22-23;server_port=7000-7001") },
		"SETUP of the server":   func(c *call) { c.say(fromServer, setupWith("RTP/AVP;unicast;client_port=6000-6001")) },
		"SETUP inside a body": func(c *call) {
			c.say(fromClient, fmt.Sprintf("OPTIONS * RTSP/1.0\r\nCSeq: 8\r\nContent-Length: %d\r\n\r\n%s", len(play), play))
		},
		"another session's end": func(c *call) {
			c.say(fromClient, "TEARDOWN rtsp://s/ RTSP/1.0\r\nCSeq: 8\r\nSession: other\r\n\r\n")
			c.ok(8)
		},
		"server's end of others": func(c *call) { c.say(fromServer, "RTSP/1.0 454 x\r\nCSeq: 99\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			c := r.streaming()
			send(c)
			r.want(rtpFlow, rtcpFlow)
			// The dialogue is still read.
			c.ask(9, "TEARDOWN")
			c.ok(9)
			r.want()
		})
	}
}

// TestHostileBrowser: a web page makes a browser of the inside post what looks like RTSP from the second
// segment on.
func TestHostileBrowser(t *testing.T) {
	setup := setupWith("RTP/AVP;unicast;client_port=33890-33891")
	for name, first := range map[string]string{
		"HTTP": "POST / HTTP/1.1\r\nContent-Length: 10000\r\n\r\n", "reply first": "RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n", "frame first": frame,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			c := r.lan(2)
			c.say(fromClient, first)
			r.table.flows[0].Mark = 0 // as if the packets had been in the queue before the mark was set
			for range 3 {
				c.say(fromClient, setup)
			}
			r.want()
			if r.table.flows[0].Mark&DefaultMarkBit == 0 {
				t.Error("the connection stays in the queue")
			}
		})
	}
	t.Run("after a loss", func(t *testing.T) {
		r := newRig(t, Config{})
		c := r.lan(2)
		c.say(fromClient, "SET_PARAMETER * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 1000000\r\n\r\n")
		c.seq[fromClient] += 100 // lost
		for range 2 * maxEarly {
			c.say(fromClient, strings.Repeat("x", 1000))
		}
		c.say(fromClient, setup)
		r.want()
	})
}

// TestPickUp: of the connections whose SYN wasn't seen, those are followed that were there before the helper,
// and those whose answer is seen.
func TestPickUp(t *testing.T) {
	begin := func(t *testing.T, prepare func(r *rig, c *call)) (*rig, *call) {
		r := newRig(t, Config{})
		c := r.lan(2)
		f := r.table.flows[0]
		c.h.forget(c.h.conns[f.Orig].connection)
		prepare(r, c)
		c.setup(1, asked)
		c.agree(1, granted)
		return r, c
	}
	older := func(r *rig) {
		if err := r.h.findOlder(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
	}
	t.Run("older", func(t *testing.T) {
		r, _ := begin(t, func(r *rig, _ *call) { older(r) })
		r.want(rtpFlow, rtcpFlow)
	})
	t.Run("not older", func(t *testing.T) {
		r, _ := begin(t, func(*rig, *call) {})
		r.want()
		if r.h.followed != 0 || r.table.flows[0].Mark&DefaultMarkBit == 0 {
			t.Errorf("%d followed, mark %#x", r.h.followed, r.table.flows[0].Mark)
		}
	})
	t.Run("another with the tuple", func(t *testing.T) {
		r, _ := begin(t, func(r *rig, _ *call) { older(r); r.table.flows[0].ID++ })
		r.want()
	})
	t.Run("closed", func(t *testing.T) {
		r, _ := begin(t, func(r *rig, _ *call) { older(r); r.table.flows[0].State = tcpFinWait })
		r.want()
	})
	t.Run("answer seen", func(t *testing.T) {
		r, _ := begin(t, func(r *rig, c *call) {
			c.take(tcpPacket(c.real, c.public, 5000, 1001, flagSYN|flagACK, ""))
		})
		r.want(rtpFlow, rtcpFlow)
	})
	t.Run("last words", func(t *testing.T) {
		r := newRig(t, Config{})
		c := r.streaming()
		c.flag(fromClient, flagFIN|flagACK)
		c.seq[fromClient]++
		c.flag(fromServer, flagFIN|flagACK)
		c.seq[fromServer]++
		c.flag(fromClient, flagACK)
		if r.h.followed != 0 || r.table.flows[0].Mark&DefaultMarkBit != 0 {
			t.Errorf("%d followed, mark %#x", r.h.followed, r.table.flows[0].Mark)
		}
	})
}

// TestConnectionLimits: connections beyond the bounds leave the queue, and none is lost count of.
func TestConnectionLimits(t *testing.T) {
	r := newRig(t, Config{})
	var calls []*call
	for i := range maxConnectionsPerClient + 3 {
		c := r.dial(fmt.Sprintf("10.0.0.2:%d", 10000+i), fmt.Sprintf("203.0.113.1:%d", 10000+i), "198.51.100.9:554", "198.51.100.9:554")
		calls = append(calls, c)
	}
	if r.h.followed != maxConnectionsPerClient || r.h.counters.Limited == 0 {
		t.Errorf("%d followed, %d limited", r.h.followed, r.h.counters.Limited)
	}
	last := calls[len(calls)-1]
	last.say(fromClient, options)
	if at := r.table.find(conntrack.Key{Orig: last.tuple()}); r.table.flows[at].Mark&DefaultMarkBit == 0 {
		t.Error("it stays in the queue")
	}
	// The reply tuple of one is the original tuple of another.
	a := r.dial("192.0.2.1:8554", "192.0.2.1:8554", "192.0.2.2:8554", "192.0.2.2:8554")
	r.take(tcpPacket(a.server, a.client, 7, 0, flagSYN, ""))
	for _, c := range append(calls, a) {
		c.flag(fromClient, flagRST)
	}
	_ = r.h.Close()
	if r.h.followed != 0 || len(r.h.conns) != 0 || len(r.h.clients) != 0 {
		t.Errorf("%d followed, %d tuples, %v", r.h.followed, len(r.h.conns), r.h.clients)
	}
}

// TestSharedFlow: a player that begins anew with the same ports takes its flows along.
func TestSharedFlow(t *testing.T) {
	r := newRig(t, Config{})
	first := r.streaming()
	second := r.dial("10.0.0.2:40001", "203.0.113.1:40001", "198.51.100.9:554", "198.51.100.9:554")
	second.setup(1, asked)
	second.agree(1, granted)
	r.want(rtpFlow, rtcpFlow)
	first.flag(fromClient, flagRST)
	r.want(rtpFlow, rtcpFlow)
	if f := r.table.udp()[0]; f.Master != second.tuple() {
		t.Errorf("the flow's master is %v", f.Master)
	}
	second.flag(fromClient, flagRST)
	r.want()
}

// TestEarlyMedia: media that came by an expectation before the reply go with the session, also where the reply
// says something else.
func TestEarlyMedia(t *testing.T) {
	for name, reply := range map[string]func(c *call){
		"refused":    func(c *call) { c.say(fromServer, "RTSP/1.0 453 No\r\nCSeq: 1\r\n\r\n") },
		"other port": func(c *call) { c.agree(1, granted) },
		"low port":   func(c *call) { c.agree(1, "RTP/AVP;unicast;client_port=5000-5001;server_port=500-501") },
		"other":      func(c *call) { c.agree(1, "RTP/AVP;unicast;client_port=6000-6001;server_port=7000-7001") },
		"no reply":   func(*call) {},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			c := r.lan(2)
			c.setup(1, asked)
			r.arrives("198.51.100.9:6666")
			reply(c)
			r.h.findExpected(t.Context())
			if name != "no reply" && name != "other port" && len(r.table.udp()) > 0 {
				t.Errorf("left at the reply: %v", r.shown())
			}
			c.flag(fromClient, flagRST)
			r.h.findExpected(t.Context())
			r.want()
		})
	}
}

// TestSetupSpam: a connection's SETUP requests are bounded in number, and so is the log.
func TestSetupSpam(t *testing.T) {
	r := newRig(t, Config{})
	c := r.lan(2)
	for range 10 * plansBurst {
		c.setup(1, asked)
	}
	if n := r.table.nextID; n > 4*plansBurst {
		t.Errorf("%d expectations were made", n)
	}
	if r.h.counters.Limited == 0 || r.h.total.streams > 1 {
		t.Errorf("%+v %+v", r.h.counters, r.h.total)
	}
}
