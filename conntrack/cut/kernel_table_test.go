package cut

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// TestCutEnds shows that a tuple may be used again after its time, and that then nothing of ours is
// left.
func TestCutEnds(t *testing.T) {
	r := newRig(t)
	p := conntracktest.Path{Port: 5000, SrcPort: 1111}
	c := r.TCP(p)
	const kept = 3 * time.Second
	began := time.Now()
	r.end("proto=tcp", Options{For: kept})
	c.Close()
	if _, err := r.DialTCP(p); err == nil && time.Since(began) < kept {
		t.Error("connected while the tuple is kept out")
	}
	conntracktest.Eventually(t, "a new connection", func() bool {
		_, err := r.DialTCP(p)
		return err == nil
	})
	t.Logf("after %v", time.Since(began))
	conntracktest.Eventually(t, "the end of the table", func() bool {
		return !strings.Contains(r.Router.Exec("nft", "list", "tables"), TablePrefix)
	})
}

// older tells whether the kernel is older than a version.
func older(t *testing.T, major, minor int) bool {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a < major || a == major && b < minor
}

// TestFlushedByOthers makes the table anew, and whole again.
func TestFlushedByOthers(t *testing.T) {
	for _, script := range []string{"flush ruleset", "flush table inet ctd_cut", "delete chain inet ctd_cut prerouting"} {
		t.Run(script, func(t *testing.T) {
			r := newRig(t)
			if err := r.cut.Prepare(&Plan{}, Options{}); err != nil {
				t.Fatal(err)
			}
			want := r.Router.Exec("nft", "list", "table", "inet", TablePrefix)
			r.Router.Nft(script)
			r.Router.Conntrack()
			if blocks, err := r.cut.Blocks(); err != nil || len(blocks) != 0 {
				t.Errorf("blocks %v, %v", blocks, err)
			}
			c := r.TCP(conntracktest.Path{})
			r.end("proto=tcp", Options{For: time.Minute})
			if err := wasReset(c.Client); err != nil {
				t.Error(err)
			}
			if script == "flush ruleset" { // the order of chains is the same only then
				r.Router.Nft("flush map inet ctd_cut ports4")
				if got := r.Router.Exec("nft", "list", "table", "inet", TablePrefix); got != want {
					t.Errorf("now\n%s\nwas\n%s", got, want)
				}
			}
		})
	}
}

// TestFlushedMeanwhile: others change the ruleset between a kill and its cut.
func TestFlushedMeanwhile(t *testing.T) {
	for _, script := range []string{"flush ruleset", "flush table inet ctd_cut"} {
		r := newRig(t)
		c := r.TCP(conntracktest.Path{})
		if err := r.cut.Prepare(&Plan{}, Options{}); err != nil {
			t.Fatal(err)
		}
		flows := r.kill("proto=tcp")
		r.Router.Nft(script)
		if _, err := r.cut.Cut(t.Context(), flows, Options{For: time.Minute}); err != nil {
			t.Fatal(err)
		}
		for _, end := range []net.Conn{c.Client, c.Server} {
			if err := wasReset(end); err != nil {
				t.Errorf("%s: %v", script, err)
			}
		}
	}
}

// TestRestored: others load what they have saved, which the kernel takes for other sets than ours.
func TestRestored(t *testing.T) {
	r := newRig(t)
	r.UDP(conntracktest.Path{Port: 5000})
	r.end("proto=udp", Options{For: time.Minute, Block: time.Minute})
	saved := r.Router.Exec("nft", "list", "table", "inet", "ctd_cut")
	r.Router.Nft("delete table inet ctd_cut\n" + saved)
	blocks, err := r.cut.Blocks()
	if err != nil || len(blocks) != 1 {
		t.Errorf("blocks %+v, %v", blocks, err)
	}
	if lifted, err := r.cut.Unblock(blocks); err != nil || len(lifted) != 1 {
		t.Errorf("lifted %+v, %v", lifted, err)
	}
	c := r.TCP(conntracktest.Path{})
	r.end("proto=tcp", Options{For: time.Minute})
	if err := wasReset(c.Client); err != nil {
		t.Error(err)
	}
	// Also what was restored when we had none any more goes when we do.
	r.Router.Nft("delete table inet ctd_cut")
	other := r.open()
	if err := other.Prepare(&Plan{}, Options{}); err != nil {
		t.Fatal(err)
	}
	other.expireNow()
	r.Router.Nft(strings.ReplaceAll(saved, "ctd_cut", other.Name()))
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if left := r.Router.Exec("nft", "list", "tables"); strings.Contains(left, other.Name()+"\n") {
		t.Errorf("left: %s", left)
	}
}

