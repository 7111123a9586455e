package server

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the generated documents anew")

// TestAPIDocs: docs/api.md is what the registry says. -update writes it.
func TestAPIDocs(t *testing.T) {
	var text bytes.Buffer
	if err := newFixture(t, Config{}).registry.WriteMarkdown(&text, ""); err != nil {
		t.Fatal(err)
	}
	checkGenerated(t, "docs/api.md", text.Bytes())
}

// checkGenerated compares a document with what it is generated from, or writes it with -update.
func checkGenerated(t *testing.T, name string, want []byte) {
	t.Helper()
	path := "../" + name
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is out of date: make docs (-want +got):\n%s", name, diff)
	}
}

// openRPCDocument is what a client looks at of an OpenRPC 1.3 document.
type openRPCDocument struct {
	OpenRPC string `json:"openrpc"`
	Info    struct{ Title, Version string }
	Methods []struct {
		Name           string
		ParamStructure string
		Params         []struct {
			Name     string
			Required bool
			Schema   json.RawMessage
		}
		Result *struct {
			Name   string
			Schema json.RawMessage
		}
	}
}

func TestOpenRPCDocument(t *testing.T) {
	h := newFixture(t, Config{}).Handler()
	get := func(token string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/openrpc.json", nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	if w := get(""); w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
		t.Errorf("a stranger got %d, %v", w.Code, w.Header())
	}
	w := get(secret)
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("status %d, %v", w.Code, w.Header())
	}
	var doc openRPCDocument
	var tree any
	for _, into := range []any{&doc, &tree} {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.HasPrefix(doc.OpenRPC, "1.3.") || doc.Info.Title == "" || doc.Info.Version != "1.2.3" {
		t.Errorf("openrpc %q, info %+v", doc.OpenRPC, doc.Info)
	}
	var names []string
	for _, m := range doc.Methods {
		names = append(names, m.Name)
		if m.Result == nil || m.Result.Name == "" || m.Result.Schema == nil {
			t.Errorf("%s has no result", m.Name)
		}
		optional := false
		for _, p := range m.Params {
			if p.Name == "" || p.Schema == nil {
				t.Errorf("%s: parameter %+v", m.Name, p)
			}
			if p.Required && optional {
				t.Errorf("%s: %s is required and comes after one that isn't", m.Name, p.Name)
			}
			optional = optional || !p.Required
		}
	}
	for _, want := range []string{
		"conntrack.list", "conntrack.get", "conntrack.count", "conntrack.kill", "conntrack.reconcile", "conntrack.modify", "conntrack.create",
		"conntrack.flush", "conntrack.stats", "expect.list", "expect.get", "expect.create", "expect.kill", "expect.flush",
		"helper.status", "helper.sessions", "helper.rules", "server.info", "server.doctor", "server.whoami", "rpc.discover", "system.listMethods",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("no method %s among %q", want, names)
		}
	}
	refs := 0
	walkRefs(tree, func(ref string) {
		refs++
		at := tree
		for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			object, _ := at.(map[string]any)
			at = object[name]
		}
		if at == nil {
			t.Errorf("%s leads nowhere", ref)
		}
	})
	if refs == 0 {
		t.Error("no references")
	}
}

// walkRefs calls fn with each $ref in a document.
func walkRefs(v any, fn func(ref string)) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			walkRefs(item, fn)
		}
	case map[string]any:
		for k, item := range v {
			if ref, ok := item.(string); ok && k == "$ref" {
				fn(ref)
			}
			walkRefs(item, fn)
		}
	}
}

// TestFilterExamples: the daemon takes every filter that docs/filter.md shows.
func TestFilterExamples(t *testing.T) {
	doc, err := os.ReadFile("../docs/filter.md")
	if err != nil {
		t.Fatal(err)
	}
	r := newFixture(t, Config{}, tcpFlow(1)).start(t)
	client := tcpClient(t)
	n := 0
	for _, m := range regexp.MustCompile("(?ms)^```(filter|json)\n(.*?)^```$").FindAllStringSubmatch(string(doc), -1) {
		for line := range strings.Lines(m[2]) {
			n++
			filter := strings.TrimSpace(line)
			if m[1] == "filter" {
				quoted, err := json.Marshal(filter)
				if err != nil {
					t.Fatal(err)
				}
				filter = string(quoted)
			}
			if status, body := do(t, client, jsonCall(t, r.tcp+"/rpc", "conntrack.count", `{"filter":`+filter+`}`)); status != 200 || !strings.Contains(body, `"count":`) {
				t.Errorf("%s: %d %s", filter, status, body)
			}
		}
	}
	if n < 10 {
		t.Errorf("found only %d examples", n)
	}
}
