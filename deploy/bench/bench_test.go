package main

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestFlowAt holds what the comparisons rest on: no tuple twice, and groups and marks of one size.
func TestFlowAt(t *testing.T) {
	const n = 5 * flowUnit * 20
	seen := map[flow]bool{}
	bySource, byNet, byMark := 0, 0, 0
	for i := range n {
		f := flowAt(i)
		if f.src == oneSource {
			bySource++
		}
		if strings.HasPrefix(f.src, "10.2.") {
			byNet++
		}
		if f.mark == oneMark {
			byMark++
		}
		f.mark = 0
		if seen[f] {
			t.Fatalf("flow %d repeats %+v", i, f)
		}
		seen[f] = true
		if f.sport > 65535 {
			t.Fatalf("flow %d has port %d", i, f.sport)
		}
	}
	for what, got := range map[string]int{"source": bySource, "network": byNet, "mark": byMark} {
		if got != n/20 {
			t.Errorf("by %s: %d flows, want %d", what, got, n/20)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []time.Duration
		want time.Duration
	}{
		{"one", []time.Duration{4}, 4},
		{"odd", []time.Duration{9, 1, 4}, 4},
		{"even", []time.Duration{9, 1, 4, 6}, 5},
	} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("%s: median(%v) = %v, want %v", tt.name, tt.in, got, tt.want)
		}
	}
}

func TestInTurns(t *testing.T) {
	var order []string
	side := func(name string) func(int) (time.Duration, error) {
		return func(turn int) (time.Duration, error) {
			order = append(order, name+strconv.Itoa(turn))
			return time.Duration(turn), nil
		}
	}
	got, err := inTurns(3, side("a"), side("b"))
	if want := []time.Duration{1, 1}; err != nil || !slices.Equal(got, want) {
		t.Errorf("inTurns = %v, %v, want %v", got, err, want)
	}
	if want := []string{"a0", "b0", "a1", "b1", "a2", "b2"}; !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
	calls := map[int]bool{}
	got, err = inTurns(2, inBlocks(func(i int) (time.Duration, error) {
		calls[i] = true
		return 7, nil
	}))
	if err != nil || !slices.Equal(got, []time.Duration{7}) || len(calls) != 2*block {
		t.Errorf("in blocks: %v, %v, %d different calls, want %d", got, err, len(calls), 2*block)
	}
}

func TestDiscard(t *testing.T) {
	for _, size := range []int{0, 1, tailSize - 1, tailSize, tailSize + 1, 300 << 10} {
		in := strings.Repeat("x", max(0, size-3)) + "end"[:min(3, size)]
		n, tail, err := discard(strings.NewReader(in))
		if err != nil || n != int64(size) || string(tail) != in[len(in)-min(size, tailSize):] {
			t.Errorf("discard of %d bytes = %d, %d bytes, %v", size, n, len(tail), err)
		}
	}
}

func TestDocument(t *testing.T) {
	b := bench{runs: 3, calls: 100}
	b.compare("list", "`conntrack -L`", time.Second, 2*time.Second, 0.7)
	b.compare("get", "`conntrack -G`", time.Millisecond, 2*time.Millisecond, 0.1)
	b.memory("idle", 10<<20, 20<<20)
	b.rates("requests", "none", 1000, 2*time.Second, time.Second)
	b.added("request", "none", 3*time.Millisecond, time.Millisecond)
	doc := b.document([]string{"kernel: 1.2.3"})
	for _, want := range []string{
		"- kernel: 1.2.3\n",
		"| list | 1.00 s | `conntrack -L` | 2.00 s | 0.500 | <= 0.70 | yes |\n",
		"| get | 1.00 ms | `conntrack -G` | 2.00 ms | 0.500 | <= 0.10 | no |\n",
		"| idle | 10.0 MiB |  |  |  | <= 20 MiB | yes |\n",
		"| requests | 500/s | none | 1000/s | 2.000 |  |  |\n",
		"| request, 2.00 ms more | 3.00 ms | none | 1.00 ms | 3.000 |  |  |\n",
	} {
		if !strings.Contains(doc, want) {
			t.Errorf("the document lacks %q:\n%s", want, doc)
		}
	}
}

// TestRig loads a small table and reads it without the daemon.
func TestRig(t *testing.T) {
	if os.Getenv("CTD_KERNEL_TESTS") != "1" {
		t.Skip("needs root and CTD_KERNEL_TESTS=1")
	}
	const n = 5 * flowUnit
	r, err := newRig(t.Context(), "test", t.TempDir(), n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := r.bareDump(); err != nil {
		t.Error(err)
	}
	if _, err := r.conntrack(t.Context(), append([]string{"-G"}, flowAt(22).args()...)...); err != nil {
		t.Error(err)
	}
	left := n
	for _, kill := range []struct {
		args []string
		want int
	}{
		{[]string{"-s", oneSource}, n / groups},
		{[]string{"-s", oneNet}, n / groups},
		{[]string{"-s", "10.3.0.0/16", "-m", strconv.Itoa(oneMark)}, n / groups / marks},
	} {
		if _, err := r.conntrack(t.Context(), append([]string{"-D"}, kill.args...)...); err != nil {
			t.Error(err)
		}
		left -= kill.want
		if err := r.holds(t.Context(), left); err != nil {
			t.Errorf("after killing %q: %v", kill.args, err)
		}
	}
}

// TestRTSPNet sends requests through the router without the daemon, to both ports.
func TestRTSPNet(t *testing.T) {
	if os.Getenv("CTD_KERNEL_TESTS") != "1" {
		t.Skip("needs root and CTD_KERNEL_TESTS=1")
	}
	n, err := newRTSPNet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.close(); err != nil {
			t.Error(err)
		}
	})
	for _, port := range []int{queuedPort, unqueuedPort} {
		took, err := n.load(t.Context(), port, rtspConns, 100*rtspConns)
		if err != nil {
			t.Errorf("port %d: %v", port, err)
		}
		t.Logf("port %d: %d requests in %s", port, 100*rtspConns, took)
	}
}