// expireNow is expire, when it is time.
func (c *Cutter) expireNow() {
	c.mu.Lock()
	c.until = time.Now()
	c.mu.Unlock()
	c.expire()
}

// TestFull refuses, before anything is deleted, what there is no room for.
func TestFull(t *testing.T) {
	r := newRig(t)
	if err := r.cut.Prepare(planned(MaxFlows), Options{Block: time.Minute}); err != nil {
		t.Error(err)
	}
	if err := r.cut.Prepare(planned(MaxFlows+1), Options{}); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	r.UDP(conntracktest.Path{Port: 5000})
	const kept = 3 * time.Second
	began := time.Now()
	r.end("proto=udp", Options{For: kept, Block: 10 * time.Minute})
	if err := r.cut.Prepare(planned(MaxFlows), Options{}); !errors.Is(err, ErrFull) && time.Since(began) < kept {
		t.Errorf("one flow is kept out: %v", err)
	}
	if err := r.cut.Prepare(planned(MaxFlows-1), Options{Block: time.Minute}); err != nil {
		t.Error(err)
	}
	conntracktest.Eventually(t, "the end of the cut", func() bool { return r.cut.Prepare(planned(MaxFlows), Options{}) == nil })
	if err := r.cut.Prepare(planned(MaxBlocks), Options{Block: time.Minute}); !errors.Is(err, ErrFull) {
		t.Errorf("one pair is blocked: %v", err)
	}
	blocks, err := r.cut.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.cut.Unblock(blocks); err != nil {
		t.Fatal(err)
	}
	if err := r.cut.Prepare(planned(MaxBlocks), Options{Block: time.Minute}); err != nil {
		t.Error(err)
	}
	// Zones have sets of their own.
	flows := make([]conntrack.Flow, MaxZones)
	for i := range flows {
		flows[i].Zone = uint16(i)
	}
	if err := r.cut.Prepare(PlanOf(flows), Options{}); err != nil {
		t.Error(err)
	}
	flows[0].Zone = MaxZones
	if err := r.cut.Prepare(PlanOf(flows), Options{}); !errors.Is(err, ErrFull) {
		t.Errorf("one zone more: %v", err)
	}
}

