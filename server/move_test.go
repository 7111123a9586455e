package server

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
)

// ctd runs the command against a daemon and returns what it printed, and its exit status.
func (p *process) ctd(stdin string, args ...string) (stdout, stderr string, status int) {
	p.t.Helper()
	c := exec.Command(program(p.t), append([]string{"--server", "unix://" + p.sock}, args...)...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &errs
	err := c.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		p.t.Fatal(err)
	}
	return out.String(), errs.String(), status
}

// must is ctd for a command that succeeds.
func (p *process) must(stdin string, args ...string) string {
	p.t.Helper()
	out, errs, status := p.ctd(stdin, args...)
	if status != 0 {
		p.t.Fatalf("ctd %s: status %d: %s", strings.Join(args, " "), status, errs)
	}
	return out
}

// flowsOf lists the flows of a namespace.
func flowsOf(t testing.TB, ns *conntracktest.NS) []conntrack.Flow {
	t.Helper()
	table, err := conntrack.Open(conntrack.Config{NetNS: ns.Name()})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	var flows []conntrack.Flow
	for f, err := range table.Flows(t.Context(), conntrack.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		flows = append(flows, f)
	}
	return flows
}

// TestMoveFlows carries 1,200 flows of all kinds (more than one call takes) from one router's daemon to another's, by either
// protocol, and holds the lists against each other and against conntrack(8).
func TestMoveFlows(t *testing.T) {
	const n = 1200
	a := conntracktest.NewNS(t)
	a.Conntrack()
	table, err := conntrack.Open(conntrack.Config{NetNS: a.Name()})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for i, r := range table.Import(t.Context(), conntracktest.Mixed(n), conntrack.OnConflictFail) {
		if r.Outcome != conntrack.OutcomeCreated {
			t.Fatalf("flow %d: %+v", i, r)
		}
	}
	from := startProcess(t, a, t.TempDir())
	for _, protocol := range []string{"json", "xml"} {
		t.Run(protocol, func(t *testing.T) {
			b := conntracktest.NewNS(t)
			b.Conntrack()
			to := startProcess(t, b, t.TempDir())
			began := time.Now()
			exported := from.must("", "export", "--protocol", protocol)
			created := fmt.Sprintf("created %d, replaced 0, skipped 0\n", n)
			if out := to.must(exported, "import", "--on-conflict", "fail", "--protocol", protocol); out != created {
				t.Fatalf("%s, want %s", out, created)
			}
			want, got := flowsOf(t, a), flowsOf(t, b)
			entries, inA := conntracktest.Oracle(t, b), conntracktest.Oracle(t, a)
			if len(want) != n {
				t.Fatalf("%d flows in A", len(want))
			}
			// In A they ran on while they were carried, and everywhere while they were listed.
			times := timeouts{time.Since(began), map[flowKey]time.Duration{}}
			for _, f := range want {
				times.want[flowKey{f.Orig, f.Zone}] = f.Timeout
			}
			for i := range got {
				times.match(got[i].Orig, got[i].Zone, &got[i].Timeout)
			}
			for _, list := range [][]conntracktest.Entry{entries, inA} {
				for i := range list {
					times.match(list[i].Orig, list[i].Zone, &list[i].Timeout)
				}
			}
			conntracktest.SameFlows(t, want, got)
			// conntrack(8) shows the same of either.
			if d := conntracktest.DiffAll(got, entries); d != "" {
				t.Errorf("in B (-conntrack(8) +listed):\n%s", d)
			}
			sameEntries(t, inA, entries)

			for _, on := range []string{"skip", "replace"} {
				out := to.must(exported, "import", "--yes", "--on-conflict", on, "-o", "json", "--protocol", protocol)
				if !strings.Contains(out, fmt.Sprintf(`"created":0,"replaced":0,"skipped":%d`, n)) || !strings.Contains(out, `"changed":false`) {
					t.Errorf("%s again: %s", on, out)
				}
			}
			if _, errs, status := to.ctd(exported, "import", "--on-conflict", "fail"); status != 3 || !strings.Contains(errs, "nothing was created") {
				t.Errorf("fail again: status %d, %s", status, errs)
			}
			// An export of what was imported is the same but for times and what import adds.
			if back := to.must("", "export"); strings.Count(back, "\n") != strings.Count(exported, "\n") {
				t.Errorf("exported %d lines, and then %d", strings.Count(exported, "\n"), strings.Count(back, "\n"))
			}
			if strings.Contains(exported, `"use":`) || strings.Contains(exported, `"start":`) {
				t.Error("the export holds what can't be written")
			}
		})
	}
}

// flowKey tells flows apart, in whichever table they are.
type flowKey struct {
	orig conntrack.Tuple
	zone uint16
}

// timeouts are those of flows, which others, listed within a time of them, match.
type timeouts struct {
	within time.Duration
	want   map[flowKey]time.Duration
}

// match makes a timeout the same as that of the flow where time alone is between them.
func (o timeouts) match(orig conntrack.Tuple, zone uint16, timeout *time.Duration) {
	// Each is told in whole seconds.
	if want, ok := o.want[flowKey{orig, zone}]; ok && (want-*timeout).Abs() <= o.within+time.Second {
		*timeout = want
	}
}

