package server

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

// hold starts so many lists that stop at a flow until the returned function is called, which waits for
// their end. Other calls of lists go on.
func hold(t *testing.T, r *running, lists, at int) (release func()) {
	t.Helper()
	begun, resume := make(chan struct{}, lists), make(chan struct{})
	r.fake.between = func(_ context.Context, n int) error {
		if n == at {
			select {
			case begun <- struct{}{}:
				<-resume
			default: // there are as many already
			}
		}
		return nil
	}
	client := tcpClient(t)
	var wg sync.WaitGroup
	for range lists {
		call := jsonCall(t, r.tcp+"/rpc", "conntrack.list", "")
		wg.Go(func() {
			resp, err := client.Do(call)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != 200 || !strings.HasSuffix(strings.TrimSpace(string(b)), "}") {
				t.Errorf("a list: %d, %d bytes, %v", resp.StatusCode, len(b), err)
			}
		})
	}
	release = sync.OnceFunc(func() {
		close(resume)
		wg.Wait()
	})
	t.Cleanup(release)
	for deadline := time.Now().Add(time.Minute); len(begun) < lists; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d lists of %d are under way", len(begun), lists)
		}
	}
	return release
}

// TestListsAndKill: as many long lists as a caller may have are in the way of none of its kills, and one
// more is refused.
func TestListsAndKill(t *testing.T) {
	const many, at = 2000, 1500 // some hundred KB, of which the most part is sent
	f := newFixture(t, Config{}, tcpFlows(many)...)
	r := f.start(t)
	client := tcpClient(t)
	release := hold(t, r, defaultRequestsPerCaller, at)
	// None waits for a place; a machine that is busy may hold up one or the other.
	fastest := time.Duration(math.MaxInt64)
	for i := range 10 {
		began := time.Now()
		status, body := do(t, client, jsonCall(t, r.tcp+"/rpc", "conntrack.kill", fmt.Sprintf(`{"flows":[%d]}`, i+1)))
		fastest = min(fastest, time.Since(began))
		if status != 200 || !strings.Contains(body, `"killed":1,`) {
			t.Errorf("kill %d: %d after %v: %s", i, status, time.Since(began), body)
		}
	}
	if fastest > placeWait/2 {
		t.Errorf("the fastest kill took %v", fastest)
	}
	resp, err := client.Do(jsonCall(t, r.tcp+"/rpc", "conntrack.list", ""))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(b), `"code":-32008`) {
		t.Errorf("one list more: %d %v, %v: %.300s", resp.StatusCode, resp.Header, err, b)
	}
	// What has changed something isn't refused afterwards, however long its answer is.
	status, body := do(t, client, jsonCall(t, r.tcp+"/rpc", "conntrack.modify", fmt.Sprintf(`{"all":true,"max":%d,"dry_run":true,"set":{"mark":9}}`, many)))
	if status != 200 || !strings.Contains(body, fmt.Sprintf(`"matched":%d,`, many-10)) {
		t.Errorf("a change with a long answer: %d %.300s", status, body)
	}
	release()
	if status, body := do(t, client, jsonCall(t, r.tcp+"/rpc", "conntrack.list", "")); status != 200 || len(body) < many {
		t.Errorf("afterwards: %d, %d bytes", status, len(body))
	}
}

// TestRequestsAtATime: who has as many requests at work as it may have gets no more, and others do.
func TestRequestsAtATime(t *testing.T) {
	f := newFixture(t, Config{Limits: Limits{Requests: 5, RequestsPerCaller: 3}}, tcpFlows(10)...)
	r := f.start(t)
	client := tcpClient(t)
	release := hold(t, r, 3, 0)
	began := time.Now()
	resp, err := client.Do(jsonCall(t, r.tcp+"/rpc", "conntrack.count", ""))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if took := time.Since(began); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(b), `"code":-32008`) || took < placeWait || took > placeWait+conntracktest.Slow(10*time.Second) {
		t.Errorf("%d after %v: %s", resp.StatusCode, took, b)
	}
	xml := jsonCall(t, r.tcp+"/rpc", "", "")
	xml.Header.Set("Content-Type", "text/xml")
	if status, body := do(t, client, xml); status != 503 || !strings.Contains(body, "<fault>") || !strings.Contains(body, "-32008") {
		t.Errorf("XML-RPC: %d %s", status, body)
	}
	if status, _ := do(t, client, get(t, r.tcp+"/healthz")); status != 200 {
		t.Errorf("health: %d", status)
	}
	if status, body := do(t, unixClient(t, r.sock), jsonCall(t, "http://ctd/rpc", "conntrack.count", "")); status != 200 {
		t.Errorf("by the Unix socket: %d %s", status, body)
	}
	if status, _ := do(t, client, get(t, r.tcp+"/metrics")); status != 401 {
		t.Errorf("somebody else: %d", status)
	}
	// Who waits for a place gets it when there is one.
	waiting := make(chan int, 1)
	go func() {
		resp, err := client.Do(jsonCall(t, r.tcp+"/rpc", "conntrack.count", ""))
		if err != nil {
			waiting <- 0
			return
		}
		resp.Body.Close()
		waiting <- resp.StatusCode
	}()
	places := f.Server.policy.Load().places
	conntracktest.Eventually(t, "it waits", func() bool { return places.tcp.held("token") == 4 })
	release()
	if status := <-waiting; status != 200 {
		t.Errorf("who waited: %d", status)
	}
	for _, m := range []*room{places.tcp, places.strangers} {
		conntracktest.Eventually(t, "all places are given back", m.empty)
	}
}

// held returns how many places a caller has, or waits for.
func (m *room) held(whose string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.callers[whose]; c != nil {
		return c.count
	}
	return 0
}

// empty tells whether nobody has a place, or waits for one.
func (m *room) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.callers) == 0
}

func get(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRoom: places are counted for all and for each, and given back once.
func TestRoom(t *testing.T) {
	m := newRoom(3, 2)
	now, cancel := context.WithCancel(t.Context())
	cancel()
	take := func(whose string, ok bool) func() {
		t.Helper()
		leave, err := m.take(now, whose)
		if (err == nil) != ok {
			t.Fatalf("%s: %v", whose, err)
		}
		return leave
	}
	a := take("a", true)
	take("a", true)
	take("a", false)
	take("b", true)
	take("b", false)
	take("c", false)
	a()
	a()
	c := take("c", true)
	take("d", false)
	c()
	if len(m.callers) != 2 {
		t.Errorf("callers %v", m.callers)
	}
}
