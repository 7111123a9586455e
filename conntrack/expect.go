package conntrack

import "time"

// Expect is an expectation: a flow that the kernel will take as related to its master.
type Expect struct {
	ID       uint32 // CTA_EXPECT_ID
	Tuple    Tuple  // what is expected
	Mask     Tuple  // which bits of the source address and of the ports are compared
	Master   Tuple  // original direction of the flow that expects it
	Zone     uint16 // the master's
	Timeout  time.Duration
	Helper   string // CTA_EXPECT_HELP_NAME
	Function string // CTA_EXPECT_FN: "sip", "nat-follow-master", "Q.931", "callforwarding"
	Class    uint32
	Flags    ExpectFlags
	NAT      *ExpectNAT
	Unknown  []Attribute
}

// ExpectFlags are NF_CT_EXPECT_* (linux/netfilter/nf_conntrack_common.h).
type ExpectFlags uint32

// Flags in the header's order.
const (
	ExpectPermanent ExpectFlags = 1 << iota // NF_CT_EXPECT_PERMANENT
	ExpectInactive                          // NF_CT_EXPECT_INACTIVE
	ExpectUserspace                         // NF_CT_EXPECT_USERSPACE
)

// ExpectNAT is where the packets of an expected flow are translated to (CTA_EXPECT_NAT).
type ExpectNAT struct {
	Reply bool  // direction: false original, true reply (CTA_EXPECT_NAT_DIR)
	Tuple Tuple // Src and SrcPort are the address and port to translate to
}
