package helper

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctd/conntrack"
)

// lan dials from a masqueraded client, the n-th of the inside.
func (r *rig) lan(n int) *call {
	return r.dial(fmt.Sprintf("10.0.0.%d:40000", n), fmt.Sprintf("203.0.113.1:%d", 40000+n), "198.51.100.9:554", "198.51.100.9:554")
}

func (c *call) setup(cseq int, transport string) string {
	return c.say(fromClient, fmt.Sprintf("SETUP rtsp://s/%d RTSP/1.0\r\nCSeq: %d\r\nTransport: %s\r\n\r\n", cseq, cseq, transport))
}

func (c *call) agree(cseq int, transport string) string {
	return c.say(fromServer, fmt.Sprintf("RTSP/1.0 200 OK\r\nCSeq: %d\r\nSession: abc;timeout=60\r\nTransport: %s\r\n\r\n", cseq, transport))
}

func (c *call) ask(cseq int, method string) {
	c.say(fromClient, fmt.Sprintf("%s rtsp://s/ RTSP/1.0\r\nCSeq: %d\r\nSession: abc\r\n\r\n", method, cseq))
}

func (c *call) ok(cseq int) {
	c.say(fromServer, fmt.Sprintf("RTSP/1.0 200 OK\r\nCSeq: %d\r\nSession: abc\r\n\r\n", cseq))
}

// shown prints a rig's UDP flows and expectations.
func (r *rig) shown() (lines []string) {
	for _, f := range r.table.udp() {
		lines = append(lines, fmt.Sprintf("%v = %v", f.Orig, f.Reply))
	}
	for _, e := range r.table.expects {
		lines = append(lines, fmt.Sprintf("expect %v", e.Tuple))
	}
	return lines
}

func (r *rig) want(want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.shown()); diff != "" {
		r.t.Errorf("-want +got\n%s", diff)
	}
}

const (
	asked    = "RTP/AVP;unicast;client_port=5000-5001"
	granted  = "RTP/AVP;unicast;client_port=5000-5001;server_port=7000-7001"
	rtpFlow  = "udp 198.51.100.9:7000 -> 203.0.113.1:5000 = udp 10.0.0.2:5000 -> 198.51.100.9:7000"
	rtcpFlow = "udp 198.51.100.9:7001 -> 203.0.113.1:5001 = udp 10.0.0.2:5001 -> 198.51.100.9:7001"
)

// TestDialogue: expectations at the request, flows at the reply, and nothing after each kind of end.
func TestDialogue(t *testing.T) {
	for name, end := range map[string]func(c *call){
		"teardown":          func(c *call) { c.ask(9, "TEARDOWN"); c.ok(9) },
		"client's FIN":      func(c *call) { c.flag(fromClient, flagFIN|flagACK) },
		"server's FIN":      func(c *call) { c.flag(fromServer, flagFIN|flagACK) },
		"client's RST":      func(c *call) { c.flag(fromClient, flagRST) },
		"server's RST":      func(c *call) { c.flag(fromServer, flagRST|flagACK) },
		"session not found": func(c *call) { c.ask(9, "PLAY"); c.say(fromServer, "RTSP/1.0 454 No\r\nCSeq: 9\r\n\r\n") },
		"entry ended":       func(c *call) { f := c.table.flows[0]; c.h.ended(&f) },
		"entry gone":        func(c *call) { c.table.flows = c.table.flows[1:]; c.h.checkAll() },
		"new connection":    func(c *call) { c.table.flows = c.table.flows[1:]; c.seq[0] = 77; c.flag(fromClient, flagSYN) },
		"refused again": func(c *call) {
			c.setup(1, asked)
			c.say(fromServer, "RTSP/1.0 461 No\r\nCSeq: 1\r\n\r\n")
			c.flag(fromClient, flagRST)
		},
		"close": func(c *call) { _ = c.h.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			c := r.lan(2)
			c.setup(1, asked)
			r.want("expect udp 198.51.100.9:0 -> 203.0.113.1:5000", "expect udp 198.51.100.9:0 -> 203.0.113.1:5001")
			c.agree(1, granted)
			r.want(rtpFlow, rtcpFlow)
			f := r.table.udp()[0]
			if f.Master != r.table.flows[0].Orig || f.Mark != 7 || f.Timeout != 3*time.Minute || f.Status&conntrack.StatusSeenReply == 0 {
				t.Errorf("%+v", f)
			}
			s := r.h.Sessions()
			if len(s) != 1 || s[0].ID != "abc" || s[0].State != "ready" || len(s[0].Streams) != 1 || len(s[0].Streams[0].Flows) != 2 {
				t.Errorf("%+v", s)
			}
			end(c)
			r.want()
			if got := r.h.Sessions(); len(got) != 0 || len(r.h.ports) != 0 || len(r.h.byFlow) != 0 || r.h.total.streams != 0 || r.h.total.expects != 0 {
				t.Errorf("left: %+v, %v, %v, %+v", got, r.h.ports, r.h.byFlow, r.h.total)
			}
			_ = r.h.Close()
			if r.h.followed != 0 || len(r.h.conns) != 0 || len(r.h.load) != 0 || r.h.total != (load{}) || len(r.h.clients) != 0 {
				t.Errorf("kept: %d, %v, %v, %v", r.h.followed, r.h.conns, r.h.load, r.h.clients)
			}
		})
	}
}

