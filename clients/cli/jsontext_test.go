package cli

import (
	"strings"
	"testing"

	"ctd/rpc/wire"
)

// TestPlainNames: what the fast decoder doesn't see goes to the strict one.
func TestPlainNames(t *testing.T) {
	tests := map[string]struct {
		text string
		want bool
	}{
		"a flow":                     {`{"protocol":"tcp","orig":{"src":"::1","sport":1},"reply":{"src":"::2","sport":1},"status":["assured"],"mark":1}`, true},
		"spaces":                     {"{ \"mark\" \t: 1 , \"zone\" : 2 }", true},
		"the same name further in":   {`{"orig":{"zone":1},"zone":1}`, true},
		"a value that is a name":     {`{"state":"state","helper":"state"}`, true},
		"no member":                  {`{}`, true},
		"twice":                      {`{"mark":1,"zone":1,"mark":1}`, false},
		"twice further in":           {`{"orig":{"src":"::1","src":"::1"}}`, false},
		"twice, one further in past": {`{"mark":1,"orig":{"zone":1},"mark":1}`, false},
		"twice, one of them escaped": {`{"mark":1,"m\u0061rk":1}`, false},
		"a capital":                  {`{"Timeout":1}`, false},
		"a letter that folds":        {"{\"\u017ftate\":\"x\"}", false},
		"an escape":                  {`{"helper":"a\"b"}`, false},
		"no UTF-8":                   {"{\"helper\":\"\xff\"}", false},
		"nested deeply":              {strings.Repeat(`{"a":`, 9) + "1" + strings.Repeat("}", 9), false},
		"not whole":                  {`{"mark`, false},
		"closed twice":               {`}}{"a":1`, false},
		"no object":                  {`"mark":1`, false},
		"many members":               {`{` + strings.Repeat(`"a":1,`, 70) + `"b":1}`, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := plainNames([]byte(tt.text)); got != tt.want {
				t.Errorf("%s: %v, want %v", tt.text, got, tt.want)
			}
		})
	}
}

// TestOneObject refuses what the daemon refuses.
func TestOneObject(t *testing.T) {
	for text, want := range map[string]string{
		`{"mark":1,"orig":{"zone":1},"zone":[{"zone":1},{"zone":2}]}`: "",
		`{"mark":1,"mark":1}`:           `member "mark" is given twice`,
		`{"a":[1,{"b":{"c":1,"c":2}}]}`: `member "c" is given twice`,
		`{"m\u0061rk":1,"mark":2}`:      `member "mark" is given twice`,
		"{\"helper\":\"\xff\"}":         "not UTF-8",
		`[]`:                            "no JSON object",
		`null`:                          "no JSON object",
		`{} {}`:                         "something follows",
	} {
		_, err := oneObject([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestImportFailed(t *testing.T) {
	part := []flowLine{{place: "f, line 7"}, {place: "f, line 9"}}
	for message, want := range map[string]string{
		"flows[1].timeout is missing":                               "f, line 9: timeout is missing",
		"flows[0]: incomplete: no":                                  "f, line 7: incomplete: no",
		`unknown parameter "flows[1].new" of conntrack.import`:      `f, line 9: the daemon knows no member "new"`,
		`unknown parameter "flows[1].orig.new" of conntrack.import`: `f, line 9: the daemon knows no member "orig.new"`,
		"flows[2]: of another":                                      "flows[2]: of another",
	} {
		if got := importFailed(&wire.Error{Message: message}, part, &wire.ImportResult{}).Error(); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want %q", message, got, want)
		}
	}
}
