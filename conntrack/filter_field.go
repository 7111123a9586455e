package conntrack

import (
	"slices"
	"strings"
)

// FilterField describes one field of the filter language.
type FilterField struct {
	Name    string
	Summary string // one line
	Example string // values that it takes, as after the "="

	kind valueKind
	max  uint64 // of numbers
}

// FilterFields returns the fields of the filter language in the order in which they are printed.
func FilterFields() []FilterField { return slices.Clone(filterFields[:]) }

// fieldID is a field's place in filterFields.
type fieldID uint8

const (
	fieldFamily fieldID = iota
	fieldProto
	fieldSrc
	fieldDst
	fieldSPort
	fieldDPort
	fieldReplySrc
	fieldReplyDst
	fieldReplySPort
	fieldReplyDPort
	fieldAddr
	fieldPort
	fieldNet
	fieldFlowID
	fieldMark
	fieldZone
	fieldState
	fieldStatus
	fieldNAT
	fieldHelper
	fieldLabel
	fieldUser
	fieldICMPType
	fieldICMPCode
	fieldGREKey
	fieldTimeout
	fieldBytes
	fieldPackets
	fieldAge
	fieldRate
	fieldCount
)

// valueKind is how the values of a field are written and compared.
type valueKind uint8

const (
	kindFamily valueKind = iota
	kindProto
	kindAddr
	kindNumber
	kindMark
	kindState
	kindStatus
	kindNAT
	kindLabel
	kindText
	kindTime
	kindBytes
	kindAmount
)

// compares tells whether the values of the kind are comparisons.
func (k valueKind) compares() bool { return k >= kindTime }

const (
	maxUint8  = 1<<8 - 1
	maxUint16 = 1<<16 - 1
	maxUint32 = 1<<32 - 1
	maxUint64 = 1<<64 - 1
	maxLabel  = len(Labels{})*8 - 1
)

var filterFields = [fieldCount]FilterField{
	fieldFamily:     {"family", "address family", "ipv4", kindFamily, 0},
	fieldProto:      {"proto", "protocol by name or number", "tcp,udp", kindProto, maxUint8},
	fieldSrc:        {"src", "source address, original direction", "10.0.0.0/8,!10.0.0.5", kindAddr, 0},
	fieldDst:        {"dst", "destination address, original direction", "192.0.2.1-192.0.2.9", kindAddr, 0},
	fieldSPort:      {"sport", "source port, original direction", "1024-65535", kindNumber, maxUint16},
	fieldDPort:      {"dport", "destination port, original direction", "80,443", kindNumber, maxUint16},
	fieldReplySrc:   {"reply_src", "source address, reply direction", "2001:db8::/32", kindAddr, 0},
	fieldReplyDst:   {"reply_dst", "destination address, reply direction", "198.51.100.1", kindAddr, 0},
	fieldReplySPort: {"reply_sport", "source port, reply direction", "8080", kindNumber, maxUint16},
	fieldReplyDPort: {"reply_dport", "destination port, reply direction", "40000-50000", kindNumber, maxUint16},
	fieldAddr:       {"addr", "any of the four addresses", "10.3.0.7", kindAddr, 0},
	fieldPort:       {"port", "any of the four ports", "53", kindNumber, maxUint16},
	fieldNet:        {"net", "network with either side inside", "10.3.0.0/16", kindAddr, 0},
	fieldFlowID:     {"id", "the kernel's id of the entry", "0x9c3f51a2", kindNumber, maxUint32},
	fieldMark:       {"mark", "connection mark, with a mask if wanted", "0x10/0xf0", kindMark, maxUint32},
	fieldZone:       {"zone", "conntrack zone of both directions", "0", kindNumber, maxUint16},
	fieldState:      {"state", "state of a TCP, SCTP or DCCP connection", "ESTABLISHED", kindState, maxUint8},
	fieldStatus:     {"status", "status bit, any of several", "assured,!seen_reply", kindStatus, 31},
	fieldNAT:        {"nat", "address translation: snat, dnat, both, any or none", "snat,both", kindNAT, 0},
	fieldHelper:     {"helper", "name of the helper, * for any", "ftp", kindText, 0},
	fieldLabel:      {"label", "number of a label, * for any", "3,5", kindLabel, uint64(maxLabel)},
	fieldUser:       {"user", "user behind the source address, * for any", "\"Jane Doe\"", kindText, 0},
	fieldICMPType:   {"icmp_type", "ICMP or ICMPv6 type, original direction", "8", kindNumber, maxUint8},
	fieldICMPCode:   {"icmp_code", "ICMP or ICMPv6 code, original direction", "0", kindNumber, maxUint8},
	fieldGREKey:     {"gre_key", "any of the GRE keys (PPTP call ids)", "0x4000", kindNumber, maxUint16},
	fieldTimeout:    {"timeout", "time left", "<60", kindTime, maxUint64},
	fieldBytes:      {"bytes", "bytes of both directions", ">10M", kindBytes, maxUint64},
	fieldPackets:    {"packets", "packets of both directions", "<=3", kindAmount, maxUint64},
	fieldAge:        {"age", "time since the flow began", "1h-2h", kindTime, maxUint64},
	fieldRate:       {"rate", "bytes a second of both directions", ">=1M", kindBytes, maxUint64},
}

