package conntrack

import (
	"strconv"
	"strings"
)

// Family is the address family of a flow: AF_INET or AF_INET6 (linux/socket.h).
type Family uint8

// Families, by their number in linux/socket.h.
const (
	FamilyAny  Family = 0  // AF_UNSPEC
	FamilyIPv4 Family = 2  // AF_INET
	FamilyIPv6 Family = 10 // AF_INET6
)

// String returns "ipv4", "ipv6", "any" or the number.
func (f Family) String() string {
	switch f {
	case FamilyAny:
		return "any"
	case FamilyIPv4:
		return "ipv4"
	case FamilyIPv6:
		return "ipv6"
	}
	return strconv.Itoa(int(f))
}

// ParseFamily reads "ipv4", "ipv6", their short forms "4", "6", "inet", "inet6", or "any".
func ParseFamily(s string) (Family, bool) {
	switch strings.ToLower(s) {
	case "ipv4", "4", "inet", "ip":
		return FamilyIPv4, true
	case "ipv6", "6", "inet6", "ip6":
		return FamilyIPv6, true
	case "any", "":
		return FamilyAny, true
	}
	return 0, false
}

// Protocol is a layer 4 protocol by its IANA number (linux/in.h).
type Protocol uint8

// The protocols that the kernel tracks by more than their number (linux/in.h).
const (
	ICMP    Protocol = 1   // IPPROTO_ICMP
	TCP     Protocol = 6   // IPPROTO_TCP
	UDP     Protocol = 17  // IPPROTO_UDP
	DCCP    Protocol = 33  // IPPROTO_DCCP
	GRE     Protocol = 47  // IPPROTO_GRE
	ICMPv6  Protocol = 58  // IPPROTO_ICMPV6
	SCTP    Protocol = 132 // IPPROTO_SCTP
	UDPLite Protocol = 136 // IPPROTO_UDPLITE
)

// protocolNames are the names of /etc/protocols that network operators use; a name is
// accepted on input and printed, every other protocol goes by its number.
var protocolNames = map[Protocol]string{
	ICMP: "icmp", 2: "igmp", 4: "ipencap", TCP: "tcp", UDP: "udp", DCCP: "dccp", 41: "ipv6",
	GRE: "gre", 50: "esp", 51: "ah", ICMPv6: "icmpv6", 89: "ospf", 103: "pim", 112: "vrrp",
	SCTP: "sctp", UDPLite: "udplite",
}

// String returns the protocol's name in /etc/protocols, or its number.
func (p Protocol) String() string {
	if s, ok := protocolNames[p]; ok {
		return s
	}
	return strconv.Itoa(int(p))
}

// ParseProtocol reads a protocol's name or number.
func ParseProtocol(s string) (Protocol, bool) {
	s = strings.ToLower(s)
	for p, name := range protocolNames {
		if s == name {
			return p, true
		}
	}
	switch s {
	case "icmp6", "ipv6-icmp":
		return ICMPv6, true
	case "ipip":
		return 4, true
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return Protocol(n), err == nil
}

// HasPorts tells whether the kernel tracks p by source and destination port.
func (p Protocol) HasPorts() bool {
	switch p {
	case TCP, UDP, DCCP, SCTP, UDPLite:
		return true
	}
	return false
}

// IsICMP tells whether p is ICMP or ICMPv6, which are tracked by type, code and id.
func (p Protocol) IsICMP() bool { return p == ICMP || p == ICMPv6 }

// HasState tells whether the kernel keeps a connection state for p.
func (p Protocol) HasState() bool { return p == TCP || p == SCTP || p == DCCP }

// Connection states by number, in the order of the kernel's enums: enum tcp_conntrack
// (linux/netfilter/nf_conntrack_tcp.h), enum sctp_conntrack (nf_conntrack_sctp.h) and
// enum ct_dccp_states (net/netfilter/nf_conntrack_dccp.h).
var (
	tcpStates = []string{
		"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK",
		"TIME_WAIT", "CLOSE", "SYN_SENT2",
	}
	sctpStates = []string{
		"NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT",
		"SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT", "HEARTBEAT_ACKED",
	}
	dccpStates = []string{
		"NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING", "TIMEWAIT",
		"IGNORE", "INVALID",
	}
)

func stateNames(p Protocol) []string {
	switch p {
	case TCP:
		return tcpStates
	case SCTP:
		return sctpStates
	case DCCP:
		return dccpStates
	}
	return nil
}

// StateName returns the name that conntrack(8) prints for a connection state of p, or the
// number where there is none.
func StateName(p Protocol, state uint8) string {
	if names := stateNames(p); int(state) < len(names) {
		return names[state]
	}
	return strconv.Itoa(int(state))
}

// ParseState reads a state's name (in any case) or number for p.
func ParseState(p Protocol, s string) (uint8, bool) {
	for i, name := range stateNames(p) {
		if strings.EqualFold(s, name) {
			return uint8(i), true
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return uint8(n), err == nil
}

// ctattr_protoinfo and the enums of each protocol (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaProtoInfoTCP  = 1 // CTA_PROTOINFO_TCP
	ctaProtoInfoDCCP = 2 // CTA_PROTOINFO_DCCP
	ctaProtoInfoSCTP = 3 // CTA_PROTOINFO_SCTP

	ctaTCPState       = 1 // CTA_PROTOINFO_TCP_STATE
	ctaTCPWScaleOrig  = 2 // CTA_PROTOINFO_TCP_WSCALE_ORIGINAL
	ctaTCPWScaleReply = 3 // CTA_PROTOINFO_TCP_WSCALE_REPLY
	ctaTCPFlagsOrig   = 4 // CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: struct nf_ct_tcp_flags {flags, mask}
	ctaTCPFlagsReply  = 5 // CTA_PROTOINFO_TCP_FLAGS_REPLY

	ctaDCCPState        = 1 // CTA_PROTOINFO_DCCP_STATE
	ctaDCCPRole         = 2 // CTA_PROTOINFO_DCCP_ROLE
	ctaDCCPHandshakeSeq = 3 // CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ
	ctaDCCPPad          = 4 // CTA_PROTOINFO_DCCP_PAD

	ctaSCTPState     = 1 // CTA_PROTOINFO_SCTP_STATE
	ctaSCTPVTagOrig  = 2 // CTA_PROTOINFO_SCTP_VTAG_ORIGINAL
	ctaSCTPVTagReply = 3 // CTA_PROTOINFO_SCTP_VTAG_REPLY
)

func (d *decoder) decodeProtoInfo(f *Flow, outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaProtoInfoTCP:
			ok = f.decodeTCP(outer.typ, &a)
		case ctaProtoInfoDCCP:
			ok = f.decodeDCCP(outer.typ, &a)
		case ctaProtoInfoSCTP:
			ok = f.decodeSCTP(outer.typ, &a)
		}
		if !ok {
			f.Unknown = append(f.Unknown, a.unknown(outer.typ))
		}
	}
	return a.err == nil
}

