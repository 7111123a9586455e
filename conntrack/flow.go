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
	// ID is compared by the kernel when a flow is killed, so that a flow that took over the
	// tuple in the meantime is spared. 0 compares nothing.
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
	Type uint16 // CTA_*, without the flag bits
	Data []byte
}