// TestDialogueTransports: what each kind of transport becomes, at the server and in the table.
func TestDialogueTransports(t *testing.T) {
	for _, c := range []struct {
		name, asked, passed, granted string
		want                         []string
		cfg                          Config
	}{
		{"x/y", "RTP/AVP;unicast;client_port=5000/5001", "", "RTP/AVP;unicast;client_port=5000/5001;server_port=7000/7001", []string{rtpFlow, rtcpFlow}, Config{}},
		{"single ports", "RTP/AVP;unicast;client_port=5000", "", "RTP/AVP;unicast;client_port=5000;server_port=7000", []string{rtpFlow}, Config{}},
		{"one server port", asked, "", "RTP/AVP;unicast;client_port=5000-5001;server_port=7000", []string{rtpFlow, rtcpFlow}, Config{}},
		{"no server port", asked, "", asked, []string{"expect udp 198.51.100.9:0 -> 203.0.113.1:5000", "expect udp 198.51.100.9:0 -> 203.0.113.1:5001"}, Config{}},
		{"alternatives", asked + ",RTP/AVP/TCP;interleaved=0-1", "", granted, []string{rtpFlow, rtcpFlow}, Config{}},
		{"interleaved chosen", asked + ",RTP/AVP/TCP;interleaved=0-1", "", "RTP/AVP/TCP;interleaved=0-1", nil, Config{}},
		{"multicast", "RTP/AVP;multicast;client_port=5000-5001", "", "RTP/AVP;multicast;destination=224.1.1.1;port=5000-5001", nil, Config{}},
		{"own destination", asked + ";destination=10.0.0.2", asked + "                     ", granted, []string{rtpFlow, rtcpFlow}, Config{}},
		{"public destination", asked + ";destination=203.0.113.1", "", granted, []string{rtpFlow, rtcpFlow}, Config{}},
		{"another's destination", asked + ";destination=10.0.0.3", "", granted, nil, Config{}},
		{"destination by name", asked + ";destination=tv.example", "", granted, nil, Config{}},
		{"low port", "RTP/AVP;unicast;client_port=1023-1024", "", "RTP/AVP;unicast;client_port=1023-1024;server_port=7000-7001", nil, Config{}},
		{"low server port", asked, "", "RTP/AVP;unicast;client_port=5000-5001;server_port=53-54", nil, Config{}},
		{"other ports granted", asked, "", "RTP/AVP;unicast;client_port=22000-22001;server_port=7000-7001", nil, Config{}},
		{"2.0", `RTP/AVP;unicast;dest_addr=":5000"/":5001"`, "", `RTP/AVP;unicast;dest_addr=":5000"/":5001";src_addr="198.51.100.9:7000"/"198.51.100.9:7001"`, []string{rtpFlow, rtcpFlow}, Config{}},
		{"other source not allowed", asked, "", granted + ";source=198.51.100.77", []string{rtpFlow, rtcpFlow}, Config{}},
		{
			"other source allowed", asked, "", granted + ";source=198.51.100.77",
			[]string{
				strings.ReplaceAll(rtpFlow, ".9:", ".77:"), strings.ReplaceAll(rtcpFlow, ".9:", ".77:"),
				"expect udp 0.0.0.0:0 -> 203.0.113.1:5000", "expect udp 0.0.0.0:0 -> 203.0.113.1:5001",
			},
			Config{AllowOtherSource: true},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.cfg)
			call := r.lan(2)
			out := call.setup(1, c.asked)
			if passed := c.passed; !strings.Contains(out, "Transport: "+cmpOr(passed, c.asked)+"\r\n") {
				t.Errorf("the server gets %q, want %q", out, passed)
			}
			if out := call.agree(1, c.granted); !strings.Contains(out, "Transport: "+c.granted+"\r\n") {
				t.Errorf("the client gets %q", out)
			}
			r.want(c.want...)
			call.flag(fromClient, flagRST)
			r.want()
		})
	}
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// TestDialogueSamePorts: the second client of a server gets other ports of the same length, and is told
// its own.
func TestDialogueSamePorts(t *testing.T) {
	r := newRig(t, Config{})
	first, second := r.lan(2), r.lan(3)
	first.setup(1, asked)
	first.agree(1, granted)
	out := second.setup(1, asked)
	var a, b int
	if _, err := fmt.Sscanf(out[strings.Index(out, "client_port="):], "client_port=%d-%d", &a, &b); err != nil || a == 5000 || b != a+1 || a%2 != 0 || len(out) != len(second.setupText()) {
		t.Fatalf("%d-%d %v in %q", a, b, err, out)
	}
	back := second.agree(1, fmt.Sprintf("RTP/AVP;unicast;client_port=%d-%d;server_port=7000-7001", a, b))
	if !strings.Contains(back, "Transport: "+granted+"\r\n") {
		t.Errorf("the client gets %q", back)
	}
	r.want(rtpFlow, rtcpFlow,
		fmt.Sprintf("udp 198.51.100.9:7000 -> 203.0.113.1:%d = udp 10.0.0.3:5000 -> 198.51.100.9:7000", a),
		fmt.Sprintf("udp 198.51.100.9:7001 -> 203.0.113.1:%d = udp 10.0.0.3:5001 -> 198.51.100.9:7001", b))
	if n := r.h.counters.Rewritten; n != 2 {
		t.Errorf("%d messages rewritten", n)
	}
}

