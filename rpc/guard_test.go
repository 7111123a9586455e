package rpc

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestTableIsGuarded: methods have the service's own table and cutter only through those that guard them,
// but for the totals of the statistics.
func TestTableIsGuarded(t *testing.T) {
	may := map[string]bool{"table": true, "cutter": true, "stats": true}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok || sel.Sel.Name != "Table" && sel.Sel.Name != "Cutter" {
					return true
				}
				if of := lastName(sel.X); of != "s" && of != "service" {
					return true
				}
				seen++
				if !may[fn.Name.Name] {
					t.Errorf("%s: %s has the service's %s", name, fn.Name.Name, sel.Sel.Name)
				}
				return true
			})
		}
	}
	if seen < 5 {
		t.Errorf("saw %d uses", seen)
	}
}

func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}
