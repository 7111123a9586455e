package server

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// maxRSS is what the daemon may take of memory whatever it is sent, in KiB.
const maxRSS = 100 << 10

// peak returns the most memory that the process had, in KiB (VmHWM, proc_pid_status(5)).
func (p *process) peak() int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		p.t.Fatalf("no VmHWM in %s", b)
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// resetPeak lets peak begin anew (proc_pid_clear_refs(5)).
func (p *process) resetPeak() {
	p.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0); err != nil {
		p.t.Fatal(err)
	}
}

// repeated is a text that repeats a unit, between a beginning and an end, and takes no memory here.
type repeated struct {
	head, unit, tail string
	size             int64 // of all
}

func (b repeated) reader() io.Reader {
	n := (b.size - int64(len(b.head)+len(b.tail))) / int64(len(b.unit))
	return io.MultiReader(strings.NewReader(b.head), io.LimitReader(&endless{unit: []byte(strings.Repeat(b.unit, 1+65536/len(b.unit)))}, n*int64(len(b.unit))), strings.NewReader(b.tail))
}

func (b repeated) length() int64 {
	head := int64(len(b.head) + len(b.tail))
	return head + (b.size-head)/int64(len(b.unit))*int64(len(b.unit))
}

// endless repeats a text.
type endless struct {
	unit []byte
	at   int
}

func (e *endless) Read(b []byte) (int, error) {
	n := copy(b, e.unit[e.at:])
	e.at = (e.at + n) % len(e.unit)
	return n, nil
}

// manyKeys returns n members of an object, each with a name of its own.
func manyKeys(n int) (members []byte) {
	for i := range n {
		members = append(strconv.AppendInt(append(members, '"'), int64(i), 10), `":0,`...)
	}
	return members
}

// packedZeros returns so many zeros packed by gzip: as a file of many that follow each other (RFC 1952,
// section 2.2), so that only one is packed here.
func packedZeros(size int) []byte {
	const one = 1 << 20
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(make([]byte, one)) // a buffer takes all
	_ = z.Close()
	return bytes.Repeat(b.Bytes(), size/one)
}