// TestLeftBehind deletes what a killed predecessor left, and nothing of others.
func TestLeftBehind(t *testing.T) {
	r := newRig(t)
	before := r.Router.Exec("nft", "-s", "list", "ruleset")
	if r.cut.Name() != "ctd_cut" {
		t.Errorf("the table's name is %s", r.cut.Name())
	}
	r.TCP(conntracktest.Path{V6: true})
	r.UDP(conntracktest.Path{})
	r.end("proto=tcp", Options{For: time.Minute, Block: time.Minute, Comment: "tester"})
	r.end("proto=udp", Options{For: time.Minute, Block: time.Minute, Reject: true})
	ours := r.Router.Exec("nft", "list", "ruleset")
	if ours == before {
		t.Fatal("Prepare made nothing")
	}
	// What nft(8) lists it must be able to read, because people save it.
	r.Router.Nft("flush ruleset\n" + ours)
	// Another process has a table of its own, and leaves that of one that lives alone.
	second := r.open()
	if second.Name() != "ctd_cut_2" {
		t.Errorf("the second one's table is %s", second.Name())
	}
	if err := second.Prepare(&Plan{}, Options{}); err != nil {
		t.Fatal(err)
	}
	if both := r.Router.Exec("nft", "list", "tables"); !strings.Contains(both, "ctd_cut\n") || !strings.Contains(both, "ctd_cut_2\n") {
		t.Errorf("there are %s", both)
	}
	// As if both were killed: their claims go, and their tables stay.
	for _, c := range []*Cutter{r.cut, second} {
		if err := c.claim.Close(); err != nil {
			t.Fatal(err)
		}
	}
	next := r.open()
	if after := r.Router.Exec("nft", "-s", "list", "ruleset"); after != before {
		t.Errorf("after Open:\n%s\nbefore:\n%s", after, before)
	}
	if err := next.Prepare(&Plan{}, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if after := r.Router.Exec("nft", "-s", "list", "ruleset"); after != before {
		t.Errorf("after Close:\n%s\nbefore:\n%s", after, before)
	}
	if err := next.Prepare(&Plan{}, Options{}); !errors.Is(err, ErrClosed) {
		t.Errorf("prepared after Close: %v", err)
	}
}

// open opens another Cutter, as another process would.
func (r *rig) open() *Cutter {
	r.t.Helper()
	c, err := Open(Config{Table: r.table})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// planned is a plan for n flows between n pairs of addresses.
func planned(n int) *Plan {
	p := &Plan{}
	for i := range n {
		var f conntrack.Flow
		f.Orig.Src = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		f.Orig.Dst = netip.AddrFrom4([4]byte{192, 0, 2, 1})
		p.Add(f)
	}
	return p
}

// TestFlushedRoom: what others have flushed takes no room any more.
func TestFlushedRoom(t *testing.T) {
	r := newRig(t)
	r.UDP(conntracktest.Path{Port: 5000})
	r.end("proto=udp", Options{For: time.Minute, Block: time.Minute})
	full := func() error { return r.cut.Prepare(planned(MaxFlows), Options{Block: time.Minute}) }
	if err := full(); !errors.Is(err, ErrFull) {
		t.Fatalf("one flow is kept out: %v", err)
	}
	r.Router.Nft("delete table inet ctd_cut")
	if err := full(); err != nil {
		t.Error(err)
	}
}

// TestClaims: whoever takes all names keeps nobody from cutting.
func TestClaims(t *testing.T) {
	r := newRig(t)
	var others []*Cutter
	for range maxTables - 1 {
		others = append(others, r.open())
	}
	last := r.open()
	if want := fmt.Sprintf("ctd_cut_pid%d", os.Getpid()); last.Name() != want {
		t.Errorf("the name is %s, want %s", last.Name(), want)
	}
	if err := last.Prepare(&Plan{}, Options{}); err != nil {
		t.Error(err)
	}
	if err := others[0].Close(); err != nil {
		t.Error(err)
	}
	if again := r.open(); again.Name() != "ctd_cut_2" {
		t.Errorf("a name that is free again isn't taken, but %s", again.Name())
	}
}

// TestOneKill is a kill in parts: each pair of addresses counts once, and takes room once.
func TestOneKill(t *testing.T) {
	r := newRig(t)
	flow := conntrack.Flow{Orig: conntrack.Tuple{
		Proto: conntrack.UDP, Src: netip.MustParseAddr("10.9.0.1"), Dst: netip.MustParseAddr("192.0.2.1"), SrcPort: 1, DstPort: 2,
	}}
	flow.Reply = flow.Orig.Inverse()
	blocks := 0
	for i := range 4 {
		flow.Orig.SrcPort = uint16(i)
		result, err := r.cut.Cut(t.Context(), []conntrack.Flow{flow}, Options{For: time.Minute, Block: time.Minute, Comment: "first"})
		if err != nil {
			t.Fatal(err)
		}
		blocks += result.Blocks
	}
	if blocks != 1 || len(r.cut.blocked) != 1 {
		t.Errorf("%d blocks, room for %d taken", blocks, len(r.cut.blocked))
	}
	if result, err := r.cut.Cut(t.Context(), []conntrack.Flow{flow}, Options{For: time.Minute, Block: time.Hour, Comment: "longer"}); err != nil || result.Blocks != 1 {
		t.Errorf("for longer: %+v, %v", result, err)
	}
	if there, err := r.cut.Blocks(); err != nil || len(there) != 1 || there[0].Comment != "longer" || there[0].Left < 50*time.Minute {
		t.Errorf("%+v, %v", there, err)
	}
}
