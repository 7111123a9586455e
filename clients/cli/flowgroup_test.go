package cli

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// chained returns n lines in groups of so many: each has a tuple in common with the one before it, or
// is its master's.
func chained(n, group int, mastered bool) []flowLine {
	lines := make([]flowLine, n)
	at := func(i int) flowPlace { return flowPlace{src: fmt.Sprint(i)} }
	for i := range lines {
		lines[i] = flowLine{raw: []byte("{}"), place: fmt.Sprint(i), orig: at(2 * i), reply: at(2*i + 1)}
		switch {
		case i%group == 0:
		case mastered:
			lines[i].master = lines[i-1].orig
		default:
			lines[i].orig = lines[i-1].reply
		}
	}
	return lines
}

// TestSplit: what belongs together is in one call, in its order, if a call can take it.
func TestSplit(t *testing.T) {
	tests := map[string]struct {
		n, group int
		parts    []int
	}{
		"none":              {0, 1, []int{0}},
		"one call":          {1000, 1, []int{1000}},
		"alone":             {2500, 1, []int{1000, 1000, 500}},
		"pairs":             {2002, 2, []int{1000, 1000, 2}},
		"groups of seven":   {2100, 7, []int{1001, 1001, 98}},
		"a large group":     {3000, 3000, []int{3000}},
		"a group too large": {9000, 9000, []int{4000, 4000, 1000}},
	}
	for name, tt := range tests {
		for _, mastered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, masters %v", name, mastered), func(t *testing.T) {
				lines := chained(tt.n, tt.group, mastered)
				groupOf := map[string]int{}
				for i := range lines {
					groupOf[lines[i].place] = i / tt.group
				}
				if tt.group <= maxPart {
					rand.New(rand.NewPCG(1, 2)).Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
				}
				before := map[string]int{} // where each line stood
				for i := range lines {
					before[lines[i].place] = i
				}
				parts := split(lines)
				sizes, partOf, sent := []int{}, map[int]int{}, 0
				for p, part := range parts {
					sizes = append(sizes, len(part))
					sent += len(part)
					for i := range part {
						g := groupOf[part[i].place]
						if at, ok := partOf[g]; ok && at != p && tt.group <= maxPart {
							t.Fatalf("group %d is in parts %d and %d", g, at, p)
						}
						partOf[g] = p
						if i > 0 && groupOf[part[i-1].place] == g && before[part[i-1].place] > before[part[i].place] {
							t.Fatalf("%s comes before %s", part[i-1].place, part[i].place)
						}
					}
				}
				if sent != tt.n || fmt.Sprint(sizes) != fmt.Sprint(tt.parts) {
					t.Errorf("parts %v, want %v", sizes, tt.parts)
				}
			})
		}
	}
}

// BenchmarkReadFlows is the time that a line takes before it is sent.
func BenchmarkReadFlows(b *testing.B) {
	text := []byte(`{"family":"ipv4","protocol":"tcp","orig":{"src":"10.0.0.1","dst":"192.0.2.1","sport":40000,"dport":443},"reply":{"src":"192.0.2.1","dst":"10.0.0.1","sport":443,"dport":40000},"state":"ESTABLISHED","timeout":431999,"status":["seen_reply","assured"],"mark":1,"tcp":{"wscale":[7,7],"flags":[3,3]}}`)
	b.Run("names", func(b *testing.B) {
		for b.Loop() {
			if !plainNames(text) {
				b.Fatal("not plain")
			}
		}
	})
	b.Run("line", func(b *testing.B) {
		for b.Loop() {
			if err := (&flowReader{}).line(text, "line 1"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