func (id fieldID) spec() *FilterField { return &filterFields[id] }

// lookupField finds a field by its name.
func lookupField(name string) (fieldID, bool) {
	for i := range filterFields {
		if filterFields[i].Name == name {
			return fieldID(i), true
		}
	}
	return 0, false
}

// fieldSynonyms are what other programs call a field; they make a hint, not another spelling.
var fieldSynonyms = map[string]string{
	"protocol": "proto", "protonum": "proto", "l4proto": "proto", "l3proto": "family",
	"source": "src", "saddr": "src", "orig_src": "src", "source_ip": "src",
	"destination": "dst", "dest": "dst", "daddr": "dst", "orig_dst": "dst", "dest_ip": "dst",
	"orig_sport": "sport", "source_port": "sport", "src_port": "sport",
	"orig_dport": "dport", "dest_port": "dport", "dst_port": "dport",
	"ip": "addr", "address": "addr", "host": "addr", "network": "net", "subnet": "net",
	"connmark": "mark", "ctzone": "zone", "labels": "label", "username": "user", "type": "icmp_type",
	"code": "icmp_code", "key": "gre_key", "expires": "timeout", "duration": "age",
}

// unknownField is the error for a field that there isn't, with the nearest that there is.
func unknownField(name string) *FilterError {
	e := &FilterError{Field: clip(name), Msg: "unknown field"}
	names := make([]string, fieldCount)
	for i := range filterFields {
		names[i] = filterFields[i].Name
	}
	near := fieldSynonyms[strings.ToLower(clip(name))]
	if near == "" {
		near = nearest(name, names)
	}
	if near != "" {
		e.Hint = "did you mean " + near + "?"
	} else {
		e.Hint = "the fields are " + strings.Join(names, ", ")
	}
	return e
}

// nearest returns the one of names that differs least from s, or "" where none is near.
func nearest(s string, names []string) string {
	const maxLength = 32 // longer than any name: not worth comparing
	s = strings.ToLower(s)
	if len(s) > maxLength {
		return ""
	}
	best, near := 1+len(s)/2, ""
	best = min(best, 4)
	for _, name := range names {
		if d := editDistance(s, strings.ToLower(name)); d < best {
			best, near = d, name
		}
	}
	return near
}

// editDistance has a twin in package wire, which, as this one, imports nothing of the daemon.
//
// It counts the insertions, deletions, substitutions and swaps of neighbours between
// two short texts (Damerau's distance, each place changed once).
func editDistance(a, b string) int {
	before := make([]int, len(b)+1)
	last := make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
