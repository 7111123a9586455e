package rpc

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctd/rpc/wire"
)

// jsonAnswer is an answer without the words of its error.
type jsonAnswer struct {
	ID     json.RawMessage
	Result json.RawMessage
	Code   int
	Kind   wire.Code
	Errno  string
}

func parseAnswer(t testing.TB, text json.RawMessage) jsonAnswer {
	t.Helper()
	var a struct {
		JSONRPC string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Result  json.RawMessage `json:"result"`
		Error   *struct {
			Code    int            `json:"code"`
			Message string         `json:"message"`
			Data    wire.ErrorData `json:"data"`
		} `json:"error"`
	}
	if err := json.Unmarshal(text, &a); err != nil {
		t.Fatalf("answer %q: %v", text, err)
	}
	if a.JSONRPC != "2.0" || (a.Error == nil) == (a.Result == nil) {
		t.Fatalf("answer %q is no JSON-RPC 2.0 response", text)
	}
	out := jsonAnswer{ID: a.ID, Result: a.Result}
	if a.Error != nil {
		out.Code, out.Kind, out.Errno = a.Error.Code, a.Error.Data.Code, a.Error.Data.Errno
		if a.Error.Message == "" {
			t.Errorf("answer %q has an error without a message", text)
		}
	}
	return out
}

func answers(t testing.TB, body string) []jsonAnswer {
	t.Helper()
	if !strings.HasPrefix(body, "[") {
		return []jsonAnswer{parseAnswer(t, json.RawMessage(body))}
	}
	var items []json.RawMessage
	if err := json.Unmarshal([]byte(body), &items); err != nil {
		t.Fatalf("answer %q: %v", body, err)
	}
	var out []jsonAnswer
	for _, item := range items {
		out = append(out, parseAnswer(t, item))
	}
	return out
}

// jsonCase is a request and what comes of it. The cases are the fuzz target's seeds too.
type jsonCase struct {
	name    string
	body    string
	want    []jsonAnswer // nil: no content
	batch   bool
	methods int64 // how many methods run
}

func ok(id, result string) jsonAnswer {
	return jsonAnswer{ID: json.RawMessage(id), Result: json.RawMessage(result)}
}

func bad(id string, code wire.Code) jsonAnswer {
	return jsonAnswer{ID: json.RawMessage(id), Code: code.Number(), Kind: code}
}

// specification are the examples of section 7 of the JSON-RPC 2.0 specification.
func specification() []jsonCase {
	return []jsonCase{
		{"positional 1", `{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}`, []jsonAnswer{ok("1", "19")}, false, 1},
		{"positional 2", `{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}`, []jsonAnswer{ok("2", "-19")}, false, 1},
		{"named 1", `{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}`, []jsonAnswer{ok("3", "19")}, false, 1},
		{"named 2", `{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}`, []jsonAnswer{ok("4", "19")}, false, 1},
		{"notification", `{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}`, nil, false, 1},
		{"notification of no method", `{"jsonrpc": "2.0", "method": "foobar"}`, nil, false, 0},
		{"no method", `{"jsonrpc": "2.0", "method": "foobar", "id": "1"}`, []jsonAnswer{bad(`"1"`, wire.MethodNotFound)}, false, 0},
		{"invalid JSON", `{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]`, []jsonAnswer{bad("null", wire.ParseError)}, false, 0},
		{"invalid request", `{"jsonrpc": "2.0", "method": 1, "params": "bar"}`, []jsonAnswer{bad("null", wire.InvalidRequest)}, false, 0},
		{"batch of invalid JSON", `[
			{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
			{"jsonrpc": "2.0", "method"
		]`, []jsonAnswer{bad("null", wire.ParseError)}, false, 0},
		{"empty batch", `[]`, []jsonAnswer{bad("null", wire.InvalidRequest)}, false, 0},
		{"invalid batch of one", `[1]`, []jsonAnswer{bad("null", wire.InvalidRequest)}, true, 0},
		{"invalid batch", `[1,2,3]`, []jsonAnswer{bad("null", wire.InvalidRequest), bad("null", wire.InvalidRequest), bad("null", wire.InvalidRequest)}, true, 0},
		{"batch", `[
			{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
			{"jsonrpc": "2.0", "method": "notify_hello", "params": []},
			{"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
			{"foo": "boo"},
			{"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
			{"jsonrpc": "2.0", "method": "get_data", "id": "9"}
		]`, []jsonAnswer{ok(`"1"`, "7"), ok(`"2"`, "19"), bad("null", wire.InvalidRequest), bad(`"5"`, wire.MethodNotFound), ok(`"9"`, `["hello",5]`)}, true, 3},
		{"batch of notifications", `[
			{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
			{"jsonrpc": "2.0", "method": "notify_sum", "params": [7]}
		]`, nil, false, 2},
	}
}

