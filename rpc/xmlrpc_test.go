package rpc

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kolo "github.com/kolo/xmlrpc"

	"ctd/rpc/wire"
)

// methodCall makes a document that calls a method with values, each the inside of <value>.
func methodCall(method string, values ...string) string {
	var b strings.Builder
	b.WriteString("<methodCall><methodName>" + method + "</methodName><params>")
	for _, v := range values {
		b.WriteString("<param><value>" + v + "</value></param>")
	}
	b.WriteString("</params></methodCall>")
	return b.String()
}

// xmlCase is a document and what is read from it. The cases are the fuzz target's seeds too.
type xmlCase struct {
	name string
	doc  string
	want []any
	code wire.Code // of the error; empty where it can be read
}

func xmlScalars() []xmlCase {
	one := func(name, value string, want any) xmlCase {
		return xmlCase{name: name, doc: methodCall("m", value), want: []any{want}}
	}
	date := time.Date(1998, 7, 17, 14, 8, 55, 0, time.UTC)
	return []xmlCase{
		one("i4", "<i4>-12</i4>", int64(-12)),
		one("int with a plus and space", "<int> +41\n</int>", int64(41)),
		one("i8", "<i8>9223372036854775807</i8>", int64(math.MaxInt64)),
		one("int above 63 bits", "<int>18446744073709551615</int>", uint64(math.MaxUint64)),
		one("ex:i8 undeclared", "<ex:i8>4294967295</ex:i8>", int64(math.MaxUint32)),
		one("ex:i1", "<ex:i1>1</ex:i1>", int64(1)),
		one("ex:i2", "<ex:i2>2</ex:i2>", int64(2)),
		one("ex:float", "<ex:float>1.5</ex:float>", 1.5),
		one("ex:nil", "<ex:nil/>", nil),
		one("ex:dateTime", "<ex:dateTime>1998-07-17T14:08:55.25Z</ex:dateTime>", date.Add(250*time.Millisecond)),
		one("nil", "<nil/>", nil),
		one("true", "<boolean>1</boolean>", true),
		one("false", "<boolean>0</boolean>", false),
		one("string", "<string> a &lt;&amp;&#233;&#x1F600;\n</string>", " a <&é😀\n"),
		one("string in CDATA", "<string><![CDATA[<b>]]></string>", "<b>"),
		one("string with a comment", "<string>a<!-- b -->c</string>", "ac"),
		one("untyped", "plain", "plain"),
		one("untyped and empty", "", ""),
		one("untyped space", "  ", "  "),
		one("space around the type", "\n <int>1</int>\n", int64(1)),
		one("double", "<double>-12.214</double>", -12.214),
		one("double with exponent", "<double>1e3</double>", 1000.0),
		one("dateTime", "<dateTime.iso8601>19980717T14:08:55</dateTime.iso8601>", date),
		one("dateTime with dashes", "<dateTime.iso8601>1998-07-17T14:08:55Z</dateTime.iso8601>", date),
		one("base64 in lines", "<base64>eW91IGNhbid0\n IHJlYWQ=</base64>", []byte("you can't read")),
		one("struct", "<struct><member><name>a</name><value>1</value></member><member><name/><value><nil/></value></member></struct>", map[string]any{"a": "1", "": nil}),
		one("empty struct", "<struct/>", map[string]any{}),
		one("array", "<array><data><value><i4>1</i4></value><value/></data></array>", []any{int64(1), ""}),
		one("empty array", "<array><data/></array>", []any{}),
		{name: "no params element", doc: "<methodCall><methodName>m</methodName></methodCall>"},
		{name: "indented", doc: "<?xml version='1.0'?>\n<!-- c -->\n<methodCall>\n <methodName> m </methodName>\n <params>\n  <param>\n   <value>\n    <i4>1</i4>\n   </value>\n  </param>\n </params>\n</methodCall>\n<!-- end -->\n", want: []any{int64(1)}},
		{name: "ex declared", doc: strings.Replace(methodCall("m", "<ex:i8>5</ex:i8>"), "<methodCall>", `<methodCall xmlns:ex="`+extensions+`">`, 1), want: []any{int64(5)}},
		{name: "ex by another prefix", doc: strings.Replace(methodCall("m", "<q:i8>5</q:i8>"), "<methodCall>", `<methodCall xmlns:q="`+extensions+`">`, 1), want: []any{int64(5)}},
	}
}

