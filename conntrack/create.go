package conntrack

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// Errors of Create and Replace that a caller may branch on.
var (
	// ErrIncomplete says that a flow or expectation lacks what the kernel needs to make it.
	ErrIncomplete = errors.New("incomplete")
	// ErrNATTaken says that another flow has the address and port that were asked for, or that the
	// kernel chose others for another reason.
	ErrNATTaken = errors.New("the translated address and port can't be had")
)

// Attributes of CTA_NAT_SRC and CTA_NAT_DST (ctattr_nat and ctattr_protonat,
// linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaNATv4MinIP = 1 // CTA_NAT_V4_MINIP
	ctaNATv4MaxIP = 2 // CTA_NAT_V4_MAXIP
	ctaNATProto   = 3 // CTA_NAT_PROTO
	ctaNATv6MinIP = 4 // CTA_NAT_V6_MINIP
	ctaNATv6MaxIP = 5 // CTA_NAT_V6_MAXIP

	ctaProtoNATPortMin = 1 // CTA_PROTONAT_PORT_MIN
	ctaProtoNATPortMax = 2 // CTA_PROTONAT_PORT_MAX
)

// TCP flags of a flow (IP_CT_TCP_FLAG_*, linux/netfilter/nf_conntrack_tcp.h).
const (
	TCPFlagWindowScale = 0x01 // IP_CT_TCP_FLAG_WINDOW_SCALE
	TCPFlagSACK        = 0x02 // IP_CT_TCP_FLAG_SACK_PERM
	TCPFlagCloseInit   = 0x04 // IP_CT_TCP_FLAG_CLOSE_INIT
	TCPFlagBeLiberal   = 0x08 // IP_CT_TCP_FLAG_BE_LIBERAL: no check of sequence numbers

	// tcpFlagsSettable leaves out the flags that speak of state which isn't set with them.
	tcpFlagsSettable = TCPFlagWindowScale | TCPFlagSACK | TCPFlagCloseInit | TCPFlagBeLiberal
)

// statusSettable are the bits that the kernel takes over from a request. It makes the others
// itself, and refuses (EBUSY) or ignores them.
const statusSettable = StatusSeenReply | StatusAssured | StatusFixedTimeout

// Create makes a flow and returns it as the kernel holds it. It heeds Orig, Reply, Zone, Timeout,
// Mark, Status (seen reply, assured, fixed timeout), State, TCP, SCTP, DCCP, SeqAdj, SynProxy,
// Labels, Helper and Master.
//
// Orig and Timeout are needed. A zero Reply is the inverse of Orig; where Reply differs from it,
// the difference becomes source or destination NAT. A TCP flow past its handshake whose window
// scale isn't given gets TCPFlagBeLiberal, because the kernel would otherwise take its packets
// for invalid.
//
// It fails with ErrExists where one of the tuples is in use, with ErrNATTaken, and with ENOSPC
// where labels are given and no rule of the namespace uses labels.
func (t *Table) Create(ctx context.Context, f Flow) (Flow, error) {
	f, err := t.create(ctx, f)
	return f, opError("create flow", err)
}

// CheckCreate returns the flow that Create would ask for, or ErrIncomplete. It can't tell whether
// the tuples are free.
func CheckCreate(f Flow) (Flow, error) {
	if f.Reply.IsZero() {
		f.Reply = f.Orig.Inverse()
	}
	f.Status |= StatusConfirmed
	f.Set(AttrTimeout | AttrMark)
	return f, checkCreate(&f)
}

// CanCreate returns the flow that Create would ask for, or the error that it would give as far as
// it can be known beforehand. It changes nothing.
func (t *Table) CanCreate(ctx context.Context, f Flow) (Flow, error) {
	f, err := CheckCreate(f)
	for _, tuple := range []Tuple{f.Orig, f.Reply} {
		if err == nil {
			err = t.isFree(ctx, tuple, f.Zone, ErrExists)
		}
	}
	return f, opError("create flow", err)
}