func jsonCases() []jsonCase {
	echo := func(v string) string {
		return `{"jsonrpc":"2.0","method":"echo","params":[` + v + `],"id":1}`
	}
	one := func(a jsonAnswer) []jsonAnswer { return []jsonAnswer{a} }
	parse, invalid, params := one(bad("null", wire.ParseError)), one(bad("null", wire.InvalidRequest)), one(bad("1", wire.InvalidParams))
	limit := one(bad("null", wire.LimitExceeded))
	call := `{"jsonrpc":"2.0","method":"get_data","id":1}`
	notFound := bad("1", wire.NotFound)
	notFound.Errno = "ENOENT"
	interrupted := bad("1", wire.Busy)
	interrupted.Errno = "EINTR"
	return []jsonCase{
		{"id is a fraction, kept as text", `{"jsonrpc":"2.0","method":"sum","id":1.50}`, one(ok("1.50", "0")), false, 1},
		{"id is a large number", `{"jsonrpc":"2.0","method":"sum","id":123456789012345678901234567890}`, one(ok("123456789012345678901234567890", "0")), false, 1},
		{"id is null", `{"jsonrpc":"2.0","method":"sum","id":null}`, one(ok("null", "0")), false, 1},
		{"id is empty", `{"jsonrpc":"2.0","method":"sum","id":""}`, one(ok(`""`, "0")), false, 1},
		{"id is an object", `{"jsonrpc":"2.0","method":"sum","id":{}}`, invalid, false, 0},
		{"id is a list", `{"jsonrpc":"2.0","method":"sum","id":[1]}`, invalid, false, 0},
		{"id is true", `{"jsonrpc":"2.0","method":"sum","id":true}`, invalid, false, 0},
		{"no version", `{"method":"sum","id":1}`, one(bad("1", wire.InvalidRequest)), false, 0},
		{"version 1.0", `{"jsonrpc":"1.0","method":"sum","id":1}`, one(bad("1", wire.InvalidRequest)), false, 0},
		{"version is a number", `{"jsonrpc":2.0,"method":"sum","id":1}`, one(bad("1", wire.InvalidRequest)), false, 0},
		{"params is null", `{"jsonrpc":"2.0","method":"sum","params":null,"id":1}`, one(bad("1", wire.InvalidRequest)), false, 0},
		{"unknown member", `{"jsonrpc":"2.0","method":"sum","parms":[1],"id":1}`, one(bad("1", wire.InvalidRequest)), false, 0},
		{"member of another case", `{"jsonrpc":"2.0","Method":"sum","id":1}`, one(bad("1", wire.InvalidRequest)), false, 0},
		{"duplicate member", `{"jsonrpc":"2.0","method":"sum","method":"kill","id":1}`, invalid, false, 0},
		{"duplicate member by escape", `{"jsonrpc":"2.0","method":"echo","params":{"value":{"a":1,"\u0061":2}},"id":1}`, invalid, false, 0},
		{"duplicate in a batch", `[` + call + `,{"jsonrpc":"2.0","id":1,"id":2,"method":"sum"}]`, invalid, false, 0},
		{"trailing text", call + `x`, parse, false, 0},
		{"second value", call + call, parse, false, 0},
		{"empty", ``, parse, false, 0},
		{"only space", " \n", parse, false, 0},
		{"a byte order mark", "\ufeff" + call, parse, false, 0},
		{"not UTF-8", echo("\"\xff\""), parse, false, 0},
		{"half a surrogate pair", echo(`"\ud800"`), parse, false, 0},
		{"halves in the wrong order", echo(`"\udc00\ud800"`), parse, false, 0},
		{"control character", echo("\"\x01\""), parse, false, 0},
		{"number with a leading zero", echo(`01`), parse, false, 0},
		{"number with a plus", echo(`+1`), parse, false, 0},
		{"number without digits", echo(`1.`), parse, false, 0},
		{"NaN", echo(`NaN`), parse, false, 0},
		{"trailing comma", echo(`[1,]`), parse, false, 0},
		{"truncated", call[:len(call)-1], parse, false, 0},
		{"text", `"get_data"`, invalid, false, 0},
		{"escapes", echo(`"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\u0000"`), one(ok("1", `"\"\\/\u0008\u000c\n\r\té😀\u0000"`)), false, 1},
		{"large number", echo(`18446744073709551615`), one(ok("1", "18446744073709551615")), false, 1},
		{"number with exponent", echo(`1e3`), one(ok("1", "1000")), false, 1},
		{"null result", echo(`null`), one(ok("1", "null")), false, 1},
		{"nested", echo(`{"b":[{}, [], null], "a":{"":true}}`), one(ok("1", `{"a":{"":true},"b":[{},[],null]}`)), false, 1},
		{"unknown parameter", `{"jsonrpc":"2.0","method":"select","params":{"fitler":{}},"id":1}`, params, false, 0},
		{"unknown nested parameter", `{"jsonrpc":"2.0","method":"select","params":{"set":{"timeuot":1}},"id":1}`, params, false, 0},
		{"out of range", `{"jsonrpc":"2.0","method":"select","params":{"limit":65536},"id":1}`, params, false, 0},
		{"missing parameter", `{"jsonrpc":"2.0","method":"subtract","params":{"minuend":1},"id":1}`, params, false, 0},
		{"missing positional parameter", `{"jsonrpc":"2.0","method":"subtract","params":[1],"id":1}`, params, false, 0},
		{"null for a required parameter", `{"jsonrpc":"2.0","method":"subtract","params":[1,null],"id":1}`, params, false, 0},
		{"too many parameters", `{"jsonrpc":"2.0","method":"subtract","params":[1,2,3],"id":1}`, params, false, 0},
		{"wrong type", `{"jsonrpc":"2.0","method":"subtract","params":[1,"x"],"id":1}`, params, false, 0},
		{"not in the enum", `{"jsonrpc":"2.0","method":"echo","params":{"text":"three"},"id":1}`, params, false, 0},
		{"names for a positional method", `{"jsonrpc":"2.0","method":"sum","params":{"a":1},"id":1}`, params, false, 0},
		{"of a higher role", `{"jsonrpc":"2.0","method":"kill","id":1}`, one(bad("1", wire.PermissionDenied)), false, 0},
		{"of XML-RPC only", `{"jsonrpc":"2.0","method":"session.raw","id":1}`, one(bad("1", wire.MethodNotFound)), false, 0},
		{"kernel's answer", `{"jsonrpc":"2.0","method":"fail","id":1}`, one(notFound), false, 1},
		{"panic", `{"jsonrpc":"2.0","method":"fail","params":["panic"],"id":1}`, one(bad("1", wire.Internal)), false, 1},
		{"stream", `{"jsonrpc":"2.0","method":"stream","id":1}`, one(ok("1", `{"values":[],"count":0}`)), false, 1},
		{"stream that fails early", `[` + call + `,{"jsonrpc":"2.0","method":"stream","params":[3,1],"id":1},` + call + `]`, []jsonAnswer{ok("1", `["hello",5]`), interrupted, ok("1", `["hello",5]`)}, true, 3},
		{"stream that panics early", `{"jsonrpc":"2.0","method":"stream","params":[3,"panic"],"id":1}`, one(bad("1", wire.Internal)), false, 1},
		{"deepest", echo(strings.Repeat("[", maxDepth-2) + strings.Repeat("]", maxDepth-2)), one(ok("1", strings.Repeat("[", maxDepth-2)+strings.Repeat("]", maxDepth-2))), false, 1},
		{"too deep", echo(strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1)), limit, false, 0},
		{"never closed", strings.Repeat("[", 100000), limit, false, 0},
		{"one call too many", "[" + strings.Repeat(call+",", maxBatch) + call + "]", limit, false, 0},
		{"multicall", `{"jsonrpc":"2.0","method":"system.multicall","id":1,"params":[[{"methodName":"sum","params":[1,2]}]]}`, one(ok("1", `[[3]]`)), false, 1},
	}
}

