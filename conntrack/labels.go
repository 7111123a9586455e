package conntrack

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Labels is a flow's set of 128 labels (CTA_LABELS). Label i is bit i%32 of the 32-bit word i/32
// in native byte order, as in nf_ct_labels.
type Labels [16]byte

// Bit tells whether label i (0 to 127) is set.
func (l *Labels) Bit(i int) bool {
	return binary.NativeEndian.Uint32(l[i/32*4:])&(1<<(i%32)) != 0
}

// SetBit sets label i (0 to 127).
func (l *Labels) SetBit(i int) {
	word := l[i/32*4:]
	binary.NativeEndian.PutUint32(word, binary.NativeEndian.Uint32(word)|1<<(i%32))
}

// IsZero tells whether no label is set.
func (l *Labels) IsZero() bool { return *l == Labels{} }

// Bits returns the numbers of the labels that are set, lowest first.
func (l *Labels) Bits() []int {
	bits := []int{}
	for i := range len(l) * 8 {
		if l.Bit(i) {
			bits = append(bits, i)
		}
	}
	return bits
}

// String returns the labels as conntrack(8) shows them where no names are configured: the
// numbers joined by commas.
func (l *Labels) String() string {
	var b strings.Builder
	for i, bit := range l.Bits() {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, bit)
	}
	return b.String()
}