func (t *Table) create(ctx context.Context, f Flow) (Flow, error) {
	f, err := CheckCreate(f)
	if err != nil {
		return Flow{}, err
	}
	err = t.roundTrip(ctx, msgNew, flagCreate|flagExcl|flagAck, f.Family(), f.append, nil)
	if err != nil {
		return Flow{}, err
	}
	made, err := t.get(ctx, f.Key().withoutID())
	if err != nil {
		return Flow{}, fmt.Errorf("read it back: %w", err)
	}
	switch {
	case made.Reply != f.Reply:
		err = ErrNATTaken
	case f.Labels != made.Labels:
		// The kernel drops them without a word where no rule of the namespace uses labels.
		err = fmt.Errorf("the namespace has no rule with labels: %w", syscall.ENOSPC)
	default:
		return made, nil
	}
	return Flow{}, also(err, t.Kill(ctx, []Key{made.Key()})[0])
}

// checkCreate says what is missing or contradicts itself, where the kernel would only say EINVAL.
func checkCreate(f *Flow) error {
	o, r := &f.Orig, &f.Reply
	incomplete := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrIncomplete}, args...)...)
	}
	switch {
	case !o.Src.IsValid() || !o.Dst.IsValid():
		return incomplete("the original direction needs a source and a destination address")
	case !r.Src.IsValid() || !r.Dst.IsValid():
		return incomplete("the reply direction needs a source and a destination address")
	case o.Src.Is4() != o.Dst.Is4() || r.Src.Is4() != r.Dst.Is4() || o.Src.Is4() != r.Src.Is4():
		return incomplete("all addresses must be of one family")
	case o.Proto != r.Proto:
		return incomplete("both directions must have the same protocol, not %s and %s", o.Proto, r.Proto)
	case o.Proto == GRE && (r.SrcPort != o.DstPort || r.DstPort != o.SrcPort):
		return incomplete("the kernel translates no keys of GRE: the reply's must be the original's, exchanged")
	case o.Proto.IsICMP() && o.ICMPType == o.Inverse().ICMPType:
		return incomplete("%s type %d has no reply, so the kernel tracks no flow of it", o.Proto, o.ICMPType)
	case f.Timeout < time.Second:
		return incomplete("a timeout of at least one second is needed")
	}
	if err := checkName("helper", f.Helper, maxHelperName); err != nil {
		return err
	}
	return checkTimeout(f.Timeout)
}

// maxHelperName is NF_CT_HELPER_NAME_LEN (net/netfilter/nf_conntrack_helper.h) without the NUL.
const maxHelperName = 15

// checkName refuses a name that the kernel can't have.
func checkName(what, name string, longest int) error {
	if len(name) > longest || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%s: a name has at most %d bytes, and no NUL: %w", what, longest, syscall.EINVAL)
	}
	return nil
}

// checkTimeout refuses a time that doesn't fit in the 32 bits of seconds that the kernel takes.
func checkTimeout(d time.Duration) error {
	if d < 0 || d/time.Second > math.MaxUint32 {
		return fmt.Errorf("timeout %v is not within 0 and %d seconds: %w", d, uint32(math.MaxUint32), syscall.ERANGE)
	}
	return nil
}

// withoutID returns the key as it may be looked up before the id is known.
func (k Key) withoutID() Key {
	k.ID = 0
	return k
}

