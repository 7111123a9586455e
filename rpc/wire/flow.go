package wire

import "time"

// Flow is one entry of the connection tracking table. A member that the kernel doesn't supply is
// absent, never a zero that looks like a reading.
type Flow struct {
	ID       uint32 `json:"id,omitempty" doc:"the kernel's id of the entry, stable while it lives"`
	Family   string `json:"family,omitempty" enum:"ipv4,ipv6"`
	Protocol string `json:"protocol,omitempty" doc:"name in /etc/protocols, else the number"`
	ProtoNum uint8  `json:"protonum" doc:"IANA protocol number"`
	Zone     uint16 `json:"zone" doc:"zone of both directions"`
	Orig     *Tuple `json:"orig,omitempty" doc:"direction of the first packet"`
	Reply    *Tuple `json:"reply,omitempty" doc:"direction of the packets that answer"`

	State    string    `json:"state,omitempty" doc:"TCP, SCTP or DCCP state as conntrack(8) prints it"`
	Timeout  *uint32   `json:"timeout,omitempty" doc:"seconds left"`
	Status   []string  `json:"status,omitempty" doc:"status bits by name, an unknown bit by its number"`
	NAT      string    `json:"nat" doc:"which addresses are translated; empty for none" enum:",snat,dnat,both"`
	Mark     *uint32   `json:"mark,omitempty" doc:"connection mark"`
	Use      *uint32   `json:"use,omitempty" doc:"references that the kernel holds"`
	Labels   []int     `json:"labels,omitempty" doc:"numbers of the labels set, 0 to 127"`
	Helper   string    `json:"helper,omitempty" doc:"name of the helper that follows it, e.g. ftp; empty where there is none"`
	Master   *Tuple    `json:"master,omitempty" doc:"original direction of the flow this one is related to"`
	SecCtx   string    `json:"secctx,omitempty" doc:"security context"`
	Start    time.Time `json:"start,omitzero" doc:"needs net.netfilter.nf_conntrack_timestamp"`
	Stop     time.Time `json:"stop,omitzero" doc:"only of flows that have ended"`
	User     string    `json:"user,omitempty" doc:"name behind the source address; empty where it is not known"`
	TCP      *TCP      `json:"tcp,omitempty" doc:"only of TCP flows"`
	SCTP     *SCTP     `json:"sctp,omitempty" doc:"only of SCTP flows"`
	DCCP     *DCCP     `json:"dccp,omitempty" doc:"only of DCCP flows"`
	SeqAdj   *SeqAdjs  `json:"seqadj,omitempty" doc:"correction of TCP sequence numbers"`
	SynProxy *SynProxy `json:"synproxy,omitempty" doc:"of flows that a SYNPROXY rule may handle"`

	// Unknown holds what the daemon doesn't know, by attribute number (CTA_*).
	Unknown map[string]string `json:"unknown,omitempty" doc:"attributes that ctd doesn't know: number to hexadecimal bytes"`
}

// Tuple is one direction of a flow. Which members there are depends on the protocol: ports for
// TCP, UDP, UDPLite, SCTP and DCCP; type, code and id for ICMP and ICMPv6; the keys for GRE.
type Tuple struct {
	Src     string   `json:"src,omitempty" doc:"source address"`
	Dst     string   `json:"dst,omitempty" doc:"destination address"`
	SPort   *uint16  `json:"sport,omitempty" doc:"source port"`
	DPort   *uint16  `json:"dport,omitempty" doc:"destination port"`
	Type    *uint8   `json:"type,omitempty" doc:"ICMP type"`
	Code    *uint8   `json:"code,omitempty" doc:"ICMP code"`
	ID      *uint16  `json:"id,omitempty" doc:"ICMP id"`
	Key     *uint16  `json:"key,omitempty" doc:"GRE key that this direction's packets carry (PPTP call id), conntrack(8)'s dstkey"`
	SrcKey  *uint16  `json:"srckey,omitempty" doc:"GRE key of the packets that answer, conntrack(8)'s srckey"`
	Zone    uint16   `json:"zone,omitempty" doc:"zone of this direction alone"`
	Packets *uint64  `json:"packets,omitempty" doc:"needs net.netfilter.nf_conntrack_acct"`
	Bytes   *uint64  `json:"bytes,omitempty" doc:"needs net.netfilter.nf_conntrack_acct"`
	Rate    *float64 `json:"rate,omitempty" doc:"bytes a second over the last sample"`

	// Protocol is given where a tuple stands alone: as the flow of a get, as a master.
	Protocol string `json:"protocol,omitempty" doc:"protocol by name or number, where the tuple stands alone"`
}

