package conntrack

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
	"time"

	"github.com/google/go-cmp/cmp"
)

// filterCase is a filter in its forms.
type filterCase struct {
	name   string
	text   string
	object any    // nil: the same as text
	want   string // the text that it prints; empty: text
}

func filterCases() []filterCase {
	obj := func(kv ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	return []filterCase{
		{name: "one word", text: "proto=tcp", object: obj("proto", "tcp")},
		{name: "protocol by number", text: "proto=6,99", object: obj("proto", []any{6, 99}), want: "proto=tcp,99"},
		{name: "protocol by another name", text: "proto=icmp6", object: obj("proto", "ipv6-icmp"), want: "proto=icmpv6"},
		{name: "family short", text: "family=6", object: obj("family", 6), want: "family=ipv6"},
		{name: "order of fields", text: "dport=22 src=10.0.0.1 proto=tcp", want: "proto=tcp src=10.0.0.1 dport=22"},
		{name: "spaces", text: " \t proto=tcp \n dport=22\r\n", want: "proto=tcp dport=22"},
		{name: "network but one", text: "src=10.0.0.0/8,!10.0.0.5", object: obj("src", []any{"10.0.0.0/8", "!10.0.0.5"})},
		{name: "list in an object", text: "dport=80,443", object: obj("dport", []any{80, json.Number("443")})},
		{name: "list in a text in an object", text: "dport=80,443", object: obj("dport", "80, 443")},
		{name: "list in a list", text: "dport=80,443,8000-8100", object: obj("dport", []any{"80,443", "8000-8100"})},
		{name: "numbers of all kinds", text: "id=1,2,3,4,5,6", object: obj("id", []any{int(1), int64(2), uint64(3), float64(4), json.Number("5"), "6"})},
		{name: "number with exponent", text: "id=2000", object: obj("id", json.Number("2e3"))},
		{name: "largest id", text: "id=4294967295", object: obj("id", float64(math.MaxUint32))},
		{name: "hexadecimal", text: "id=0xFF dport=0x50", want: "dport=80 id=255"},
		{name: "leading zeros are decimal", text: "dport=0080", want: "dport=80"},
		{name: "range of one", text: "dport=80-80", want: "dport=80"},
		{name: "twice the same value", text: "dport=80,80,!80,!80", want: "dport=80,!80"},
		{name: "host bits", text: "src=10.1.2.3/8", want: "src=10.0.0.0/8"},
		{name: "network of one", text: "src=10.1.2.3/32,2001:db8::1/128", want: "src=10.1.2.3,2001:db8::1"},
		{name: "range of addresses", text: "dst=10.0.0.1-10.0.0.9,2001:db8::1-2001:db8::9"},
		{name: "mapped address", text: "addr=::ffff:10.0.0.1", want: "addr=10.0.0.1"},
		{name: "mapped network", text: "net=::ffff:10.0.0.0/104", want: "net=10.0.0.0/8"},
		{name: "long address", text: "src=2001:0DB8:0:0::1", want: "src=2001:db8::1"},
		{name: "mark", text: "mark=0x2a", object: obj("mark", 42), want: "mark=42"},
		{name: "mark and mask", text: "mark=16/240", want: "mark=0x10/0xf0"},
		{name: "mark and full mask", text: "mark=0/0xffffffff", want: "mark=0"},
		{name: "marks", text: "mark=1-15,!3"},
		{name: "state", text: "state=established,!time_wait,3", want: "state=ESTABLISHED,!TIME_WAIT,3"},
		{name: "status", text: "status=ASSURED,!1,20", want: "status=assured,!seen_reply,20"},
		{name: "translated", text: "nat=any", object: obj("nat", true)},
		{name: "not translated", text: "nat=none", object: obj("nat", false)},
		{name: "nat", text: "nat=snat,dnat,both"},
		{name: "zone", text: "zone=0,5-7"},
		{name: "label", text: "label=3,5-7,!127"},
		{name: "any label", text: "label=*"},
		{name: "helper", text: "helper=ftp,!*"},
		{name: "user with a space", text: `user="Jane Doe"`, object: obj("user", "Jane Doe")},
		{name: "user with a comma", text: `user="Doe, Jane",!root`, object: obj("user", []any{`"Doe, Jane"`, "!root"})},
		{name: "user with quote and backslash", text: `user="a\"b\\c d",AD\jane`},
		{name: "user with an exclamation mark", text: `user="!jane","*"`},
		{name: "user quoted without need", text: `user="jane"`, want: "user=jane"},
		{name: "user in another script", text: "user=Žaneta"},
		{name: "icmp", text: "icmp_type=8 icmp_code=0", object: obj("icmp_type", 8, "icmp_code", "0")},
		{name: "gre", text: "gre_key=0x4000", want: "gre_key=16384"},
		{name: "bytes", text: "bytes=>1M", object: obj("bytes", ">1048576")},
		{name: "bytes with fraction", text: "bytes=>=1.5m", want: "bytes=>=1536K"},
		{name: "bytes in a range", text: "bytes=1k-1G", want: "bytes=1K-1G"},
		{name: "bytes exact", text: "bytes=0,4096", object: obj("bytes", []any{0, 4096.0}), want: "bytes=0,4K"},
		{name: "most bytes", text: "bytes=<18446744073709551615", object: obj("bytes", "<18446744073709551615")},
		{name: "terabytes", text: "bytes=>2T"},
		{name: "packets", text: "packets=<=1000,!5"},
		{name: "timeout", text: "timeout=<60", want: "timeout=<1m"},
		{name: "age", text: "age=1h-2h", object: obj("age", "3600-7200")},
		{name: "age in words", text: "age=>1h30m,<90s", want: "age=>90m,<90"},
		{name: "age in days", text: "age=>=1.5d", want: "age=>=36h"},
		{name: "rate", text: "rate=!>1M", object: obj("rate", "!>1M")},
		{
			name: "alternatives", text: "proto=tcp dport=22 OR proto=udp  or  addr=10.0.0.1",
			object: []any{obj("proto", "tcp", "dport", 22), obj("proto", "udp"), obj("addr", "10.0.0.1")},
			want:   "proto=tcp dport=22 or proto=udp or addr=10.0.0.1",
		},
		{
			name: "alternatives in Go's maps", text: "proto=tcp or proto=udp",
			object: []map[string]any{obj("proto", "tcp"), obj("proto", "udp")},
		},
		{name: "array of one", text: "proto=tcp", object: []any{obj("proto", "tcp")}},
		{name: "text as a value", text: "proto=tcp dport=22", object: "dport=22 proto=tcp", want: "proto=tcp dport=22"},
		{
			name: "ports", text: "sport=1 dport=2 reply_src=10.0.0.1 reply_dst=10.0.0.2 reply_sport=3 reply_dport=4 port=5",
			want: "sport=1 dport=2 reply_src=10.0.0.1 reply_dst=10.0.0.2 reply_sport=3 reply_dport=4 port=5",
		},
	}
}

func TestFilterForms(t *testing.T) {
	for _, tt := range filterCases() {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if want == "" {
				want = tt.text
			}
			f, err := ParseFilter(tt.text)
			if err != nil {
				t.Fatalf("parse %q: %v", tt.text, err)
			}
			if diff := cmp.Diff(want, f.String()); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
			if f.IsZero() {
				t.Error("the filter matches everything")
			}
			checkForms(t, f)
			if tt.object == nil {
				return
			}
			g, err := FilterFromValue(tt.object)
			if err != nil {
				t.Fatalf("object: %v", err)
			}
			if diff := cmp.Diff(want, g.String()); diff != "" {
				t.Errorf("text of the object (-want +got):\n%s", diff)
			}
		})
	}
}