func (f *Flow) decodeTCP(protoInfo uint16, outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaTCPState:
			ok = f.setIf(AttrState, a.u8(&f.State))
		case ctaTCPWScaleOrig:
			ok = f.setIf(AttrTCP, a.u8(&f.TCP.WScale[0]))
		case ctaTCPWScaleReply:
			ok = f.setIf(AttrTCP, a.u8(&f.TCP.WScale[1]))
		case ctaTCPFlagsOrig, ctaTCPFlagsReply:
			if ok = len(a.data) == 2; ok {
				f.TCP.Flags[a.typ-ctaTCPFlagsOrig] = a.data[0]
				f.Set(AttrTCP)
			}
		}
		if !ok {
			f.Unknown = append(f.Unknown, a.unknown(protoInfo, outer.typ))
		}
	}
	return a.err == nil
}

func (f *Flow) decodeDCCP(protoInfo uint16, outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaDCCPState:
			ok = f.setIf(AttrState, a.u8(&f.State))
		case ctaDCCPRole:
			ok = f.setIf(AttrDCCP, a.u8(&f.DCCP.Role))
		case ctaDCCPHandshakeSeq:
			ok = f.setIf(AttrDCCP, a.be64(&f.DCCP.HandshakeSeq))
		case ctaDCCPPad:
			ok = true
		}
		if !ok {
			f.Unknown = append(f.Unknown, a.unknown(protoInfo, outer.typ))
		}
	}
	return a.err == nil
}

func (f *Flow) decodeSCTP(protoInfo uint16, outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaSCTPState:
			ok = f.setIf(AttrState, a.u8(&f.State))
		case ctaSCTPVTagOrig:
			ok = f.setIf(AttrSCTP, a.be32(&f.SCTP.VTag[0]))
		case ctaSCTPVTagReply:
			ok = f.setIf(AttrSCTP, a.be32(&f.SCTP.VTag[1]))
		}
		if !ok {
			f.Unknown = append(f.Unknown, a.unknown(protoInfo, outer.typ))
		}
	}
	return a.err == nil
}

// appendProtoInfo appends what f says of its connection's state. tcpFlagsMask says which TCP
// flags the kernel shall take over.
func appendProtoInfo(b []byte, f *Flow, tcpFlagsMask uint8) []byte {
	start := len(b)
	b = beginNest(b, ctaProtoInfo)
	inner := len(b)
	switch f.Orig.Proto {
	case TCP:
		b = beginNest(b, ctaProtoInfoTCP)
		b = appendU8(b, ctaTCPState, f.State)
		if f.Has(AttrTCP) {
			b = appendU8(b, ctaTCPWScaleOrig, f.TCP.WScale[0])
			b = appendU8(b, ctaTCPWScaleReply, f.TCP.WScale[1])
			b = appendAttr(b, ctaTCPFlagsOrig, []byte{f.TCP.Flags[0], tcpFlagsMask})
			b = appendAttr(b, ctaTCPFlagsReply, []byte{f.TCP.Flags[1], tcpFlagsMask})
		}
	case SCTP:
		b = beginNest(b, ctaProtoInfoSCTP)
		b = appendU8(b, ctaSCTPState, f.State)
		b = appendBE32(b, ctaSCTPVTagOrig, f.SCTP.VTag[0])
		b = appendBE32(b, ctaSCTPVTagReply, f.SCTP.VTag[1])
	case DCCP:
		b = beginNest(b, ctaProtoInfoDCCP)
		b = appendU8(b, ctaDCCPState, f.State)
		b = appendU8(b, ctaDCCPRole, f.DCCP.Role)
		b = appendBE64(b, ctaDCCPHandshakeSeq, f.DCCP.HandshakeSeq)
	default:
		return b[:start]
	}
	return endNest(endNest(b, inner), start)
}