func xmlEncodings() []xmlCase {
	doc := func(encoding, text string) string {
		return `<?xml version="1.0" encoding="` + encoding + `"?>` + methodCall("m", text)
	}
	return []xmlCase{
		{name: "UTF-8", doc: doc("UTF-8", "é"), want: []any{"é"}},
		{name: "UTF-8 with a byte order mark", doc: "\ufeff" + doc("utf-8", "é"), want: []any{"é"}},
		{name: "byte order mark without a declaration", doc: "\ufeff" + methodCall("m", "é"), want: []any{"é"}},
		{name: "ISO-8859-1", doc: doc("ISO-8859-1", "\xe9\x80"), want: []any{"é\u0080"}},
		{name: "US-ASCII", doc: doc("US-ASCII", "e&#233;"), want: []any{"eé"}},
		{name: "windows-1252", doc: doc("windows-1252", "\x80"), want: []any{"€"}},
		{name: "ISO-8859-15", doc: doc("iso-8859-15", "\xa4"), want: []any{"€"}},
		{name: "Shift_JIS", doc: doc("Shift_JIS", "\x82\xa0"), want: []any{"あ"}},
		{name: "not UTF-8", doc: doc("UTF-8", "\xe9"), code: wire.InvalidCharacter},
		{name: "not ASCII", doc: doc("US-ASCII", "\xe9"), code: wire.InvalidCharacter},
		{name: "not Shift_JIS", doc: doc("Shift_JIS", "\x82"), code: wire.InvalidCharacter},
		{name: "unknown encoding", doc: doc("KLINGON-1", "a"), code: wire.UnsupportedEncoding},
		{name: "declared as UTF-16 but ASCII", doc: doc("UTF-16", "a"), code: wire.UnsupportedEncoding},
		{name: "UTF-16", doc: "\xff\xfe<\x00", code: wire.UnsupportedEncoding},
		{name: "malformed declaration", doc: `<?xml version="1.0" encoding=utf-8?>` + methodCall("m"), code: wire.ParseError},
		{name: "second declaration", doc: doc("utf-8", "<?xml version='1.0'?>"), code: wire.ParseError},
		{name: "space before the declaration", doc: " " + doc("utf-8", "a"), code: wire.ParseError},
	}
}

