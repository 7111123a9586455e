package helper

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
)

// TableName is the name of our nftables table, and of what holds it for a living process. The names of
// others that are ours begin with it.
const TableName = "ctd_rtsp"

// Names of what is in the table.
const (
	setPorts      = "ports"
	setInterfaces = "interfaces"
	objectHelper  = "rtsp" // not "helper", which is a word of nft(8)'s

	chainPrerouting  = "prerouting"
	chainOutput      = "output"
	chainInput       = "input"
	chainPostrouting = "postrouting"
)

// rules are what brings packets into the queue.
//
// Those of prerouting and output do: what is forwarded or arrives passes the one, what the router
// sends itself the other, and no packet both, because those of the loopback are left alone in
// prerouting. At priority -150 connection tracking has seen the packet and address translation has
// not changed it yet (or it has changed a reply's back already), so that its tuple is one of its
// flow's two.
//
// A kernel helper has to be assigned at a flow's first packet: in the same place, so that
// translation that comes later leaves room for changed sequence numbers. Whether a forwarded port
// leads to one of the ports is not known there; those flows get theirs in input and postrouting.
type rules struct {
	ports      []uint16 // ascending
	queue      uint16
	families   []conntrack.Family
	interfaces []string // ascending; none stands for all
	markBit    uint32
	helper     string // the kernel's, "" for none
	manual     bool   // the administrator installs them
}

// rulesOf returns the rules for settings that are complete and right.
func rulesOf(cfg Config, kernelHelper string) rules {
	cfg.complete()
	r := rules{
		ports: slices.Clone(cfg.Ports), queue: cfg.Queue, families: slices.Clone(cfg.Families),
		interfaces: slices.Clone(cfg.Interfaces), markBit: cfg.MarkBit, helper: kernelHelper, manual: cfg.Manual,
	}
	slices.Sort(r.ports)
	slices.Sort(r.families)
	slices.Sort(r.interfaces)
	r.ports, r.families, r.interfaces = slices.Compact(r.ports), slices.Compact(r.families), slices.Compact(r.interfaces)
	return r
}

// nfprotos are the families as nf_tables has them.
var nfprotos = map[conntrack.Family]byte{conntrack.FamilyIPv4: unix.NFPROTO_IPV4, conntrack.FamilyIPv6: unix.NFPROTO_IPV6}

// protos returns the families as nf_tables has them.
func (r rules) protos() []byte {
	var protos []byte
	for _, f := range r.families {
		protos = append(protos, nfprotos[f])
	}
	return protos
}

// chain is a chain with its rules.
type chain struct {
	name  string
	hook  *nftables.ChainHook
	rules [][]expression
}

// chains returns the chains of a table that queues by an expression.
func (r rules) chains(queue expression) []*chain {
	chains := []*chain{
		r.chain(chainPrerouting, nftables.ChainHookPrerouting, expr.MetaKeyIIFNAME, r.assign(toPorts), r.enqueue(queue)),
		r.chain(chainOutput, nftables.ChainHookOutput, expr.MetaKeyOIFNAME, r.assign(toPorts), r.enqueue(queue)),
	}
	if r.helper != "" {
		chains = append(chains,
			r.chain(chainInput, nftables.ChainHookInput, expr.MetaKeyIIFNAME, r.assign(fromPorts)),
			r.chain(chainPostrouting, nftables.ChainHookPostrouting, expr.MetaKeyOIFNAME, r.assign(fromPorts)))
	}
	return chains
}

// chain returns one whose rules see packets of the configured families and interfaces.
func (r rules) chain(name string, hook *nftables.ChainHook, ifname expr.MetaKey, parts ...[][]expression) *chain {
	c := &chain{name: name, hook: hook}
	if name == chainPrerouting {
		c.rules = append(c.rules, join(meta(ifname), equal(interfaceName("lo")), pass()))
	}
	if len(r.families) == 1 {
		c.rules = append(c.rules, join(meta(expr.MetaKeyNFPROTO), unequal([]byte{nfprotos[r.families[0]]}), pass()))
	}
	if len(r.interfaces) > 0 {
		c.rules = append(c.rules, join(meta(ifname),
			one(&expr.Lookup{SourceRegister: register, SetName: setInterfaces, SetID: idInterfaces, Invert: true}), pass()))
	}
	for _, part := range parts {
		c.rules = append(c.rules, part...)
	}
	return c
}

