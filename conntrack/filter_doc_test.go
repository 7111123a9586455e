package conntrack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestFilterDoc reads every example of docs/filter.md and holds its table against the fields.
func TestFilterDoc(t *testing.T) {
	data, err := os.ReadFile("../docs/filter.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(data)
	examples := map[string]int{}

	parse := func(text string) {
		f, err := ParseFilter(text)
		if err != nil || f.IsZero() {
			t.Errorf("%q: %v", text, err)
			return
		}
		checkForms(t, f)
	}
	block := regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")
	for _, m := range block.FindAllStringSubmatch(doc, -1) {
		if m[1] == "json" {
			examples["json"]++
			d := json.NewDecoder(strings.NewReader(m[2]))
			d.UseNumber()
			var v any
			if err := d.Decode(&v); err != nil {
				t.Fatalf("%s: %v", m[2], err)
			}
			if f, err := FilterFromValue(v); err != nil || f.IsZero() {
				t.Errorf("%s: %v", m[2], err)
			}
			continue
		}
		for line := range strings.Lines(m[2]) {
			line = strings.TrimSpace(line)
			examples[m[1]]++
			switch m[1] {
			case "filter":
				parse(line)
			case "sh":
				words, _, _ := strings.Cut(line, " --")
				words = strings.SplitN(words, " ", 3)[2] // without ctd and the verb
				parse(strings.ReplaceAll(words, "'", ""))
			case "refused":
				if f, err := ParseFilter(line); err == nil {
					t.Errorf("%q is not refused: %q", line, f)
				}
			default:
				t.Errorf("unknown block %q", m[1])
			}
		}
	}
	prose := block.ReplaceAllString(doc, "")
	for _, m := range regexp.MustCompile("`([a-z_]+=[^`]+)`").FindAllStringSubmatch(prose, -1) {
		if m[1] == "bytes=>1K,<1M" { // named as refused
			continue
		}
		examples["inline"]++
		parse(m[1])
	}
	for _, kind := range []string{"filter", "sh", "json", "refused", "inline"} {
		if examples[kind] < 3 {
			t.Errorf("%d examples of kind %s", examples[kind], kind)
		}
	}

	var table bytes.Buffer
	for _, field := range FilterFields() {
		fmt.Fprintf(&table, "| `%s` | %s | `%s` |\n", field.Name, field.Summary, field.Example)
	}
	if !strings.Contains(doc, table.String()) {
		t.Errorf("the table of fields is not:\n%s", table.String())
	}
	limits := fmt.Sprintf("at most %d bytes as text, %d alternatives and %d values",
		MaxFilterText, MaxFilterClauses, MaxFilterValues)
	if !strings.Contains(doc, limits) {
		t.Errorf("the limits are not: %s", limits)
	}
}
