package cli

import "testing"

func TestBarLine(t *testing.T) {
	for _, c := range []struct {
		width, done, total int
		want               string
	}{
		{100, 0, 4000, "done 0 of 4000 [                                        ]"},
		{100, 1000, 4000, "done 1000 of 4000 [##########                              ]"},
		{100, 4000, 4000, "done 4000 of 4000 [########################################]"},
		{33, 1000, 4000, "done 1000 of 4000 [###         ]"},
		{24, 1000, 4000, "done 1000 of 4000 [   ]"},
		{23, 1000, 4000, "done 1000 of 4000"},
		{8, 1000, 4000, "done 10"},
		{1, 1000, 4000, ""},
		{100, 0, 0, "done 0 of 0"},
	} {
		b := &bar{width: c.width}
		got := b.line(c.done, c.total)
		if got != c.want || len(got) >= c.width {
			t.Errorf("%d columns, %d of %d: %q (%d), want %q", c.width, c.done, c.total, got, len(got), c.want)
		}
	}
}
