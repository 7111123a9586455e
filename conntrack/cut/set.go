package cut

import (
	"strconv"
	"strings"

	"github.com/google/nftables"
)

// setPlace is a set's place among those of a zone.
type setPlace int

// The sets of a zone, in the order in which packets are looked up: each a map from what is in a
// packet to a chain. Their keys' parts are padded to 4 bytes each; numbers are in network order.
// There are two of each, for IPv4 and for IPv6.
const (
	// Source address, destination address.
	setBlocks4 setPlace = iota
	setBlocks6
	// IANA protocol number, source address, source port, destination address, destination port.
	setPorts4
	setPorts6
	// Source address, ICMP type, destination address. The id isn't compared: nft(8) could not list
	// a key that has it.
	setICMP4
	setICMP6
	// IANA protocol number, source address, destination address: of protocols that have neither
	// ports nor types, or whose keys nft(8) doesn't know (GRE).
	setHosts4
	setHosts6
	numSets

	firstTupleSet = setPorts4
)

var setNames = [numSets]string{"blocks4", "blocks6", "ports4", "ports6", "icmp4", "icmp6", "hosts4", "hosts6"}

var setTypes = [numSets]nftables.SetDatatype{
	setPorts4: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeIPAddr, nftables.TypeInetService,
		nftables.TypeIPAddr, nftables.TypeInetService),
	setPorts6: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeIP6Addr, nftables.TypeInetService,
		nftables.TypeIP6Addr, nftables.TypeInetService),
	setICMP4:   nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeICMPType, nftables.TypeIPAddr),
	setICMP6:   nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeICMP6Type, nftables.TypeIP6Addr),
	setHosts4:  nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeIPAddr, nftables.TypeIPAddr),
	setHosts6:  nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeIP6Addr, nftables.TypeIP6Addr),
	setBlocks4: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr),
	setBlocks6: nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeIP6Addr),
}

// zone is a conntrack zone, which has sets and a chain of its own: the addresses of two zones may
// be the same.
type zone uint16

func (z zone) chain() string { return "zone" + z.number() }

func (z zone) number() string { return strconv.Itoa(int(z)) }

// zoneOfSet returns the zone of the set of blocks that has a name; of other sets it returns none.
func zoneOfSet(name string) (zone, bool) {
	rest, ok := strings.CutPrefix(name, setNames[setBlocks4])
	if rest == "" {
		return 0, ok
	}
	number, ok := strings.CutPrefix(rest, zoneSuffix)
	n, err := strconv.ParseUint(number, 10, 16)
	return zone(n), ok && err == nil
}

// zoneSuffix stands between the name of a set and its zone.
const zoneSuffix = "_zone"

// set returns a set as it is made and found.
func (z zone) set(place setPlace) *nftables.Set {
	name := setNames[place]
	if z != 0 {
		name += zoneSuffix + z.number()
	}
	return &nftables.Set{
		// Within a transaction. The library would count in a variable that all share without a lock.
		ID:   uint32(z)*uint32(numSets) + uint32(place) + 1,
		Name: name, KeyType: setTypes[place], Concatenation: true, IsMap: true, DataType: nftables.TypeVerdict,
		HasTimeout: true, Size: setSize,
	}
}
