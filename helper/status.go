package helper

import (
	"net/netip"
	"time"

	"ctd/conntrack"
)

// Strategy is how media is let in.
type Strategy string

// Strategies, the best first.
const (
	// StrategyHelper has a helper of our own in the kernel (nfnetlink_cthelper), with limits of our
	// own, and the queue gives and takes connection tracking with its packets.
	StrategyHelper Strategy = "helper"
	// StrategyHybrid borrows a helper of the kernel's that does nothing here, for the sake of its
	// expectations.
	StrategyHybrid Strategy = "hybrid"
	// StrategyFlows makes related flows only.
	StrategyFlows Strategy = "flows"
)

// Status is how the helper is set up and what it has at present.
type Status struct {
	Strategy        Strategy
	KernelHelper    string // the kernel's helper that connections get: "ctd-rtsp", "Q.931"; empty where none is had
	ExpectMax       int    // expectations that the kernel allows a connection at a time
	Function        string // the expectations' function: "sip", "nat-follow-master"; empty where there is none
	Interception    string // what stands in the rules: "nft", "xtables" or "manual"
	TableName       string // of our nftables table; empty where it is manual
	ConntrackQueued bool   // packets are queued with their conntrack (NETFILTER_NETLINK_GLUE_CT)

	Queue                             uint16
	Ports                             []uint16
	Families                          []conntrack.Family
	Interfaces                        []string
	AllowOtherSource                  bool
	MaxSessions, MaxSessionsPerClient int

	Started     time.Time
	Connections int // control connections followed
	Sessions    int
	Streams     int
	Expects     int // expectations of ours that wait
	Flows       int // related flows of ours
	Counters    Counters
}

// Counters count since the helper was started.
type Counters struct {
	Packets        uint64 // read from the queue
	Malformed      uint64 // that can't be parsed as IP and TCP; they pass
	Lost           uint64 // that the kernel couldn't queue; they passed unseen
	Requests       uint64
	Replies        uint64
	NotRTSP        uint64 // connections left alone because they don't speak RTSP, or no longer
	Setups         uint64 // streams that a server agreed to send and that were registered
	Refused        uint64 // streams not registered for safety: ports, destination, source, limits
	Limited        uint64 // connections, SETUP requests and streams over a limit, each time it is met
	Failed         uint64 // registrations that the kernel refused
	Rewritten      uint64 // messages rewritten
	Rerewritten    uint64 // retransmitted segments rewritten again
	Unwritable     uint64 // messages that should have been rewritten and couldn't
	Held           uint64 // segments held until their message was whole
	Interleaved    uint64 // connections that left the queue because their media go inside them
	AdoptedStreams uint64 // picked up from a predecessor
	Ended          uint64 // streams ended
}

// Session is one RTSP session.
type Session struct {
	Client, Server netip.AddrPort  // of the control connection, as the client has them
	Control        conntrack.Tuple // original direction of the control connection
	Zone           uint16
	ID             string // of the Session header; empty before the server gave it, or where it was picked up
	Version        string // "1.0", "2.0"; empty where it was picked up
	State          string // "setup", "ready", "playing", "recording"
	UserAgent      string
	Started        time.Time
	Adopted        bool // picked up from a predecessor
	Streams        []Stream
}

// Stream is one stream of a session: a pair of ports, mostly.
type Stream struct {
	URL         string
	ClientAddr  netip.Addr // where the client wants it
	ClientPorts []uint16   // as the client named them
	PublicAddr  netip.Addr // where the server sends it
	PublicPorts []uint16   // other than ClientPorts where they were rewritten
	ServerAddr  netip.Addr // where it comes from; not valid before the server said so
	ServerPorts []uint16
	Rewritten   bool
	Expects     []conntrack.Tuple // that wait
	Flows       []conntrack.Tuple // original directions of the related flows
}
