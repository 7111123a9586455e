package helper

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"ctd/conntrack"
	"ctd/helper/rtsp"
)

// wire is both sides of a direction in a test: what reads it, and the kernel and the receiver behind it.
type wire struct {
	t       *testing.T
	d       direction
	count   Counters
	changes map[int]rtsp.Change // of each SETUP
	grows   bool                // the kernel corrects sequence numbers
	kernel  conntrack.SeqAdj    // as it does
	got     []string            // methods
	errs    []error

	sent    map[uint32][]byte // packets by id
	decided map[uint32]bool
	out     map[uint32]byte // what the receiver has, by its own numbers
	nextID  uint32
}

func newWire(t *testing.T, isn uint32) *wire {
	w := &wire{
		t: t, sent: map[uint32][]byte{}, decided: map[uint32]bool{}, out: map[uint32]byte{},
		changes: map[int]rtsp.Change{0: {ClientPort: rtsp.Ports{First: 6000, Last: 6001, Sep: '-'}}},
	}
	w.d = direction{reader: w, sink: w, count: &w.count}
	w.d.begin(isn)
	return w
}

func (w *wire) message(m *rtsp.Message, change changer) {
	w.got = append(w.got, m.Method)
	if m.Method == rtsp.MethodSetup {
		if err := change(w.changes); err != nil {
			w.errs = append(w.errs, err)
		}
	}
}

func (w *wire) interleaved(uint8) { w.got = append(w.got, "$") }
func (w *wire) mayRewrite(head []byte) bool {
	return bytes.HasPrefix([]byte("SETUP "), head[:min(6, len(head))])
}

func (w *wire) kept(int) bool { return false }

func (w *wire) lengthen(s conntrack.SeqAdj) error {
	if !w.grows {
		return conntrack.ErrNoSeqAdj
	}
	w.kernel = s
	return nil
}

func (w *wire) accept(id uint32) { w.replace(id, w.sent[id]) }

// replace is the verdict: the packet goes on through the kernel to the receiver.
func (w *wire) replace(id uint32, packet []byte) {
	if w.decided[id] {
		w.t.Errorf("a second verdict about packet %d", id)
	}
	w.decided[id] = true
	s, err := parseSegment(packet)
	if err != nil {
		w.t.Fatal(err)
	}
	first := s.seq + uint32(w.kernel.OffsetBefore)
	if before(w.kernel.CorrectionPos, s.seq) {
		first = s.seq + uint32(w.kernel.OffsetAfter)
	}
	for i, b := range s.payload() {
		at := first + uint32(i)
		if was, ok := w.out[at]; ok && was != b {
			w.t.Fatalf("byte %d was %q and is %q when sent again", i, was, b)
		}
		w.out[at] = b
	}
}

func (w *wire) send(seq uint32, data string) {
	w.nextID++
	client, server := endpoints(false)
	w.sent[w.nextID] = tcpPacket(client, server, seq, 0, flagACK, data)
	seg, err := parseSegment(w.sent[w.nextID])
	if err != nil {
		w.t.Fatal(err)
	}
	w.d.take(w.nextID, &seg)
}

// received returns what the receiver has from a number on.
func (w *wire) received(from uint32) string {
	var b strings.Builder
	for {
		c, ok := w.out[from]
		if !ok {
			return b.String()
		}
		b.WriteByte(c)
		from++
	}
}

// allDecided fails the test where a packet waits still.
func (w *wire) allDecided() {
	w.t.Helper()
	for id := range w.sent {
		if !w.decided[id] {
			w.t.Errorf("packet %d has no verdict", id)
		}
	}
}

const (
	options = "OPTIONS rtsp://s/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"
	body    = "SET_PARAMETER rtsp://s/ RTSP/1.0\r\nCSeq: 2\r\nContent-Length: 6\r\n\r\nSETUP "
	frame   = "$\x00\x00\x05SETUP"
	play    = "PLAY rtsp://s/ RTSP/1.0\r\nCSeq: 4\r\n\r\n"
)

func setupWith(transport string) string {
	return "SETUP rtsp://s/1 RTSP/1.0\r\nCSeq: 3\r\nTransport: " + transport + "\r\nUser-Agent: x\r\n\r\n"
}

