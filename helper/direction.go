package helper

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"ctd/conntrack"
	"ctd/helper/rtsp"
)

const (
	// holdTime is how long segments wait for the rest of a message that may have to be rewritten, or
	// for one that should have come before them.
	holdTime = 100 * time.Millisecond
	// maxHeld bounds the segments of a direction that wait. A sender that sends one byte a segment
	// gets so far within a Transport header before it waits for an acknowledgement.
	maxHeld = 128
	// maxBlind is how many segments of a connection that was picked up in the middle may come without
	// one that begins with a message.
	maxBlind = 256
	// maxEarly and maxEarlyBytes bound what came before its turn.
	maxEarly      = 64
	maxEarlyBytes = 64 << 10
	// maxEdits bounds the edits kept for segments that are sent again, in one direction.
	maxEdits = 64
	// maxGrown is the length up to which a packet may be made longer: the smallest that every IPv6
	// link carries (RFC 8200 section 5). A longer one might no longer fit, and be lost each time.
	maxGrown = 1280
	// maxGrowth bounds how much longer one message may become: an IPv6 address in brackets.
	maxGrowth = 41
)

// reader takes what a stream says.
type reader interface {
	// message gets a message as soon as its head is whole. While it runs, change may rewrite it.
	message(m *rtsp.Message, change changer)
	// interleaved gets to know of a frame of media between the messages.
	interleaved(channel uint8)
	// mayRewrite tells whether the message that begins with head may have to be rewritten; one of which
	// nothing is known yet, where head is empty.
	mayRewrite(head []byte) bool
	// kept gets to know how many bytes more are kept, and tells whether that is too much.
	kept(more int) (tooMuch bool)
	// lengthen tells the kernel how to correct sequence numbers, or why it doesn't.
	lengthen(s conntrack.SeqAdj) error
}

// changer rewrites the alternatives of a message's Transport headers, by their index. Where it gives an
// error the message stays as it is.
type changer func(changes map[int]rtsp.Change) error

// errPassed says that a message can't be rewritten any more, because the beginning is gone.
var errPassed = errors.New("its first segments had to be let pass")

// sink gives packets their verdicts.
type sink interface {
	accept(id uint32)
	replace(id uint32, data []byte)
}

// direction is one direction of a control connection. It puts its segments in order, finds the
// messages in them, and keeps what has to be rewritten in them and in those that are sent again.
type direction struct {
	reader reader
	sink   sink
	count  *Counters

	// strict is the client's direction. What a web page makes a browser send must not be taken for RTSP: once
	// the thread is lost it isn't looked for again.
	strict bool
	begun  bool   // its SYN was seen, or it was picked up later
	isn    uint32 // number of the SYN
	synced bool   // next is known
	first  bool   // nothing has been read: what comes must be RTSP
	alien  bool   // it isn't RTSP, or no longer: everything passes
	next   uint32 // number of the byte that is read next
	buf    []byte // bytes before next that are no whole head yet
	looked int    // bytes of buf in which no head ends
	skip   int64  // bytes of a body or a frame that are still to come

	early  []piece // what came before its turn
	waited bool    // and was waited for long enough
	held   []heldSegment
	passed uint32 // what is before it went out
	fin    uint32 // where the stream ends
	hasFin bool

	edits []edit
	kept  int // bytes in buf and early
	blind int // segments that came while nothing was known

	seqAdj    conntrack.SeqAdj // as the kernel has it
	acked     uint32           // what is before it has arrived, in the sender's numbers
	ackedOnce bool
	room      int // how much longer the packet at hand may become
}

type piece struct {
	first uint32
	data  []byte
}

type heldSegment struct {
	id      uint32
	segment segment
}

// begin starts at the connection's first byte.
func (s *direction) begin(next uint32) {
	s.drop()
	*s = direction{
		reader: s.reader, sink: s.sink, count: s.count, strict: s.strict,
		begun: true, isn: next - 1, synced: true, first: true, next: next, passed: next,
	}
}

// take reads a segment and gives it, and those that have waited for it, their verdicts. What stays in
// held waits on.
func (s *direction) take(id uint32, seg *segment) {
	if s.alien || seg.data == seg.end || !s.synced && !s.sync(seg) {
		s.sink.accept(id)
		return
	}
	s.held = append(s.held, heldSegment{id, *seg})
	s.room = maxGrown
	for i := range s.held {
		s.room = min(s.room, maxGrown-s.held[i].segment.end)
	}
	s.read(seg.first(), seg.payload())
	if s.keep() {
		s.lose()
	}
	if len(s.held) > maxHeld {
		s.giveUp()
		return
	}
	s.release()
}