func (c *call) setupText() string {
	return "SETUP rtsp://s/1 RTSP/1.0\r\nCSeq: 1\r\nTransport: " + asked + "\r\n\r\n"
}

// TestDialogueForwarded: a server behind a forwarded port.
func TestDialogueForwarded(t *testing.T) {
	r := newRig(t, Config{})
	c := r.dial("192.0.2.50:40000", "192.0.2.50:40000", "203.0.113.1:8554", "10.0.0.9:554")
	c.setup(1, asked)
	if e := r.table.expects[0]; e.Function != followMaster || e.NAT == nil || e.NAT.Tuple.SrcPort != 5000 {
		t.Errorf("%+v", e)
	}
	out := c.agree(1, granted+";source=10.0.0.9")
	if !strings.Contains(out, "server_port=7000-7001") || strings.Contains(out, "10.0.0.9") {
		t.Errorf("the client gets %q", out)
	}
	r.want("udp 10.0.0.9:7000 -> 192.0.2.50:5000 = udp 192.0.2.50:5000 -> 203.0.113.1:7000",
		"udp 10.0.0.9:7001 -> 192.0.2.50:5001 = udp 192.0.2.50:5001 -> 203.0.113.1:7001")
}

// TestDialogueLonger: where the kernel corrects sequence numbers, an address may become longer.
func TestDialogueLonger(t *testing.T) {
	r := newRig(t, Config{})
	r.table.seqAdj = true
	c := r.lan(2)
	out := c.setup(1, asked+";destination=10.0.0.2")
	if !strings.Contains(out, asked+";destination=203.0.113.1\r\n") {
		t.Errorf("%q", out)
	}
	if adj := r.table.flows[0].SeqAdj[0]; adj.OffsetAfter != 3 || adj.OffsetBefore != 0 {
		t.Errorf("%+v", adj)
	}
}

