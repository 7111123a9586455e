package cli

import "testing"

func TestBarLine(t *testing.T) {
	for _, c := range []struct {
		width, done, total int
		want               string
	}{
		{100, 0, 4000, "killed 0 of 4000 [                                        ]"},
		{100, 1000, 4000, "killed 1000 of 4000 [##########                              ]"},
		{100, 4000, 4000, "killed 4000 of 4000 [########################################]"},
		{33, 1000, 4000, "killed 1000 of 4000 [##        ]"},
		{26, 1000, 4000, "killed 1000 of 4000 [   ]"},
		{25, 1000, 4000, "killed 1000 of 4000"},
		{10, 1000, 4000, "killed 10"},
		{1, 1000, 4000, ""},
		{100, 0, 0, "killed 0 of 0"},
	} {
		b := &bar{did: "killed", width: c.width}
		got := b.line(c.done, c.total)
		if got != c.want || len(got) >= c.width {
			t.Errorf("%d columns, %d of %d: %q (%d), want %q", c.width, c.done, c.total, got, len(got), c.want)
		}
	}
}

func TestImportBar(t *testing.T) {
	for dryRun, want := range map[bool]string{false: "imported 1 of 2", true: "checked 1 of 2"} {
		b := &bar{did: progressVerbs["conntrack.import"], width: 20}
		if got := importBar(b, dryRun).line(1, 2); got != want {
			t.Errorf("dry run %v: %q, want %q", dryRun, got, want)
		}
	}
	if importBar(nil, true) != nil {
		t.Error("a bar where there is no terminal")
	}
}