// keep takes down how much is kept, and tells whether that is too much.
func (s *direction) keep() (tooMuch bool) {
	n := cap(s.buf)
	for _, p := range s.early {
		n += cap(p.data)
	}
	more := n - s.kept
	s.kept = n
	return s.reader.kept(more)
}

// sync begins in the middle of a connection, where a segment begins with a message.
func (s *direction) sync(seg *segment) bool {
	p := seg.payload()
	_, err := rtsp.Next(p)
	line, _, whole := bytes.Cut(p, []byte("\n"))
	if err != nil && !(errors.Is(err, rtsp.ErrShort) && whole) || !bytes.Contains(line, []byte("RTSP/")) {
		s.blind++
		return false
	}
	s.synced, s.next, s.passed, s.blind = true, seg.first(), seg.first(), 0
	return true
}

// read puts bytes in their place.
func (s *direction) read(first uint32, data []byte) {
	if before(s.next, first) {
		s.keepEarly(first, data)
		return
	}
	s.consume(first, data)
	for i := 0; i < len(s.early) && s.synced && !s.alien; {
		if p := s.early[i]; !before(s.next, p.first) {
			s.early = slices.Delete(s.early, i, i+1)
			s.consume(p.first, p.data)
			i = 0
			continue
		}
		i++
	}
	if len(s.early) == 0 {
		s.waited = false
	}
}

// keepEarly keeps what comes before its turn. Where that is too much, something must have gone by
// unseen.
func (s *direction) keepEarly(first uint32, data []byte) {
	n := len(data)
	for _, p := range s.early {
		n += len(p.data)
		if p.first == first && len(p.data) >= len(data) {
			return
		}
	}
	if len(s.early) >= maxEarly || n > maxEarlyBytes {
		s.lose()
		return
	}
	s.early = append(s.early, piece{first, bytes.Clone(data)})
}

// lose stops to follow until a segment begins with a message again: a server's.
func (s *direction) lose() {
	s.alien = s.alien || s.first || s.strict
	s.synced, s.skip = false, 0
	s.drop()
}

// drop forgets what is kept.
func (s *direction) drop() {
	s.buf, s.looked, s.early, s.waited = nil, 0, nil, false
	s.keep()
}

// acknowledged learns what the other side has got.
func (s *direction) acknowledged(ack uint32) {
	ack = original(s.seqAdj, ack)
	s.acked, s.ackedOnce = ack, true
	// The last that made the stream longer stays: its place is the kernel's for good, and a sender that
	// missed the acknowledgement may send it again together with what is new.
	s.edits = slices.DeleteFunc(s.edits, func(e edit) bool {
		return !before(ack, e.end) && (e.added() == 0 || e.end-1 != s.seqAdj.CorrectionPos)
	})
	if s.synced && len(s.early) > 0 && before(s.next, ack) {
		s.lose() // it got what we never saw
	}
}

// consume reads what is new of bytes that are in their turn.
func (s *direction) consume(first uint32, data []byte) {
	seen := int(s.next - first)
	if seen >= len(data) {
		return
	}
	data = data[seen:]
	s.next += uint32(len(data))
	if n := min(s.skip, int64(len(data))); n > 0 {
		s.skip -= n
		data = data[n:]
	}
	s.buf = append(s.buf, data...)
	for len(s.buf) > 0 && s.unit() {
	}
	if len(s.buf) == 0 && cap(s.buf) > keepCap {
		s.buf = nil
	}
}

// keepCap is how much room a direction keeps that has nothing to keep.
const keepCap = 1 << 10

// earlyLook is up to how many bytes each new one is looked at whether it can still be RTSP. Beyond,
// only whole heads are parsed.
const earlyLook = 64

// unit reads one message or frame from the buffer and tells whether it could.
func (s *direction) unit() bool {
	if s.buf[0] != '$' && len(s.buf) > earlyLook && s.looked > 0 {
		from := s.looked
		s.looked = len(s.buf)
		if rtsp.HeadEnd(s.buf, from) < 0 && len(s.buf) <= rtsp.MaxHead {
			return false
		}
	}
	u, err := rtsp.Next(s.buf)
	switch {
	case errors.Is(err, rtsp.ErrShort):
		s.looked = len(s.buf)
		return false
	case err != nil, s.first && !u.Blank && (u.Message == nil || s.strict && !u.Message.Request):
		s.alien, s.buf, s.early = true, nil, nil
		s.count.NotRTSP++
		return false
	}
	s.looked, s.first = 0, false
	switch {
	case u.Message != nil:
		s.message(u.Message)
	case !u.Blank:
		s.reader.interleaved(u.Channel)
	}
	if u.Size > int64(len(s.buf)) {
		s.skip = u.Size - int64(len(s.buf))
		s.buf = s.buf[:0]
		return false
	}
	s.buf = append(s.buf[:0], s.buf[u.Size:]...)
	return true
}