// dialogues are what a client says and what the server is to get.
var dialogues = []struct {
	name, sent, want string
	changes          map[int]rtsp.Change
}{
	{
		"ports", options + body + setupWith("RTP/AVP;unicast;client_port=5000-5001") + play + frame,
		options + body + setupWith("RTP/AVP;unicast;client_port=6000-6001") + play + frame, nil,
	},
	{
		"longer address", setupWith("RTP/AVP;unicast;destination=10.0.0.2;client_port=5000-5001") + play,
		setupWith("RTP/AVP;unicast;destination=203.0.113.254;client_port=6000-6001") + play,
		map[int]rtsp.Change{0: {
			ClientPort: rtsp.Ports{First: 6000, Last: 6001, Sep: '-'}, Destination: netip.MustParseAddr("203.0.113.254"),
		}},
	},
}

// TestDirection: whatever the cuts, the order and the repetitions, what goes out is the same.
func TestDirection(t *testing.T) {
	for _, c := range dialogues {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, uint64(len(c.sent))))
			for i := range 400 {
				isn := []uint32{0, 1<<32 - 20, 1<<31 - 50, 12345}[i%4]
				w := newWire(t, isn)
				w.grows = true
				if c.changes != nil {
					w.changes = c.changes
				}
				for _, p := range shuffle(r, cuts(r, c.sent, 1+i%8/4*3), i%8 > 3) {
					w.send(isn+uint32(p.at), c.sent[p.at:p.end])
				}
				if got := w.received(isn); got != c.want || len(w.errs) > 0 {
					t.Fatalf("run %d: %v\ngot  %q\nwant %q", i, w.errs, got, c.want)
				}
				w.allDecided()
				// All of it once more in other pieces, as after the loss of every acknowledgement.
				for _, p := range cuts(r, c.sent, 1) {
					w.send(isn+uint32(p.at), c.sent[p.at:p.end])
				}
				if got := w.received(isn); got != c.want {
					t.Fatalf("run %d again:\ngot  %q\nwant %q", i, got, c.want)
				}
				w.allDecided()
			}
		})
	}
}

type part struct{ at, end int }

// cuts cuts a text into pieces of at most least + 39 bytes.
func cuts(r *rand.Rand, text string, least int) (parts []part) {
	most := least + r.IntN(40)
	for at := 0; at < len(text); {
		end := min(len(text), at+1+r.IntN(most))
		parts = append(parts, part{at, end})
		at = end
	}
	return parts
}

// shuffle swaps and repeats pieces.
func shuffle(r *rand.Rand, parts []part, really bool) []part {
	if !really {
		return parts
	}
	for i := 1; i < len(parts); i++ {
		switch r.IntN(4) {
		case 0:
			parts[i-1], parts[i] = parts[i], parts[i-1]
		case 1:
			parts = append(parts[:i], append([]part{parts[i-1]}, parts[i:]...)...)
			i++
		}
	}
	return parts
}

// TestDirectionNoGrowth: where the kernel corrects nothing, what would be longer stays as it is.
func TestDirectionNoGrowth(t *testing.T) {
	w := newWire(t, 100)
	w.changes = dialogues[1].changes
	w.send(100, dialogues[1].sent)
	if got := w.received(100); got != dialogues[1].sent || len(w.errs) != 1 || !errors.Is(w.errs[0], rtsp.ErrTooLong) {
		t.Errorf("%v, %q", w.errs, got)
	}
}

// TestDirectionSecondGrowth: the kernel knows one place. The next waits for its acknowledgement.
func TestDirectionSecondGrowth(t *testing.T) {
	w := newWire(t, 0)
	w.grows, w.changes = true, dialogues[1].changes
	text, want := dialogues[1].sent, dialogues[1].want
	w.send(0, text)
	w.send(uint32(len(text)), text)
	if got := w.received(0); got != want+text || len(w.errs) != 1 {
		t.Fatalf("%v\n%q", w.errs, got)
	}
	w.d.acknowledged(uint32(len(want + text)))
	w.send(uint32(2*len(text)), text)
	if got := w.received(0); got != want+text+want || len(w.errs) != 1 {
		t.Fatalf("%v\n%q", w.errs, got)
	}
}

