package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
)

// readAnswer reads a whole answer.
func readAnswer(c net.Conn, r *http.Request) (status int, body string, err error) {
	resp, err := http.ReadResponse(bufio.NewReader(c), r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(b), err
}

// trickle opens connections and sends on each a beginning, and then a byte each time it is told to.
func trickle(t *testing.T, url string, n int, begin func(i int) string) (conns []net.Conn, more func()) {
	t.Helper()
	for i := range n {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_, _ = io.WriteString(c, begin(i))
		conns = append(conns, c)
	}
	return conns, func() {
		for _, c := range conns {
			_, _ = io.WriteString(c, "x") // one that was cut is closed
		}
	}
}

// slowHeaderOrBody is a request that goes on for ever, every other one of them in its body.
func slowHeaderOrBody(token string) func(i int) string {
	return func(i int) string {
		switch i % 4 {
		case 0:
			return "POST /rpc HTTP/1.1\r\nHost: localhost\r\nX: "
		case 1: // a stranger's body
			return "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: 100000\r\n\r\n<"
		case 2:
			return "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n<"
		}
		return "POST /rpc HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token + "x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n["
	}
}

// TestSlowloris: those who send a byte now and then, in the header or in the body, are cut. Meanwhile others
// are served as long as there are connections, and by the Unix socket even then.
func TestSlowloris(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlow(1))
	// None is cut while others are served: who waited for that would get no answer here.
	f.timing.readHeader, f.timing.read, f.timing.strangerRead = time.Minute, time.Minute, time.Minute
	r := f.start(t)
	_, more := trickle(t, r.tcp, 400, slowHeaderOrBody(secret))
	began := time.Now()
	for range 3 {
		more()
		client := tcpClient(t)
		client.Timeout = 20 * time.Second
		if status, body := do(t, client, jsonCall(t, r.tcp+"/rpc", "conntrack.count", "")); status != 200 {
			t.Errorf("beside 400 slow ones: %d %s", status, body)
		}
	}
	_, _ = trickle(t, r.tcp, 200, slowHeaderOrBody(secret))
	client := unixClient(t, r.sock)
	client.Timeout = 20 * time.Second
	if status, body := do(t, client, jsonCall(t, "http://ctd/rpc", "conntrack.count", "")); status != 200 {
		t.Errorf("by the Unix socket: %d %s", status, body)
	}
	t.Logf("others were served in %v", time.Since(began))

	f = newFixture(t, Config{}, tcpFlow(1))
	f.timing.readHeader, f.timing.read, f.timing.strangerRead = time.Second, 1500*time.Millisecond, time.Second
	r = f.start(t)
	slow, more := trickle(t, r.tcp, 400, slowHeaderOrBody(secret))
	_, moreYet := trickle(t, r.tcp, 200, slowHeaderOrBody(secret))
	cut, ended := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { <-ended })
	defer close(cut)
	go func() {
		defer close(ended)
		for {
			more()
			moreYet()
			select {
			case <-cut:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	for i, c := range slow {
		if err := c.SetReadDeadline(time.Now().Add(conntracktest.Slow(15 * time.Second))); err != nil {
			t.Fatal(err)
		}
		_, err := io.Copy(io.Discard, c)
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Fatalf("connection %d is still open", i)
		}
	}
	// The others have had their turn and were cut too.
	conntracktest.Eventually(t, "the next one is served", func() bool {
		client := tcpClient(t)
		client.Timeout = 2 * time.Second
		resp, err := client.Do(jsonCall(t, r.tcp+"/rpc", "conntrack.count", ""))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	})
}

// TestKernelHostileConnections: many slow connections, long headers and many of them, and many long answers in
// one request leave the daemon small, and it serves afterwards.
func TestKernelHostileConnections(t *testing.T) {
	const flows, lists = 300, 300
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	var lines strings.Builder
	for i := range flows {
		fmt.Fprintf(&lines, "-A -p udp -s 10.7.%d.%d -d 192.0.2.1 --sport 1 --dport 2 -t 600 -u SEEN_REPLY\n", i>>8, i&255)
	}
	if _, err := ns.Conntrack8In(lines.String(), "-R", "-"); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, ns, t.TempDir())
	call := func(method string) *http.Request {
		r := jsonCall(t, p.url+"/rpc", method, "")
		r.Header.Set("Authorization", "Bearer "+p.token)
		return r
	}
	small := func(t *testing.T) {
		t.Helper()
		if peak := p.peak(); peak > maxRSS {
			t.Errorf("%d KiB", peak)
		} else {
			t.Logf("%d KiB", peak)
		}
		if status, body := do(t, tcpClient(t), call("conntrack.count")); status != 200 {
			t.Errorf("afterwards: %d %s", status, body)
		}
	}
	t.Run("a batch of lists", func(t *testing.T) {
		one := `{"jsonrpc":"2.0","id":1,"method":"conntrack.list"}`
		r := call("")
		body := "[" + strings.Repeat(one+",", lists-1) + one + "]"
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		resp, err := tcpClient(t).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil || n < flows*lists*300 {
			t.Errorf("%d bytes, %v", n, err)
		}
		small(t)
	})
	t.Run("long headers", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				header := "X: " + strings.Repeat("x", 2*maxHeaderBytes)
				if i%2 == 0 {
					header = strings.Repeat("X: x\r\n", 2*maxHeaderBytes/6)
				}
				go io.WriteString(c, "POST /rpc HTTP/1.1\r\nHost: localhost\r\n"+header+"\r\n\r\n")
				status, _, err := readAnswer(c, nil)
				if err == nil && status != http.StatusRequestHeaderFieldsTooLarge {
					t.Errorf("status %d", status)
				}
			})
		}
		wg.Wait()
		small(t)
	})
	t.Run("slow connections", func(t *testing.T) {
		_, more := trickle(t, p.url, 600, func(i int) string {
			if i%2 == 0 { // as much of a header as is taken
				return "POST /rpc HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 60<<10)
			}
			return slowHeaderOrBody(p.token)(i)
		})
		for range 3 {
			more()
			time.Sleep(time.Second)
		}
		if _, err := p.client(ctdclient.Config{}).Info(t.Context()); err != nil {
			t.Errorf("by the Unix socket: %v", err)
		}
		// Those in their header are cut first.
		client := tcpClient(t)
		client.Timeout = conntracktest.Slow(3 * defaultTiming().readHeader)
		if status, body := do(t, client, call("conntrack.count")); status != 200 {
			t.Errorf("once there is room again: %d %s", status, body)
		}
		small(t)
	})
}
