package audit

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLineIsBounded: a record that is as bad as can be is still one line that can be read.
func TestLineIsBounded(t *testing.T) {
	for name, text := range map[string]string{
		"letters": strings.Repeat("x", 100_000), "controls": strings.Repeat("\x01", 100_000), "no letters": strings.Repeat("\xff", 100_000),
		"breaks": strings.Repeat("\n\r\u2028", 40_000), "quotes": strings.Repeat(`"\`, 50_000), "wide": strings.Repeat("ü€😀", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			r := Record{
				Time: t0, Event: Begin, ID: text, Principal: text, Role: text, Via: text, Credential: text, From: text, Protocol: text,
				Method: text, Params: quote(text), Reason: text, Flows: []string{text, text, text}, Outcome: text, Message: text,
			}
			line, err := r.line()
			if err != nil {
				t.Fatal(err)
			}
			if len(line) > maxLine || strings.Count(string(line), "\n") != 1 || line[len(line)-1] != '\n' {
				t.Errorf("%d bytes with %d line breaks", len(line), strings.Count(string(line), "\n"))
			}
			var got Record
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatal(err)
			}
			if !got.ParamsTruncated || !got.FlowsTruncated || !got.whole() || got.Principal == "" || len(got.Principal) > 3*maxName {
				t.Errorf("read %+v", got)
			}
		})
	}
}

func TestLineKeepsWhatFits(t *testing.T) {
	r := begin("a", t0)
	r.Params = quote(strings.Repeat("p", 4000))
	for len(r.Flows) < 100 {
		r.Flows = append(r.Flows, "tcp [2001:db8:0:1:2:3:4:5]:40000>[2001:db8:0:1:2:3:4:6]:443")
	}
	line, err := r.line()
	if err != nil {
		t.Fatal(err)
	}
	var got Record
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Errorf("parameters and flows as large as they come (-want +got):\n%s", diff)
	}
}

func TestLineOfParams(t *testing.T) {
	for _, tt := range []struct {
		name, via, params, want string
		truncated               bool
	}{
		{"none", "token", "", "", false},
		{"an object", "token", `{"a":">"}`, `{"a":">"}`, false},
		{"none of JSON's", "token", `{"a":`, `"{\"a\":"`, true},
		{"of nobody", "", `{"a":1}`, `{"a":1}`, false},
		{"many of nobody", "", `["` + strings.Repeat("x", maxStrangerParams) + `"]`, `"[\"` + strings.Repeat("x", maxStrangerParams-2) + `"`, true},
	} {
		line, err := (&Record{Time: t0, Event: Refusal, ID: "a", Via: tt.via, Params: json.RawMessage(tt.params)}).line()
		if err != nil {
			t.Fatal(err)
		}
		var got Record
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
		if string(got.Params) != tt.want || got.ParamsTruncated != tt.truncated {
			t.Errorf("%s: %s, %v; want %s, %v", tt.name, got.Params, got.ParamsTruncated, tt.want, tt.truncated)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		text string
		most int
		want string
	}{
		{"", 3, ""},
		{"abc", 3, "abc"},
		{"abcd", 3, "abc"},
		{"ab€", 3, "ab"},
		{"ab€", 4, "ab"},
		{"ab€", 5, "ab€"},
		{"a\xffbcd", 4, "a?bc"},
	} {
		if got := cut(tt.text, tt.most); got != tt.want {
			t.Errorf("%q to %d: %q, want %q", tt.text, tt.most, got, tt.want)
		}
	}
}
