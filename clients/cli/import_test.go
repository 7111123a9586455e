//go:build linux

package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// exported is a whole export of n flows.
func exported(n int) []string {
	lines := []string{`{"ctd_export":1}`}
	for i := range n {
		lines = append(lines, fmt.Sprintf(`{"protocol":"tcp","orig":{"src":"10.1.%d.%d","dst":"192.0.2.1","sport":1000,"dport":443},"timeout":600,"mark":1}`, i>>8, i&255))
	}
	return append(lines, fmt.Sprintf(`{"exported":%d}`, n))
}

func writeLines(t *testing.T, lines []string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "flows.jsonl")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestImportEdited: one line that an editor has spoilt stops an export of several calls as a whole.
func TestImportEdited(t *testing.T) {
	for name, tt := range map[string]struct{ from, to, want string }{
		"address":   {`"10.1.9.195"`, `"10.999.1.1"`, "no IPv4 or IPv6 address"},
		"protocol":  {`"tcp"`, `"tpc"`, "no protocol"},
		"status":    {`"mark":1`, `"status":["asured"]`, "no status bit"},
		"label":     {`"mark":1`, `"labels":[300]`, "no label"},
		"capital":   {`"timeout"`, `"Timeout"`, `unknown member "Timeout": did you mean "timeout"`},
		"twice":     {`"mark":1`, `"mark":1,"mark":2`, `member "mark" is given twice`},
		"helper":    {`"mark":1`, `"helper":"a-name-that-is-too-long"`, "at most 15 bytes"},
		"no member": {`"timeout":600,`, ``, "timeout is missing"},
		"ICMP":      {`"sport":1000,"dport":443`, `"type":8,"code":0,"id":1`, "type, code and id are ICMP's"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPerson(t, 0)
			lines := exported(3000)
			lines[2500] = strings.Replace(lines[2500], tt.from, tt.to, 1)
			status, stdout := p.run(nil, "import", writeLines(t, lines))
			if status != 2 || stdout != "" || p.left() != 0 {
				t.Errorf("status %d, %q, %d flows are there, want 2 and none", status, stdout, p.left())
			}
			p.await("line 2501: ")
			p.await(tt.want)
		})
	}
}

// TestImportInCalls: flows that are in each other's way are counted in a dry run of several calls as
// they will be imported, and a flow is not without its master because that comes later.
func TestImportInCalls(t *testing.T) {
	lines := exported(2500)
	lines = lines[1 : len(lines)-1]
	again := strings.Replace(lines[3], `"mark":1`, `"mark":2`, 1)
	related := `{"protocol":"udp","orig":{"src":"10.9.0.1","dst":"192.0.2.9","sport":1,"dport":1},"timeout":60,"master":{"protocol":"tcp","src":"10.1.8.0","dst":"192.0.2.1","sport":1000,"dport":443}}`
	lines = append([]string{related}, append(lines, again)...)
	for on, want := range map[string]string{
		"skip": "create 2501, replace 0, skip 1", "replace": "create 2501, replace 0, skip 1",
	} {
		t.Run(on, func(t *testing.T) {
			p := newPerson(t, 0)
			file := writeLines(t, lines)
			if status, stdout := p.run(nil, "import", file, "--on-conflict", on, "--dry-run"); status != 0 || stdout != "would "+want+"\n" {
				t.Errorf("status %d, %q, want %q", status, stdout, want)
			}
			want = strings.NewReplacer("create", "created", "replace", "replaced", "skip", "skipped").Replace(want)
			if status, stdout := p.run(nil, "import", file, "--yes", "--on-conflict", on); status != 0 || stdout != want+"\n" {
				t.Errorf("status %d, %q, want %q", status, stdout, want)
			}
			if want := []string{"import?", "import?", "import?", "import", "import", "import"}; !slices.Equal(p.calls[:min(6, len(p.calls))], want) {
				t.Errorf("calls %v, want %v first", p.calls, want)
			}
			if status, stdout := p.run(nil, "import", file, "--yes", "--on-conflict", on); status != 0 || stdout != "created 0, replaced 0, skipped 2502\n" {
				t.Errorf("again: status %d, %q", status, stdout)
			}
		})
	}
}
