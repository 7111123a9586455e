package cut

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"

	"ctd/conntrack"
)

// maxComment is how many bytes of a comment are kept; the kernel takes less than 256 with what
// nftables puts around it.
const maxComment = 100

// Pair are two addresses.
type Pair struct{ Src, Dst netip.Addr }

// Block keeps two addresses apart: packets from Src to Dst, of every protocol.
type Block struct {
	Src, Dst netip.Addr
	Zone     uint16
	Left     time.Duration // until it ends by itself
	Comment  string        // who and why
}

// pairsOf returns the pairs of addresses that are to be blocked with flows, each once.
func pairsOf(flows []conntrack.Flow, o Options) []Block {
	if o.Block <= 0 {
		return nil
	}
	var blocks []Block
	seen := map[Block]bool{}
	for _, p := range o.Spare {
		seen[Block{Src: p.Src, Dst: p.Dst}] = true
		seen[Block{Src: p.Dst, Dst: p.Src}] = true
	}
	for i := range flows {
		t := &flows[i].Orig
		b := Block{Src: t.Src, Dst: t.Dst}
		if seen[b] || !b.Src.IsValid() || !b.Dst.IsValid() {
			continue
		}
		b.Zone = uint16(zoneOf(&flows[i], t))
		if !seen[b] {
			seen[b] = true
			blocks = append(blocks, b)
		}
	}
	return blocks
}

// comment returns a text as nft(8) can print it between quotes.
func comment(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '"' || r == '\\' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxComment {
		s = strings.ToValidUTF8(s[:maxComment], "")
	}
	return s
}

// Blocks returns the addresses that are kept apart, in no order.
func (c *Cutter) Blocks() ([]Block, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var blocks []Block
	for _, z := range c.zones {
		for _, place := range []setPlace{setBlocks4, setBlocks6} {
			elements, err := c.elements(z, place)
			if err != nil {
				return nil, fmt.Errorf("list blocks: %w", err)
			}
			for i := range elements {
				if b, ok := blockOf(z, &elements[i]); ok {
					blocks = append(blocks, b)
				}
			}
		}
	}
	return blocks, nil
}

func blockOf(z zone, e *nftables.SetElement) (Block, bool) {
	half := len(e.Key) / 2
	src, ok := netip.AddrFromSlice(e.Key[:half])
	dst, ok2 := netip.AddrFromSlice(e.Key[half:])
	return Block{Src: src, Dst: dst, Zone: uint16(z), Left: e.Expires, Comment: e.Comment}, ok && ok2
}

// Unblock lifts blocks that Blocks gave, and returns those that were there still.
func (c *Cutter) Unblock(blocks []Block) ([]Block, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lifted []Block
	for i := range blocks {
		b := &blocks[i]
		place, key := blockKey(b.Src, b.Dst)
		found, err := c.delete(zone(b.Zone), place, key)
		if err != nil {
			return lifted, fmt.Errorf("lift block: %w", err)
		}
		if found {
			lifted = append(lifted, *b)
		}
	}
	return lifted, nil
}
