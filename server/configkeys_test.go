package server

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

// keyLineTests are texts and their keys, each as line:key.
var keyLineTests = map[string]struct {
	text string
	want string
}{
	"empty":              {"# nothing\n", ""},
	"plain":              {"a = 1\n\nb = \"x\" # c = 3\nc = true", "1:a 3:b 4:c"},
	"tables":             {"[a]\nb = 1\n[c.d]\ne = 2", "1:a 2:a.b 3:c 3:c.d 4:c.d.e"},
	"dotted":             {"a.b . c = 1\na.d = 2", "1:a 1:a.b 1:a.b.c 2:a.d"},
	"in quotes":          {"\"a.b\" = 1\n'c[0]' = 2\n\"\\u0064\" = 3\n\"\" = 4", "1:a.b 2:c[0] 3:d 4:"},
	"list of tables":     {"[[u]]\nr = 1\n[[u]]\nn = 1\nr = 2\n[[u]]", "1:u 1:u[0] 2:u[0].r 3:u[1] 4:u[1].n 5:u[1].r 6:u[2]"},
	"list in a table":    {"[o]\ni = 1\n[[o.g]]\nv = 1\n[[o.g]]\nv = 2", "1:o 2:o.i 3:o.g 3:o.g[0] 4:o.g[0].v 5:o.g[1] 6:o.g[1].v"},
	"table below a list": {"[[u]]\n[u.t]\na = 1\n[[u]]\n[u.t]\na = 2", "1:u 1:u[0] 2:u[0].t 3:u[0].t.a 4:u[1] 5:u[1].t 6:u[1].t.a"},
	"list below a list":  {"[[u]]\n[[u.v]]\n[[u.v]]\n[[u]]\n[[u.v]]", "1:u 1:u[0] 2:u[0].v 2:u[0].v[0] 3:u[0].v[1] 4:u[1] 5:u[1].v 5:u[1].v[0]"},
	"inline table":       {"a = {b = 1, c = {d = 2}}\ne = {}", "1:a 1:a.b 1:a.c 1:a.c.d 2:e"},
	"inline tables":      {"u = [\n  {r = 1, n = [1, 2]}, # one\n  {r = \"}\"},\n]\nb = 1", "1:u 2:u[0] 2:u[0].r 2:u[0].n 3:u[1] 3:u[1].r 5:b"},
	"long texts":         {"a = \"\"\"\nb = 1\n\\\"\"\" c = \"\"\"\"\"\nd = '''\ne = 1''\n'''\nf = \"\"\ng = ''", "1:a 4:d 7:f 8:g"},
	"escapes":            {"a = \"\\\\\"\nb = \"\\\"\\n[c]\"\nd = '\\'\ne = 1", "1:a 2:b 3:d 4:e"},
	"lists":              {"a = [[1, 2], [\"]\", ']'], [\n]]\nb = [] # ]\nc = 2026-11-22 10:00:00Z", "1:a 3:b 4:c"},
	"lists of tables":    {"a = [[{}, {b = 1}], {b = 2}]", "1:a 1:a[1] 1:a[1].b"},
	"other line ends":    {"a = 1\r\n[b]\r\nc = [\r\n1]\r\nd = 2\r\n", "1:a 2:b 3:b.c 5:b.d"},
	"byte order mark":    {"\xef\xbb\xbfa = 1", "1:a"},
}

func TestKeyLines(t *testing.T) {
	for name, c := range keyLineTests {
		if err := toml.Unmarshal([]byte(c.text), &map[string]any{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, k := range keyLines(c.text) {
			got = append(got, fmt.Sprintf("%d:%s", k.line, k.path))
		}
		if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestParseKeyPath(t *testing.T) {
	for key, want := range map[string]keyPath{
		"a":           {{name: "a"}},
		"a.b":         {{name: "a"}, {name: "b"}},
		"u[0].r":      {{"u", 1}, {name: "r"}},
		"o.g[12].v_w": {{name: "o"}, {"g", 13}, {name: "v_w"}},
	} {
		got := parseKeyPath(key)
		if !slices.Equal(got, want) || got.String() != key {
			t.Errorf("%s: %v, which is %s", key, got, got)
		}
	}
}

// FuzzKeyLines: of each text that the decoder takes, keys are those that it finds itself.
func FuzzKeyLines(f *testing.F) {
	for _, c := range keyLineTests {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var tree map[string]any
		if _, err := toml.Decode(text, &tree); err != nil {
			return
		}
		want := map[string]bool{}
		addKeys(tree, nil, want)
		got := map[string]bool{}
		last := 1
		for _, k := range keyLines(text) {
			got[fmt.Sprintf("%q", k.path)] = true
			if k.line < last || k.line > 1+strings.Count(text, "\n") {
				t.Errorf("%s in line %d", k.path, k.line)
			}
			last = k.line
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	})
}

// addKeys adds the keys of a table that was decoded, as keyLines has them.
func addKeys(table map[string]any, at keyPath, into map[string]bool) {
	for name, value := range table {
		p := at.with(step{name: name})
		into[fmt.Sprintf("%q", p)] = true
		switch value := value.(type) {
		case map[string]any:
			addKeys(value, p, into)
		case []map[string]any:
			for i, one := range value {
				p := at.with(step{name, i + 1})
				into[fmt.Sprintf("%q", p)] = true
				addKeys(one, p, into)
			}
		case []any:
			for i, one := range value {
				if one, ok := one.(map[string]any); ok {
					p := at.with(step{name, i + 1})
					into[fmt.Sprintf("%q", p)] = true
					addKeys(one, p, into)
				}
			}
		}
	}
}