// TestDialogueLimits: a client has its limit, and so have all.
func TestDialogueLimits(t *testing.T) {
	for name, cfg := range map[string]Config{"of a client": {MaxSessionsPerClient: 2}, "of all": {MaxSessions: 2}} {
		r := newRig(t, cfg)
		c := r.lan(2)
		for i := range 4 {
			transport := fmt.Sprintf("RTP/AVP;unicast;client_port=%d-%d", 5000+2*i, 5001+2*i)
			c.setup(i, transport)
			c.agree(i, transport+";server_port=7000-7001")
		}
		if n := len(r.table.udp()); n != 4 || r.h.counters.Limited != 2 {
			t.Errorf("%s: %d flows, %+v", name, n, r.h.counters)
		}
	}
}

// TestDialogueTeardownOfOne: a stream's own URL ends that stream alone.
func TestDialogueTeardownOfOne(t *testing.T) {
	r := newRig(t, Config{})
	c := r.lan(2)
	c.setup(1, asked)
	c.agree(1, granted)
	c.setup(2, "RTP/AVP;unicast;client_port=5002")
	c.agree(2, "RTP/AVP;unicast;client_port=5002;server_port=7002")
	c.say(fromClient, "TEARDOWN rtsp://s/1 RTSP/1.0\r\nCSeq: 3\r\nSession: abc\r\n\r\n")
	c.ok(3)
	r.want("udp 198.51.100.9:7002 -> 203.0.113.1:5002 = udp 10.0.0.2:5002 -> 198.51.100.9:7002")
}

// TestDialogueSetUpAgain: a stream that is set up with other ports, or inside the connection, replaces
// what it had.
func TestDialogueSetUpAgain(t *testing.T) {
	r := newRig(t, Config{})
	c := r.lan(2)
	again := func(cseq int, transport, reply string) {
		c.say(fromClient, fmt.Sprintf("SETUP rtsp://s/1 RTSP/1.0\r\nCSeq: %d\r\nSession: abc\r\nTransport: %s\r\n\r\n", cseq, transport))
		c.agree(cseq, reply)
	}
	c.setup(1, asked)
	c.agree(1, granted)
	again(2, asked, granted)
	r.want(rtpFlow, rtcpFlow)
	again(3, "RTP/AVP;unicast;client_port=5004", "RTP/AVP;unicast;client_port=5004;server_port=7000")
	r.want("udp 198.51.100.9:7000 -> 203.0.113.1:5004 = udp 10.0.0.2:5004 -> 198.51.100.9:7000")
	again(4, "RTP/AVP/TCP;interleaved=0-1", "RTP/AVP/TCP;interleaved=0-1")
	r.want()
	c.say(fromServer, "$\x00\x00\x03abc")
	if r.table.flows[0].Mark != 7|DefaultMarkBit || r.h.followed != 0 {
		t.Errorf("mark %#x, %+v", r.table.flows[0].Mark, r.h.counters)
	}
}

