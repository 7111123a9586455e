package helper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// queueLength is how many packets may wait in the kernel; what comes then passes unread.
	queueLength = 4096
	// queueBuffer is the room that the socket has for them, in bytes.
	queueBuffer = 8 << 20
	// maxPacket is the most that the kernel gives of a packet.
	maxPacket = 0xffff
	// maxSkipped bounds the packets that are let pass at once because they never came.
	maxSkipped = 4096
)

// packet is a packet that waits for its verdict.
type packet struct {
	id   uint32
	data []byte
	ct   []byte // NFQA_CT: its flow, where the kernel gives it
}

// queue gives packets to a handler, which owes each a verdict: accept or replace.
type queue struct {
	nfq    *nfqueue.Nfqueue
	logger *slog.Logger
	// withConntrack says that packets come with their flow (NFQA_CFG_F_CONNTRACK).
	withConntrack bool

	stop   context.CancelFunc
	broken chan error // why nothing is read any more, where that isn't because of close

	last uint32 // id of the packet that came last
}

// ErrQueueTaken says that another program reads the queue.
var ErrQueueTaken = errors.New("another program reads the queue")

// takenTime is how long a queue may be taken that is still to be had. Its socket closes a moment after it was
// closed where this process starts another one meanwhile, which has it until its exec.
const (
	takenTime  = time.Second
	takenRetry = 20 * time.Millisecond
)

// openQueue begins to read a queue. lost is called when the kernel had no room for packets, which
// passed then.
func openQueue(ctx context.Context, cfg *Config, handle func(packet), lost func()) (*queue, error) {
	flags := uint32(nfqueue.NfQaCfgFlagFailOpen | nfqueue.NfQaCfgFlagConntrack)
	for deadline := time.Now().Add(takenTime); ; {
		q, err := newQueue(ctx, cfg, flags, handle, lost)
		switch {
		case err == nil:
			q.withConntrack = flags&nfqueue.NfQaCfgFlagConntrack != 0
			return q, nil
		case errors.Is(err, unix.EOPNOTSUPP) && flags&nfqueue.NfQaCfgFlagConntrack != 0:
			flags &^= nfqueue.NfQaCfgFlagConntrack // built without CONFIG_NETFILTER_NETLINK_GLUE_CT
			continue
		case !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EBUSY) || ctx.Err() != nil || time.Now().After(deadline):
			return nil, err
		}
		time.Sleep(takenRetry)
	}
}

func newQueue(ctx context.Context, cfg *Config, flags uint32, handle func(packet), lost func()) (*queue, error) {
	settings := nfqueue.Config{
		NfQueue: cfg.Queue, MaxPacketLen: maxPacket, MaxQueueLen: queueLength,
		Copymode: nfqueue.NfQnlCopyPacket, Flags: flags, AfFamily: unix.AF_UNSPEC,
	}
	// Large packets (GSO) come cut to the size of the wire, because NFQA_CFG_F_GSO isn't asked for.
	// Each piece is then a packet of its own, with checksums, that may be changed.
	if netns := cfg.Table.NetNS(); netns != nil {
		settings.NetNS = int(netns.Fd())
	}
	nfq, err := nfqueue.Open(&settings)
	if err != nil {
		return nil, fmt.Errorf("open packet queue: %w", err)
	}
	// Best effort: without room packets pass unread, and are counted.
	_ = nfq.Con.SetReadBuffer(queueBuffer)
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	q := &queue{nfq: nfq, logger: cfg.Logger, stop: stop, broken: make(chan error, 1)}
	err = nfq.RegisterWithErrorFunc(ctx, func(a nfqueue.Attribute) int {
		q.receive(a, handle)
		return 0
	}, func(err error) int { return q.failed(ctx, err, lost) })
	if err != nil {
		stop()
		err = errors.Join(err, nfq.Con.Close())
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EPERM) && hasReader(cfg) {
			return nil, fmt.Errorf("packet queue %d: %w (%w)", cfg.Queue, ErrQueueTaken, err)
		}
		return nil, fmt.Errorf("read packet queue %d: %w", cfg.Queue, err)
	}
	return q, nil
}

// receive gives a packet to the handler, and lets those pass that should have come before it: the
// library drops what it can't parse without a word.
func (q *queue) receive(a nfqueue.Attribute, handle func(packet)) {
	if a.PacketID == nil {
		return
	}
	id := *a.PacketID
	for skipped := q.last + 1; skipped != id && id-skipped <= maxSkipped; skipped++ {
		_ = q.nfq.SetVerdict(skipped, nfqueue.NfAccept) // mostly there is none to decide of
	}
	q.last = id
	p := packet{id: id}
	if a.Payload != nil && a.CapLen == nil { // CapLen is there where the payload isn't whole
		p.data = *a.Payload
	}
	if a.Ct != nil {
		p.ct = *a.Ct
	}
	handle(p)
}

// failed decides whether to go on after an error: 0, or not: 1.
func (q *queue) failed(ctx context.Context, err error, lost func()) int {
	var op *netlink.OpError
	switch {
	case ctx.Err() != nil:
		return 1
	case errors.Is(err, unix.ENOBUFS):
		lost()
		return 0
	case errors.As(err, &op) && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR)):
		return 0 // of a verdict about a packet that is gone
	}
	q.broken <- fmt.Errorf("read packet queue: %w", err)
	return 1
}

// accept lets a packet pass as it is.
func (q *queue) accept(id uint32) {
	q.check(q.nfq.SetVerdict(id, nfqueue.NfAccept))
}

// replace lets a packet pass with other contents.
func (q *queue) replace(id uint32, data []byte) {
	err := q.nfq.SetVerdictWithOption(id, nfqueue.NfAccept, nfqueue.WithAlteredPacket(data))
	q.check(err)
	if err != nil {
		q.accept(id)
	}
}

func (q *queue) check(err error) {
	if err != nil && !errors.Is(err, unix.ENOENT) {
		q.logger.Debug("a verdict failed", "error", err)
	}
}

// close reads no more. Packets that wait are dropped by the kernel and sent again by their senders.
func (q *queue) close() error {
	q.stop()
	return q.nfq.Close()
}

// hasReader tells whether somebody reads the queue. The kernel lists the queues that are read
// (/proc/net/netfilter/nfnetlink_queue), a line each that begins with the number.
func hasReader(cfg *Config) bool {
	found := false
	_ = cfg.Table.InNetNS(func() error {
		list, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
		for line := range strings.Lines(string(list)) {
			fields := strings.Fields(line)
			found = found || len(fields) > 0 && fields[0] == strconv.Itoa(int(cfg.Queue))
		}
		return err
	})
	return found
}
