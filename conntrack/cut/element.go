package cut

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"ctd/conntrack"
)

// elements are those of each zone's sets, by the sets' places.
type elements map[zone]*[numSets][]nftables.SetElement

// elementsOf returns what keeps flows out, and pairs of addresses apart.
func elementsOf(flows []conntrack.Flow, blocks []Block, o Options) elements {
	e := elements{}
	for i := range flows {
		f := &flows[i]
		for _, t := range []*conntrack.Tuple{&f.Orig, &f.Reply} {
			if t.Src.IsValid() && t.Dst.IsValid() {
				place, key := tupleKey(t)
				e.add(zoneOf(f, t), place, nftables.SetElement{Key: key, Timeout: o.Lasts(t)}, o)
			}
		}
	}
	for i := range blocks {
		place, key := blockKey(blocks[i].Src, blocks[i].Dst)
		e.add(zone(blocks[i].Zone), place, nftables.SetElement{
			Key: key, Timeout: o.Block, Comment: comment(o.Comment),
		}, o)
	}
	return e
}

// zoneOf returns the zone of one direction of a flow: both have one, or each its own.
func zoneOf(f *conntrack.Flow, t *conntrack.Tuple) zone { return zone(max(f.Zone, t.Zone)) }

func (e elements) add(z zone, place setPlace, element nftables.SetElement, o Options) {
	element.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: o.answer()}
	// The kernel counts in milliseconds, and takes 0 for no timeout at all.
	element.Timeout = max(element.Timeout, time.Millisecond)
	e.put(z, place, element)
}

// answer returns the chain that answers packets.
func (o *Options) answer() string {
	if o.Reject {
		return chainReject
	}
	return chainDrop
}

func (e elements) put(z zone, place setPlace, element nftables.SetElement) {
	if e[z] == nil {
		e[z] = &[numSets][]nftables.SetElement{}
	}
	e[z][place] = append(e[z][place], element)
}

// join adds the elements of others.
func (e elements) join(others elements) {
	for z, sets := range others {
		for place, list := range sets {
			for i := range list {
				e.put(z, setPlace(place), list[i])
			}
		}
	}
}

// zonesOf returns the zones of flows and blocks, each once.
func zonesOf(flows []conntrack.Flow, blocks []Block) []zone {
	seen := map[zone]bool{}
	for i := range flows {
		f := &flows[i]
		seen[zoneOf(f, &f.Orig)], seen[zoneOf(f, &f.Reply)] = true, true
	}
	for i := range blocks {
		seen[zone(blocks[i].Zone)] = true
	}
	return slices.Collect(maps.Keys(seen))
}

// tupleKey returns the key of one direction of a flow, and its set.
func tupleKey(t *conntrack.Tuple) (setPlace, []byte) {
	src, dst := t.Src.AsSlice(), t.Dst.AsSlice()
	switch {
	case t.Proto.HasPorts():
		return of(t.Src, setPorts4, setPorts6), key([]byte{uint8(t.Proto)}, src, be16(t.SrcPort), dst, be16(t.DstPort))
	case t.Proto.IsICMP():
		return of(t.Src, setICMP4, setICMP6), key(src, []byte{t.ICMPType}, dst)
	}
	return of(t.Src, setHosts4, setHosts6), key([]byte{uint8(t.Proto)}, src, dst)
}

// blockKey returns the key of addresses that are kept apart, and its set.
func blockKey(src, dst netip.Addr) (setPlace, []byte) {
	return of(src, setBlocks4, setBlocks6), key(src.AsSlice(), dst.AsSlice())
}

func of(a netip.Addr, four, six setPlace) setPlace {
	if a.Is6() {
		return six
	}
	return four
}

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

// key returns parts, each padded to 4 bytes.
func key(parts ...[]byte) []byte {
	k := make([]byte, 0, 44) // that of ports6
	for _, p := range parts {
		k = append(k, p...)
		for len(k)%4 != 0 {
			k = append(k, 0)
		}
	}
	return k
}