// TestDirectionLostAck: an acknowledgement that the sender never gets. It sends what was acknowledged again,
// in one segment with what is new, and with another beginning.
func TestDirectionLostAck(t *testing.T) {
	text, want := dialogues[1].sent, dialogues[1].want
	for _, from := range []int{0, strings.Index(text, "10.0.0.2") + 3, len(text) - 2} {
		w := newWire(t, 0)
		w.grows, w.changes = true, dialogues[1].changes
		w.send(0, text)
		w.d.acknowledged(uint32(len(want)))
		w.send(uint32(from), text[from:]+options)
		if got := w.received(0); got != want+options {
			t.Errorf("from %d: %q", from, got)
		}
	}
}

// TestDirectionGivesUp: what waits in vain passes, and is not rewritten in half.
func TestDirectionGivesUp(t *testing.T) {
	text := setupWith("RTP/AVP;unicast;client_port=5000-5001")
	half := strings.Index(text, "5000") + 2
	for name, give := range map[string]func(w *wire){
		"time": func(w *wire) { w.d.giveUp() },
		"segments": func(w *wire) {
			for range maxHeld + 1 {
				w.send(uint32(half), "00")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, 0)
			w.send(0, text[:half])
			if w.decided[1] {
				t.Fatal("half a port passed at once")
			}
			give(w)
			w.allDecided()
			w.send(uint32(half), text[half:])
			if got := w.received(0); got != text || len(w.errs) != 1 || !errors.Is(w.errs[0], errPassed) {
				t.Errorf("%v, %q", w.errs, got)
			}
			w.allDecided()
		})
	}
}

// TestDirectionNotRTSP: what isn't RTSP from the first byte on passes unread.
func TestDirectionNotRTSP(t *testing.T) {
	for name, text := range map[string]string{
		"TLS": "\x16\x03\x01\x02\x00", "HTTP": "GET / HTTP/1.1\r\n\r\n", "frame first": frame, "noise": "\x00\x01", "too long": "OPTIONS " + strings.Repeat("x", rtsp.MaxHead),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, 0)
			for i := range text {
				w.send(uint32(i), text[i:i+1])
			}
			w.send(uint32(len(text)), setupWith("RTP/AVP;client_port=5000-5001"))
			if got := w.received(0); !strings.HasPrefix(got, text) || len(w.got) > 0 || w.count.NotRTSP != 1 {
				t.Errorf("%q of %+v", w.got, w.count)
			}
			w.allDecided()
		})
	}
}

// TestDirectionMiddle: a connection is picked up where a segment begins with a message, and again after
// something went by unseen.
func TestDirectionMiddle(t *testing.T) {
	w := newWire(t, 0)
	w.d.first = false
	w.d.lose()
	setup := setupWith("RTP/AVP;client_port=5000-5001")
	w.send(10, "rest of something\r\n\r\n")
	w.send(500, setup)
	if fmt.Sprint(w.got) != "[SETUP]" || !strings.Contains(w.received(500), "6000") {
		t.Errorf("%q, %q", w.got, w.received(500))
	}
	// 100 bytes are missing, and the receiver has them.
	next := 500 + uint32(len(setup))
	w.send(next+100, options)
	if len(w.got) != 1 {
		t.Fatalf("%q", w.got)
	}
	w.d.acknowledged(next + 100 + uint32(len(options)))
	w.d.giveUp()
	w.send(next+100+uint32(len(options)), options)
	if fmt.Sprint(w.got) != "[SETUP OPTIONS]" {
		t.Errorf("%q", w.got)
	}
	w.allDecided()
}

// TestDirectionLost: where something is lost before the first message, nobody knows that this is RTSP.
func TestDirectionLost(t *testing.T) {
	w := newWire(t, 0)
	w.d.lose()
	w.send(500, setupWith("RTP/AVP;client_port=5000-5001"))
	if len(w.got) > 0 {
		t.Errorf("%q", w.got)
	}
	w.allDecided()
}

// TestDirectionEarly: what comes early is bounded.
func TestDirectionEarly(t *testing.T) {
	w := newWire(t, 0)
	for i := range 3 * maxEarly {
		w.send(uint32(100+10*i), "0123456789")
	}
	if len(w.d.early) > maxEarly || len(w.d.held) > maxHeld {
		t.Errorf("%d early, %d held", len(w.d.early), len(w.d.held))
	}
	w = newWire(t, 0)
	big := strings.Repeat("x", 1400)
	for i := range maxEarly {
		w.send(uint32(100+1400*i), big)
	}
	n := 0
	for _, p := range w.d.early {
		n += len(p.data)
	}
	if n > maxEarlyBytes {
		t.Errorf("%d bytes early", n)
	}
}