func xmlErrors() []xmlCase {
	value := func(name, v string, code wire.Code) xmlCase {
		return xmlCase{name: name, doc: methodCall("m", v), code: code}
	}
	doc := func(name, d string, code wire.Code) xmlCase { return xmlCase{name: name, doc: d, code: code} }
	parse, invalid := wire.ParseError, wire.InvalidRequest
	return []xmlCase{
		doc("empty", "", parse),
		doc("text", "hello", invalid),
		doc("truncated", methodCall("m", "<i4>1</i4>")[:60], parse),
		doc("document type", `<!DOCTYPE methodCall>`+methodCall("m"), parse),
		doc("entities", `<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>`+methodCall("m", "&b;"), parse),
		doc("external entity", `<!DOCTYPE m [<!ENTITY a SYSTEM "file:///etc/passwd">]>`+methodCall("m", "&a;"), parse),
		value("undefined entity", "&nbsp;", parse),
		value("reference to a control character", "&#1;", parse),
		value("control character", "\x01", parse),
		value("wrong end tag", "<int>1</i4>", parse),
		doc("trailing element", methodCall("m")+"<a/>", parse),
		doc("trailing text", methodCall("m")+"a", parse),
		doc("two documents", methodCall("m")+methodCall("m"), parse),
		doc("a response", "<methodResponse/>", invalid),
		doc("no methodName", "<methodCall><params/></methodCall>", invalid),
		doc("empty methodName", "<methodCall><methodName> </methodName></methodCall>", invalid),
		doc("two methodNames", "<methodCall><methodName>a</methodName><methodName>b</methodName></methodCall>", invalid),
		doc("element in methodName", "<methodCall><methodName><b/></methodName></methodCall>", invalid),
		doc("two params", "<methodCall><methodName>a</methodName><params/><params/></methodCall>", invalid),
		doc("param without a value", "<methodCall><methodName>a</methodName><params><param/></params></methodCall>", invalid),
		doc("param with two values", "<methodCall><methodName>a</methodName><params><param><value/><value/></param></params></methodCall>", invalid),
		doc("value without a param", "<methodCall><methodName>a</methodName><params><value/></params></methodCall>", invalid),
		doc("text between elements", "<methodCall>x<methodName>a</methodName></methodCall>", invalid),
		value("unknown type", "<integer>1</integer>", invalid),
		value("unknown extension", "<ex:serializable/>", invalid),
		value("type of another namespace", `<int xmlns="urn:x">1</int>`, invalid),
		value("two types", "<int>1</int><int>2</int>", invalid),
		value("text before a type", "a<int>1</int>", invalid),
		value("text after a type", "<int>1</int>a", invalid),
		value("empty int", "<int/>", invalid),
		value("hexadecimal int", "<int>0x10</int>", invalid),
		value("int above 64 bits", "<int>18446744073709551616</int>", invalid),
		value("boolean true", "<boolean>true</boolean>", invalid),
		value("double inf", "<double>inf</double>", invalid),
		value("double too large", "<double>1e999</double>", invalid),
		value("hexadecimal double", "<double>0x1p4</double>", invalid),
		value("bad date", "<dateTime.iso8601>yesterday</dateTime.iso8601>", invalid),
		value("bad base64", "<base64>a</base64>", invalid),
		value("nil with text", "<nil>x</nil>", invalid),
		value("duplicate member", "<struct><member><name>a</name><value/></member><member><name>a</name><value/></member></struct>", invalid),
		value("member without a name", "<struct><member><value/></member></struct>", invalid),
		value("member without a value", "<struct><member><name>a</name></member></struct>", invalid),
		value("member with two values", "<struct><member><name>a</name><value/><value/></member></struct>", invalid),
		value("array without data", "<array/>", invalid),
		value("array with two data", "<array><data/><data/></array>", invalid),
		value("too deep", nested(maxDepth+1), wire.LimitExceeded),
	}
}

func nested(depth int) string {
	return strings.Repeat("<array><data><value>", depth-1) + "<array><data/></array>" + strings.Repeat("</value></data></array>", depth-1)
}

func TestParseXML(t *testing.T) {
	for _, cases := range [][]xmlCase{xmlScalars(), xmlEncodings(), xmlErrors()} {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				method, args, err := parseWholeXML([]byte(c.doc), "")
				if c.code != "" {
					if err == nil || err.Code != c.code {
						t.Fatalf("got %v, %v, want %s", args, err, c.code)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, args); diff != "" || method != "m" {
					t.Errorf("method %q, arguments (-want +got):\n%s", method, diff)
				}
			})
		}
	}
	if _, _, err := parseWholeXML([]byte(methodCall("m", nested(maxDepth))), ""); err != nil {
		t.Errorf("depth %d: %v", maxDepth, err)
	}
	if _, args, err := parseWholeXML([]byte(methodCall("m", "\xe9")), "iso-8859-1"); err != nil || args[0] != "é" {
		t.Errorf("charset of the content type: got %v, %v", args, err)
	}
}

// xmlRPC sends a document and decodes the answer: a tree, or a fault's number.
func (f *fixture) xmlRPC(t testing.TB, role, doc string) (any, int) {
	t.Helper()
	w := f.post(t, role, "text/xml", doc)
	if w.Header().Get("Content-Type") != xmlContentType {
		t.Errorf("content type %q", w.Header().Get("Content-Type"))
	}
	return parseResponse(t, w.Body.String())
}

