package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// The server listens at both ports; the helper queues what goes to and from the first alone.
const (
	queuedPort   = 554
	unqueuedPort = 10554
	rtspServer   = "198.51.100.2"
	rtspConns    = 8     // kept-alive connections that send requests at once
	rtspRequests = 20000 // of a turn, on all of them
)

// rtspNet is a client and a server with a router between them that masquerades.
type rtspNet struct {
	client, router, server string // namespaces
	listeners              []net.Listener
}

// newRTSPNet makes the network and starts the server.
func newRTSPNet() (n *rtspNet, err error) {
	prefix := fmt.Sprintf("ctd-bench-%d-rtsp-", os.Getpid())
	n = &rtspNet{client: prefix + "client", router: prefix + "router", server: prefix + "server"}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	for _, ns := range []string{n.client, n.router, n.server} {
		if err := command("ip", "netns", "add", ns).Run(); err != nil {
			return n, fmt.Errorf("make namespace: %w", err)
		}
	}
	for _, part := range []struct{ ns, tool, script string }{
		{n.router, "ip", fmt.Sprintf(`link add lan type veth peer name eth0 netns %s
link add wan type veth peer name eth0 netns %s
addr add 192.168.77.1/24 dev lan
addr add 198.51.100.1/24 dev wan
link set lan up
link set wan up
`, n.client, n.server)},
		{n.client, "ip", "addr add 192.168.77.2/24 dev eth0\nlink set eth0 up\nroute add default via 192.168.77.1\n"},
		{n.server, "ip", "addr add " + rtspServer + "/24 dev eth0\nlink set eth0 up\n"},
		{n.router, "nft", `table inet bench {
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		iifname "lan" accept
	}
	chain source {
		type nat hook postrouting priority 100;
		oifname "wan" masquerade
	}
}`},
	} {
		argv := []string{"-batch", "-"}
		if part.tool == "nft" {
			argv = []string{"-f", "-"}
		}
		if err := inNamespace(part.ns, func() error {
			cmd := command(part.tool, argv...)
			cmd.Stdin = strings.NewReader(part.script)
			return cmd.Run()
		}); err != nil {
			return n, fmt.Errorf("%s in %s: %w", part.tool, part.ns, err)
		}
	}
	if err := inNamespace(n.router, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
	}); err != nil {
		return n, err
	}
	return n, n.listen()
}

// listen starts the server at both ports.
func (n *rtspNet) listen() error {
	for _, port := range []int{queuedPort, unqueuedPort} {
		var l net.Listener
		err := inNamespace(n.server, func() (err error) {
			l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", rtspServer, port))
			return err
		})
		if err != nil {
			return err
		}
		n.listeners = append(n.listeners, l)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return // closed
				}
				go answer(c)
			}
		}()
	}
	return nil
}

func (n *rtspNet) close() error {
	for _, l := range n.listeners {
		l.Close()
	}
	var errs []error
	for _, ns := range []string{n.client, n.router, n.server} {
		if _, err := os.Stat("/run/netns/" + ns); err == nil {
			errs = append(errs, command("ip", "netns", "del", ns).Run())
		}
	}
	return errors.Join(errs...)
}

// answer answers each request of a connection with success.
func answer(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		head, err := readHead(r)
		if err != nil {
			return // the client is done
		}
		cseq := ""
		for line := range strings.Lines(head) {
			if strings.HasPrefix(line, "CSeq:") {
				cseq = line
			}
		}
		if _, err := io.WriteString(c, "RTSP/1.0 200 OK\r\n"+cseq+"Session: 4711\r\n\r\n"); err != nil {
			return
		}
	}
}

// readHead reads the lines of a message that has no body, with the empty one.
func readHead(r *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		head.WriteString(line)
		if line == "\r\n" {
			return head.String(), nil
		}
	}
}

// rtspConn is a kept-alive connection of the client's.
type rtspConn struct {
	net.Conn
	r    *bufio.Reader
	cseq int
}