func TestJSONRPC(t *testing.T) {
	for _, c := range append(specification(), jsonCases()...) {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture()
			w := f.post(t, wire.RoleViewer, "application/json", c.body)
			if f.ran.Load() != c.methods {
				t.Errorf("%d methods ran, want %d", f.ran.Load(), c.methods)
			}
			if c.want == nil {
				if w.Code != http.StatusNoContent || w.Body.Len() > 0 {
					t.Errorf("status %d with %q, want 204 and no content", w.Code, w.Body)
				}
				return
			}
			if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("status %d, content type %q", w.Code, w.Header().Get("Content-Type"))
			}
			body := w.Body.String()
			if diff := cmp.Diff(c.want, answers(t, body), cmp.Transformer("text", func(m json.RawMessage) string { return string(m) })); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if strings.HasPrefix(body, "[") != c.batch {
				t.Errorf("answer %.100q, want a batch: %v", body, c.batch)
			}
		})
	}
}

func TestJSONRPCLargestBatch(t *testing.T) {
	f := newFixture()
	call := `{"jsonrpc":"2.0","method":"sum","id":1}`
	w := f.post(t, wire.RoleViewer, "application/json", "["+strings.Repeat(call+",", maxBatch-1)+call+"]")
	if n := len(answers(t, w.Body.String())); n != maxBatch || f.ran.Load() != maxBatch {
		t.Errorf("%d answers of %d calls, want %d", n, f.ran.Load(), maxBatch)
	}
}

