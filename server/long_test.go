package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// TestLongCall: the time for reading a request bounds the reading, not the call, because net/http
// lifts the deadline when the body has been read; a slow body is refused all the same, and a caller
// who leaves ends the call.
func TestLongCall(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlows(2)...)
	// Enough for the requests that are sent whole, also where the machine is busy.
	f.timing.readHeader, f.timing.read = time.Second, time.Second
	const long = 1500 * time.Millisecond
	begun, ended := make(chan struct{}, 10), make(chan error, 10)
	takes := time.After
	f.fake.between = func(ctx context.Context, n int) error {
		if n == 1 {
			begun <- struct{}{}
			select {
			case <-ctx.Done():
			case <-takes(long):
			}
			ended <- ctx.Err()
		}
		return ctx.Err()
	}
	r := f.start(t)
	client := tcpClient(t)
	for range 2 { // on one connection
		began := time.Now()
		status, body := do(t, client, jsonCall(t, r.tcp+"/rpc", "conntrack.list", ""))
		if status != http.StatusOK || !strings.Contains(body, `"matched":2`) {
			t.Errorf("a long call: %d %s", status, body)
		}
		if took := time.Since(began); took < long {
			t.Errorf("it took %v: too short to show anything", took)
		}
		<-begun
		if err := <-ended; err != nil {
			t.Errorf("the call's context ended: %v", err)
		}
	}

	// One who sends half of a body.
	c, err := net.Dial("tcp", strings.TrimPrefix(r.tcp, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /rpc HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", secret)
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if took := time.Since(began); took < f.timing.read/2 || took > 15*time.Second || !strings.Contains(string(body), "-32700") {
		t.Errorf("a slow body: after %v %s", took, body)
	}

	// One who leaves.
	takes = func(time.Duration) <-chan time.Time { return nil }
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	if resp, err := client.Do(jsonCall(t, r.tcp+"/rpc", "conntrack.list", "").WithContext(ctx)); err == nil {
		resp.Body.Close()
		t.Error("there was an answer")
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the caller left and the call went on")
		}
	case <-time.After(10 * time.Second):
		t.Error("the call is under way still")
	}
}

// TestStopEndsWatch: a watch tells what it did when the daemon stops, long before its time.
func TestStopEndsWatch(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlows(2)...)
	r := f.start(t)
	got := make(chan string, 1)
	call := jsonCall(t, r.tcp+"/rpc", "conntrack.reconcile", `{"filter": "src=10.0.0.1", "watch": "10m"}`)
	go func() {
		resp, err := http.DefaultClient.Do(call)
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		got <- string(body)
	}()
	conntracktest.Eventually(t, "the flow is killed and the watch begins", func() bool {
		return f.fake.Writes() == 1 && f.fake.Listeners() == 1
	})
	time.Sleep(100 * time.Millisecond) // two more passes
	began := time.Now()
	r.stop()
	var reply struct{ Result wire.ReconcileResult }
	select {
	case body := <-got:
		if err := json.Unmarshal([]byte(body), &reply); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
	case <-time.After(f.timing.grace):
		t.Fatal("it goes on")
	}
	res := reply.Result
	if res.Killed != 1 || !res.Settled || len(res.Failed) != 1 || res.Failed[0].Code != wire.Unavailable || res.Watched > 60 {
		t.Errorf("%+v", res)
	}
	if err := r.wait(t); err != nil || time.Since(began) > f.timing.grace/2 {
		t.Errorf("the daemon ended after %v: %v", time.Since(began), err)
	}
}
