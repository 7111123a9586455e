package ctdclient

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctd/rpc/wire"
)

func TestEncodeXML(t *testing.T) {
	const head = `<?xml version="1.0" encoding="UTF-8"?><methodCall><methodName>m</methodName><params><param><value>`
	const tail = `</value></param></params></methodCall>`
	for name, tc := range map[string]struct {
		params any
		want   string
	}{
		"nothing":         {nil, "<struct></struct>"},
		"31 bits":         {map[string]any{"n": 1<<31 - 1}, "<struct><member><name>n</name><value><int>2147483647</int></value></member></struct>"},
		"32 bits":         {map[string]any{"n": uint32(1 << 31)}, "<struct><member><name>n</name><value><string>2147483648</string></value></member></struct>"},
		"negative":        {map[string]any{"n": -(1 << 31)}, "<struct><member><name>n</name><value><int>-2147483648</int></value></member></struct>"},
		"below 32 bits":   {map[string]any{"n": -(1<<31 + 1)}, "<struct><member><name>n</name><value><string>-2147483649</string></value></member></struct>"},
		"64 bits":         {map[string]any{"n": uint64(1<<64 - 1)}, "<struct><member><name>n</name><value><string>18446744073709551615</string></value></member></struct>"},
		"fraction":        {map[string]any{"n": 0.5}, "<struct><member><name>n</name><value><double>0.5</double></value></member></struct>"},
		"name escaped":    {map[string]any{"a<b": true}, "<struct><member><name>a&lt;b</name><value><boolean>1</boolean></value></member></struct>"},
		"text escaped":    {map[string]any{"f": "bytes=>1M"}, "<struct><member><name>f</name><value><string>bytes=&gt;1M</string></value></member></struct>"},
		"null left out":   {map[string]any{"f": nil}, "<struct></struct>"},
		"list":            {map[string]any{"l": []any{1, "a"}}, "<struct><member><name>l</name><value><array><data><value><int>1</int></value><value><string>a</string></value></data></array></value></member></struct>"},
		"omitted members": {wire.KillParams{All: true}, "<struct><member><name>all</name><value><boolean>1</boolean></value></member></struct>"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := encodeXML("m", tc.params)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(head+tc.want+tail, string(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	if _, err := encodeXML("m", map[string]any{"l": []any{nil}}); err == nil {
		t.Error("null in a list: no error")
	}
	if got, _ := encodeXML("a<b>", nil); !strings.Contains(string(got), "<methodName>a&lt;b&gt;</methodName>") {
		t.Errorf("method name: %s", got)
	}
}

func TestFault(t *testing.T) {
	fault := func(members string) []byte {
		return []byte("<?xml version='1.0'?>\n<methodResponse> <fault><value><struct>" + members + "</struct></value></fault></methodResponse>")
	}
	for name, tc := range map[string]struct {
		text []byte
		want *wire.Error
	}{
		"ours": {
			fault("<member><name>faultCode</name><value><int>-32003</int></value></member><member><name>faultString</name><value><string>gone &amp; over</string></value></member>"),
			&wire.Error{Code: wire.NotFound, Message: "gone & over"},
		},
		"unknown number": {
			fault("<member><name>faultCode</name><value><int>4</int></value></member><member><name>faultString</name><value><string>x</string></value></member>"),
			&wire.Error{Code: wire.Internal, Message: "x"},
		},
		"no number": {fault(""), &wire.Error{Code: wire.Internal, Message: "the server's fault can't be read: the fault holds no faultCode"}},
	} {
		t.Run(name, func(t *testing.T) {
			if !isFault(tc.text) {
				t.Fatal("not taken for a fault")
			}
			var got *wire.Error
			if !errors.As(decodeFault(tc.text), &got) {
				t.Fatal("no *wire.Error")
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	if isFault([]byte("<methodResponse><params><param><value><string>&lt;fault></string></value></param></params></methodResponse>")) {
		t.Error("a text that speaks of a fault is taken for one")
	}
}

// TestResults: the results of all methods are known, so that numbers that come as texts become
// numbers. The methods are those of the documentation, which a test holds to the registry.
func TestResults(t *testing.T) {
	doc, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(doc)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "### ")
		group, _, dotted := strings.Cut(name, ".")
		if !ok || !dotted || group == "system" || group == "rpc" { // introspection has no structs
			continue
		}
		seen++
		if resultOf(name) == nil {
			t.Errorf("%s: its result isn't known here", name)
		}
	}
	if seen < 20 {
		t.Errorf("the documentation has %d methods", seen)
	}
}