func TestValuesLimit(t *testing.T) {
	list := func(n int) string { return "[" + strings.Repeat("0,", n-2) + "0]" }
	if _, err := parseJSON([]byte(list(maxValues)), nil); err != nil {
		t.Errorf("%d values: %v", maxValues, err)
	}
	if _, err := parseJSON([]byte(list(maxValues+1)), nil); err == nil || err.Code != wire.LimitExceeded {
		t.Errorf("%d values: got %v, want limit_exceeded", maxValues+1, err)
	}
	xml := func(n int) []byte {
		return []byte("<methodCall><methodName>m</methodName><params><param><value><array><data>" +
			strings.Repeat("<value/>", n-1) + "</data></array></value></param></params></methodCall>")
	}
	if _, _, err := parseXML(xml(maxValues), "", nil); err != nil {
		t.Errorf("%d values: %v", maxValues, err)
	}
	if _, _, err := parseXML(xml(maxValues+1), "", nil); err == nil || err.Code != wire.LimitExceeded {
		t.Errorf("%d values: got %v, want limit_exceeded", maxValues+1, err)
	}
}

func TestInternalDetailStaysInside(t *testing.T) {
	f := newFixture()
	for _, how := range []string{"panic", "secret"} {
		w := f.post(t, wire.RoleViewer, "application/json", `{"jsonrpc":"2.0","method":"fail","params":["`+how+`"],"id":1}`)
		if body := w.Body.String(); strings.Contains(body, "secret") || !strings.Contains(body, `"internal error"`) {
			t.Errorf("%s: answer %q", how, body)
		}
	}
}

