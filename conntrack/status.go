package conntrack

import (
	"strconv"
	"strings"
)

// Status is the set of a flow's status bits, enum ip_conntrack_status
// (linux/netfilter/nf_conntrack_common.h).
type Status uint32

// Status bits in the header's order.
const (
	StatusExpected     Status = 1 << 0  // IPS_EXPECTED: came by an expectation
	StatusSeenReply    Status = 1 << 1  // IPS_SEEN_REPLY: packets seen in both directions
	StatusAssured      Status = 1 << 2  // IPS_ASSURED: not dropped early when the table is full
	StatusConfirmed    Status = 1 << 3  // IPS_CONFIRMED: the first packet has left the machine
	StatusSNAT         Status = 1 << 4  // IPS_SRC_NAT
	StatusDNAT         Status = 1 << 5  // IPS_DST_NAT
	StatusSeqAdjust    Status = 1 << 6  // IPS_SEQ_ADJUST
	StatusSNATDone     Status = 1 << 7  // IPS_SRC_NAT_DONE
	StatusDNATDone     Status = 1 << 8  // IPS_DST_NAT_DONE
	StatusDying        Status = 1 << 9  // IPS_DYING
	StatusFixedTimeout Status = 1 << 10 // IPS_FIXED_TIMEOUT: packets no longer refresh the timeout
	StatusTemplate     Status = 1 << 11 // IPS_TEMPLATE
	StatusNATClash     Status = 1 << 12 // IPS_NAT_CLASH (once IPS_UNTRACKED)
	StatusHelper       Status = 1 << 13 // IPS_HELPER: the helper was assigned by a rule
	StatusOffload      Status = 1 << 14 // IPS_OFFLOAD: in a flow table
	StatusHWOffload    Status = 1 << 15 // IPS_HW_OFFLOAD
)

var statusNames = [...]string{
	"expected", "seen_reply", "assured", "confirmed", "src_nat", "dst_nat", "seq_adjust",
	"src_nat_done", "dst_nat_done", "dying", "fixed_timeout", "template", "nat_clash", "helper",
	"offload", "hw_offload",
}

// StatusBitName returns the name of bit i (0 to 31), or its number where it has none.
func StatusBitName(i int) string { return bitName(statusNames[:], i) }

// Names returns the names of the bits that are set, lowest first; a bit without a name goes by
// its number.
func (s Status) Names() []string { return bitNames(statusNames[:], uint32(s)) }

func bitName(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return strconv.Itoa(i)
}

func bitNames(names []string, bits uint32) []string {
	set := []string{}
	for i := range 32 {
		if bits&(1<<i) != 0 {
			set = append(set, bitName(names, i))
		}
	}
	return set
}

// parseBit reads the name or the number (0 to 31) of a bit.
func parseBit(names []string, s string) (bit uint32, ok bool) {
	for i, name := range names {
		if strings.EqualFold(s, name) {
			return 1 << i, true
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || n > 31 {
		return 0, false
	}
	return 1 << n, true
}

// String returns the names joined by commas.
func (s Status) String() string { return strings.Join(s.Names(), ",") }

// NAT returns "", "snat", "dnat" or "both".
func (s Status) NAT() string {
	switch s & (StatusSNAT | StatusDNAT) {
	case StatusSNAT:
		return "snat"
	case StatusDNAT:
		return "dnat"
	case StatusSNAT | StatusDNAT:
		return "both"
	}
	return ""
}

// ParseStatusBit reads the name or the number (0 to 31) of one bit.
func ParseStatusBit(s string) (Status, bool) {
	bit, ok := parseBit(statusNames[:], s)
	return Status(bit), ok
}