// parseResponse reads a methodResponse by the parser for requests, which has the same values.
func parseResponse(t testing.TB, body string) (any, int) {
	t.Helper()
	if err := xml.Unmarshal([]byte(body), new(struct {
		XMLName xml.Name `xml:"methodResponse"`
	})); err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	fault := strings.Contains(body, "<methodResponse><fault>")
	body = strings.Replace(body, "<methodResponse>", "<methodCall><methodName>m</methodName>", 1)
	body = strings.Replace(body, "</methodResponse>", "</methodCall>", 1)
	if fault {
		body = strings.Replace(body, "<fault>", "<params><param>", 1)
		body = strings.Replace(body, "</fault>", "</param></params>", 1)
	}
	_, args, err := parseWholeXML([]byte(body), "")
	if err != nil || len(args) != 1 {
		t.Fatalf("answer %q has %d values, %v", body, len(args), err)
	}
	if fault {
		code, ok := args[0].(map[string]any)["faultCode"].(int64)
		if text, _ := args[0].(map[string]any)["faultString"].(string); !ok || text == "" {
			t.Fatalf("answer %q is no fault", body)
		}
		return nil, int(code)
	}
	return args[0], 0
}

func structOf(members ...string) string {
	var b strings.Builder
	b.WriteString("<struct>")
	for i := 0; i < len(members); i += 2 {
		b.WriteString("<member><name>" + members[i] + "</name><value>" + members[i+1] + "</value></member>")
	}
	b.WriteString("</struct>")
	return b.String()
}

func TestXMLRPC(t *testing.T) {
	for _, c := range []struct {
		name, doc string
		want      any
		code      wire.Code
		methods   int64
	}{
		{name: "positional", doc: methodCall("subtract", "<int>42</int>", "23"), want: int64(19), methods: 1},
		{name: "named", doc: methodCall("subtract", structOf("subtrahend", "<i8>23</i8>", "minuend", "0x2a")), want: int64(19), methods: 1},
		{name: "lone struct with a parameter's name", doc: methodCall("select", structOf("limit", "<double>5</double>")), want: map[string]any{"limit": int64(5), "set": map[string]any{}}, methods: 1},
		{name: "lone struct that is the first parameter", doc: methodCall("select", structOf("dport", "<int>22</int>")), want: map[string]any{"filter": map[string]any{"dport": int64(22)}, "set": map[string]any{}}, methods: 1},
		{name: "lone struct with a misspelt name beside a right one", doc: methodCall("select", structOf("limit", "1", "fitler", "x")), code: wire.InvalidParams},
		{name: "lone struct where the first parameter is a number", doc: methodCall("subtract", structOf("minuent", "1")), code: wire.InvalidParams},
		{name: "empty struct", doc: methodCall("select", structOf()), want: map[string]any{"set": map[string]any{}}, methods: 1},
		{name: "two structs", doc: methodCall("select", structOf("a", "b"), "<nil/>", structOf("state", "NONE")), want: map[string]any{"filter": map[string]any{"a": "b"}, "set": map[string]any{"state": "NONE"}}, methods: 1},
		{name: "nothing", doc: methodCall("notify_hello", structOf("Names", "<array><data/></array>")), want: "", methods: 1},
		{name: "number of 32 bits", doc: methodCall("echo", "<i8>-2147483648</i8>"), want: int64(math.MinInt32), methods: 1},
		{name: "number above 31 bits", doc: methodCall("echo", "<i8>2147483648</i8>"), want: "2147483648", methods: 1},
		{name: "number above 63 bits", doc: methodCall("echo", "<i8>18446744073709551615</i8>"), want: "18446744073709551615", methods: 1},
		{name: "fraction", doc: methodCall("echo", "<double>0.0000001</double>"), want: 0.0000001, methods: 1},
		{name: "bytes", doc: methodCall("echo", "<base64>AAE=</base64>"), want: []byte{0, 1}, methods: 1},
		{name: "time", doc: methodCall("echo", "<dateTime.iso8601>20261122T01:02:03</dateTime.iso8601>"), want: "2026-11-22T01:02:03Z", methods: 1},
		{name: "member without a value", doc: methodCall("echo", "<struct><member><name>value</name><value>"+structOf("a", "<nil/>", "b", "1")+"</value></member></struct>"), want: map[string]any{"b": "1"}, methods: 1},
		{name: "no method", doc: methodCall("substract"), code: wire.MethodNotFound},
		{name: "of a higher role", doc: methodCall("kill"), code: wire.PermissionDenied},
		{name: "session", doc: methodCall("session.raw", "<int>5</int>", "6"), want: int64(11), methods: 1},
		{name: "kernel's answer", doc: methodCall("fail"), code: wire.NotFound, methods: 1},
		{name: "panic", doc: methodCall("fail", "panic"), code: wire.Internal, methods: 1},
		{name: "stream that fails early", doc: methodCall("stream", "<int>3</int>", "x"), code: wire.Busy, methods: 1},
		{name: "malformed", doc: methodCall("subtract", "<int>42</int>", "<int/>"), code: wire.InvalidRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture()
			got, code := f.xmlRPC(t, wire.RoleViewer, c.doc)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if want := c.code; want != "" && code != want.Number() || want == "" && code != 0 {
				t.Errorf("fault %d, want %s", code, want)
			}
			if f.ran.Load() != c.methods {
				t.Errorf("%d methods ran, want %d", f.ran.Load(), c.methods)
			}
		})
	}
}

