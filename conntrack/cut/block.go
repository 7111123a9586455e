package cut

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

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

// blocksOf returns the pairs of addresses that are to be blocked with flows, each once.
func blocksOf(flows []conntrack.Flow, o Options, local addrSet) []Block {
	if o.Block <= 0 {
		return nil
	}
	spared := map[Pair]bool{}
	for _, p := range o.Spare {
		spared[p], spared[Pair{Src: p.Dst, Dst: p.Src}] = true, true
	}
	var blocks []Block
	seen := map[place]bool{}
	for i := range flows {
		t := &flows[i].Orig
		b := Block{Src: t.Src, Dst: t.Dst, Zone: uint16(zoneOf(&flows[i], t))}
		switch {
		case !b.Src.IsValid() || !b.Dst.IsValid(), spared[Pair{b.Src, b.Dst}], seen[b.place()]:
		case local.has(b.Src) && local.has(b.Dst):
			// All of loopback would go, this program's own callers with it.
		default:
			seen[b.place()] = true
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
	blocks, err := c.listBlocks()
	if err != nil {
		return nil, fmt.Errorf("list blocks: %w", err)
	}
	return blocks, nil
}

// listBlocks asks the kernel, which alone knows what has ended.
func (c *Cutter) listBlocks() ([]Block, error) {
	zones, err := c.zonesThere()
	if err != nil {
		return nil, err
	}
	var blocks []Block
	for _, z := range zones {
		for _, place := range []setPlace{setBlocks4, setBlocks6} {
			elements, err := c.elements(z, place)
			if err != nil {
				return nil, err
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
	var err error
	for range editTries {
		if lifted, err = c.lift(blocks); !errors.Is(err, unix.ENOENT) { // else one has just ended
			for i := range lifted {
				delete(c.blocked, lifted[i].place())
			}
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lift blocks: %w", err)
	}
	return lifted, nil
}

// sameTime is by how much the ends of two blocks may differ that are made by one kill.
const sameTime = 5 * time.Second

// kept is a block that is there.
type kept struct {
	until time.Time
	by    string // the chain that answers; empty where that isn't known
}

// longer returns those of blocks that are new, last longer than the one that is there, or as long with
// another answer; and of these the ones that they take the place of.
func (c *Cutter) longer(blocks []Block, o Options) (fresh, old []Block) {
	now := time.Now()
	slack := min(sameTime, o.Block/10)
	for i := range blocks {
		k, there := c.blocked[blocks[i].place()]
		there = there && k.until.After(now)
		left := k.until.Sub(now)
		switch {
		case there && left > o.Block+slack:
			continue
		case there && left > o.Block-slack && (k.by == "" || k.by == o.answer()):
			continue
		case there:
			old = append(old, blocks[i])
		}
		fresh = append(fresh, blocks[i])
	}
	return fresh, old
}

// checkBlocks fails where there is no room for so many more pairs.
func (c *Cutter) checkBlocks(pairs map[place]bool) error {
	now := time.Now()
	maps.DeleteFunc(c.blocked, func(_ place, k kept) bool { return !k.until.After(now) })
	more := 0
	for p := range pairs {
		if _, there := c.blocked[p]; !there {
			more++
		}
	}
	if len(c.blocked)+more > MaxBlocks {
		return fmt.Errorf("%w: there is no room for so many more pairs of addresses just now", ErrFull)
	}
	return nil
}

// place is what at most one block has.
type place struct {
	Pair
	zone zone
}

func (b *Block) place() place { return place{Pair{b.Src, b.Dst}, zone(b.Zone)} }

// lift deletes those of blocks that are there, all at once.
func (c *Cutter) lift(blocks []Block) ([]Block, error) {
	there, err := c.listBlocks()
	if err != nil {
		return nil, err
	}
	has := make(map[place]bool, len(there))
	for i := range there {
		has[there[i].place()] = true
	}
	var lifted []Block
	for _, b := range blocks {
		if has[b.place()] {
			delete(has, b.place())
			lifted = append(lifted, b)
		}
	}
	if len(lifted) == 0 {
		return nil, nil
	}
	return lifted, c.edit(nil, keysOfBlocks(lifted))
}

// keysOfBlocks returns the elements of blocks, to delete them.
func keysOfBlocks(blocks []Block) elements {
	e := elements{}
	for i := range blocks {
		set, key := blockKey(blocks[i].Src, blocks[i].Dst)
		e.put(zone(blocks[i].Zone), set, nftables.SetElement{Key: key})
	}
	return e
}