// append appends the attributes of a request to make f.
func (f *Flow) append(b []byte) []byte {
	inverse := f.Orig.Inverse()
	inverse.Zone = f.Reply.Zone
	b = appendTuple(b, ctaTupleOrig, &f.Orig)
	b = appendTuple(b, ctaTupleReply, &inverse)
	b = appendNAT(b, f, &inverse)
	b = appendBE32(b, ctaTimeout, uint32(f.Timeout/time.Second))
	b = appendBE32(b, ctaStatus, uint32(f.Status&statusSettable|StatusConfirmed))
	if f.Mark != 0 {
		b = appendBE32(b, ctaMark, f.Mark)
	}
	if f.Zone != 0 {
		b = appendBE16(b, ctaZone, f.Zone)
	}
	if f.Has(AttrState) {
		b = appendProtoInfo(b, f.withTCPFlags(), tcpFlagsSettable)
	}
	if f.Helper != "" {
		b = appendHelper(b, f.Helper)
	}
	if !f.Master.IsZero() {
		b = appendTuple(b, ctaTupleMaster, &f.Master)
	}
	if f.Has(AttrSeqAdj) {
		b = appendSeqAdj(b, ctaSeqAdjOrig, f.SeqAdj[0])
		b = appendSeqAdj(b, ctaSeqAdjReply, f.SeqAdj[1])
	}
	if f.Has(AttrSynProxy) {
		b = appendSynProxy(b, f.SynProxy)
	}
	if f.Has(AttrLabels) && !f.Labels.IsZero() {
		b = appendAttr(b, ctaLabels, f.Labels[:])
	}
	return b
}

// withTCPFlags returns f, or a copy that doesn't check sequence numbers, see Create.
func (f *Flow) withTCPFlags() *Flow {
	const established = 3 // TCP_CONNTRACK_ESTABLISHED
	if f.Orig.Proto != TCP || f.Has(AttrTCP) || f.State < established {
		return f
	}
	g := *f
	g.TCP.Flags = [2]uint8{TCPFlagBeLiberal, TCPFlagBeLiberal}
	g.Set(AttrTCP)
	return &g
}

// appendNAT appends what translates the inverse of the original direction to the reply's.
func appendNAT(b []byte, f *Flow, inverse *Tuple) []byte {
	r := &f.Reply
	destination := r.Src != inverse.Src || r.SrcPort != inverse.SrcPort
	// The source is given with the destination even if it stays: the kernel would choose another
	// port rather than say that the tuple is taken.
	if destination || r.Dst != inverse.Dst || dstID(r) != dstID(inverse) {
		b = appendNATRange(b, ctaNATSrc, r.Proto, r.Dst, dstID(r))
	}
	if destination {
		b = appendNATRange(b, ctaNATDst, r.Proto, r.Src, r.SrcPort)
	}
	return b
}

// dstID returns what source NAT changes beside the address, as it stands in the reply direction:
// the destination port or key, or the ICMP id.
func dstID(t *Tuple) uint16 {
	if t.Proto.IsICMP() {
		return t.ICMPID
	}
	return t.DstPort
}

func appendNATRange(b []byte, typ uint16, proto Protocol, addr netip.Addr, id uint16) []byte {
	start := len(b)
	b = beginNest(b, typ)
	b = appendAddr(b, ctaNATv4MinIP, ctaNATv6MinIP, addr)
	b = appendAddr(b, ctaNATv4MaxIP, ctaNATv6MaxIP, addr)
	if proto.HasPorts() || proto.IsICMP() && typ == ctaNATSrc {
		inner := len(b)
		b = beginNest(b, ctaNATProto)
		b = appendBE16(b, ctaProtoNATPortMin, id)
		b = appendBE16(b, ctaProtoNATPortMax, id)
		b = endNest(b, inner)
	}
	return endNest(b, start)
}

func appendHelper(b []byte, name string) []byte {
	start := len(b)
	return endNest(appendName(beginNest(b, ctaHelp), ctaHelpName, name), start)
}

func appendSeqAdj(b []byte, typ uint16, s SeqAdj) []byte {
	start := len(b)
	b = beginNest(b, typ)
	b = appendBE32(b, ctaSeqAdjPosition, s.CorrectionPos)
	b = appendBE32(b, ctaSeqAdjBefore, uint32(s.OffsetBefore))
	b = appendBE32(b, ctaSeqAdjAfter, uint32(s.OffsetAfter))
	return endNest(b, start)
}

func appendSynProxy(b []byte, s SynProxy) []byte {
	start := len(b)
	b = beginNest(b, ctaSynProxy)
	b = appendBE32(b, ctaSynProxyISN, s.ISN)
	b = appendBE32(b, ctaSynProxyITS, s.ITS)
	b = appendBE32(b, ctaSynProxyTSOff, s.TSOff)
	return endNest(b, start)
}
