package server

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLimitListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const most = 2
	l := newLimitListener(inner, most)
	type accepted struct {
		net.Conn
		err error
	}
	got := make(chan accepted)
	go func() {
		for {
			c, err := l.Accept()
			got <- accepted{c, err}
			if err != nil {
				return
			}
		}
	}()
	for range most + 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	none := func(when string) {
		t.Helper()
		select {
		case a := <-got:
			t.Fatalf("%s: accepted %v, %v", when, a.Conn, a.err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	first := <-got
	second := <-got
	none("at the limit")
	first.Close()
	third := <-got
	first.Close() // a connection gives its place back only once
	none("at the limit again")
	// Who waits for a place is told that the listener ends.
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if a := <-got; !errors.Is(a.err, net.ErrClosed) {
		t.Errorf("closed: %v, want %v", a.err, net.ErrClosed)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closed a second time: %v", err)
	}
	second.Close()
	third.Close()
}

// TestMaxConnections: strangers who take all of TCP's connections keep nobody from the Unix
// socket, and the next one over TCP is answered once there is a place.
func TestMaxConnections(t *testing.T) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Max < 4*maxConnections {
		t.Fatalf("this test needs %d descriptors, has %d, %v", 4*maxConnections, files.Max, err)
	}
	f := newFixture(t, Config{}, tcpFlow(1))
	f.timing.readHeader = time.Minute // none of the strangers is cut meanwhile
	r := f.start(t)
	var strangers []net.Conn
	for range maxConnections {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.tcp, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		strangers = append(strangers, c)
	}
	// The last one within the limit is served.
	ask := func(c net.Conn, wait time.Duration) error {
		t.Helper()
		if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	last := strangers[maxConnections-1]
	if err := jsonCall(t, r.tcp+"/rpc", "conntrack.count", "").Write(last); err != nil {
		t.Fatal(err)
	}
	if err := ask(last, 10*time.Second); err != nil {
		t.Errorf("connection %d: %v", maxConnections, err)
	}
	next, err := net.Dial("tcp", strings.TrimPrefix(r.tcp, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := jsonCall(t, r.tcp+"/rpc", "conntrack.count", "").Write(next); err != nil {
		t.Fatal(err)
	}
	if err := ask(next, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("connection %d: %v, want no answer", maxConnections+1, err)
	}
	if status, body := do(t, unixClient(t, r.sock), jsonCall(t, "http://ctd/rpc", "conntrack.count", "")); status != 200 {
		t.Errorf("over the Unix socket: %d %s", status, body)
	}
	strangers[0].Close()
	if err := ask(next, 10*time.Second); err != nil {
		t.Errorf("connection %d after one ended: %v", maxConnections+1, err)
	}
}