// checkForms holds each form of f against the other.
func checkForms(t *testing.T, f Filter) {
	t.Helper()
	g, err := ParseFilter(f.String())
	if err != nil {
		t.Fatalf("parse %q again: %v", f, err)
	}
	if diff := cmp.Diff(f.String(), g.String()); diff != "" {
		t.Errorf("parsed again (-want +got):\n%s", diff)
	}
	g, err = FilterFromValue(f.Value())
	if err != nil {
		t.Fatalf("read the object %v of %q: %v", f.Value(), f, err)
	}
	if diff := cmp.Diff(f.String(), g.String()); diff != "" {
		t.Errorf("from the object (-want +got):\n%s", diff)
	}
	// The object form survives JSON.
	data, err := json.Marshal(f.Value())
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if g, err = FilterFromValue(v); err != nil || !g.Equal(f) {
		t.Errorf("from JSON %s: %q, %v, want %q", data, g, err, f)
	}
}

func TestFilterZero(t *testing.T) {
	for _, v := range []any{nil, "", " \t\n", map[string]any{}, []any{}, []any{map[string]any{}}} {
		f, err := FilterFromValue(v)
		if err != nil || !f.IsZero() || f.String() != "" || !f.Match(&Flow{}) {
			t.Errorf("%#v: %q, zero %v, error %v", v, f, f.IsZero(), err)
		}
		if diff := cmp.Diff(any(map[string]any{}), f.Value()); diff != "" {
			t.Errorf("object form (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(pushdown{}, f.pushdown(), pushdownOpts()...); diff != "" {
			t.Errorf("pushdown (-want +got):\n%s", diff)
		}
	}
}

func TestFilterErrors(t *testing.T) {
	for _, tt := range []struct {
		name  string
		value any
		field string
		msg   string // part of the message
		hint  string // part of the hint
	}{
		{"misspelt", "prot=tcp", "prot", "unknown field", "did you mean proto?"},
		{"swapped letters", "dprot=22", "dprot", "unknown field", "did you mean dport?"},
		{"capitals", "DPORT=22", "DPORT", "unknown field", "did you mean dport?"},
		{"misspelt in an object", map[string]any{"adr": "10.0.0.1"}, "adr", "unknown field", "did you mean addr?"},
		{"another program's name", "protocol=tcp", "protocol", "unknown field", "did you mean proto?"},
		{"nothing near", "colour=red", "colour", "unknown field", "the fields are family, proto, src"},
		{"no value", "src=", "src", "empty value", "leave the field out"},
		{"empty in a list", "src=10.0.0.1,,10.0.0.2", "src", "empty value", ""},
		{"comma at the end", "dport=80,", "dport", "empty value", ""},
		{"only not", "dport=!", "dport", "empty value", ""},
		{"empty quotes", `user=""`, "user", "empty value", ""},
		{"empty text in an object", map[string]any{"src": ""}, "src", "empty value", ""},
		{"null in an object", map[string]any{"src": nil}, "src", "not a value but null", "leave the field out"},
		{"empty list in an object", map[string]any{"src": []any{}}, "src", "no value", "leave the field out"},
		{"object in an object", map[string]any{"src": map[string]any{}}, "src", "not a value but an object", ""},
		{"list in a list in an object", map[string]any{"src": []any{[]any{"10.0.0.1"}}}, "src", "not a value but a list", ""},
		{"not a number", map[string]any{"id": math.NaN()}, "id", "not a value", ""},
		{"fraction", map[string]any{"dport": 80.5}, "dport", "not a number", "0 to 65535"},
		{"negative", map[string]any{"dport": -1}, "dport", "not a number", "0 to 65535"},
		{"boolean port", map[string]any{"dport": true}, "dport", "not a number", "0 to 65535"},
		{"twice", "src=10.0.0.1 src=10.0.0.2", "src", "stands twice", "src=A,B"},
		{"negated twice", "src=!!10.0.0.1", "src", "negated twice", ""},
		{"word alone", "tcp", "", "not of the form", ""},
		{"field alone", "dport", "", "not of the form", "dport=80,443"},
		{"list with spaces", "dport=80, 443", "dport", "empty value", ""},
		{"comparison without =", "bytes>1M", "", "not of the form", "write bytes=>1M"},
		{"comparison before =", "bytes>=1M", "", "not of the form", "write bytes=>=1M"},
		{"not before =", "dport!=22", "", "not of the form", "write dport=!22"},
		{"or at the start", "or proto=tcp", "", "without fields", ""},
		{"or at the end", "proto=tcp or", "", "without fields", ""},
		{"or twice", "proto=tcp or or proto=udp", "", "without fields", ""},
		{"or alone", "or", "", "without fields", ""},
		{"empty object among others", []any{map[string]any{"proto": "tcp"}, map[string]any{}}, "", "without fields", ""},
		{"texts in an array", []any{"proto=tcp", "dport=22"}, "", "holds objects, not a text", ""},
		{"number", 5, "", "not a filter but a number", ""},
		{"quote not closed", `user="Jane`, "", "not closed", ""},
		{"quote inside", `user=Ja"ne"`, "user", "quote inside", ""},
		{"text after a quote", `user="Jane"Doe`, "user", "after the closing quote", ""},
		{"unknown escape", `user="a\nb"`, "user", "escape", ""},
		{"control character", "user=a\x01b", "user", "control characters", ""},
		{"not UTF-8", "user=a\xffb", "user", "UTF-8", ""},
		{"family", "family=ipv5", "family", "not an address family", "ipv4 or ipv6"},
		{"any family", "family=any", "family", "not an address family", "leave the field out"},
		{"protocol", "proto=tpc", "proto", "not a protocol", "did you mean tcp?"},
		{"protocol number", "proto=256", "proto", "not a protocol", "0 to 255"},
		{"address", "src=10.0.0.300", "src", "not an address", "10.0.0.0/8"},
		{"address with a zone", "src=fe80::1%eth0", "src", "not an address", ""},
		{"prefix too long", "src=10.0.0.0/33", "src", "not an address", ""},
		{"reversed addresses", "src=10.0.0.9-10.0.0.1", "src", "not an address", ""},
		{"range of two families", "src=10.0.0.1-::1", "src", "not an address", ""},
		{"host name", "src=example.com", "src", "not an address", ""},
		{"port", "dport=65536", "dport", "not a number", "0 to 65535"},
		{"port name", "dport=ssh", "dport", "not a number", ""},
		{"reversed ports", "dport=443-80", "dport", "not a number or range", ""},
		{"half a range", "dport=80-", "dport", "not a number or range", ""},
		{"any port", "dport=*", "dport", "not a number or range", ""},
		{"zone", "zone=65536", "zone", "not a number", ""},
		{"id", "id=4294967296", "id", "not a number", ""},
		{"mark", "mark=4294967296", "mark", "not a mark", ""},
		{"mask of nothing", "mark=0/0", "mark", "not a mark", "the mask not 0"},
		{"mark beside its mask", "mark=0x11/0x10", "mark", "not a mark", "within it"},
		{"state", "state=ESTABLISH", "state", "not a connection state", "did you mean ESTABLISHED?"},
		{"status", "status=asured", "status", "not a status bit", "did you mean assured?"},
		{"conntrack(8)'s status", "status=UNREPLIED", "status", "not a status bit", "!seen_reply"},
		{"status number", "status=32", "status", "not a status bit", ""},
		{"nat", "nat=masquerade", "nat", "not a kind of translation", "snat, dnat"},
		{"label", "label=128", "label", "not a number", "0 to 127"},
		{"icmp type", "icmp_type=256", "icmp_type", "not a number", "0 to 255"},
		{"unit", "bytes=>10X", "bytes", "not a comparison", "K, M, G or T"},
		{"unit of another field", "timeout=>10M", "timeout", "not a comparison", "s, m, h or d"},
		{"unit where there is none", "packets=>10K", "packets", "not a comparison", "without a unit"},
		{"too much", "bytes=>18446744073709551616", "bytes", "not a comparison", ""},
		{"overflow by the unit", "bytes=99999999T", "bytes", "not a comparison", ""},
		{"part of a byte", "bytes=0.3", "bytes", "not a comparison", ""},
		{"operator alone", "bytes=>", "bytes", "not a comparison", ""},
		{"unknown operator", "bytes=<>5", "bytes", "not a comparison", ""},
		{"operator and range", "bytes=>5-6", "bytes", "not a comparison", ""},
		{"reversed range", "age=2h-1h", "age", "not a range", ""},
		{"units out of order", "age=>30m1h", "age", "not a comparison", ""},
		{"sum without the last unit", "age=>1h30", "age", "not a comparison", ""},
		{"sum of sizes", "bytes=>1M5K", "bytes", "not a comparison", ""},
		{"less than nothing", "bytes=<0", "bytes", "nothing is less", ""},
		{"more than everything", "bytes=>18446744073709551615", "bytes", "nothing is greater", ""},
		{"limits as alternatives", "bytes=>1K,<1M", "bytes", "leave no flow out", "write a range"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := FilterFromValue(tt.value)
			var e *FilterError
			if !errors.As(err, &e) {
				t.Fatalf("%q, %v, want a *FilterError", f, err)
			}
			if !f.IsZero() {
				t.Errorf("a filter beside the error: %q", f)
			}
			if e.Field != tt.field || !strings.Contains(e.Msg, tt.msg) || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("%+v, want field %q, %q, hint %q", e, tt.field, tt.msg, tt.hint)
			}
			if !strings.HasPrefix(e.Error(), "filter: ") || strings.ContainsAny(e.Error(), "\n\x01") || !utf8.ValidString(e.Error()) {
				t.Errorf("message %q", e.Error())
			}
		})
	}
}

