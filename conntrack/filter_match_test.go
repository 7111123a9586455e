package conntrack

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// randomFilters calls f with each of many random filters that are accepted, and with flows.
func randomFilters(t *testing.T, f func(text string, f Filter, flows []*Flow)) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	flows := make([]*Flow, 400)
	for i := range flows {
		flows[i] = randomFlow(r)
	}
	n := 0
	for range 4000 {
		text := randomFilter(r)
		filter, err := ParseFilter(text)
		if err != nil {
			// The one thing that random values get wrong.
			if !strings.Contains(err.Error(), "leave no flow out") {
				t.Fatalf("%q: %v", text, err)
			}
			continue
		}
		n++
		f(text, filter.At(filterNow), flows)
	}
	if n < 3500 {
		t.Errorf("only %d filters", n)
	}
}

func TestFilterMatchReference(t *testing.T) {
	matched := map[string]int{} // by field of the filters with one field alone
	total, all := 0, 0
	randomFilters(t, func(text string, f Filter, flows []*Flow) {
		checkForms(t, f)
		for _, fl := range flows {
			want := reference(text, fl)
			if got := f.Match(fl); got != want {
				t.Fatalf("%q matches %v: %v, want %v\n%+v", text, fl.Orig, got, want, fl)
			}
			all++
			if want {
				total++
				if name, rest, _ := strings.Cut(text, "="); !strings.Contains(rest, "=") {
					matched[name]++
				}
			}
		}
	})
	// The comparison says nothing if hardly anything matches.
	if total < all/20 || total > all*19/20 {
		t.Errorf("%d of %d matched", total, all)
	}
	for _, field := range FilterFields() {
		if matched[field.Name] == 0 {
			t.Errorf("%s never matched alone", field.Name)
		}
	}
}

func TestFilterMatch(t *testing.T) {
	tcp := func() *Flow {
		fl := &Flow{Orig: Tuple{Src: v4(10, 0, 0, 5), Dst: v4(192, 0, 2, 1), Proto: TCP, SrcPort: 40000, DstPort: 443}}
		fl.Reply = fl.Orig.Inverse()
		fl.Reply.Dst = v4(198, 51, 100, 1)
		return fl
	}
	counters := func(orig, reply uint64) *Flow {
		fl := tcp()
		fl.OrigCounter.Bytes, fl.ReplyCounter.Bytes = orig, reply
		fl.Set(AttrCounters)
		return fl
	}
	icmp := &Flow{Orig: Tuple{Src: v4(10, 0, 0, 5), Dst: v4(192, 0, 2, 1), Proto: ICMP, ICMPType: 8}}
	mapped := &Flow{Orig: Tuple{Src: netip.MustParseAddr("::ffff:10.0.0.5"), Dst: netip.MustParseAddr("::1"), Proto: TCP}}
	for _, tt := range []struct {
		name, text string
		flow       *Flow
		want       bool
	}{
		{"in the network", "src=10.0.0.0/8", tcp(), true},
		{"in the network but excluded", "src=10.0.0.0/8,!10.0.0.5", tcp(), false},
		{"excluded before it is named", "src=!10.0.0.5,10.0.0.0/8", tcp(), false},
		{"translated address", "addr=198.51.100.1", tcp(), true},
		{"none of the places", "addr=!198.51.100.1", tcp(), false},
		{"address elsewhere", "addr=!198.51.100.2", tcp(), true},
		{"either port", "port=443", tcp(), true},
		{"no place has the port", "port=!443", tcp(), false},
		{"port of a flow without ports", "dport=0", icmp, false},
		{"not a port of a flow without ports", "dport=!22", icmp, true},
		{"not any port of a flow without ports", "port=!22", icmp, true},
		{"a port but not another, without ports", "dport=80,!22", icmp, false},
		{"state of a flow without one", "state=!ESTABLISHED", icmp, true},
		{"no helper", "helper=!*", icmp, true},
		{"bytes of both directions", "bytes=3K", counters(1024, 2048), true},
		{"bytes beyond 64 bits", "bytes=>=18446744073709551615", counters(1<<63, 1<<63), true},
		{"bytes unknown", "bytes=>=0", tcp(), false},
		{"not bytes unknown", "bytes=!>1K", tcp(), false},
		{"zero bytes known", "bytes=0", counters(0, 0), true},
		{"age unknown", "age=!>1h", tcp(), false},
		{"a mapped address is IPv6 in a flow", "src=10.0.0.5", mapped, false},
		{"every IPv6 address", "src=::/0", mapped, true},
		{"every IPv4 address", "src=0.0.0.0/0", tcp(), true},
		{"no address", "src=0.0.0.0/0,::/0", &Flow{}, false},
		{"second alternative", "proto=udp or dport=443", tcp(), true},
		{"no alternative", "proto=udp or dport=444", tcp(), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := ParseFilter(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.Match(tt.flow); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// longList returns a filter of so many single addresses, of which none is next to another.
func longList(tb testing.TB, n int) Filter {
	values := make([]any, n)
	for i := range values {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 0x0a000000+uint32(2*i))
		values[i] = netip.AddrFrom4(b).String()
	}
	f, err := FilterFromValue(map[string]any{"src": values})
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func TestFilterLongList(t *testing.T) {
	f := longList(t, MaxFilterValues)
	for i := range 2 * MaxFilterValues {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 0x0a000000+uint32(i))
		fl := &Flow{Orig: Tuple{Src: netip.AddrFrom4(b)}}
		if got, want := f.Match(fl), i%2 == 0; got != want {
			t.Fatalf("%v: %v, want %v", fl.Orig.Src, got, want)
		}
	}
}

func TestFilterMatchAllocations(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	flow := randomFlow(r)
	for _, field := range FilterFields() {
		f, err := ParseFilter(field.Name + "=" + field.Example + " or " + field.Name + "=!" + field.Example)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { f.Match(flow) }); n != 0 {
			t.Errorf("%s: %v allocations", f, n)
		}
	}
}

func BenchmarkFilterMatch(b *testing.B) {
	parse := func(text string) Filter {
		f, err := ParseFilter(text)
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	r := rand.New(rand.NewPCG(5, 6))
	flows := make([]*Flow, 1024)
	for i := range flows {
		flows[i] = randomFlow(r)
	}
	for _, bb := range []struct {
		name string
		f    Filter
	}{
		{"one address", parse("src=10.0.0.1")},
		{"one IPv6 network", parse("src=2001:db8::/64")},
		{"either side", parse("addr=10.0.0.1")},
		{"words", parse("proto=tcp src=10.0.0.0/8,!10.0.0.5 dport=80,443 bytes=>1K")},
		{"age by the clock", parse("age=>1m")},
		{"16 addresses", longList(b, 16)},
		{"4096 addresses", longList(b, 4096)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				bb.f.Match(flows[i%len(flows)])
				i++
			}
		})
	}
}
