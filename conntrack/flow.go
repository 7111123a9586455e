package conntrack

import (
	"net/netip"
	"time"
)

// Flow is one entry of the connection tracking table, as ctnetlink tells it. It shares no memory
// with the dump that it came from, except where Helper, SecCtx and Unknown point, which nobody
// writes to.
type Flow struct {
	// Orig is the direction of the first packet, Reply the one of the packets that answer. The
	// two are inverse to each other unless addresses are translated.
	Orig, Reply Tuple

	OrigCounter, ReplyCounter Counter // with Has(AttrCounters)

	ID      uint32        // CTA_ID: a keyed hash, stable while the flow lives; not necessarily unique
	Zone    uint16        // CTA_ZONE: of both directions; see Tuple.Zone for one direction's
	Status  Status        // CTA_STATUS
	Mark    uint32        // CTA_MARK
	Use     uint32        // CTA_USE: references that the kernel holds
	Timeout time.Duration // CTA_TIMEOUT: what is left, in whole seconds

	State    uint8     // of TCP, SCTP or DCCP, with Has(AttrState); named by StateName
	TCP      TCPInfo   // with Has(AttrTCP)
	SCTP     SCTPInfo  // with Has(AttrSCTP)
	DCCP     DCCPInfo  // with Has(AttrDCCP)
	SeqAdj   [2]SeqAdj // original, reply; with Has(AttrSeqAdj)
	SynProxy SynProxy  // with Has(AttrSynProxy)

	Labels Labels // with Has(AttrLabels)
	Helper string // CTA_HELP_NAME: empty where there is none
	Master Tuple  // CTA_TUPLE_MASTER: the original direction of the flow that this one is related to
	SecCtx string // CTA_SECCTX_NAME: the security context, e.g. of SELinux

	// Start and Stop are nanoseconds since the epoch, 0 where the kernel did not say: Start needs
	// net.netfilter.nf_conntrack_timestamp, Stop is only in the table of dying flows and in
	// destroy events.
	Start, Stop int64

	// Rate is the traffic of each direction in bytes a second and User the name behind the
	// source address. Neither comes from the kernel: a caller that samples or knows users sets
	// them, so that a Filter can match them.
	OrigRate, ReplyRate float64
	User                string

	// Unknown holds the attributes that this package doesn't know, as they came.
	Unknown []Attribute

	present Attrs
}

// Attrs is a set of attributes that are told apart from a zero value.
type Attrs uint16

// Attributes that the kernel leaves out where it has nothing to say.
const (
	AttrID Attrs = 1 << iota
	AttrCounters
	AttrTimeout
	AttrMark
	AttrUse
	AttrState
	AttrTCP
	AttrSCTP
	AttrDCCP
	AttrSeqAdj
	AttrSynProxy
	AttrLabels
	AttrRate
)

// Has tells whether the kernel (or, for AttrRate, a sampler) supplied all of a.
func (f *Flow) Has(a Attrs) bool { return f.present&a == a }

// Set marks a as supplied; a caller that builds a Flow uses it.
func (f *Flow) Set(a Attrs) { f.present |= a }

// Family returns the family of the flow's addresses.
func (f *Flow) Family() Family { return f.Orig.Family() }

// Proto returns the flow's protocol.
func (f *Flow) Proto() Protocol { return f.Orig.Proto }

// StateName returns the name of the flow's connection state, or "" where it has none.
func (f *Flow) StateName() string {
	if !f.Has(AttrState) {
		return ""
	}
	return StateName(f.Orig.Proto, f.State)
}

// StartTime returns Start as a time; it is zero where the kernel did not say.
func (f *Flow) StartTime() time.Time { return unixNano(f.Start) }

// StopTime returns Stop as a time; it is zero where the kernel did not say.
func (f *Flow) StopTime() time.Time { return unixNano(f.Stop) }

