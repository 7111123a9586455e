package conntrack_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"

	"github.com/google/go-cmp/cmp"
)

// TestKernelStats compares statistics with conntrack -C and -S. Each call has an end: some
// versions of the netlink library wait for ever here.
func TestKernelStats(t *testing.T) {
	conntracktest.Kernel(t)
	t.Parallel()
	tp := conntracktest.NewTopology(t)
	table := open(t, tp.Router)
	tp.TCP(conntracktest.Path{})
	tp.UDP(conntracktest.Path{V6: true})
	// A TCP packet without a flag is invalid, which the kernel counts.
	tp.Raw(conntracktest.Path{}, 6).Send([]byte{0, 99, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0})
	conntracktest.Quiesce(t, tp.Router)
	ctx := within(t, 5*time.Second)

	s, err := table.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out, err := tp.Router.Conntrack8("-C")
	if err != nil || strings.TrimSpace(out) != fmt.Sprint(s.Entries) || s.Entries != 2 {
		t.Errorf("entries: got %d, conntrack -C says %s: %v", s.Entries, out, err)
	}
	if n, err := table.Count(ctx, conntrack.Filter{}); n != 2 || err != nil {
		t.Errorf("count: %d: %v", n, err)
	}
	if max := strings.TrimSpace(tp.Router.Exec("cat", "/proc/sys/net/netfilter/nf_conntrack_max")); max != fmt.Sprint(s.Max) {
		t.Errorf("most entries: got %d, want %s", s.Max, max)
	}

	cpus, err := table.PerCPU(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if out, err = tp.Router.Conntrack8("-S"); err != nil {
		t.Fatal(err)
	}
	want, got := map[string]uint32{}, map[string]uint32{}
	for line := range strings.Lines(out) {
		cpu, rest, _ := strings.Cut(line, " ")
		for word := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(word, "=")
			var n uint32
			if _, err := fmt.Sscan(value, &n); err != nil {
				t.Fatalf("conntrack -S: %q: %v", word, err)
			}
			want[cpu+" "+key] = n
		}
	}
	invalid := uint32(0)
	for _, c := range cpus {
		invalid += c.Invalid
		for key, n := range map[string]uint32{
			"found": c.Found, "invalid": c.Invalid, "insert": c.Insert, "insert_failed": c.InsertFailed,
			"drop": c.Drop, "early_drop": c.EarlyDrop, "error": c.Error, "search_restart": c.SearchRestart,
			"clash_resolve": c.ClashResolve, "chaintoolong": c.ChainTooLong,
		} {
			got[fmt.Sprintf("cpu=%d %s", c.CPU, key)] = n
		}
		if len(c.Unknown) > 0 {
			t.Logf("counters that are not known: %v", c.Unknown)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("counters (-conntrack -S +got):\n%s", d)
	}
	if invalid == 0 {
		t.Error("the invalid packet was not counted")
	}
}
