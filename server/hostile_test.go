package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc"
)

// TestHostile: whatever a caller with the token sends, the table stays as it is, the daemon
// answers afterwards, and nothing of it is left running.
func TestHostile(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlows(10)...)
	r := f.start(t)
	// Only those who don't end their request meet short times: others may be slow where the machine
	// is busy.
	impatient := newFixture(t, Config{}, tcpFlows(10)...)
	impatient.timing.readHeader, impatient.timing.read = 300*time.Millisecond, time.Second
	short := impatient.start(t)
	client := tcpClient(t)
	base := func() int {
		client.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
		return runtime.NumGoroutine()
	}
	// All that listens is at work before goroutines are counted. The connections remain.
	for _, r := range []*running{r, short} {
		for _, c := range []*http.Client{unixClient(t, r.sock), tcpClient(t)} {
			if status, body := do(t, c, jsonCall(t, r.tcp+"/rpc", "conntrack.count", "")); status != 200 {
				t.Fatalf("%d %s", status, body)
			}
		}
	}
	before := base()

	packed := string(packedZeros(100 << 20))
	const kill = `"jsonrpc":"2.0","id":1,"method":"conntrack.kill"`
	deep := strings.Repeat(`[`, 1<<20)
	xmlKill := func(inside string) string {
		return `<?xml version="1.0"?><methodCall><methodName>conntrack.kill</methodName><params><param>` + inside + `</param></params></methodCall>`
	}
	batch := `[` + strings.TrimSuffix(strings.Repeat(`{`+kill+`,"params":{"all":true}},`, 1001), ",") + `]`
	for _, c := range []struct {
		name, contentType, encoding, body string
		status                            int
		want                              []string // in the answer
	}{
		{"body too long", "application/json", "", `{` + kill + `,"params":{"all":true}}` + strings.Repeat(" ", rpc.DefaultMaxBody), 413, []string{"8388608 bytes"}},
		{"XML body too long", "text/xml", "", xmlKill("<value/>") + strings.Repeat(" ", rpc.DefaultMaxBody), 413, []string{"<fault>", "8388608 bytes"}},
		{"deep nesting", "application/json", "", `{` + kill + `,"params":` + deep, 200, []string{`"error"`, "-32"}},
		{"deep nesting in XML", "text/xml", "", xmlKill("<value>" + strings.Repeat("<array><data><value>", 1<<15)), 200, []string{"<fault>"}},
		{"gzip", "application/json", "gzip", packed, 415, []string{"content encoding"}},
		{"gzip unannounced", "application/json", "", packed, 200, []string{"-32700"}},
		{"form", "application/x-www-form-urlencoded", "", "method=conntrack.kill&all=true", 415, []string{"text/xml"}},
		{"multipart", "multipart/form-data; boundary=x", "", "--x", 415, []string{"application/json"}},
		{"wrong protocol", "text/xml", "", `{` + kill + `,"params":{"all":true}}`, 200, []string{"<fault>"}},
		{"wrong protocol the other way", "application/json", "", xmlKill("<value/>"), 200, []string{"-32700"}},
		{"cut document", "application/json", "", `{` + kill + `,"params":{"all":true}`, 200, []string{"-32700"}},
		{"cut XML document", "text/xml", "", xmlKill("<value><struct/></value>")[:120], 200, []string{"<fault>"}},
		{"two documents", "application/json", "", `{` + kill + `,"params":{"filter":"sport=1"}}{` + kill + `,"params":{"all":true}}`, 200, []string{"-32700"}},
		{"entities", "text/xml", "", `<!DOCTYPE m [<!ENTITY a "&b;&b;"><!ENTITY b "all">]>` + xmlKill("<value>&a;</value>"), 200, []string{"<fault>"}},
		{"external entity", "text/xml", "", `<!DOCTYPE m [<!ENTITY a SYSTEM "file:///etc/passwd">]>` + xmlKill("<value>&a;</value>"), 200, []string{"<fault>"}},
		{"unknown field", "application/json", "", `{` + kill + `,"params":{"filter":{"scr":"10.0.0.1"}}}`, 200, []string{"-32602", "src"}},
		{"unknown parameter", "application/json", "", `{` + kill + `,"params":{"filtr":{"src":"10.0.0.1"},"all":true}}`, 200, []string{"-32602", "filter"}},
		{"unknown member of the request", "application/json", "", `{` + kill + `,"parms":{"all":true}}`, 200, []string{"-32600", "params"}},
		{"member twice", "application/json", "", `{` + kill + `,"params":{"filter":"src=10.99.0.1","all":false,"filter":"","all":true}}`, 200, []string{`"error"`}},
		{"batch too large", "application/json", "", batch, 200, []string{"1000"}},
		{"empty batch", "application/json", "", `[]`, 200, []string{"-32600"}},
		{"no UTF-8", "application/json", "", `{` + kill + `,"params":{"filter":"` + "\xff\xfe" + `","all":true}}`, 200, []string{`"error"`}},
		{"NUL in XML", "text/xml", "", xmlKill("<value>\x00</value>"), 200, []string{"<fault>"}},
		{"huge number", "application/json", "", `{` + kill + `,"params":{"all":true,"max":` + strings.Repeat("9", 1<<16) + `}}`, 200, []string{"-32602"}},
		{"negative max", "application/json", "", `{` + kill + `,"params":{"all":true,"max":-1}}`, 200, []string{"-32602"}},
		{"empty", "application/json", "", ``, 200, []string{"-32700"}},
		{"empty XML", "text/xml", "", ``, 200, []string{"<fault>"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest(http.MethodPost, r.tcp+"/rpc", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", c.contentType)
			req.Header.Set("Authorization", "Bearer "+secret)
			if c.encoding != "" {
				req.Header.Set("Content-Encoding", c.encoding)
			}
			began := time.Now()
			status, body := do(t, client, req)
			if status != c.status {
				t.Errorf("status %d, want %d: %.300s", status, c.status, body)
			}
			for _, want := range c.want {
				if !strings.Contains(body, want) {
					t.Errorf("no %q in %.300s", want, body)
				}
			}
			if len(body) > 10_000 || time.Since(began) > 20*time.Second {
				t.Errorf("%d bytes in %v", len(body), time.Since(began))
			}
		})
	}
	raw := func(to *running, text string) net.Conn {
		c, err := net.Dial("tcp", strings.TrimPrefix(to.tcp, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c
	}
	header := "POST /rpc HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + secret + "\r\nContent-Type: application/json\r\n"
	document := `{` + kill + `,"params":{"all":true}}`
	for name, text := range map[string]string{
		"a header that doesn't end": header,
		"a body that doesn't end":   header + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(document)+1, document),
		"a chunk that doesn't end":  header + "Transfer-Encoding: chunked\r\n\r\nffff\r\n" + document,
	} {
		t.Run(name, func(t *testing.T) {
			c := raw(short, text)
			defer c.Close()
			began := time.Now()
			if err := c.SetReadDeadline(began.Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(c)
			if err != nil || strings.Contains(string(b), `"result"`) || time.Since(began) > 15*time.Second {
				t.Errorf("%v after %v: %s", err, time.Since(began), b)
			}
		})
	}
	t.Run("a connection that is cut in the body", func(t *testing.T) {
		c := raw(r, header+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(document)+1, document))
		c.Close()
	})
	t.Run("a header that is too long", func(t *testing.T) {
		c := raw(r, "POST /rpc HTTP/1.1\r\nHost: localhost\r\nX: ")
		defer c.Close()
		go io.WriteString(c, strings.Repeat("x", 2*maxHeaderBytes))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	for _, f := range []*fixture{f, impatient} {
		if n, _ := f.fake.Count(t.Context(), conntrack.Filter{}); n != 10 || f.fake.Writes() != 0 {
			t.Errorf("%d flows, %d writes", n, f.fake.Writes())
		}
	}
	if status, body := do(t, client, jsonCall(t, r.tcp+"/rpc", "conntrack.count", "")); status != 200 || !strings.Contains(body, `"count":10`) {
		t.Errorf("afterwards: %d %s", status, body)
	}
	conntracktest.Eventually(t, "the goroutines are as many as before", func() bool { return base() <= before+1 })
}

// TestConcurrent: lists and kills at the same time each do what they should.
func TestConcurrent(t *testing.T) {
	const flows, workers = 400, 8
	f := newFixture(t, Config{}, tcpFlows(flows)...)
	r := f.start(t)
	client := tcpClient(t)
	var wg sync.WaitGroup
	killed := make([]int, workers)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < flows; i += workers {
				for _, n := range []int{i, (i + 1) % flows} { // the neighbour's too
					status, body := do(t, client, jsonCall(t, r.tcp+"/rpc", "conntrack.kill", fmt.Sprintf(`{"flows":[%d]}`, n+1)))
					if status != 200 || strings.Contains(body, `"error"`) {
						t.Errorf("kill: %d %s", status, body)
					}
					killed[w] += strings.Count(body, `"killed":1,`)
				}
			}
		})
		wg.Go(func() {
			for range 20 {
				status, body := do(t, client, jsonCall(t, r.tcp+"/rpc", "conntrack.list", `{"fields":["id"]}`))
				shown := strings.Count(body, `{"id":`)
				if status != 200 || !strings.Contains(body, fmt.Sprintf(`"matched":%d,`, shown)) {
					t.Errorf("list: %d %.200s", status, body)
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range killed {
		total += n
	}
	if n, _ := f.fake.Count(t.Context(), conntrack.Filter{}); n != 0 || total != flows || slices.Max(killed) == flows {
		t.Errorf("%d flows left, %d killed, want each once", n, total)
	}
}
