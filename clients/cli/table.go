package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"ctd/rpc/wire"
)

// sampleRows is how many rows are held to find the widths of the columns; those after them are
// written as they come.
const sampleRows = 200

// tableColumn is one column of a table.
type tableColumn struct {
	title string
	right bool // aligned right
	drop  int  // left out so early where the terminal is too narrow; 0 is never
}

// table writes aligned columns without holding more than sampleRows rows.
type table struct {
	w       io.Writer
	cols    []tableColumn
	width   int // of the terminal; 0 is no terminal
	paint   painter
	colours func(col int, cell, text string) string // nil: none
	whole   string                                  // the form of the output that leaves nothing out; csv where empty

	sample  [][]string
	widths  []int
	dropped []string
	started bool
}

func (t *table) row(cells []string) error {
	for i, c := range cells {
		if cells[i] = oneLine(c); cells[i] == "" {
			cells[i] = "-"
		}
	}
	if t.started {
		return t.print(cells, t.colours)
	}
	t.sample = append(t.sample, cells)
	if len(t.sample) < sampleRows {
		return nil
	}
	return t.start()
}

// start writes the header and the rows that were held.
func (t *table) start() error {
	t.started = true
	t.measure()
	titles := make([]string, len(t.cols))
	for i, c := range t.cols {
		titles[i] = c.title
	}
	if err := t.print(titles, func(_ int, _, text string) string { return t.paint.bold(text) }); err != nil {
		return err
	}
	for _, cells := range t.sample {
		if err := t.print(cells, t.colours); err != nil {
			return err
		}
	}
	t.sample = nil
	return nil
}

func (t *table) measure() {
	t.widths = make([]int, len(t.cols))
	empty := make([]bool, len(t.cols))
	for i, c := range t.cols {
		t.widths[i] = len(c.title)
		empty[i] = len(t.sample) > 0
		for _, cells := range t.sample {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cells[i]))
			empty[i] = empty[i] && cells[i] == "-"
		}
	}
	for first := 1; t.width > 0 && t.total() > t.width; first++ {
		last := true
		for i, c := range t.cols {
			last = last && c.drop < first
			if c.drop == first {
				t.widths[i] = -1
				if !empty[i] {
					t.dropped = append(t.dropped, c.title)
				}
			}
		}
		if last {
			return
		}
	}
}

func (t *table) total() int {
	n := -2
	for _, w := range t.widths {
		if w >= 0 {
			n += w + 2
		}
	}
	return n
}

func (t *table) print(cells []string, colours func(int, string, string) string) error {
	var b strings.Builder
	pending := 0 // spaces that only count if something follows
	for i, cell := range cells {
		if t.widths[i] < 0 {
			continue
		}
		fill := max(0, t.widths[i]-utf8.RuneCountInString(cell))
		if t.cols[i].right {
			pending += fill
			fill = 0
		}
		b.WriteString(strings.Repeat(" ", pending))
		if colours != nil {
			b.WriteString(colours(i, cell, cell))
		} else {
			b.WriteString(cell)
		}
		pending = fill + 2
	}
	b.WriteByte('\n')
	_, err := io.WriteString(t.w, b.String())
	return err
}

func (t *table) close() error {
	if t.started {
		return nil
	}
	return t.start()
}

// tableWriter writes flows as a table.
type tableWriter struct {
	table
	rates  bool
	fields []column // with --fields, in place of the usual columns
}

func (s *session) newTableWriter(rates bool, fields []string) *tableWriter {
	t := &tableWriter{rates: rates, table: s.newTable(nil)}
	if len(fields) == 0 {
		t.cols = flowTableColumns(rates)
		t.colours = func(col int, cell, text string) string {
			if t.cols[col].title == "STATE" {
				return t.paint.state(cell, text)
			}
			return text
		}
		return t
	}
	t.fields = chooseColumns(flowColumns(), fields)
	for _, c := range t.fields {
		t.cols = append(t.cols, tableColumn{title: strings.ToUpper(c.name)})
	}
	return t
}

func (s *session) newTable(cols []tableColumn) table {
	return table{w: s.out, cols: cols, width: terminalWidth(s.o.Stdout), paint: s.paint(s.o.Stdout)}
}

func (t *tableWriter) write(_ json.RawMessage, f *wire.Flow) error {
	if t.fields == nil {
		return t.row(flowRow(f, t.rates))
	}
	cells := make([]string, len(t.fields))
	for i, c := range t.fields {
		cells[i] = c.get(f)
	}
	return t.row(cells)
}

// note tells a person at a terminal what the table doesn't show.
func (s *session) note(t *table, format string, args ...any) {
	if t.width == 0 {
		return
	}
	_ = s.out.Flush()
	text := fmt.Sprintf(format, args...)
	if len(t.dropped) > 0 {
		text += fmt.Sprintf("; no room for %s: see -o %s", strings.Join(t.dropped, ", "), cmp.Or(t.whole, "csv"))
	}
	fmt.Fprintln(s.o.Stderr, s.paint(s.o.Stderr).dim(text))
}