func TestFilterErrorShort(t *testing.T) {
	_, err := ParseFilter("src=" + strings.Repeat("é", MaxFilterText/3))
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("%d bytes: %.300v", len(err.Error()), err)
	}
}

func TestFilterLimits(t *testing.T) {
	long := func(n int) string { return "user=" + strings.Repeat("u", n-len("user=")) }
	clauses := func(n int) string { return strings.Repeat("dport=1 or ", n-1) + "dport=1" }
	values := func(n int) string { // half of them in a second field: all count
		return "user=x" + strings.Repeat(",x", n/2-1) + " helper=x" + strings.Repeat(",x", n-n/2-1)
	}
	for _, tt := range []struct {
		name string
		of   func(int) string
		max  int
		msg  string
	}{
		{"text", long, MaxFilterText, "longer than"},
		{"clauses", clauses, MaxFilterClauses, "alternatives"},
		{"values", values, MaxFilterValues, "values in the filter"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseFilter(tt.of(tt.max)); err != nil {
				t.Errorf("at the limit: %v", err)
			}
			if _, err := ParseFilter(tt.of(tt.max + 1)); err == nil || !strings.Contains(err.Error(), tt.msg) {
				t.Errorf("beyond the limit: %v", err)
			}
		})
	}
	t.Run("object", func(t *testing.T) {
		if _, err := FilterFromValue(map[string]any{"user": strings.Repeat("u", MaxFilterText-len("user="))}); err != nil {
			t.Errorf("at the limit: %v", err)
		}
		if _, err := FilterFromValue(map[string]any{"user": strings.Repeat("u", MaxFilterText-len("user=")+1)}); err == nil {
			t.Error("beyond the limit: no error")
		}
		// Each of these is short, all together are not.
		if _, err := FilterFromValue(map[string]any{"user": []any{
			strings.Repeat("u", MaxFilterText/2), strings.Repeat("v", MaxFilterText/2),
		}}); err == nil {
			t.Error("together beyond the limit: no error")
		}
	})
	t.Run("printed", func(t *testing.T) { // the space needs two quotes in the text
		name := "u " + strings.Repeat("u", MaxFilterText-len(`user="u "`))
		f, err := FilterFromValue(map[string]any{"user": name})
		if err != nil || len(f.String()) != MaxFilterText {
			t.Errorf("at the limit: %d bytes, %v", len(f.String()), err)
		}
		checkForms(t, f)
		if _, err := FilterFromValue(map[string]any{"user": name + "u"}); err == nil {
			t.Error("beyond the limit: no error")
		}
	})
}

