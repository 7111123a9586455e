package server

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

// steadyReader reads a first part at once, so that the kernel gives it a large buffer, the next one slowly
// in small pieces, and the rest at once.
type steadyReader struct {
	net.Conn
	rest        time.Duration // between two pieces
	first, slow int           // bytes
	n           int
}

func (r *steadyReader) Read(p []byte) (int, error) {
	if r.n >= r.first && r.n < r.first+r.slow {
		time.Sleep(r.rest)
		p = p[:min(len(p), 16<<10)]
	}
	n, err := r.Conn.Read(p)
	r.n += n
	return n, err
}

// TestSteadyReader: a caller who reads slowly, but steadily, is not cut, although the kernel takes megabytes at
// once.
func TestSteadyReader(t *testing.T) {
	t.Parallel()
	const flows = 80_000 // some 20 MB
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, Config{})
			f.fake.many = flows
			f.timing.writeStall = conntracktest.Slow(1500 * time.Millisecond)
			r := f.start(t)
			address := map[string]string{"tcp": strings.TrimPrefix(r.tcp, "http://"), "unix": r.sock}[network]
			c, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := jsonCall(t, r.tcp+"/rpc", "conntrack.list", "").Write(c); err != nil {
				t.Fatal(err)
			}
			// Some 640 kB a second: a third of the kernel's buffer takes longer than writeStall.
			slow := &steadyReader{Conn: c, rest: conntracktest.Slow(25 * time.Millisecond), first: 3 << 20, slow: 5 << 20}
			began := time.Now()
			resp, err := http.ReadResponse(bufio.NewReaderSize(slow, 16<<10), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Errorf("cut after %d bytes, %v: %v", slow.n, time.Since(began), err)
			}
		})
	}
}
