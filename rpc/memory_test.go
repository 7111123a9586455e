package rpc

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"ctd/rpc/wire"
)

// unpackAll returns a tree with nothing packed in it.
func unpackAll(v any) any {
	switch v := wire.Unpack(v).(type) {
	case []any:
		for i := range v {
			v[i] = unpackAll(v[i])
		}
		return v
	case map[string]any:
		for name, member := range v {
			v[name] = unpackAll(member)
		}
		return v
	default:
		return v
	}
}

// parseWholeXML is parseXML with nothing packed.
func parseWholeXML(doc []byte, charset string) (string, []any, *wire.Error) {
	method, args, err := parseXML(doc, charset, nil)
	for i := range args {
		args[i] = unpackAll(args[i])
	}
	return method, args, err
}

// TestMemory: a request that takes more memory than there is now is told to come again, one that takes
// more than any may is refused, and what they took is given back. Small ones are always served.
func TestMemory(t *testing.T) {
	f := newFixture()
	var h *Handler
	send := func(role, contentType, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		if role != "" {
			r = r.WithContext(WithPrincipal(r.Context(), caller{role}))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	json := func(items int) string {
		return `{"jsonrpc":"2.0","id":1,"method":"none","params":[` + strings.Repeat(`{"a":1},`, items) + `0]}`
	}
	xml := func(items int) string {
		return methodCall("none", "<array><data>"+strings.Repeat("<value><struct/></value>", items)+"</data></array>")
	}
	const fits, tooMany = 500, 45_000 // objects, each counted for some 600 bytes or more
	for _, c := range []struct {
		name, role, contentType string
		doc                     func(items int) string
		memory                  func() *memory
		all                     int64
		fits, tooMany           int
	}{
		{"JSON", wire.RoleViewer, "application/json", json, func() *memory { return h.known }, knownMemory, fits, tooMany},
		{"XML", wire.RoleViewer, "text/xml", xml, func() *memory { return h.known }, knownMemory, fits, tooMany},
		{"a stranger's XML", "", "text/xml", xml, func() *memory { return h.strangers }, strangerMemory, 200, 650},
	} {
		t.Run(c.name, func(t *testing.T) {
			h = NewHandler(f.Registry, HandlerConfig{})
			memory := c.memory()
			begins := func(w *httptest.ResponseRecorder, status int, code wire.Code) {
				t.Helper()
				if w.Code != status || !strings.Contains(w.Body.String(), strconv.Itoa(code.Number())) || (status == 503) != (w.Header().Get("Retry-After") != "") {
					t.Errorf("%d %v %.300s; want %d, %s", w.Code, w.Header(), w.Body, status, code)
				}
				if left := memory.left.Load(); left != c.all {
					t.Errorf("%d of %d bytes are left", left, c.all)
				}
			}
			// What comes after the document was read is that there is no such method, or nobody who asks.
			status, code := 200, wire.MethodNotFound
			if c.role == "" {
				status, code = 401, wire.Unauthenticated
			}
			begins(send(c.role, c.contentType, c.doc(c.fits)), status, code)
			begins(send(c.role, c.contentType, c.doc(c.tooMany)), 200, wire.LimitExceeded)
			memory.left.Add(-c.all + 100<<10) // others take the most part
			c.all = 100 << 10
			begins(send(c.role, c.contentType, c.doc(c.fits)), 503, wire.Busy)
			begins(send(c.role, c.contentType, c.doc(1)), status, code)
		})
	}
}

// TestMemoryOfImport: as many flows as an import may have are within what a request may take, with all that
// an export has of each.
func TestMemoryOfImport(t *testing.T) {
	flow := `{"family":"ipv4","protocol":"tcp","protonum":6,"zone":0,"orig":{"src":"192.168.100.200","dst":"198.51.100.200","sport":50000,"dport":59480,"packets":14000,"bytes":157600},` +
		`"reply":{"src":"198.51.100.200","dst":"192.168.100.200","sport":59480,"dport":50000,"packets":25000,"bytes":192400},"state":"ESTABLISHED","timeout":431999,` +
		`"status":["confirmed","seen_reply","assured"],"nat":"","mark":0,"use":1,"labels":[],"helper":"","master":null,"tcp":{"wscale":[7,7],"flags":[35,35]},"start":"2026-11-22T04:15:00.123456789Z"},`
	n := min(wire.MaxImport, DefaultMaxBody/len(flow)-1)
	c := &claim{memory: newMemory(knownMemory), most: knownMost}
	body := `[` + strings.Repeat(flow, n) + `0]`
	if err := c.take(len(body)); err != nil {
		t.Fatal(err)
	}
	if _, err := parseJSON([]byte(body), c); err != nil {
		t.Errorf("%d flows, %d bytes: %v, with %d of %d taken", n, len(body), err, c.used, c.most)
	}
	t.Logf("%d flows take %d of %d", n, c.used, c.most)
}

func TestLongTags(t *testing.T) {
	doc := func(inside string) []byte {
		return []byte(`<methodCall><methodName>m</methodName><params><param>` + inside + `</param></params></methodCall>`)
	}
	for _, c := range []struct {
		name, inside string
		ok           bool
	}{
		{"namespace", `<value xmlns:ex="http://ws.apache.org/xmlrpc/namespaces/extensions"><ex:i8>1</ex:i8></value>`, true},
		{"long comment", `<!-- ` + strings.Repeat("a='", 10_000) + `--><value/>`, true},
		{"long text", `<value><![CDATA[` + strings.Repeat("<a b='", 10_000) + `]]></value>`, true},
		{"long instruction", `<?x ` + strings.Repeat("a='", 10_000) + `?><value/>`, true},
		{"attributes", `<value ` + strings.Repeat(`a="" `, 10_000) + `/>`, false},
		{"attributes after one with >", `<value a=">" ` + strings.Repeat(`a="" `, 10_000) + `/>`, false},
		{"attributes after one with a quote", `<value a='"' b='>' ` + strings.Repeat(`a="" `, 10_000) + `/>`, false},
		{"long attribute", `<value a="` + strings.Repeat(`x`, 10_000) + `"/>`, false},
		{"long name", `<value` + strings.Repeat(`x`, 10_000) + `/>`, false},
	} {
		_, _, err := parseXML(doc(c.inside), "", nil)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if !c.ok && (err == nil || !strings.Contains(err.Message, "tag")) {
			t.Errorf("%s: refused for %v", c.name, err)
		}
	}
}