func TestMulticall(t *testing.T) {
	call := func(method string, params ...string) string {
		return "<value>" + structOf("methodName", method, "params", "<array><data><value>"+strings.Join(params, "</value><value>")+"</value></data></array>") + "</value>"
	}
	list := func(calls ...string) string { return "<array><data>" + strings.Join(calls, "") + "</data></array>" }
	f := newFixture()
	got, code := f.xmlRPC(t, wire.RoleViewer, methodCall("system.multicall", list(
		call("subtract", "5", "3"), call("kill"), call("stream", "2", "x"), call("system.multicall", list()),
		"<value>x</value>", "<value>"+structOf("methodName", "sum")+"</value>", call("sum", "1"),
		"<value>"+structOf("methodName", "sum", "parms", "")+"</value>")))
	if code != 0 {
		t.Fatalf("fault %d", code)
	}
	var kinds []any
	for _, item := range got.([]any) {
		switch item := item.(type) {
		case []any:
			kinds = append(kinds, item...)
		case map[string]any:
			kinds = append(kinds, wire.CodeOf(int(item["faultCode"].(int64))))
		}
	}
	want := []any{int64(2), wire.PermissionDenied, wire.Busy, wire.InvalidParams, wire.InvalidParams, int64(0), int64(1), wire.InvalidParams}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	for n, want := range map[int]int{maxBatch: 0, maxBatch + 1: wire.LimitExceeded.Number()} {
		if _, code := f.xmlRPC(t, wire.RoleViewer, methodCall("system.multicall", list(strings.Repeat(call("sum", "1"), n)))); code != want {
			t.Errorf("%d calls: fault %d, want %d", n, code, want)
		}
	}
}

// TestKolo has another implementation's client call us.
func TestKolo(t *testing.T) {
	s := newFixture().serve(t)
	client, err := kolo.NewClient(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var difference int
	if err := client.Call("subtract", []any{42, 23}, &difference); err != nil || difference != 19 {
		t.Errorf("subtract: %d, %v", difference, err)
	}
	in := map[string]any{"value": map[string]any{"text": "a<b>&\"é\r\n", "list": []any{"x", int64(7)}, "yes": true, "half": 0.5, "large": int64(4294967295)}}
	var out map[string]any
	if err := client.Call("echo", in, &out); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"text": "a<b>&\"é\r\n", "list": []any{"x", int64(7)}, "yes": true, "half": 0.5, "large": "4294967295"}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("echo (-want +got):\n%s", diff)
	}
	err = client.Call("kill", nil, nil)
	// Its client passes a fault on as the text of an error of net/rpc.
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(wire.PermissionDenied.Number())) {
		t.Errorf("kill: %v, want a fault", err)
	}
}

