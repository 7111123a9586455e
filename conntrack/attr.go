package conntrack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
)

// A netlink attribute is struct nlattr (linux/netlink.h): length and type as 16-bit words in
// native order, then the data, padded to 4 bytes. The length counts the header but not the
// padding. The values inside are in network order unless it says otherwise.
const (
	attrHeaderLen = 4
	attrNested    = 1 << 15 // NLA_F_NESTED
	attrTypeMask  = 1<<14 - 1
)

// align4 rounds up to NLA_ALIGNTO, which is also NLMSG_ALIGNTO.
func align4(n int) int { return (n + 3) &^ 3 }

// errMalformed is wrapped by every error about bytes that are no attributes.
var errMalformed = fmt.Errorf("malformed netlink attributes")

// attrs walks over attributes. The zero value of data ends it at once.
type attrs struct {
	rest []byte
	typ  uint16
	data []byte
	err  error
}

// next moves to the next attribute and tells whether there is one; err says afterwards whether
// the end was reached in good order.
func (a *attrs) next() bool {
	if len(a.rest) < attrHeaderLen {
		if len(a.rest) != 0 {
			a.err = fmt.Errorf("%w: %d bytes left over", errMalformed, len(a.rest))
		}
		return false
	}
	n := int(binary.NativeEndian.Uint16(a.rest))
	if n < attrHeaderLen || n > len(a.rest) {
		a.err = fmt.Errorf("%w: length %d of %d", errMalformed, n, len(a.rest))
		return false
	}
	a.typ = binary.NativeEndian.Uint16(a.rest[2:]) & attrTypeMask
	a.data = a.rest[attrHeaderLen:n]
	a.rest = a.rest[min(align4(n), len(a.rest)):]
	return true
}

// The getters return false where the data isn't as long as the kernel makes it; the caller then
// keeps the attribute as unknown.

func (a *attrs) u8(v *uint8) bool {
	if len(a.data) != 1 {
		return false
	}
	*v = a.data[0]
	return true
}

func (a *attrs) be16(v *uint16) bool {
	if len(a.data) != 2 {
		return false
	}
	*v = binary.BigEndian.Uint16(a.data)
	return true
}

func (a *attrs) be32(v *uint32) bool {
	if len(a.data) != 4 {
		return false
	}
	*v = binary.BigEndian.Uint32(a.data)
	return true
}

func (a *attrs) be64(v *uint64) bool {
	if len(a.data) != 8 {
		return false
	}
	*v = binary.BigEndian.Uint64(a.data)
	return true
}

func (a *attrs) addr4(v *netip.Addr) bool {
	if len(a.data) != 4 {
		return false
	}
	*v = netip.AddrFrom4([4]byte(a.data))
	return true
}

func (a *attrs) addr16(v *netip.Addr) bool {
	if len(a.data) != 16 {
		return false
	}
	*v = netip.AddrFrom16([16]byte(a.data))
	return true
}

// decoder keeps what outlives one message of a dump.
type decoder struct {
	names map[string]string // the strings seen so far, so that each is allocated once
}

// maxNames bounds decoder.names: helpers and security contexts are few, and a table in which
// they aren't must not make memory grow.
const maxNames = 1024

// name returns the data as a string without its terminating NUL.
func (d *decoder) name(data []byte) string {
	for i, c := range data {
		if c == 0 {
			data = data[:i]
			break
		}
	}
	if s, ok := d.names[string(data)]; ok {
		return s
	}
	if d.names == nil || len(d.names) >= maxNames {
		d.names = make(map[string]string)
	}
	s := string(data)
	d.names[s] = s
	return s
}

// unknown returns the current attribute for a list of unknown ones.
func (a *attrs) unknown(outer ...uint16) Attribute {
	p := ""
	for _, typ := range outer {
		p += strconv.Itoa(int(typ)) + "."
	}
	return Attribute{Path: p + strconv.Itoa(int(a.typ)), Data: append([]byte(nil), a.data...)}
}

// maxAttrData is what the 16-bit length of an attribute leaves for its data.
const maxAttrData = 1<<16 - 1 - attrHeaderLen

// appendAttrHeader panics where the length doesn't fit: what comes from outside is checked
// before, and a length that wraps would let the data stand for attributes of its own.
func appendAttrHeader(b []byte, typ uint16, n int) []byte {
	if n > maxAttrData {
		panic("conntrack: attribute too long")
	}
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHeaderLen+n))
	return binary.NativeEndian.AppendUint16(b, typ)
}

func appendAttr(b []byte, typ uint16, data []byte) []byte {
	b = appendAttrHeader(b, typ, len(data))
	b = append(b, data...)
	return append(b, "\x00\x00\x00"[:align4(len(data))-len(data)]...)
}

func appendU8(b []byte, typ uint16, v uint8) []byte {
	return append(appendAttrHeader(b, typ, 1), v, 0, 0, 0)
}

func appendBE16(b []byte, typ, v uint16) []byte {
	b = binary.BigEndian.AppendUint16(appendAttrHeader(b, typ, 2), v)
	return append(b, 0, 0)
}

func appendBE32(b []byte, typ uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(appendAttrHeader(b, typ, 4), v)
}

func appendBE64(b []byte, typ uint16, v uint64) []byte {
	return binary.BigEndian.AppendUint64(appendAttrHeader(b, typ, 8), v)
}

// appendName appends a string with the NUL that the kernel demands.
func appendName(b []byte, typ uint16, s string) []byte {
	return appendAttr(b, typ, append([]byte(s), 0))
}

// beginNest appends the header of an attribute that holds others; endNest, given the length of b
// before, sets its length.
func beginNest(b []byte, typ uint16) []byte {
	return appendAttrHeader(b, typ|attrNested, 0)
}

func endNest(b []byte, start int) []byte {
	if len(b)-start-attrHeaderLen > maxAttrData {
		panic("conntrack: attribute too long")
	}
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}
