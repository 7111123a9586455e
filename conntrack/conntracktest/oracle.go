package conntracktest

import (
	"encoding/xml"
	"errors"
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

// Entry is what conntrack(8) says about a flow.
type Entry struct {
	Orig, Reply               conntrack.Tuple
	Counters                  bool // whether there are any
	OrigCounter, ReplyCounter conntrack.Counter
	ID                        uint32
	Zone                      uint16
	State                     string
	Timeout                   time.Duration
	Mark, Use                 uint32
	Labels                    []int
	Helper                    string
	Start                     int64
	SeenReply, Assured        bool
}

// The shape of conntrack -L -o xml.
type xmlTable struct {
	Flows []struct {
		Metas []struct {
			Direction string    `xml:"direction,attr"`
			Layer3    xmlLayer3 `xml:"layer3"`
			Layer4    xmlLayer4 `xml:"layer4"`
			Counters  *struct {
				Packets uint64 `xml:"packets"`
				Bytes   uint64 `xml:"bytes"`
			} `xml:"counters"`
			Zone      uint16    `xml:"zone"`
			State     string    `xml:"state"`
			Timeout   int64     `xml:"timeout"`
			Mark      uint32    `xml:"mark"`
			Labels    []string  `xml:"labels>label"`
			Use       uint32    `xml:"use"`
			ID        uint32    `xml:"id"`
			Unreplied *struct{} `xml:"unreplied"`
			Assured   *struct{} `xml:"assured"`
			Start     int64     `xml:"timestamp>start"`
		} `xml:"meta"`
		Helper string `xml:"helper"`
	} `xml:"flow"`
}

type xmlLayer3 struct {
	Src string `xml:"src"`
	Dst string `xml:"dst"`
}

type xmlLayer4 struct {
	Proto  uint8  `xml:"protonum,attr"`
	SPort  uint16 `xml:"sport"`
	DPort  uint16 `xml:"dport"`
	SrcKey string `xml:"srckey"`
	DstKey string `xml:"dstkey"`
}

// outputs are the options of conntrack -o beside xml. The start of a flow takes "ktimestamp":
// "timestamp" is the time of an event.
const outputs = "extended,id,labels,ktimestamp"

// Oracle runs conntrack -L with further arguments, e.g. "-f", "ipv6" or "dying", and returns
// what it shows. Version 1.4.7 lists both families where none is given. Its XML comes short of
// its text in these, which are taken from the text:
//
//   - type, code and id of ICMP and ICMPv6 are missing;
//   - the states of SCTP bear the names of TCP's (ESTABLISHED shows as FIN_WAIT);
//
// and neither shows the master, the status but for seen reply and assured, window scales,
// verification tags or sequence adjustments. Labels are shown by names, which LabelName gives
// them.
func Oracle(t testing.TB, ns *NS, args ...string) []Entry {
	t.Helper()
	for range 5 {
		document := oracleRun(t, ns, "xml,"+outputs, args)
		text := oracleRun(t, ns, outputs, args)
		entries, err := parseOracle(document, text)
		if errors.Is(err, errChanged) {
			continue // an entry came or went in between
		}
		if err != nil {
			t.Fatalf("conntrack -L: %v", err)
		}
		return entries
	}
	t.Fatal("conntrack -L: the table does not come to rest")
	return nil
}

func oracleRun(t testing.TB, ns *NS, output string, args []string) string {
	t.Helper()
	out, err := ns.Conntrack8(append(append([]string{"-L"}, args...), "-o", output)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var errChanged = errors.New("the XML and the text show different flows")

func parseOracle(document, text string) ([]Entry, error) {
	if document == "" && text == "" {
		return nil, nil // conntrack(8) prints no document where there is no flow
	}
	var table xmlTable
	if err := xml.Unmarshal([]byte(document), &table); err != nil {
		return nil, err
	}
	lines := map[uint32]textLine{}
	for line := range strings.Lines(text) {
		l, err := parseTextLine(line)
		if err != nil {
			return nil, err
		}
		lines[l.id] = l
	}
	if len(lines) != len(table.Flows) {
		return nil, errChanged
	}
	entries := make([]Entry, 0, len(table.Flows))
	for _, flow := range table.Flows {
		e := Entry{Helper: flow.Helper, SeenReply: true}
		for _, m := range flow.Metas {
			if m.Direction == "independent" {
				e.Zone, e.State, e.Timeout = m.Zone, m.State, time.Duration(m.Timeout)*time.Second
				e.Mark, e.Use, e.ID, e.Start = m.Mark, m.Use, m.ID, m.Start
				e.SeenReply, e.Assured = m.Unreplied == nil, m.Assured != nil
				for _, label := range m.Labels {
					n, err := strconv.Atoi(strings.TrimPrefix(label, labelPrefix))
					if err != nil {
						return nil, err
					}
					e.Labels = append(e.Labels, n)
				}
				continue
			}
			tuple, err := m.Layer3.tuple(m.Layer4)
			if err != nil {
				return nil, err
			}
			tuple.Zone = m.Zone
			counter := &e.OrigCounter
			if m.Direction == "original" {
				e.Orig = tuple
			} else {
				e.Reply, counter = tuple, &e.ReplyCounter
			}
			if m.Counters != nil {
				e.Counters = true
				*counter = conntrack.Counter{Packets: m.Counters.Packets, Bytes: m.Counters.Bytes}
			}
		}
		l, ok := lines[e.ID]
		if !ok {
			return nil, errChanged
		}
		if e.State != "" {
			e.State = l.state
		}
		if e.Orig.Proto.IsICMP() {
			l.icmp[0].apply(&e.Orig)
			l.icmp[1].apply(&e.Reply)
		}
		slices.Sort(e.Labels)
		entries = append(entries, e)
	}
	return entries, nil
}

func (l3 xmlLayer3) tuple(l4 xmlLayer4) (conntrack.Tuple, error) {
	t := conntrack.Tuple{Proto: conntrack.Protocol(l4.Proto), SrcPort: l4.SPort, DstPort: l4.DPort}
	var err error
	if t.Src, err = netip.ParseAddr(l3.Src); err != nil {
		return t, err
	}
	if t.Dst, err = netip.ParseAddr(l3.Dst); err != nil {
		return t, err
	}
	for _, key := range []struct {
		text string
		port *uint16
	}{{l4.SrcKey, &t.SrcPort}, {l4.DstKey, &t.DstPort}} {
		if key.text == "" {
			continue
		}
		n, err := strconv.ParseUint(key.text, 0, 16)
		if err != nil {
			return t, err
		}
		*key.port = uint16(n)
	}
	return t, nil
}

// textLine is what is taken of a line of conntrack -L -o extended,id:
//
//	ipv4 2 icmp 1 29 src=.. dst=.. type=8 code=0 id=77 .. src=.. dst=.. type=0 code=0 id=77 .. id=4025123138
type textLine struct {
	id    uint32
	state string
	icmp  [2]icmpFields
}

type icmpFields struct {
	typ, code uint8
	id        uint16
}

func (f icmpFields) apply(t *conntrack.Tuple) {
	t.ICMPType, t.ICMPCode, t.ICMPID = f.typ, f.code, f.id
}

func parseTextLine(line string) (textLine, error) {
	var l textLine
	words := strings.Fields(line)
	if len(words) < 6 {
		return l, fmt.Errorf("unexpected line %q", line)
	}
	if !strings.Contains(words[5], "=") {
		l.state = words[5]
	}
	direction := -1
	for _, word := range words[5:] {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			continue
		}
		if key == "src" {
			direction++
		}
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || direction < 0 || direction > 1 {
			continue
		}
		switch key {
		case "type":
			l.icmp[direction].typ = uint8(n)
		case "code":
			l.icmp[direction].code = uint8(n)
		case "id":
			// The last one is the flow's own id.
			if n <= 0xffff && l.icmp[direction].id == 0 {
				l.icmp[direction].id = uint16(n)
			}
			l.id = uint32(n)
		}
	}
	return l, nil
}

// EntryOf returns what conntrack(8) should say about a flow.
func EntryOf(f conntrack.Flow) Entry {
	e := Entry{
		Orig: f.Orig, Reply: f.Reply, ID: f.ID, Zone: f.Zone, State: f.StateName(),
		Timeout: f.Timeout, Mark: f.Mark, Use: f.Use, Helper: f.Helper, Start: f.Start,
		SeenReply: f.Status&conntrack.StatusSeenReply != 0,
		Assured:   f.Status&conntrack.StatusAssured != 0,
	}
	if f.Has(conntrack.AttrCounters) {
		e.Counters, e.OrigCounter, e.ReplyCounter = true, f.OrigCounter, f.ReplyCounter
	}
	if f.Has(conntrack.AttrLabels) && !f.Labels.IsZero() {
		e.Labels = f.Labels.Bits()
	}
	return e
}

// timeoutSlack is how far the timeouts of two dumps, one after the other, may be apart.
const timeoutSlack = 5 * time.Second

// compare are the options by which entries of two dumps are compared.
func compare() cmp.Options {
	slack := Slow(timeoutSlack)
	return cmp.Options{
		cmp.Comparer(func(a, b time.Duration) bool { return (a - b).Abs() <= slack }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	}
}

// Diff compares a flow with what conntrack(8) says about it, field by field, and returns the
// differences (-conntrack(8) +flow), or "". Timeouts may be some seconds apart.
func Diff(f conntrack.Flow, e Entry) string {
	return cmp.Diff(e, EntryOf(f), compare())
}

// DiffEntries compares what conntrack(8) says about a flow at two times or places.
func DiffEntries(a, b Entry) string { return cmp.Diff(a, b, compare()) }

// DiffAll compares flows with what conntrack(8) says about the table, whatever the order.
func DiffAll(flows []conntrack.Flow, entries []Entry) string {
	var b strings.Builder
	type key struct {
		id   uint32
		orig conntrack.Tuple
		zone uint16
	}
	want := map[key]Entry{}
	for _, e := range entries {
		want[key{e.ID, e.Orig, e.Zone}] = e
	}
	for _, f := range flows {
		k := key{f.ID, f.Orig, f.Zone}
		e, ok := want[k]
		if !ok {
			fmt.Fprintf(&b, "+ id %d %s (twice, or not in conntrack -L)\n", f.ID, f.Orig)
			continue
		}
		delete(want, k)
		if d := Diff(f, e); d != "" {
			fmt.Fprintf(&b, "id %d %s:\n%s", f.ID, f.Orig, d)
		}
	}
	for k := range want {
		fmt.Fprintf(&b, "- id %d %s (only in conntrack -L)\n", k.id, k.orig)
	}
	return b.String()
}

// Quiesce waits until nothing moves in the table but the timeouts: TCP acknowledges late. It
// returns the last listing.
func Quiesce(t testing.TB, ns *NS, args ...string) []Entry {
	t.Helper()
	last := Oracle(t, ns, args...)
	for range 50 {
		time.Sleep(60 * time.Millisecond)
		next := Oracle(t, ns, args...)
		if cmp.Diff(byID(last), byID(next), compare()) == "" {
			return next
		}
		last = next
	}
	t.Fatal("the table does not come to rest")
	return nil
}

func byID(entries []Entry) map[uint32]Entry {
	m := map[uint32]Entry{}
	for _, e := range entries {
		m[e.ID] = e
	}
	return m
}

// Find returns the entries that a test is after.
func Find(entries []Entry, ok func(Entry) bool) []Entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool { return !ok(e) })
}
