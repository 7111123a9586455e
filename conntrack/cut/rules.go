package cut

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
)

// priority is that of the chains that look at packets: right after connection tracking (-200), so
// that the zone is known and a reset belongs to a flow, and before chains that may drop what isn't
// known (-150 and later) and destination NAT (-100).
const priority = -199

// Names of the chains; each zone has one of its own, see zone.chain.
const (
	chainPrerouting = "prerouting"
	chainOutput     = "output"
	chainProbes     = "probes"   // ours, on their way out
	chainKeepOut    = "keep_out" // looks a packet up
	chainStray      = "stray"    // looks a packet up in all zones

	// Where elements send packets to.
	chainDrop   = "drop_or_reset"   // TCP is reset, everything else dropped
	chainReject = "reject_or_reset" // TCP is reset, everything else rejected
)

// chain is a chain with its rules.
type chain struct {
	nftables.Chain
	rules [][]expr.Any
}

func regular(name string, rules ...[]expr.Any) *chain {
	return &chain{nftables.Chain{Name: name}, rules}
}

func hooked(name string, hook *nftables.ChainHook, priority nftables.ChainPriority, rules ...[]expr.Any) *chain {
	accept := nftables.ChainPolicyAccept
	return &chain{nftables.Chain{
		Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &priority, Policy: &accept,
	}, rules}
}

func (c *chain) add(rule []expr.Any) { c.rules = append(c.rules, rule) }

// ruleset returns all chains, in an order in which they can be made: what others jump to first.
// loose tells whether the kernel makes entries of packets in the middle of a TCP connection.
func ruleset(zones []zone, loose bool) []*chain {
	drop, reject := regular(chainDrop), regular(chainReject)
	chains := []*chain{drop, reject}
	for _, c := range chains {
		if loose {
			// What is stray then is mostly not of a connection that was cut, but a packet out of order
			// of another one, which may have got the translated port: it isn't worth a reset.
			c.add(join(l4proto(conntrack.TCP), strays(), verdict(expr.VerdictDrop)))
		}
		c.add(join(l4proto(conntrack.TCP), reset()))
	}
	drop.add(verdict(expr.VerdictDrop))
	reject.add(unreachable())
	resets := func() []expr.Any { return join(l4proto(conntrack.TCP), tcpFlags(tcpRST), verdict(expr.VerdictReturn)) }
	// Without neighbour discovery (RFC 4861) a blocked address could not even be told so.
	keepOut := regular(chainKeepOut,
		join(l4proto(conntrack.ICMPv6), neighbourDiscovery(), verdict(expr.VerdictReturn)),
		join(strays(), jump(expr.VerdictGoto, chainStray)))
	stray := regular(chainStray)
	for _, z := range zones {
		lookups := regular(z.chain())
		for place := range numSets {
			if place == firstTupleSet {
				lookups.add(resets()) // one ends a connection as well
				lookups.add(join(answers(), verdict(expr.VerdictReturn)))
			}
			lookups.add(setRules[place](z.set(place)))
		}
		chains = append(chains, lookups)
		stray.add(jump(expr.VerdictJump, z.chain()))
		keepOut.add(join(z.match(), jump(expr.VerdictGoto, z.chain())))
	}
	return append(chains, stray, keepOut,
		hooked(chainPrerouting, nftables.ChainHookPrerouting, priority, jump(expr.VerdictJump, chainKeepOut)),
		// Our own resets pass, and probes.
		hooked(chainOutput, nftables.ChainHookOutput, priority,
			resets(), join(probes(), verdict(expr.VerdictReturn)), jump(expr.VerdictJump, chainKeepOut)),
		// They make no entries, and no NAT changes them.
		hooked(chainProbes, nftables.ChainHookOutput, *nftables.ChainPriorityRaw, join(probes(), []expr.Any{&expr.Notrack{}})))
}

// setRules are the rules that look a packet up in each set.
var setRules = [numSets]func(set *nftables.Set) []expr.Any{
	setPorts4: ports(ipv4), setPorts6: ports(ipv6),
	setICMP4: icmp(ipv4), setICMP6: icmp(ipv6),
	setHosts4: hosts(ipv4), setHosts6: hosts(ipv6),
	setBlocks4: blocks(ipv4), setBlocks6: blocks(ipv6),
}