// sameEntries compares what conntrack(8) shows of two tables that hold the same flows.
func sameEntries(t *testing.T, want, got []conntracktest.Entry) {
	t.Helper()
	found := map[flowKey]conntracktest.Entry{}
	for _, e := range got {
		found[flowKey{e.Orig, e.Zone}] = e
	}
	if len(want) != len(got) {
		t.Errorf("conntrack(8) shows %d flows, want %d", len(got), len(want))
	}
	for _, e := range want {
		g := found[flowKey{e.Orig, e.Zone}]
		g.ID, g.Use, g.Start, g.Counters = e.ID, e.Use, e.Start, e.Counters
		g.OrigCounter, g.ReplyCounter = e.OrigCounter, e.ReplyCounter
		if d := conntracktest.DiffEntries(e, g); d != "" {
			t.Errorf("%s (-A +B):\n%s", e.Orig, d)
		}
	}
}

// TestMoveHost moves a client from one router to another in the middle of a transfer in both
// directions: without its flows on the new router the transfer dies, with them it ends whole, and no
// packet is invalid there.
func TestMoveHost(t *testing.T) {
	conntracktest.Kernel(t)
	for _, tt := range []struct {
		name string
		v6   bool
		move bool
	}{{"without import", false, false}, {"ipv4", false, true}, {"ipv6", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			p := conntracktest.NewPair(t)
			from, to := startProcess(t, p.A, t.TempDir()), startProcess(t, p.B, t.TempDir())
			p.B.Sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")
			client, server := p.Dial(tt.v6)
			end := func(after time.Duration) {
				deadline := time.Now().Add(after)
				_, _ = client.SetDeadline(deadline), server.SetDeadline(deadline)
			}
			end(time.Minute)
			up, down := transfer(client, server), transfer(server, client)
			for up.sent.Load() < transferred || down.sent.Load() < transferred {
				if len(up.done)+len(down.done) > 0 {
					t.Fatalf("%d and %d bytes were sent before the move", up.sent.Load(), down.sent.Load())
				}
				time.Sleep(time.Millisecond)
			}
			exported := from.must("", "export", "addr="+client.LocalAddr().(*net.TCPAddr).IP.String())
			if tt.move {
				if out := to.must(exported, "import"); out != "created 1, replaced 0, skipped 0\n" {
					t.Fatal(out)
				}
			}
			p.Switch()
			if !tt.move {
				end(2 * time.Second)
			}
			for i, w := range []*way{up, down} {
				w.enough.Store(w.sent.Load() + transferred)
				if err := <-w.done; (err == nil) != tt.move {
					t.Errorf("way %d: %v, want that it ends well: %v", i, err, tt.move)
				}
			}
			if n := p.Invalid(p.B); n != 0 && tt.move {
				t.Errorf("%d packets were invalid on the new router", n)
			}
			if stats := p.B.Exec("conntrack", "-S"); tt.move && strings.Count(stats, "invalid=0 ") != strings.Count(stats, "invalid=") {
				t.Errorf("conntrack -S: %s", stats)
			}
		})
	}
}

// transferred is how much goes each way before a host is moved, and at least after it.
const transferred = 32 << 20

// way is one direction of a transfer.
type way struct {
	sent, enough atomic.Int64
	done         chan error // nil where everything arrived as it was sent
}

// transfer sends random bytes from one end of a connection to the other until they are enough.
func transfer(from, to net.Conn) *way {
	w := &way{done: make(chan error, 1)}
	w.enough.Store(math.MaxInt64)
	received := make(chan error, 1)
	arrived := sha256.New()
	go func() {
		_, err := io.Copy(arrived, to)
		received <- err
	}()
	go func() {
		sum := sha256.New()
		random := rand.NewChaCha8([32]byte{7})
		piece := make([]byte, 256<<10)
		for w.sent.Load() < w.enough.Load() {
			_, _ = random.Read(piece[:32]) // no two pieces are the same
			sum.Write(piece)
			if _, err := from.Write(piece); err != nil {
				w.done <- err
				return
			}
			w.sent.Add(int64(len(piece)))
		}
		err := from.(*net.TCPConn).CloseWrite()
		if err == nil {
			err = <-received
		}
		if err == nil && !bytes.Equal(sum.Sum(nil), arrived.Sum(nil)) {
			err = errors.New("what arrived is not what was sent")
		}
		w.done <- err
	}()
	return w
}

// BenchmarkMove imports 10,000 flows by the command, in ten calls that are tried before, and
// compares with conntrack -R.
func BenchmarkMove(b *testing.B) {
	const n = 10_000
	ns := conntracktest.NewNS(b)
	ns.Conntrack()
	p := startProcess(b, ns, b.TempDir())
	var script, lines strings.Builder
	for i := range n {
		fmt.Fprintf(&script, "-A -s 10.1.0.2 -d 10.2.0.2 -p tcp --sport %d --dport 80 --src-nat 10.2.0.1:%[1]d --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 600 -m 7\n", i+1024)
	}
	file := filepath.Join(b.TempDir(), "flows")
	if err := os.WriteFile(file, []byte(script.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	restore := func() time.Duration {
		p.must("", "flush", "--all")
		began := time.Now()
		if _, err := ns.Conntrack8("-R", file); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	restore()
	lines.WriteString(p.must("", "export"))
	var own, other, exporting time.Duration
	for b.Loop() {
		p.must("", "flush", "--all")
		began := time.Now()
		p.must(lines.String(), "import")
		own += time.Since(began)
		other += restore()
		began = time.Now()
		p.must("", "export")
		exporting += time.Since(began)
	}
	b.ReportMetric(float64(own.Microseconds())/float64(b.N*n), "us/flow")
	b.ReportMetric(own.Seconds()/other.Seconds(), "of-conntrack-R")
	b.ReportMetric(float64(exporting.Microseconds())/float64(b.N*n), "us/exported")
}