// TCP is what the kernel keeps of a TCP connection beside its state; each pair is original,
// reply.
type TCP struct {
	WScale []uint16 `json:"wscale,omitempty" doc:"window scale shifts: original, reply"`
	Flags  []uint16 `json:"flags,omitempty" doc:"IP_CT_TCP_FLAG_* bits: original, reply"`
}

// SCTP is what the kernel keeps of an SCTP association beside its state.
type SCTP struct {
	VTag []uint32 `json:"vtag,omitempty" doc:"verification tags: original, reply"`
}

// DCCP is what the kernel keeps of a DCCP connection beside its state.
type DCCP struct {
	Role         string `json:"role,omitempty" doc:"of the end that sent the first packet" enum:"client,server"`
	HandshakeSeq uint64 `json:"handshake_seq,omitempty" doc:"sequence number of the handshake"`
}

// SeqAdjs is the correction of sequence numbers in both directions.
type SeqAdjs struct {
	Orig  SeqAdj `json:"orig" doc:"of the original direction"`
	Reply SeqAdj `json:"reply" doc:"of the reply direction"`
}

// SeqAdj is the correction of sequence numbers in one direction.
type SeqAdj struct {
	Position uint32 `json:"position" doc:"sequence number of the last change of length"`
	Before   int32  `json:"before" doc:"added to sequence numbers before it"`
	After    int32  `json:"after" doc:"added to those after it"`
}

// SynProxy is what a SYNPROXY target keeps of a connection.
type SynProxy struct {
	ISN   uint32 `json:"isn" doc:"initial sequence number that the proxy chose"`
	ITS   uint32 `json:"its" doc:"initial timestamp"`
	TSOff uint32 `json:"tsoff" doc:"offset of the timestamps"`
}

// ListParams are the parameters of conntrack.list.
type ListParams struct {
	Filter Filter   `json:"filter,omitempty" doc:"which flows; all where absent"`
	Sort   string   `json:"sort,omitempty" doc:"a field to sort by, with - before it for descending: bytes, packets, timeout, age, rate, src, dst, sport, dport, mark, zone, proto, state or id"`
	Limit  int      `json:"limit,omitempty" doc:"at most so many flows; 0 is no limit"`
	Offset int      `json:"offset,omitempty" doc:"leave out so many first"`
	Fields []string `json:"fields,omitempty" doc:"only these members of each flow, e.g. id, orig, reply.bytes"`
	Rates  bool     `json:"rates,omitempty" doc:"sample twice, one second apart, and add each direction's rate"`
	Zero   bool     `json:"zero,omitempty" doc:"reset the counters of the flows that are listed; takes the counts away from every other reader, needs operator, can't go with limit, offset or a filter by rate"`
	Table  string   `json:"table,omitempty" doc:"which table" enum:"conntrack,dying,unconfirmed"`
}

// ListResult is the result of conntrack.list.
type ListResult struct {
	Flows   []Flow    `json:"flows" doc:"the flows, in no order unless sort is given"`
	Matched int       `json:"matched" doc:"flows that the filter matched, before offset and limit"`
	Scanned int       `json:"scanned" doc:"entries that the kernel sent for it; a pushed-down filter leaves out what can't match"`
	Time    time.Time `json:"time" doc:"when the dump ended"`
}

// Selector names one flow, by id, by a tuple of either direction, or both. Where both are given,
// the id must be the one of the flow that has the tuple. Where start is given, another start is
// another flow: the kernel makes ids of address and tuple, so that a new flow with the tuple of
// one that ended mostly has its id too.
type Selector struct {
	ID       uint32 `json:"id,omitempty"`
	Family   string `json:"family,omitempty"`
	Protocol string `json:"protocol,omitempty" doc:"name or number; needed with a tuple"`
	ProtoNum *uint8 `json:"protonum,omitempty"`
	Zone     uint16 `json:"zone,omitempty"`
	Orig     *Tuple `json:"orig,omitempty"`
	Reply    *Tuple `json:"reply,omitempty"`

	Start time.Time `json:"start,omitzero"`
}

// GetParams are the parameters of conntrack.get.
type GetParams struct {
	Flow any `json:"flow" doc:"an id, or an object with id, protocol, orig or reply, zone, start; a flow as conntrack.list gives it will do"`
}