// family is what differs between IPv4 and IPv6.
type family struct {
	nfproto  byte
	src, dst uint32 // offsets of the addresses
	size     uint32 // of an address
	icmp     conntrack.Protocol
}

var (
	ipv4 = family{unix.NFPROTO_IPV4, 12, 16, 4, conntrack.ICMP}
	ipv6 = family{unix.NFPROTO_IPV6, 8, 24, 16, conntrack.ICMPv6}
)

func ports(f family) func(*nftables.Set) []expr.Any {
	return func(set *nftables.Set) []expr.Any {
		return join(f.match(), concat(proto, f.source, port(0), f.destination, port(2)), lookup(set))
	}
}

func icmp(f family) func(*nftables.Set) []expr.Any {
	return func(set *nftables.Set) []expr.Any {
		return join(f.match(), l4proto(f.icmp), concat(f.source, icmpType, f.destination), lookup(set))
	}
}

func hosts(f family) func(*nftables.Set) []expr.Any {
	return func(set *nftables.Set) []expr.Any {
		return join(f.match(), concat(proto, f.source, f.destination), lookup(set))
	}
}

func blocks(f family) func(*nftables.Set) []expr.Any {
	return func(set *nftables.Set) []expr.Any {
		return join(f.match(), concat(f.source, f.destination), lookup(set))
	}
}

// part loads a part of a key into a register and returns how many bytes it has.
type part func(register uint32) (expr.Any, uint32)

// register is the first one that is used.
const register = unix.NFT_REG32_00

// concat loads the parts of a key one behind the other.
func concat(parts ...part) []expr.Any {
	var exprs []expr.Any
	next := uint32(register)
	for _, load := range parts {
		e, size := load(next)
		exprs = append(exprs, e)
		next += (size + 3) / 4 // registers have 4 bytes
	}
	return exprs
}

func (f family) match() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{f.nfproto}},
	}
}

func (f family) source(register uint32) (expr.Any, uint32) {
	return network(register, f.src, f.size), f.size
}

func (f family) destination(register uint32) (expr.Any, uint32) {
	return network(register, f.dst, f.size), f.size
}

func proto(register uint32) (expr.Any, uint32) {
	return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, 1
}

func port(offset uint32) part {
	return func(register uint32) (expr.Any, uint32) { return transport(register, offset, 2), 2 }
}

func icmpType(register uint32) (expr.Any, uint32) { return transport(register, 0, 1), 1 }

func network(register, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func transport(register, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

// lookup goes where the element of a key says.
func lookup(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{
		SourceRegister: register, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: set.Name, SetID: set.ID,
	}}
}

func (z zone) match() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyZONE, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.NativeEndian.AppendUint16(nil, uint16(z))},
	}
}

// strays are the packets that connection tracking doesn't know: invalid ones, such as those of an
// established connection without an entry where nf_conntrack_tcp_loose is 0, and untracked ones.
// They have no zone.
func strays() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

// answers are the packets of the reply direction of a flow that is in the table. A flow that was cut
// is not there any more: it is another one, which may have got the translated address and port that
// the one before had.
func answers() []expr.Any {
	const reply = 1 // IP_CT_DIR_REPLY, linux/netfilter/nf_conntrack_tuple_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{reply}},
	}
}

// neighbourDiscovery are ICMPv6's types from router solicitation to redirect.
func neighbourDiscovery() []expr.Any {
	return []expr.Any{
		transport(register, 0, 1),
		&expr.Range{Op: expr.CmpOpEq, Register: register, FromData: []byte{133}, ToData: []byte{137}},
	}
}

func l4proto(p conntrack.Protocol) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{uint8(p)}},
	}
}

func tcpFlags(flag byte) []expr.Any {
	return []expr.Any{
		transport(register, 13, 1),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{flag}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: []byte{0}},
	}
}

// probes are the segments of package cut's own, see probeMarks.
func probes() []expr.Any {
	both := func(half []byte) []byte { return slices.Concat(half, half) }
	return join(l4proto(conntrack.TCP), []expr.Any{
		transport(register, 4, 8), // sequence and acknowledgment number
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 8,
			Mask: both([]byte{0x7f, 0xff, 0xff, 0xff}), Xor: make([]byte, 8),
		},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: both(binary.BigEndian.AppendUint32(nil, probeNumber))},
	})
}

func reset() []expr.Any { return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

func unreachable() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func jump(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}
