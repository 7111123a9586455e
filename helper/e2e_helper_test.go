package helper_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/helper"
	"ctd/helper/rtsptest"

	"github.com/google/go-cmp/cmp"
)

// running is a helper at work on a network's router.
type running struct {
	*helper.Helper
	t    *testing.T
	stop func()
}

// startHelper starts a helper on the router. It ends with the test, or by its stop.
func startHelper(t *testing.T, n *rtsptest.Network, cfg helper.Config) *running {
	t.Helper()
	return startHelperWith(t, n, cfg, helper.Open)
}

func startHelperWith(t *testing.T, n *rtsptest.Network, cfg helper.Config,
	open func(context.Context, helper.Config) (*helper.Helper, error),
) *running {
	t.Helper()
	table, err := conntrack.Open(conntrack.Config{NetNS: n.Router.Name()})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Table = table
	h, err := open(t.Context(), cfg)
	if err != nil {
		table.Close()
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := h.Run(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("run: %v", err)
		}
	})
	r := &running{Helper: h, t: t}
	r.stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
		if err := h.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := table.Close(); err != nil {
			t.Errorf("close table: %v", err)
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("status: %+v\nsessions: %+v\ndropped: %s", h.Status(), h.Sessions(),
				n.Router.Exec("nft", "list", "table", "inet", "e2e"))
		}
		r.stop()
	})
	return r
}

// rules returns the router's rules.
func rules(t *testing.T, n *rtsptest.Network) string {
	t.Helper()
	s, err := rtsptest.Rules(n.Router)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// noMedia waits until the router has no expectation and no flow of UDP left. The network must be one
// without punching, where all of them are the helper's.
func noMedia(t *testing.T, n *rtsptest.Network) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(conntracktest.Patience()); ; time.Sleep(20 * time.Millisecond) {
		var err error
		if left, err = rtsptest.Media(n.Router); err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left in the table (-none +conntrack(8)):\n%s", cmp.Diff([]string(nil), left))
		}
	}
}

// hasMedia fails the test where the router has neither expectation nor flow of UDP: then noMedia
// would show nothing.
func hasMedia(t *testing.T, n *rtsptest.Network) {
	t.Helper()
	if media, err := rtsptest.Media(n.Router); err != nil || len(media) == 0 {
		t.Fatalf("nothing is registered (%v)", err)
	}
}

// plays asks for a stream and waits until its RTP and RTCP come to the ports.
func plays(t *testing.T, c *rtsptest.Client, p *rtsptest.Ports) {
	t.Helper()
	c.Must("SETUP", p.Transport())
	c.Must("PLAY")
	streams(t, c, p)
}

// streams waits for more of both of the session's RTP and RTCP.
func streams(t *testing.T, c *rtsptest.Client, p *rtsptest.Ports) {
	t.Helper()
	rtp0, rtcp0 := p.Got(c.Session)
	conntracktest.Eventually(t, "RTP and RTCP of "+c.Session, func() bool {
		rtp, rtcp := p.Got(c.Session)
		return rtp >= rtp0+10 && rtcp >= rtcp0+2
	})
}

// receivesNothing fails the test where anything comes to the ports for a while in which a stream would.
func receivesNothing(t *testing.T, p *rtsptest.Ports) {
	t.Helper()
	time.Sleep(500 * time.Millisecond)
	if got := p.All(); got != 0 {
		t.Errorf("%d datagrams arrived", got)
	}
}