// CountParams are the parameters of conntrack.count.
type CountParams struct {
	Filter Filter `json:"filter,omitempty" doc:"which flows; all where absent"`
	By     string `json:"by,omitempty" doc:"count by this field" enum:",src,dst,dport,proto,state,mark,zone,user"`
}

// CountResult is the result of conntrack.count.
type CountResult struct {
	Count  int          `json:"count" doc:"flows that the filter matched; without filter and by the kernel's own counter, in which are also entries that are not confirmed yet or are dying"`
	Groups []CountGroup `json:"groups,omitempty" doc:"largest first; only with by"`
}

// CountGroup is one group of a count.
type CountGroup struct {
	Key   string `json:"key" doc:"the value of the field that the group shares"`
	Count int    `json:"count" doc:"flows in the group"`
}

// Cutting says how connections are ended whose entries are killed. A kill alone ends none: their next
// packet makes a new entry.
type Cutting struct {
	Cut    any  `json:"cut,omitempty" doc:"also end the connections, and keep their packets out for a time: true for 30 seconds, or seconds, or such as \"5m\""`
	Reject bool `json:"reject,omitempty" doc:"with cut: answer packets other than TCP's with port unreachable, instead of dropping them"`
	Block  any  `json:"block,omitempty" doc:"also keep the addresses apart for longer, in seconds or such as \"10m\"; see conntrack.blocks"`
}

// Sparing says what is the caller's own, which a change spares.
type Sparing struct {
	IncludeSelf   bool   `json:"include_self,omitempty" doc:"also the caller's own connection to the daemon and the SSH session that it comes from, which are spared otherwise"`
	SSHConnection string `json:"ssh_connection,omitempty" doc:"the SSH session that the caller runs in, as SSH_CONNECTION there names it: client address and port, server address and port; where a caller on the daemon's own machine names none that ends there and is in the table still, every SSH session to the router is spared (port 22)"`
}

// KillParams are the parameters of conntrack.kill.
type KillParams struct {
	Filter Filter `json:"filter,omitempty" doc:"which flows; an empty filter needs all"`
	Flows  []any  `json:"flows,omitempty" doc:"flows by id or as objects, instead of a filter"`
	DryRun bool   `json:"dry_run,omitempty" doc:"only say what would be killed"`
	Max    *int   `json:"max,omitempty" doc:"kill nothing where more than so many match; 1000 where absent"`

	ExpectCount   *int       `json:"expect_count,omitempty" doc:"kill nothing where not just so many match"`
	CreatedBefore *time.Time `json:"created_before,omitempty" doc:"only flows that began before this time; needs net.netfilter.nf_conntrack_timestamp"`

	All    bool   `json:"all,omitempty" doc:"with an empty filter: yes, every flow"`
	Reason string `json:"reason,omitempty" doc:"for the log"`

	Cutting
	Sparing
}

// KillResult is the result of conntrack.kill.
type KillResult struct {
	Killed    int       `json:"killed" doc:"flows that were killed"`
	Matched   int       `json:"matched" doc:"flows that were meant, without those that are spared"`
	Gone      int       `json:"gone" doc:"flows that had ended, or become others, before they could be killed"`
	Spared    int       `json:"spared" doc:"flows that match and are the caller's own, see include_self"`
	Changed   bool      `json:"changed" doc:"whether anything was killed"`
	Flows     []Flow    `json:"flows" doc:"what was killed, or would be; at most 1000 of them"`
	Truncated bool      `json:"truncated" doc:"whether flows or failed leaves out some"`
	Failed    []Failure `json:"failed,omitempty" doc:"what the kernel refused; at most 1000 of them"`

	Cut *CutResult `json:"cut,omitempty" doc:"what was done to end the connections; only with cut or block"`
}

// CutResult is what was done to end connections.
type CutResult struct {
	Seconds uint32 `json:"seconds" doc:"how long their packets are kept out"`
	Blocks  int    `json:"blocks" doc:"pairs of addresses that are kept apart, see conntrack.blocks"`
	Sockets int    `json:"sockets" doc:"sockets of the router itself that were closed"`
	Probed  int    `json:"probed" doc:"ends of TCP connections that were told at once, as far as they could be reached"`
	Untold  int    `json:"untold,omitempty" doc:"ends of TCP connections that could not be sent anything: they learn of it at their next packet"`
}

// Failure is one flow that could not be changed, or without a flow, what ended a change half way.
type Failure struct {
	Flow    Flow   `json:"flow" doc:"the flow as it is now, or was last where it has ended; absent where the failure is no single flow's: then flows were left that nobody tried"`
	Code    Code   `json:"code" doc:"a name of the table of errors"`
	Message string `json:"message" doc:"what went wrong"`
	Hint    string `json:"hint,omitempty" doc:"what to do next"`
}