// message hands a message on and takes down how it is rewritten.
func (s *direction) message(m *rtsp.Message) {
	base := s.next - uint32(len(s.buf)) // of the message's first byte
	s.reader.message(m, func(changes map[int]rtsp.Change) error {
		err := s.change(m, base, changes, s.growth())
		if errors.Is(err, conntrack.ErrNoSeqAdj) {
			err = s.change(m, base, changes, 0)
		}
		return err
	})
}

// change rewrites a message, which becomes no more than grow bytes longer.
func (s *direction) change(m *rtsp.Message, base uint32, changes map[int]rtsp.Change, grow int) error {
	if len(s.edits) >= maxEdits {
		return errPassed
	}
	made, err := m.Rewrite(s.buf, changes, grow)
	if err != nil {
		return err
	}
	edits := make([]edit, len(made))
	for i, e := range made {
		edits[i] = edit{start: base + uint32(e.Start), end: base + uint32(e.End), text: e.New}
		if before(edits[i].start, s.passed) {
			return errPassed
		}
	}
	for i := range edits {
		if edits[i].added() == 0 {
			continue
		}
		adj := s.longer(&edits[i])
		if err := s.reader.lengthen(adj); err != nil {
			return err
		}
		s.seqAdj = adj
	}
	s.edits = append(s.edits, edits...)
	return nil
}

// growth returns how much longer a message may become. The kernel knows one place of a stream where
// it did, so the one before must have arrived.
func (s *direction) growth() int {
	if s.seqAdj.OffsetBefore != s.seqAdj.OffsetAfter && !(s.ackedOnce && before(s.seqAdj.CorrectionPos, s.acked)) {
		return 0
	}
	return max(0, min(s.room, maxGrowth))
}

// longer returns the kernel's correction of sequence numbers with an edit that lengthens the stream.
func (s *direction) longer(e *edit) conntrack.SeqAdj {
	return conntrack.SeqAdj{
		CorrectionPos: e.end - 1, OffsetBefore: s.seqAdj.OffsetAfter, OffsetAfter: s.seqAdj.OffsetAfter + int32(e.added()),
	}
}

// decided returns up to where it is known what goes out.
func (s *direction) decided() uint32 {
	if !s.synced || s.alien || len(s.buf) == 0 || s.buf[0] == '$' || !s.reader.mayRewrite(s.buf) {
		return s.next
	}
	at := s.next - uint32(len(s.buf)) + uint32(rtsp.Undecided(s.buf))
	if before(at, s.passed) {
		return s.next // a part is out, so that the rest can't be other
	}
	return at
}

// release lets those segments out of which everything is decided.
func (s *direction) release() {
	decided := s.decided()
	free := !s.synced || s.alien // nothing more will be decided
	keep := s.held[:0]
	for _, h := range s.held {
		last := h.segment.last()
		if free || !before(decided, last) || before(s.next, last) && (s.waited || !s.reader.mayRewrite(nil)) {
			s.let(h)
			continue
		}
		keep = append(keep, h)
	}
	if len(keep) > len(s.held[:0]) {
		s.count.Held++
	}
	clear(s.held[len(keep):])
	s.held = keep
}

// let gives a segment its verdict.
func (s *direction) let(h heldSegment) {
	seg := &h.segment
	data := seg.payload()
	out := rewrite(seg.first(), data, s.edits)
	again := s.synced && before(seg.first(), s.passed)
	if s.synced && before(s.passed, seg.last()) {
		s.passed = seg.last()
	}
	if len(out) == len(data) && (len(out) == 0 || &out[0] == &data[0]) {
		s.sink.accept(h.id)
		return
	}
	if again {
		s.count.Rerewritten++
	}
	packet, err := seg.withPayload(out)
	if err != nil {
		s.sink.accept(h.id)
		return
	}
	s.sink.replace(h.id, packet)
}

// giveUp lets out all that waits. What of it wasn't decided can't be rewritten any more.
func (s *direction) giveUp() {
	for _, h := range s.held {
		s.let(h)
	}
	s.held = nil
	s.waited = len(s.early) > 0
}

// ends notes where a FIN says that the stream ends.
func (s *direction) ends(at uint32) { s.fin, s.hasFin = at, true }

// ended tells whether all has been read up to the end. Where it isn't read, that isn't known.
func (s *direction) ended() bool { return s.hasFin && s.synced && !s.alien && s.next == s.fin }