// dial connects to the server at a port.
func (n *rtspNet) dial(ctx context.Context, port int) (*rtspConn, error) {
	var c net.Conn
	err := inNamespace(n.client, func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second}
		c, err = d.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", rtspServer, port))
		return err
	})
	if err != nil {
		return nil, err
	}
	return &rtspConn{Conn: c, r: bufio.NewReader(c)}, nil
}

// roundTrip sends a request that keeps a session alive, and waits for the response.
func (c *rtspConn) roundTrip() (took time.Duration, err error) {
	c.cseq++
	method := []string{"OPTIONS", "GET_PARAMETER"}[c.cseq%2]
	begin := time.Now()
	if err := c.SetDeadline(begin.Add(10 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(c, "%s rtsp://%s/stream RTSP/1.0\r\nCSeq: %d\r\nSession: 4711\r\n\r\n",
		method, rtspServer, c.cseq); err != nil {
		return 0, err
	}
	head, err := readHead(c.r)
	took = time.Since(begin)
	if err == nil && !strings.Contains(head, fmt.Sprintf("CSeq: %d\r\n", c.cseq)) {
		err = fmt.Errorf("the response to request %d is %q", c.cseq, head)
	}
	return took, err
}

// load sends a number of requests on some connections at once, and returns how long that took.
func (n *rtspNet) load(ctx context.Context, port, conns, requests int) (time.Duration, error) {
	var cs []*rtspConn
	defer func() {
		for _, c := range cs {
			c.Close()
		}
	}()
	for range conns {
		c, err := n.dial(ctx, port)
		if err != nil {
			return 0, err
		}
		cs = append(cs, c)
	}
	begin := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range cs {
		g.Go(func() error {
			for range requests / conns {
				if _, err := c.roundTrip(); err != nil {
					return err
				}
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return time.Since(begin), err
}

// rtsp measures what the helper's queue costs the control connections that go through it, against
// the same at a port that isn't queued.
func (b *bench) rtsp(ctx context.Context) (err error) {
	n, err := newRTSPNet()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	d, err := startDaemon(ctx, b.ctd, &rig{ns: n.router, dir: b.dir}, "--rtsp")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()

	progress("%d RTSP requests", rtspRequests)
	side := func(port int) func(int) (time.Duration, error) {
		return func(int) (time.Duration, error) { return n.load(ctx, port, rtspConns, rtspRequests) }
	}
	took, err := inTurns(b.runs, side(queuedPort), side(unqueuedPort))
	if err != nil {
		return err
	}
	b.rates(fmt.Sprintf("RTSP requests through the helper's queue, %d kept-alive connections", rtspConns),
		"the same unqueued", rtspRequests, took[0], took[1])

	progress("one RTSP request")
	queued, err := n.dial(ctx, queuedPort)
	if err != nil {
		return err
	}
	defer queued.Close()
	unqueued, err := n.dial(ctx, unqueuedPort)
	if err != nil {
		return err
	}
	defer unqueued.Close()
	took, err = inTurns(b.calls/block,
		inBlocks(func(int) (time.Duration, error) { return queued.roundTrip() }),
		inBlocks(func(int) (time.Duration, error) { return unqueued.roundTrip() }))
	if err != nil {
		return err
	}
	b.added("one RTSP request through the helper's queue (p50)", "the same unqueued", took[0], took[1])
	return b.queuedAll(ctx, d)
}

// queuedAll checks that the requests that should have gone through the queue did.
func (b *bench) queuedAll(ctx context.Context, d *daemon) error {
	var status struct {
		Counters struct{ Requests int }
	}
	if err := d.call(ctx, "helper.status", map[string]any{}, &status); err != nil {
		return err
	}
	if want := b.runs*rtspRequests + b.calls; status.Counters.Requests < want {
		return fmt.Errorf("the helper has read %d requests, want %d", status.Counters.Requests, want)
	}
	return nil
}
