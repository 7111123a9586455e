package wire

import "strings"

// Nearest returns the candidate that name is most likely a misspelling of, or "" where none is
// near enough. Letter case doesn't count.
func Nearest(name string, candidates []string) string {
	const longest = 64 // no name is longer, and the comparison is quadratic
	if len(name) > longest {
		return ""
	}
	name = strings.ToLower(name)
	best, bestDistance := "", (len(name)+2)/3+1
	for _, c := range candidates {
		if d := editDistance(name, strings.ToLower(c)); d < bestDistance && d < max(len(c), 2) {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance counts the bytes to insert, remove, replace, or swap with their neighbour
// that make a of b: the optimal string alignment distance.
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