// TestKernelHostileBodies: whatever sixteen callers send at the same time, known or not, is refused in their own
// protocol, the daemon stays small, and it serves afterwards.
func TestKernelHostileBodies(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	p := startProcess(t, ns, t.TempDir())
	const full, gib = 8<<20 - 100, 1 << 30
	const json, xml = "application/json", "text/xml"
	const call = `{"jsonrpc":"2.0","id":1,"method":"conntrack.kill","params":`
	const xmlHead, xmlTail = `<methodCall><methodName>conntrack.kill</methodName><params><param>`, `</param></params></methodCall>`
	xmlArray := func(unit string) repeated {
		return repeated{xmlHead + `<value><array><data>`, unit, `</data></array></value>` + xmlTail, full}
	}
	packed := packedZeros(gib)
	few, many := manyKeys(100_000), manyKeys(800_000)
	type attack struct {
		name, contentType, encoding string
		body                        repeated
		reader                      func() io.Reader // instead of body
		stranger                    bool
	}
	attacks := []attack{
		{name: "objects", contentType: json, body: repeated{call + `[`, `{"":0},`, `0]}`, full}},
		{name: "empty objects", contentType: json, body: repeated{call + `[[`, `{},`, `0]]}`, full}},
		{name: "lists", contentType: json, body: repeated{call + `[`, `[0],`, `0]}`, full}},
		{name: "numbers", contentType: json, body: repeated{call + `{"flows":[`, `1,`, `0]}}`, full}},
		{name: "flows of few bytes", contentType: json, body: repeated{call + `{"flows":[`, `{"id":1},`, `0]}}`, 200 << 10}},
		{name: "imported flows of few bytes", contentType: json, body: repeated{`{"jsonrpc":"2.0","id":1,"method":"conntrack.import","params":{"flows":[`, `{},`, `{}]}}`, 3*16380 + 80}},
		{name: "one text", contentType: json, body: repeated{call + `["`, `x`, `"]}`, full}},
		{name: "an escaped text", contentType: json, body: repeated{call + `["`, `\u0041`, `"]}`, full}},
		{name: "keys", contentType: json, reader: func() io.Reader {
			return io.MultiReader(strings.NewReader(call+`{`), bytes.NewReader(few), strings.NewReader(`"all":true}}`))
		}},
		{name: "many keys", contentType: json, reader: func() io.Reader {
			return io.MultiReader(strings.NewReader(call+`{`), bytes.NewReader(many), strings.NewReader(`"all":true}}`))
		}},
		{name: "a batch of 100,000", contentType: json, body: repeated{`[`, call + `{"all":true}},`, `0]`, 100_000 * 75}},
		{name: "a batch of small things", contentType: json, body: repeated{`[`, `1,`, `0]`, full}},
		{name: "nested", contentType: json, body: repeated{call, `[`, ``, 10_100}},
		{name: "nested objects", contentType: json, body: repeated{call, `{"a":`, ``, 50_100}},
		{name: "space", contentType: json, body: repeated{call, ` `, `{"all":true}} x`, full}},
		{name: "values", contentType: xml, body: xmlArray(`<value/>`)},
		{name: "structs", contentType: xml, body: xmlArray(`<value><struct/></value>`)},
		{name: "members", contentType: xml, body: xmlArray(`<value><struct><member><name/><value/></member></struct></value>`)},
		{name: "attributes", contentType: xml, body: repeated{`<methodCall `, `a="" `, `>`, full}},
		{name: "elements", contentType: xml, body: repeated{`<methodCall>`, `<a>`, ``, full}},
		{name: "a long text", contentType: xml, body: repeated{xmlHead + `<value>`, `x`, `</value>` + xmlTail, full}},
		{name: "texts in pieces", contentType: xml, body: repeated{xmlHead + `<value>`, `x<!-- -->`, `</value>` + xmlTail, full}},
		{name: "another encoding", contentType: xml + "; charset=iso-8859-1", body: repeated{xmlHead + `<value>`, "\xe9", `</value>` + xmlTail, full}},
		{name: "a stranger's values", contentType: xml, body: xmlArray(`<value/>`), stranger: true},
		{name: "a stranger's values within the limit", contentType: xml, body: repeated{xmlHead + `<value><array><data>`, `<value><struct/></value>`, `</data></array></value>` + xmlTail, 250 << 10}, stranger: true},
		{name: "nested XML", contentType: xml, body: repeated{xmlHead + `<value>`, `<array><data><value>`, ``, 200_100}},
		{name: "entities", contentType: xml, body: repeated{`<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"><!ENTITY b "`, `&a;`, `">]>` + xmlHead + `<value>&b;</value>` + xmlTail, 1 << 20}},
		{name: "entities in entities", contentType: xml, body: repeated{`<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY b "&c;&c;&c;&c;&c;&c;&c;&c;"><!ENTITY c "`, `x`, `">]>` + xmlHead + `<value>&a;</value>` + xmlTail, 100 << 10}},
		{name: "a GiB", contentType: json, body: repeated{call + `["`, `x`, `"]}`, gib}},
		{name: "a GiB of XML", contentType: xml, body: xmlArrayOf(xmlHead, xmlTail, gib)},
		{name: "a stranger's GiB", contentType: xml, body: xmlArrayOf(xmlHead, xmlTail, gib), stranger: true},
		{name: "a GiB in chunks", contentType: json, reader: func() io.Reader { return repeated{call + `["`, `x`, `"]}`, gib}.reader() }},
		{name: "a stranger's GiB in chunks", contentType: xml, reader: func() io.Reader { return xmlArrayOf(xmlHead, xmlTail, gib).reader() }, stranger: true},
		{name: "a packed GiB", contentType: json, encoding: "gzip", reader: func() io.Reader { return bytes.NewReader(packed) }},
		{name: "a packed GiB, not announced", contentType: json, reader: func() io.Reader { return bytes.NewReader(packed) }},
		{name: "a packed GiB of XML", contentType: xml, encoding: "deflate", reader: func() io.Reader { return bytes.NewReader(packed) }, stranger: true},
	}
	count := func(t *testing.T) {
		t.Helper()
		call := jsonCall(t, p.url+"/rpc", "conntrack.count", "")
		call.Header.Set("Authorization", "Bearer "+p.token)
		if status, body := do(t, tcpClient(t), call); status != 200 || !strings.Contains(body, `"count":`) {
			t.Errorf("afterwards: %d %s", status, body)
		}
	}
	t.Logf("%d KiB at first", p.peak())
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			p.resetPeak()
			began := time.Now()
			statuses := map[int]int{}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					body, size := a.body.reader, a.body.length
					if a.reader != nil {
						body, size = a.reader, func() int64 { return -1 }
					}
					status, answer, err := send(p, a.contentType, a.encoding, body(), size(), a.stranger)
					mu.Lock()
					defer mu.Unlock()
					statuses[status]++
					want := `"error":`
					if strings.HasPrefix(a.contentType, xml) {
						want = "<fault>"
					}
					// Who is cut off while it sends may not get the answer.
					if err == nil && !strings.Contains(answer, want) {
						t.Errorf("%d %.300s", status, answer)
					}
				})
			}
			wg.Wait()
			if peak := p.peak(); peak > maxRSS {
				t.Errorf("%d KiB", peak)
			} else {
				t.Logf("%d KiB, %v, answers %v", peak, time.Since(began).Round(time.Millisecond), statuses)
			}
			if len(statuses) == 1 && statuses[0] == 16 {
				t.Error("nobody got an answer")
			}
			count(t)
		})
	}
}