// TestCutConnection has streams fail after part of them was sent: the client must see that the
// answer has no end.
func TestCutConnection(t *testing.T) {
	s := newFixture().serve(t)
	multicall := `<methodCall><methodName>system.multicall</methodName><params><param><value><array><data><value><struct>` +
		`<member><name>methodName</name><value>stream</value></member><member><name>params</name><value><array><data>` +
		`<value><int>%d</int></value><value>%s</value></data></array></value></member></struct></value></data></array></value></param></params></methodCall>`
	for name, request := range map[string]struct{ contentType, body string }{
		"JSON-RPC":       {"application/json", `{"jsonrpc":"2.0","id":1,"method":"stream","params":[%d,%q]}`},
		"JSON-RPC batch": {"application/json", `[{"jsonrpc":"2.0","id":1,"method":"sum"},{"jsonrpc":"2.0","id":1,"method":"stream","params":[%d,%q]}]`},
		"XML-RPC":        {"text/xml", `<methodCall><methodName>stream</methodName><params><param><value><int>%d</int></value></param><param><value>%s</value></param></params></methodCall>`},
		"multicall":      {"text/xml", multicall},
	} {
		for _, how := range []string{"error", "panic"} {
			t.Run(name+" "+how, func(t *testing.T) {
				send := func(values int) (string, error) {
					resp, err := http.Post(s.URL, request.contentType, strings.NewReader(fmt.Sprintf(request.body, values, how)))
					if err != nil {
						return "", err
					}
					defer resp.Body.Close()
					b, err := io.ReadAll(resp.Body)
					return string(b), err
				}
				if body, err := send(10); err != nil || strings.Contains(body, "xxx") {
					t.Errorf("small: got %.200q, %v; want an error and nothing of the result", body, err)
				}
				if body, err := send(2000); err == nil {
					t.Errorf("large: got all of %d bytes, want a cut connection", len(body))
				}
			})
		}
	}
}

func TestLongStream(t *testing.T) {
	s := newFixture().serve(t)
	resp, err := http.Post(s.URL, "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"stream","params":[20000]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a struct {
		Result struct {
			Values []string
			Count  int
		}
	}
	if err := json.Unmarshal([]byte(readAll(t, resp.Body)), &a); err != nil {
		t.Fatal(err)
	}
	if len(a.Result.Values) != 20000 || a.Result.Count != 20000 {
		t.Errorf("%d values, count %d, want 20000", len(a.Result.Values), a.Result.Count)
	}
}

func FuzzJSONRPC(f *testing.F) {
	for _, c := range append(specification(), jsonCases()...) {
		if len(c.body) < 10000 {
			f.Add([]byte(c.body))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fix := newFixture()
		w := fix.post(t, wire.RoleViewer, "application/json", string(body))
		_, malformed := parseJSON(body, nil)
		if malformed != nil && fix.ran.Load() > 0 {
			t.Errorf("a method ran although the document is malformed: %v", malformed)
		}
		if malformed == nil && !json.Valid(body) {
			t.Errorf("accepted what is no JSON")
		}
		if w.Code == http.StatusNoContent {
			if malformed != nil || w.Body.Len() > 0 {
				t.Errorf("no content for %q", body)
			}
			return
		}
		got := answers(t, w.Body.String())
		if len(got) == 0 {
			t.Errorf("empty batch in answer to %q", body)
		}
		if malformed != nil && (len(got) != 1 || got[0].Code != malformed.Code.Number() || string(got[0].ID) != "null") {
			t.Errorf("answer %q to a malformed document, want %v", w.Body, malformed)
		}
	})
}
