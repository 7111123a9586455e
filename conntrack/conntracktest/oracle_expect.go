package conntracktest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"

	"github.com/google/go-cmp/cmp"
)

// ExpectEntry is what conntrack(8) says about an expectation. It doesn't show the id, NAT and
// function.
type ExpectEntry struct {
	Tuple, Mask, Master conntrack.Tuple
	Timeout             time.Duration
	Zone                uint16
	Class               uint32
	Permanent, Inactive bool
	Helper              string
}

// OracleExpects runs conntrack -L expect for both families: version 1.4.7 takes IPv4 where none
// is given. It reads the text; the XML has neither zone nor flags.
func OracleExpects(t testing.TB, ns *NS) []ExpectEntry {
	t.Helper()
	entries := []ExpectEntry{}
	for _, family := range []string{"ipv4", "ipv6"} {
		out, err := ns.Conntrack8("-L", "expect", "-f", family)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			e, err := parseExpectLine(line)
			if err != nil {
				t.Fatalf("conntrack -L expect: %v in %q", err, line)
			}
			entries = append(entries, e)
		}
	}
	return entries
}

// parseExpectLine reads a line such as
//
//	299 proto=6 src=.. dst=.. sport=0 dport=2100 mask-src=.. mask-dst=.. sport=0 dport=65535 master-src=.. master-dst=.. sport=1 dport=21 PERMANENT class=0 helper=ftp
func parseExpectLine(line string) (ExpectEntry, error) {
	var e ExpectEntry
	words := strings.Fields(line)
	if len(words) == 0 {
		return e, fmt.Errorf("empty line")
	}
	seconds, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil {
		return e, err
	}
	e.Timeout = time.Duration(seconds) * time.Second
	tuples := map[string]*conntrack.Tuple{"src": &e.Tuple, "mask-src": &e.Mask, "master-src": &e.Master}
	tuple := &e.Tuple
	for _, word := range words[1:] {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			e.Permanent = e.Permanent || strings.Contains(word, "PERMANENT")
			e.Inactive = e.Inactive || strings.Contains(word, "INACTIVE")
			continue
		}
		if to, ok := tuples[key]; ok {
			tuple = to
		}
		switch key {
		case "src", "mask-src", "master-src":
			tuple.Src, err = netip.ParseAddr(value)
		case "dst", "mask-dst", "master-dst":
			tuple.Dst, err = netip.ParseAddr(value)
		case "helper":
			e.Helper = value
		case "proto", "sport", "dport", "zone", "class":
			var n uint64
			n, err = strconv.ParseUint(value, 10, 16)
			switch key {
			case "proto":
				tuple.Proto = conntrack.Protocol(n)
			case "sport":
				tuple.SrcPort = uint16(n)
			case "dport":
				tuple.DstPort = uint16(n)
			case "zone":
				e.Zone = uint16(n)
			case "class":
				e.Class = uint32(n)
			}
		default:
			err = fmt.Errorf("unknown word %q", word)
		}
		if err != nil {
			return e, err
		}
	}
	return e, nil
}

// ExpectEntryOf returns what conntrack(8) should say about an expectation. It names the protocol
// only of what is expected.
func ExpectEntryOf(e conntrack.Expect) ExpectEntry {
	x := ExpectEntry{
		Tuple: e.Tuple, Mask: e.Mask, Master: e.Master, Timeout: e.Timeout, Zone: e.Zone, Class: e.Class,
		Permanent: e.Flags&conntrack.ExpectPermanent != 0, Inactive: e.Flags&conntrack.ExpectInactive != 0,
		Helper: e.Helper,
	}
	x.Mask.Proto, x.Master.Proto = 0, 0
	return x
}

// DiffExpects compares expectations with what conntrack(8) says, whatever the order, and returns
// the differences (-conntrack(8) +expectations), or "".
func DiffExpects(es []conntrack.Expect, entries []ExpectEntry) string {
	got := make([]ExpectEntry, 0, len(es))
	for _, e := range es {
		e.Zone = 0 // the kernel doesn't tell it, so conntrack(8) has none
		got = append(got, ExpectEntryOf(e))
	}
	order := func(a, b ExpectEntry) int {
		return strings.Compare(fmt.Sprint(a.Zone, a.Tuple, a.Master), fmt.Sprint(b.Zone, b.Tuple, b.Master))
	}
	want := slices.SortedFunc(slices.Values(entries), order)
	slices.SortFunc(got, order)
	return cmp.Diff(append([]ExpectEntry{}, want...), got, compare())
}