// TestDialogueInTheWay: flows that are in the way are deleted where they are of the same ends.
func TestDialogueInTheWay(t *testing.T) {
	for _, c := range []struct {
		name, orig, reply string
		made              bool
	}{
		{"local flow", "198.51.100.9:7000 203.0.113.1:5000", "203.0.113.1:5000 198.51.100.9:7000", true},
		{"hole elsewhere", "10.0.0.2:5000 198.51.100.9:7000", "198.51.100.9:7000 203.0.113.1:61000", true},
		{"the same hole", "10.0.0.2:5000 198.51.100.9:7000", "198.51.100.9:7000 203.0.113.1:5000", false},
		{"another client's hole", "10.0.0.3:5000 198.51.100.9:7000", "198.51.100.9:7000 203.0.113.1:5000", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{})
			call := r.lan(2)
			call.setup(1, "RTP/AVP;unicast;client_port=5000")
			there := conntrack.Flow{Orig: udpTuple(t, c.orig), Reply: udpTuple(t, c.reply), ID: 4711}
			r.table.flows = append(r.table.flows, there)
			call.agree(1, "RTP/AVP;unicast;client_port=5000;server_port=7000")
			got := r.table.udp()
			if len(got) != 1 || (got[0].ID == 4711) == c.made {
				t.Errorf("%v", r.shown())
			}
			call.flag(fromClient, flagRST)
			if left := len(r.table.udp()); (left == 0) != c.made {
				t.Errorf("%d flows left", left)
			}
		})
	}
}

func udpTuple(t *testing.T, text string) conntrack.Tuple {
	t.Helper()
	var tuple conntrack.Tuple
	src, dst, _ := strings.Cut(text, " ")
	a, err := netip.ParseAddrPort(src)
	b, err2 := netip.ParseAddrPort(dst)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	tuple.Src, tuple.SrcPort, tuple.Dst, tuple.DstPort, tuple.Proto = a.Addr(), a.Port(), b.Addr(), b.Port(), conntrack.UDP
	return tuple
}

// TestDialogueUnmatched: what answers nothing changes nothing.
func TestDialogueUnmatched(t *testing.T) {
	r := newRig(t, Config{})
	c := r.lan(2)
	c.agree(1, granted)
	c.say(fromClient, "SETUP rtsp://s/1 RTSP/1.0\r\nTransport: "+asked+"\r\n\r\n") // no CSeq
	c.agree(0, granted)
	c.setup(5, asked)
	c.agree(4, granted)
	r.want("expect udp 198.51.100.9:0 -> 203.0.113.1:5000", "expect udp 198.51.100.9:0 -> 203.0.113.1:5001")
	c.say(fromServer, "RTSP/1.0 100 Continue\r\nCSeq: 5\r\n\r\n")
	c.agree(5, granted)
	r.want(rtpFlow, rtcpFlow)
}

// TestDialogueWithoutHelper: without the kernel's helper flows have to do.
func TestDialogueWithoutHelper(t *testing.T) {
	r := newRig(t, Config{})
	c := r.lan(2)
	r.table.flows[0].Helper = ""
	c.setup(1, asked)
	r.want()
	c.agree(1, granted)
	r.want(rtpFlow, rtcpFlow)
}

// TestDialogueSignsOfLife: a pause gives the flows time, and so does a request once in a while.
func TestDialogueSignsOfLife(t *testing.T) {
	r := newRig(t, Config{})
	c := r.lan(2)
	c.setup(1, asked)
	c.agree(1, granted)
	key := r.table.udp()[0].Orig
	for i := range 10 {
		c.ask(10+i, "GET_PARAMETER")
		c.ok(10 + i)
	}
	if n := r.table.touched[key]; n != 1 {
		t.Errorf("ten requests gave the flow time %d times", n)
	}
	c.ask(30, "PAUSE")
	c.ok(30)
	if n := r.table.touched[key]; n != 2 {
		t.Errorf("a pause made it %d", n)
	}
}