func unixNano(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// Key returns what names the flow to Get, Modify and Kill.
func (f *Flow) Key() Key {
	return Key{Orig: f.Orig, Zone: f.Zone, ID: f.ID}
}

// Addrs returns the four addresses of the flow: source and destination of the original, then of
// the reply direction.
func (f *Flow) Addrs() [4]netip.Addr {
	return [4]netip.Addr{f.Orig.Src, f.Orig.Dst, f.Reply.Src, f.Reply.Dst}
}

// Key names one flow.
type Key struct {
	// Orig is the tuple of the original direction. Where it isn't known, Reply may be given
	// alone.
	Orig, Reply Tuple
	// Zone is the flow's zone (both directions).
	Zone uint16
	// ID is compared by the kernel when a flow is killed, and just before when it is modified. 0
	// compares nothing.
	//
	// The kernel makes it from the entry's place in memory and its tuple. A flow of the same tuple
	// that follows at once mostly gets the same place, and so the same id: then only Flow.Start
	// tells the two apart, where the kernel keeps it.
	ID uint32
}

// Counter is the traffic of one direction. It is there only with
// net.netfilter.nf_conntrack_acct, and for flows begun since.
type Counter struct {
	Packets, Bytes uint64
}

// TCPInfo is what the kernel keeps of a TCP connection beside its state
// (CTA_PROTOINFO_TCP_*). Index 0 is the original direction, 1 the reply's.
type TCPInfo struct {
	WScale [2]uint8 // window scale shift
	Flags  [2]uint8 // IP_CT_TCP_FLAG_*, linux/netfilter/nf_conntrack_tcp.h
}

// SCTPInfo is what the kernel keeps of an SCTP association beside its state
// (CTA_PROTOINFO_SCTP_*): the verification tags, in host order.
type SCTPInfo struct {
	VTag [2]uint32 // original, reply
}

// DCCPInfo is what the kernel keeps of a DCCP connection beside its state
// (CTA_PROTOINFO_DCCP_*).
type DCCPInfo struct {
	Role         uint8 // CT_DCCP_ROLE_CLIENT 0, CT_DCCP_ROLE_SERVER 1
	HandshakeSeq uint64
}

// SeqAdj is the correction of TCP sequence numbers in one direction (CTA_SEQADJ_*).
type SeqAdj struct {
	CorrectionPos uint32 // sequence number of the last change of length
	OffsetBefore  int32  // added to sequence numbers before CorrectionPos
	OffsetAfter   int32  // added to those after it
}

// SynProxy is what a SYNPROXY target keeps of a connection (CTA_SYNPROXY_*).
type SynProxy struct {
	ISN, ITS, TSOff uint32
}

// Attribute is a netlink attribute that this package doesn't decode.
type Attribute struct {
	// Path is the attribute's number behind those of the attributes around it, joined by dots:
	// "25" is CTA_FILTER, "4.1.9" an unknown attribute of CTA_PROTOINFO's CTA_PROTOINFO_TCP.
	Path string
	Data []byte
}

// ctattr_type (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaTupleOrig     = 1  // CTA_TUPLE_ORIG
	ctaTupleReply    = 2  // CTA_TUPLE_REPLY
	ctaStatus        = 3  // CTA_STATUS
	ctaProtoInfo     = 4  // CTA_PROTOINFO
	ctaHelp          = 5  // CTA_HELP
	ctaNATSrc        = 6  // CTA_NAT_SRC
	ctaTimeout       = 7  // CTA_TIMEOUT
	ctaMark          = 8  // CTA_MARK
	ctaCountersOrig  = 9  // CTA_COUNTERS_ORIG
	ctaCountersReply = 10 // CTA_COUNTERS_REPLY
	ctaUse           = 11 // CTA_USE
	ctaID            = 12 // CTA_ID
	ctaNATDst        = 13 // CTA_NAT_DST
	ctaTupleMaster   = 14 // CTA_TUPLE_MASTER
	ctaSeqAdjOrig    = 15 // CTA_SEQ_ADJ_ORIG
	ctaSeqAdjReply   = 16 // CTA_SEQ_ADJ_REPLY
	ctaZone          = 18 // CTA_ZONE
	ctaSecCtx        = 19 // CTA_SECCTX
	ctaTimestamp     = 20 // CTA_TIMESTAMP
	ctaMarkMask      = 21 // CTA_MARK_MASK
	ctaLabels        = 22 // CTA_LABELS
	ctaLabelsMask    = 23 // CTA_LABELS_MASK
	ctaSynProxy      = 24 // CTA_SYNPROXY
	ctaFilter        = 25 // CTA_FILTER
	ctaStatusMask    = 26 // CTA_STATUS_MASK
	ctaEventTime     = 27 // CTA_TIMESTAMP_EVENT
)

// Attributes inside those above.
const (
	ctaCountersPackets = 1 // CTA_COUNTERS_PACKETS
	ctaCountersBytes   = 2 // CTA_COUNTERS_BYTES
	ctaCountersPad     = 5 // CTA_COUNTERS_PAD

	ctaHelpName   = 1 // CTA_HELP_NAME
	ctaSecCtxName = 1 // CTA_SECCTX_NAME

	ctaTimestampStart = 1 // CTA_TIMESTAMP_START
	ctaTimestampStop  = 2 // CTA_TIMESTAMP_STOP
	ctaTimestampPad   = 3 // CTA_TIMESTAMP_PAD

	ctaSeqAdjPosition = 1 // CTA_SEQADJ_CORRECTION_POS
	ctaSeqAdjBefore   = 2 // CTA_SEQADJ_OFFSET_BEFORE
	ctaSeqAdjAfter    = 3 // CTA_SEQADJ_OFFSET_AFTER

	ctaSynProxyISN   = 1 // CTA_SYNPROXY_ISN
	ctaSynProxyITS   = 2 // CTA_SYNPROXY_ITS
	ctaSynProxyTSOff = 3 // CTA_SYNPROXY_TSOFF

	ctaFilterOrigFlags  = 1 // CTA_FILTER_ORIG_FLAGS, native order
	ctaFilterReplyFlags = 2 // CTA_FILTER_REPLY_FLAGS, native order
)

