package auth

import (
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

func TestTOMLDepth(t *testing.T) {
	nested := func(n int, open, closing string) string {
		return "x = " + strings.Repeat(open, n) + "1" + strings.Repeat(closing, n) + "\n"
	}
	deep := strings.Repeat("{[", 20)
	for name, tt := range map[string]struct {
		text string
		line int // of the error; 0: none
	}{
		"empty":               {"", 0},
		"usual":               {"[[user]]\nname = \"a\"\nnetworks = [\"10.0.0.0/8\", '::1']\n[a.b]\nc.d = 1.5\n", 0},
		"as deep as may be":   {nested(16, "[", "]"), 0},
		"lists":               {"a = 1\n" + nested(17, "[", "]"), 2},
		"tables":              {nested(17, "{a=", "}"), 1},
		"both":                {nested(9, "{a=[", "]}"), 1},
		"lists over lines":    {nested(17, "[\n", "]"), 17},
		"a key":               {"x\n\n" + strings.Repeat("a.", 17) + "a = 1", 3},
		"a key as it may be":  {strings.Repeat("a.", 16) + "a = 1", 0},
		"a key of strings":    {strings.Repeat(`"a" . `, 17) + "a = 1", 1},
		"a head":              {"[" + strings.Repeat("a.", 16) + "a]", 1},
		"keys in tables":      {nested(6, "{a.a.a = ", "}"), 1},
		"many beside":         {strings.Repeat(nested(16, "[", "]")+"[[a]]\na.b = 1.5\n", 50), 0},
		"many in a list":      {"x = [" + strings.Repeat("{a.b = 1.5}, [1.5], 1.5,", 50) + "]", 0},
		"many in lines":       {"x = [\n" + strings.Repeat("1.5\n", 50) + "]", 0},
		"comment":             {"# " + deep + "\na = 1 # " + deep, 0},
		"after a comment":     {"# \"\n" + nested(17, "[", "]"), 2},
		"string":              {`x = "` + deep + `"`, 0},
		"literal":             {`x = '` + deep + `\'`, 0},
		"after a literal":     {`x = '\'` + "\n" + nested(17, "[", "]"), 2},
		"escaped":             {`x = "\"` + deep + `\\"`, 0},
		"after an escape":     {`x = "\\"` + "\n" + nested(17, "[", "]"), 2},
		"empty string":        {`x = ""` + "\n" + nested(17, "[", "]"), 2},
		"long string":         {"x = \"\"\"\n\" \"\" \\\"\"\"" + deep + "\n\"\"\"", 0},
		"long literal":        {"x = '''\n' '' \\" + deep + "\n'''", 0},
		"after a long one":    {"x = \"\"\"\n#\n\"\"\"\n" + nested(17, "[", "]"), 4},
		"quotes at its end":   {`x = """a"""""` + "\n" + nested(17, "[", "]"), 2},
		"a quote at its end":  {`x = '''a''''` + "\n" + nested(17, "[", "]"), 2},
		"empty long one":      {`x = """"""` + "\n" + nested(17, "[", "]"), 2},
		"a hash in a string":  {`x = ["#", ` + nested(17, "[", "]"), 1},
		"no end":              {`x = "` + deep, 0},
		"no end in its line":  {`x = "` + "\n" + nested(17, "[", "]"), 2},
		"no end of a long":    {`x = """` + deep + "\n", 0},
		"a backslash at last": {`x = "\`, 0},
		"closed too often":    {"x = ]]]]\n" + nested(17, "[", "]"), 2},
	} {
		err := CheckTOMLDepth(tt.text)
		parse, ok := err.(toml.ParseError) //nolint:errorlint // as it is
		if ok != (tt.line > 0) || ok && parse.Position.Line != tt.line || !ok && err != nil {
			t.Errorf("%s: %v, want an error in line %d", name, err, tt.line)
		}
	}
}

// TestTOMLDeep: what is nested deep is refused at once.
func TestTOMLDeep(t *testing.T) {
	for name, text := range map[string]string{
		"tables": strings.Repeat("a={", 1_000_000), "a key": strings.Repeat("a.", 1_000_000) + "a=1",
		"lists": "a=" + strings.Repeat("[", 1_000_000), "a string": `a="` + strings.Repeat("{", 4_000_000) + `"`,
	} {
		began := time.Now()
		_, err := usersIn([]byte(text))
		if took := time.Since(began); err == nil || took > 5*time.Second {
			t.Errorf("%s: %v after %v", name, err, took)
		}
	}
}