func TestXMLText(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\n":               "a\tb\n",
		"a\rb":                 "a\rb",
		"\x00\x1f\ufffe\uffff": "\ufffd\ufffd\ufffd\ufffd",
		"\xff":                 "\ufffd",
		"]]><&":                "]]><&",
		"é😀":                   "é😀",
	} {
		e := &xmlEncoder{}
		e.str(in)
		_, args, err := parseWholeXML([]byte("<methodCall><methodName>m</methodName><params><param>"+string(e.buf)+"</param></params></methodCall>"), "")
		if err != nil || args[0] != want {
			t.Errorf("%q: reads as %q, %v, want %q", in, args, err, want)
		}
	}
}

// asSent is a tree as the encoder sends it: without nil members and large or odd numbers.
func asSent(v any) any {
	switch v := v.(type) {
	case nil:
		return ""
	case int64:
		if v < math.MinInt32 || v > math.MaxInt32 {
			return strconv.FormatInt(v, 10)
		}
	case uint64:
		return strconv.FormatUint(v, 10)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = asSent(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any)
		for name, member := range v {
			if member != nil {
				out[name] = asSent(member)
			}
		}
		return out
	}
	return v
}

func FuzzXMLRPC(f *testing.F) {
	for _, cases := range [][]xmlCase{xmlScalars(), xmlEncodings(), xmlErrors()} {
		for _, c := range cases {
			f.Add([]byte(c.doc))
		}
	}
	f.Add([]byte(methodCall("subtract", "<int>42</int>", "23")))
	f.Add([]byte(methodCall("system.multicall", "<array><data><value>"+structOf("methodName", "sum")+"</value></data></array>")))
	f.Fuzz(func(t *testing.T, doc []byte) {
		fix := newFixture()
		w := fix.post(t, wire.RoleViewer, "text/xml", string(doc))
		_, code := parseResponse(t, w.Body.String())
		_, args, err := parseWholeXML(doc, "")
		if err != nil {
			if fix.ran.Load() > 0 || code != err.Code.Number() {
				t.Errorf("%d methods ran, fault %d, although: %v", fix.ran.Load(), code, err)
			}
			return
		}
		e := &xmlEncoder{}
		if err := encodeValue(e, args); err != nil {
			t.Fatal(err)
		}
		_, again, err := parseWholeXML([]byte("<methodCall><methodName>m</methodName><params><param>"+string(e.buf)+"</param></params></methodCall>"), "")
		if err != nil {
			t.Fatalf("encoded %q: %v", e.buf, err)
		}
		if args == nil {
			args = []any{}
		}
		if diff := cmp.Diff(asSent(args), again[0], cmp.Comparer(bytes.Equal)); diff != "" {
			t.Errorf("encoded and decoded again (-want +got):\n%s", diff)
		}
	})
}

// TestFaultHasHint: a fault has no place of its own for a hint.
func TestFaultHasHint(t *testing.T) {
	w := newFixture().post(t, wire.RoleViewer, "text/xml", methodCall("substract"))
	if !strings.Contains(w.Body.String(), "did you mean &#34;subtract&#34;?") && !strings.Contains(w.Body.String(), `did you mean "subtract"?`) || w.Code != http.StatusOK {
		t.Errorf("status %d, answer %q", w.Code, w.Body)
	}
}

func TestXMLBytes(t *testing.T) {
	e := &xmlEncoder{}
	e.bytes([]byte{0xff, 0})
	if want := fmt.Sprintf("<value><base64>%s</base64></value>", base64.StdEncoding.EncodeToString([]byte{0xff, 0})); string(e.buf) != want {
		t.Errorf("got %q, want %q", e.buf, want)
	}
}
