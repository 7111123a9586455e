package cli

import (
	"cmp"
	"fmt"
	"slices"

	"ctd/rpc/wire"
)

const (
	// partSize is how many flows are sent in one call, and partBytes how long they may be together.
	partSize  = 1000
	partBytes = 4 << 20
	// maxPart is how many flows one call has where they belong together.
	maxPart = 4 * partSize
)

// split cuts lines into what one call takes. Flows that have a tuple in common, and a flow and its
// master, are in one call if it can take them: the daemon then brings masters first, and knows what
// is in whose way. Of more, masters are in an earlier call.
func split(lines []flowLine) [][]flowLine {
	size := 0
	for i := range lines {
		size += len(lines[i].raw)
	}
	if len(lines) <= partSize && size <= partBytes {
		return [][]flowLine{lines}
	}
	lines, first := grouped(lines)
	parts := [][]flowLine{}
	start, size := 0, 0
	for i := range lines {
		full := i-start >= maxPart || i-start >= partSize && first[i]
		if full || i > start && size+len(lines[i].raw) > partBytes {
			parts = append(parts, lines[start:i])
			start, size = i, 0
		}
		size += len(lines[i].raw)
	}
	return append(parts, lines[start:])
}

// grouped brings lines together that must be in one call, and tells of each whether it is the first
// of a group.
func grouped(lines []flowLine) (sorted []flowLine, first []bool) {
	group := groups(lines)
	size := map[int]int{}
	for _, g := range group {
		size[g]++
	}
	depth := depths(lines)
	order := make([]int, len(lines))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if group[a] == group[b] && size[group[a]] > maxPart {
			return depth[a] - depth[b]
		}
		return cmp.Compare(group[a], group[b])
	})
	sorted, first = make([]flowLine, len(lines)), make([]bool, len(lines))
	for to, from := range order {
		sorted[to], first[to] = lines[from], group[from] == from
	}
	return sorted, first
}

// groups returns for each line the first line of those that it belongs to.
func groups(lines []flowLine) []int {
	group := make([]int, len(lines))
	top := func(i int) int {
		for group[i] != i {
			group[i] = group[group[i]]
			i = group[i]
		}
		return i
	}
	at := make(map[flowPlace]int, 2*len(lines))
	join := func(i int, p flowPlace) {
		j, ok := at[p]
		if !ok {
			at[p] = i
			return
		}
		a, b := top(i), top(j)
		group[max(a, b)] = min(a, b)
	}
	for i := range lines {
		group[i] = i
		join(i, lines[i].orig)
		join(i, lines[i].reply)
		if lines[i].master != (flowPlace{}) {
			join(i, lines[i].master)
		}
	}
	for i := range group {
		group[i] = top(i)
	}
	return group
}

// maxMasters bounds how far up the masters of masters are looked at.
const maxMasters = 16

// depths returns of each line how many masters are above it.
func depths(lines []flowLine) []int {
	at := make(map[flowPlace]int, len(lines))
	for i := range lines {
		at[lines[i].orig] = i
	}
	n := make([]int, len(lines))
	for i := range lines {
		for l := &lines[i]; l.master != (flowPlace{}) && n[i] < maxMasters; n[i]++ {
			j, ok := at[l.master]
			if !ok {
				break
			}
			l = &lines[j]
		}
	}
	return n
}

// refuseTwice refuses flows of which two can't be there at once: the daemon sees one call at a time.
func refuseTwice(lines []flowLine) error {
	at := make(map[flowPlace]int, 2*len(lines))
	for i := range lines {
		for _, p := range []flowPlace{lines[i].orig, lines[i].reply} {
			if first, taken := at[p]; taken && first != i {
				return &wire.Error{
					Code:    wire.AlreadyExists,
					Message: fmt.Sprintf("%s has a tuple of %s; nothing was created", lines[i].place, lines[first].place),
					Hint:    "take one of them away, or import with --on-conflict skip or replace",
				}
			}
			at[p] = i
		}
	}
	return nil
}
