package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "ctd"

// directions says which of our own packages a package may import. A name ending in /... stands
// for the directory and all below it; the longest name that fits a package is its rule. A
// package without a rule is an error, so that a new one gets its place here first.
var directions = map[string][]string{
	// main only wires.
	".": {"server", "clients/cli"},

	// The daemon. It opens the table; everything else reaches the table through rpc and helper.
	"server/...": {"server/...", "rpc", "rpc/wire", "helper/...", "auth", "auth/audit", "conntrack", "conntrack/cut"},
	"rpc":        {"rpc/wire", "conntrack", "conntrack/cut"},
	"helper":     {"helper/rtsp", "conntrack", "conntrack/claim"},

	// The clients know the contract and nothing of the daemon.
	"clients/ctdclient": {"rpc/wire"},
	"clients/cli":       {"clients/ctdclient", "rpc/wire"},

	// What stands alone.
	"conntrack":       {},
	"conntrack/cut":   {"conntrack", "conntrack/claim"},
	"conntrack/claim": {},
	"rpc/wire":        {},
	"auth":            {},
	"auth/audit":      {},
	"helper/rtsp":     {},

	// What only tests and developers use.
	"conntrack/conntracktest":         {"conntrack"},
	"helper/rtsptest":                 {"conntrack/conntracktest"},
	"clients/ctdclient/ctdclienttest": {"rpc/wire"},
	"deploy/...":                      {"clients/ctdclient", "rpc/wire"},
}

// forTests says what test files may import beyond their package's rule.
var forTests = map[string][]string{
	"conntrack/...": {"conntrack/conntracktest"},
	"rpc":           {"conntrack/conntracktest"},
	"helper/...":    {"conntrack/conntracktest", "helper/rtsptest"},
	// A server is tested by what its users have: the Go client.
	"server/...": {"conntrack/conntracktest", "clients/ctdclient"},
	// The command line is tested against a running daemon.
	"clients/...": {"clients/ctdclient/ctdclienttest", "conntrack/conntracktest", "server"},
	".":           {"conntrack/conntracktest", "clients/ctdclient", "rpc/wire"},
}

func TestImportDirections(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); file != "." && (n[0] == '.' || n[0] == '_' || n == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(file) != ".go" {
			return nil
		}
		// Parsed rather than asked of the go command, so that files of every build tag count.
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		seen++
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if why := forbidden(filepath.ToSlash(file), imported); why != "" {
				t.Errorf("%s imports %s: %s", file, imported, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 10 {
		t.Fatalf("read only %d Go files: not the module's root?", seen)
	}
}

// forbidden says why a file may not import a package, "" where it may.
func forbidden(file, imported string) string {
	if imported != module && !strings.HasPrefix(imported, module+"/") {
		return ""
	}
	imported = strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
	if imported == "" {
		return "main is not a library"
	}
	pkg := path.Dir(file)
	allowed, ok := rule(directions, pkg)
	if !ok {
		return "package " + pkg + " has no rule in directions"
	}
	if strings.HasSuffix(file, "_test.go") {
		more, _ := rule(forTests, pkg)
		allowed = slices.Concat(allowed, more, []string{pkg}) // its own package, from pkg_test
	}
	if slices.ContainsFunc(allowed, func(name string) bool { return covers(name, imported) }) {
		return ""
	}
	return "against the import directions (docs/architecture.md)"
}

// rule returns the value of the longest name that covers pkg.
func rule(rules map[string][]string, pkg string) (value []string, ok bool) {
	best := -1
	for name, v := range rules {
		if covers(name, pkg) && len(name) > best {
			best, value, ok = len(name), v, true
		}
	}
	return value, ok
}

// covers tells whether name, which may end in /..., stands for pkg.
func covers(name, pkg string) bool {
	if dir, ok := strings.CutSuffix(name, "/..."); ok {
		return pkg == dir || strings.HasPrefix(pkg, dir+"/")
	}
	return name == pkg
}

func TestForbidden(t *testing.T) {
	tests := []struct {
		name, file, imported string
		ok                   bool
	}{
		{"main wires the server", "main.go", "ctd/server", true},
		{"main reaches past the server", "main.go", "ctd/conntrack", false},
		{"standard library", "conntrack/table.go", "net/netip", true},
		{"another module that starts like ours", "conntrack/table.go", "ctdx/server", true},
		{"the library imports the contract", "conntrack/table.go", "ctd/rpc/wire", false},
		{"a method reads the table", "rpc/flows.go", "ctd/conntrack", true},
		{"a method knows the server", "rpc/flows.go", "ctd/server", false},
		{"a method knows its caller's role", "rpc/flows.go", "ctd/auth", false},
		{"a client takes the contract", "clients/cli/list.go", "ctd/rpc/wire", true},
		{"a client takes the daemon's types", "clients/cli/list.go", "ctd/conntrack", false},
		{"the double in code", "rpc/flows.go", "ctd/conntrack/conntracktest", false},
		{"the double in a test", "rpc/flows_test.go", "ctd/conntrack/conntracktest", true},
		{"a test outside its package", "auth/role_test.go", "ctd/auth", true},
		{"a test breaks the directions too", "auth/role_test.go", "ctd/server", false},
		{"below the server", "server/history/store.go", "ctd/server", true},
		{"a package without a rule", "rpc/soap/soap.go", "ctd/rpc", false},
		{"importing main", "server/server.go", "ctd", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if why := forbidden(tt.file, tt.imported); (why == "") != tt.ok {
				t.Errorf("forbidden(%q, %q) = %q, want allowed: %v", tt.file, tt.imported, why, tt.ok)
			}
		})
	}
}
