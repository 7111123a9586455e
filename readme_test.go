package main

import (
	"os"
	"regexp"
	"testing"
)

// TestDocumentedTargets holds what the documents tell people to type against the Makefile.
func TestDocumentedTargets(t *testing.T) {
	makefile := read(t, "Makefile")
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z]+):`).FindAllStringSubmatch(makefile, -1) {
		targets[m[1]] = true
	}
	named := 0
	for _, doc := range []string{"README.md", "CONTRIBUTING.md", "docs/install.md", ".ci/run"} {
		for _, m := range regexp.MustCompile("(?m)(?:^|`)make ([a-z]+)").FindAllStringSubmatch(read(t, doc), -1) {
			named++
			if !targets[m[1]] {
				t.Errorf("%s names make %s, which the Makefile doesn't have", doc, m[1])
			}
		}
	}
	if named < 5 {
		t.Errorf("found only %d targets in the documents", named)
	}
}

// TestDocumentedFiles holds the relative links of the documents against the files.
func TestDocumentedFiles(t *testing.T) {
	for _, doc := range []string{"README.md", "CONTRIBUTING.md"} {
		links := regexp.MustCompile(`\]\(([A-Za-z][^):#]*)\)`).FindAllStringSubmatch(read(t, doc), -1)
		if len(links) == 0 {
			t.Errorf("%s: found no links", doc)
		}
		for _, m := range links {
			if _, err := os.Stat(m[1]); err != nil {
				t.Errorf("%s: %v", doc, err)
			}
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