// assign gives new connections the kernel's helper.
func (r rules) assign(match func() []expression) [][]expression {
	if r.helper == "" {
		return nil
	}
	return [][]expression{join(tcp(),
		bits(expr.CtKeySTATE, expr.CtStateBitNEW), unequal(make([]byte, 4)),
		one(&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}), equal([]byte{dirOriginal}),
		match(),
		one(&expr.Objref{Type: unix.NFT_OBJECT_CT_HELPER, Name: objectHelper}))}
}

// enqueue queues packets of connections to the ports. What isn't tracked, or invalid, has no
// connection: it matches neither rule.
func (r rules) enqueue(queue expression) [][]expression {
	list := [][]expression{join(bits(expr.CtKeyMARK, r.markBit), unequal(make([]byte, 4)), pass())}
	if r.helper == ownHelper { // see probe
		list = append(list, join(bits(expr.CtKeySTATE, expr.CtStateBitNEW), unequal(make([]byte, 4)), pass()))
	}
	return append(list,
		join(tcp(), toPorts(), []expression{queue}),
		join(tcp(), fromPorts(), []expression{queue}))
}

// toPorts are connections to the ports, as their clients have them.
func toPorts() []expression { return ofPorts(expr.CtKeyPROTODST, dirOriginal) }

// fromPorts are connections to the ports, as their servers have them.
func fromPorts() []expression { return ofPorts(expr.CtKeyPROTOSRC, dirReply) }

func ofPorts(key expr.CtKey, direction byte) []expression {
	return join([]expression{tuplePort(key, direction)},
		one(&expr.Lookup{SourceRegister: register, SetName: setPorts, SetID: idPorts}))
}

// nftQueue is nft's own expression: queue flags bypass to NUMBER.
func (r rules) nftQueue() expression {
	return known(&expr.Queue{Num: r.queue, Total: 1, Flag: expr.QueueFlagBypass})
}

// xtQueue is the xtables target NFQUEUE, by way of nf_tables (struct xt_NFQ_info_v3,
// linux/netfilter/xt_NFQUEUE.h: queuenum, queues_total and flags, in native order), padded as
// XT_ALIGN does.
func (r rules) xtQueue() expression {
	const bypass = 1 // NFQ_FLAG_BYPASS
	info := make(xt.Unknown, 0, 8)
	for _, n := range [...]uint16{r.queue, 1, bypass, 0} {
		info = binary.NativeEndian.AppendUint16(info, n)
	}
	return known(&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info})
}

// Numbers of the sets within a transaction.
const (
	idPorts      = 1
	idInterfaces = 2
)

// set is a set with its elements.
type set struct {
	id        uint32
	name      string
	key       nftables.SetDatatype
	byteOrder uint32 // of a key, for nft(8) to show it
	elements  [][]byte
}

// Byte orders of a set's key (NFTNL_UDATA_SET_KEYBYTEORDER, libnftnl/udata.h).
const (
	orderHost    = 1
	orderNetwork = 2
)

func (r rules) sets() []*set {
	ports := &set{id: idPorts, name: setPorts, key: nftables.TypeInetService, byteOrder: orderNetwork}
	for _, port := range r.ports {
		ports.elements = append(ports.elements, binary.BigEndian.AppendUint16(nil, port))
	}
	if len(r.interfaces) == 0 {
		return []*set{ports}
	}
	interfaces := &set{id: idInterfaces, name: setInterfaces, key: nftables.TypeIFName, byteOrder: orderHost}
	for _, name := range r.interfaces {
		interfaces.elements = append(interfaces.elements, interfaceName(name))
	}
	return []*set{ports, interfaces}
}