func TestFilterText(t *testing.T) {
	type config struct{ Filter Filter }
	f, err := ParseFilter(`user="Jane Doe" or dport=22`)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(config{f})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"Filter":"user=\"Jane Doe\" or dport=22"}`, string(data)); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	var got config
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config{f}, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if err := json.Unmarshal([]byte(`{"Filter": "dprot=22"}`), &got); err == nil || !got.Filter.Equal(f) {
		t.Errorf("a bad filter: %v, %q", err, got.Filter)
	}
}

func TestFilterFields(t *testing.T) {
	seen := map[string]bool{}
	for _, field := range FilterFields() {
		if field.Name == "" || field.Summary == "" || seen[field.Name] {
			t.Errorf("%+v", field)
		}
		seen[field.Name] = true
		f, err := ParseFilter(field.Name + "=" + field.Example)
		if err != nil {
			t.Errorf("example: %v", err)
			continue
		}
		if !f.Uses(field.Name) || f.Uses("") || (Filter{}).Uses(field.Name) {
			t.Errorf("%q: uses %v", f, f.Uses(field.Name))
		}
		checkForms(t, f)
	}
	f, _ := ParseFilter("proto=tcp or rate=>1M")
	if !f.Uses("rate") || f.Uses("bytes") {
		t.Error("uses of the second alternative")
	}
	FilterFields()[0].Name = "changed"
	if FilterFields()[0].Name == "changed" {
		t.Error("the list can be changed from outside")
	}
}

func TestFilterAge(t *testing.T) {
	f, err := ParseFilter("age=>=1h")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	fl := &Flow{Start: now.Add(-time.Hour).UnixNano()}
	if !f.At(now).Match(fl) || f.At(now.Add(-time.Nanosecond)).Match(fl) {
		t.Error("age at a given time")
	}
	if !f.Match(fl) {
		t.Error("age by the clock")
	}
	fl.Start = time.Now().UnixNano()
	if f.Match(fl) {
		t.Error("age by the clock of a new flow")
	}
}

func FuzzFilter(f *testing.F) {
	for _, tt := range filterCases() {
		f.Add(tt.text)
	}
	f.Add(`user="a\"b`)
	f.Add("bytes=!>=0x1,1.5K-2.50k")
	f.Add("mark=0x1-0xff,!0x10/0x30 or src=::ffff:1.2.3.4/97")
	fl := &Flow{Orig: Tuple{Src: v4(10, 0, 0, 1), Dst: v4(10, 0, 0, 2), Proto: TCP, SrcPort: 1, DstPort: 2}}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := ParseFilter(text)
		if err != nil {
			if msg := err.Error(); len(msg) > 1000 {
				t.Errorf("an error of %d bytes", len(msg))
			}
			return
		}
		if parsed.IsZero() != (strings.Trim(text, filterSpace) == "") {
			t.Errorf("%q: zero %v", text, parsed.IsZero())
		}
		parsed.Match(fl)
		parsed.pushdown()
		checkForms(t, parsed)
	})
}