// decodeFlow reads the attributes of a flow's message into f. What it doesn't know, or what
// isn't as long as the kernel makes it, is kept in f.Unknown.
func (d *decoder) decodeFlow(f *Flow, data []byte) error {
	*f = Flow{}
	a := attrs{rest: data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaTupleOrig:
			ok = d.decodeTuple(&f.Orig, &f.Unknown, &a)
		case ctaTupleReply:
			ok = d.decodeTuple(&f.Reply, &f.Unknown, &a)
		case ctaTupleMaster:
			ok = d.decodeTuple(&f.Master, &f.Unknown, &a)
		case ctaStatus:
			ok = a.be32((*uint32)(&f.Status))
		case ctaProtoInfo:
			ok = d.decodeProtoInfo(f, &a)
		case ctaHelp:
			ok = d.decodeName(&f.Helper, &f.Unknown, &a, ctaHelpName)
		case ctaTimeout:
			var seconds uint32
			if ok = a.be32(&seconds); ok {
				f.Timeout = time.Duration(seconds) * time.Second
				f.Set(AttrTimeout)
			}
		case ctaMark:
			ok = f.setIf(AttrMark, a.be32(&f.Mark))
		case ctaCountersOrig:
			ok = f.decodeCounter(&f.OrigCounter, &a)
		case ctaCountersReply:
			ok = f.decodeCounter(&f.ReplyCounter, &a)
		case ctaUse:
			ok = f.setIf(AttrUse, a.be32(&f.Use))
		case ctaID:
			ok = f.setIf(AttrID, a.be32(&f.ID))
		case ctaSeqAdjOrig:
			ok = f.decodeSeqAdj(&f.SeqAdj[0], &a)
		case ctaSeqAdjReply:
			ok = f.decodeSeqAdj(&f.SeqAdj[1], &a)
		case ctaZone:
			ok = a.be16(&f.Zone)
		case ctaSecCtx:
			ok = d.decodeName(&f.SecCtx, &f.Unknown, &a, ctaSecCtxName)
		case ctaTimestamp:
			ok = f.decodeTimestamp(&a)
		case ctaLabels:
			if ok = len(a.data) <= len(f.Labels); ok {
				copy(f.Labels[:], a.data)
				f.Set(AttrLabels)
			}
		case ctaSynProxy:
			ok = f.decodeSynProxy(&a)
		case ctaEventTime: // when an event was; it says nothing of the flow
			ok = len(a.data) == 8
		}
		if !ok {
			f.Unknown = append(f.Unknown, a.unknown())
		}
	}
	return a.err
}

// setIf marks an attribute as supplied if ok, and returns ok.
func (f *Flow) setIf(a Attrs, ok bool) bool {
	if ok {
		f.Set(a)
	}
	return ok
}

// Each of the functions below reads one attribute that holds others. It returns false where the
// inside is no list of attributes, and keeps what it doesn't know inside as unknown.

func (f *Flow) decodeCounter(c *Counter, outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaCountersPackets:
			ok = a.be64(&c.Packets)
		case ctaCountersBytes:
			ok = a.be64(&c.Bytes)
		case ctaCountersPad:
			ok = true
		}
		if !ok {
			f.Unknown = append(f.Unknown, a.unknown(outer.typ))
		}
	}
	return f.setIf(AttrCounters, a.err == nil)
}

func (f *Flow) decodeTimestamp(outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		var ns uint64
		switch a.typ {
		case ctaTimestampStart:
			ok = a.be64(&ns)
			f.Start = int64(ns)
		case ctaTimestampStop:
			ok = a.be64(&ns)
			f.Stop = int64(ns)
		case ctaTimestampPad:
			ok = true
		}
		if !ok {
			f.Unknown = append(f.Unknown, a.unknown(outer.typ))
		}
	}
	return a.err == nil
}

func (f *Flow) decodeSeqAdj(s *SeqAdj, outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		var v uint32
		switch a.typ {
		case ctaSeqAdjPosition:
			ok = a.be32(&s.CorrectionPos)
		case ctaSeqAdjBefore:
			ok = a.be32(&v)
			s.OffsetBefore = int32(v)
		case ctaSeqAdjAfter:
			ok = a.be32(&v)
			s.OffsetAfter = int32(v)
		}
		if !ok {
			f.Unknown = append(f.Unknown, a.unknown(outer.typ))
		}
	}
	return f.setIf(AttrSeqAdj, a.err == nil)
}

func (f *Flow) decodeSynProxy(outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaSynProxyISN:
			ok = a.be32(&f.SynProxy.ISN)
		case ctaSynProxyITS:
			ok = a.be32(&f.SynProxy.ITS)
		case ctaSynProxyTSOff:
			ok = a.be32(&f.SynProxy.TSOff)
		}
		if !ok {
			f.Unknown = append(f.Unknown, a.unknown(outer.typ))
		}
	}
	return f.setIf(AttrSynProxy, a.err == nil)
}

// decodeName reads an attribute that holds a string under one type.
func (d *decoder) decodeName(s *string, unknown *[]Attribute, outer *attrs, typ uint16) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		if a.typ == typ {
			*s = d.name(a.data)
		} else {
			*unknown = append(*unknown, a.unknown(outer.typ))
		}
	}
	return a.err == nil
}