// TestKernelBigImport: an import of as many flows as one may have, with all that an export has of them, has room.
func TestKernelBigImport(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	p := startProcess(t, ns, t.TempDir())
	var flows strings.Builder
	n := 0
	for ; n < wire.MaxImport && flows.Len() < 8<<20-1000; n++ {
		fmt.Fprintf(&flows, `{"family":"ipv4","protocol":"tcp","protonum":6,"zone":0,"orig":{"src":"192.168.%[1]d.%[2]d","dst":"198.51.100.200","sport":50000,"dport":59480,"packets":14000,"bytes":157600},`+
			`"reply":{"src":"198.51.100.200","dst":"192.168.%[1]d.%[2]d","sport":59480,"dport":50000,"packets":25000,"bytes":192400},"state":"ESTABLISHED","timeout":431999,`+
			`"status":["confirmed","seen_reply","assured"],"nat":"","mark":0,"use":1,"labels":[],"helper":"","master":null},`, n>>8, n&255)
	}
	r := jsonCall(t, p.url+"/rpc", "conntrack.import", `{"dry_run":true,"flows":[`+strings.TrimSuffix(flows.String(), ",")+`]}`)
	r.Header.Set("Authorization", "Bearer "+p.token)
	if status, body := do(t, tcpClient(t), r); status != 200 || !strings.Contains(body, fmt.Sprintf(`"created":%d,`, n)) {
		t.Errorf("%d flows: %d %.300s", n, status, body)
	}
	t.Logf("%d flows, %d bytes: %d KiB", n, flows.Len(), p.peak())
}

func xmlArrayOf(head, tail string, size int64) repeated {
	return repeated{head + `<value><array><data>`, `<value/>`, `</data></array></value>` + tail, size}
}

// send sends a body, and reads the answer also where it comes before the body's end.
func send(p *process, contentType, encoding string, body io.Reader, size int64, stranger bool) (status int, answer string, err error) {
	c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	r, err := http.NewRequest(http.MethodPost, p.url+"/rpc", io.NopCloser(body))
	if err != nil {
		return 0, "", err
	}
	r.ContentLength = size
	r.Header.Set("Content-Type", contentType)
	if encoding != "" {
		r.Header.Set("Content-Encoding", encoding)
	}
	if !stranger {
		r.Header.Set("Authorization", "Bearer "+p.token)
	}
	go func() { _ = r.Write(c) }() // it ends when the connection does
	if err := c.SetReadDeadline(time.Now().Add(90 * time.Second)); err != nil {
		return 0, "", err
	}
	return readAnswer(c, r)
}