// Set is what conntrack.modify changes; what is absent stays.
type Set struct {
	Timeout      *uint32 `json:"timeout,omitempty" doc:"seconds, from 1 on; the kernel makes at most 2^31 of its ticks of them"`
	FixedTimeout bool    `json:"fixed_timeout,omitempty" doc:"packets no longer refresh the timeout; can't be taken back"`
	Mark         any     `json:"mark,omitempty" doc:"a number, or value/mask as text: only the bits of the mask change"`
	Status       any     `json:"status,omitempty" doc:"status bits to set, by name; the kernel lets seen_reply, assured and fixed_timeout be set, none be cleared"`
	Labels       any     `json:"labels,omitempty" doc:"label numbers: a list replaces all; +3 and -3 as texts set and clear one"`
	Helper       *string `json:"helper,omitempty" doc:"helper by name; empty takes it away"`
	State        string  `json:"state,omitempty" doc:"TCP state by name"`
	NAT          *NAT    `json:"nat,omitempty" doc:"other addresses: the flow is made anew with them"`
}

// NAT is where a flow's addresses are translated to, each as address, address:port or :port.
type NAT struct {
	Src string `json:"src,omitempty" doc:"source, e.g. 192.0.2.1:4000; of ICMP the port is the id"`
	Dst string `json:"dst,omitempty" doc:"destination, e.g. 10.0.0.7:80"`
}

// ModifyParams are the parameters of conntrack.modify. Set comes before the guards of the selection,
// which are otherwise in KillParams's order: it is what a caller by position can't leave out.
type ModifyParams struct {
	Filter Filter `json:"filter,omitempty" doc:"which flows; an empty filter needs all"`
	Flows  []any  `json:"flows,omitempty" doc:"flows by id or as objects, instead of a filter"`
	Set    Set    `json:"set" doc:"what to change"`
	DryRun bool   `json:"dry_run,omitempty" doc:"only say what would be changed"`
	Max    *int   `json:"max,omitempty" doc:"change nothing where more than so many match; 1000 where absent, at most 16384"`

	ExpectCount   *int       `json:"expect_count,omitempty" doc:"change nothing where not just so many match"`
	CreatedBefore *time.Time `json:"created_before,omitempty" doc:"only flows that began before this time; needs net.netfilter.nf_conntrack_timestamp"`

	All    bool   `json:"all,omitempty" doc:"with an empty filter: yes, every flow"`
	Reason string `json:"reason,omitempty" doc:"for the log"`

	Sparing
}

// ModifyResult is the result of conntrack.modify.
type ModifyResult struct {
	Modified  int       `json:"modified" doc:"flows that were changed; those that were so already are not counted"`
	Matched   int       `json:"matched" doc:"flows that were meant, without those that are spared"`
	Gone      int       `json:"gone" doc:"flows that had ended, or become others, before they could be changed"`
	Spared    int       `json:"spared" doc:"flows that match and are the caller's own, see include_self"`
	Changed   bool      `json:"changed" doc:"whether anything was modified"`
	Flows     []Flow    `json:"flows" doc:"the flows as they are now; at most 1000 of them"`
	Truncated bool      `json:"truncated" doc:"whether flows or failed leaves out some"`
	Failed    []Failure `json:"failed,omitempty" doc:"what the kernel refused; at most 1000 of them"`
}

// CreateParams are the parameters of conntrack.create: a flow. The reply direction may be left
// out where no address is translated; where it differs from the inverse of the original, the
// difference becomes the translation. Family may be left out: it is that of the addresses.
type CreateParams struct {
	Flow   Flow `json:"flow" doc:"the flow; protocol, orig and timeout are needed"`
	DryRun bool `json:"dry_run,omitempty" doc:"only check the flow"`
}

// FlushParams are the parameters of conntrack.flush.
type FlushParams struct {
	Family string  `json:"family,omitempty" doc:"only flows of this family" enum:",ipv4,ipv6"`
	Zone   *uint16 `json:"zone,omitempty" doc:"only flows of this zone"`
	All    bool    `json:"all" doc:"must be true"`
	DryRun bool    `json:"dry_run,omitempty" doc:"only count what would go"`
}

// FlushResult is the result of conntrack.flush and expect.flush.
type FlushResult struct {
	Killed int `json:"killed" doc:"entries there were, as far as could be counted"`
}
