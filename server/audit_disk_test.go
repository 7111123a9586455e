package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctd/auth/audit"
	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// TestAuditDiskFull: where the record's disk is full nothing is changed by any method, all that reads goes on,
// and so do changes when there is room again.
func TestAuditDiskFull(t *testing.T) {
	if os.Getenv(conntracktest.KernelEnv) != "1" {
		t.Skip("needs root and CTD_KERNEL_TESTS=1")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "audit.log")
	f := newFixture(t, Config{Audit: audit.Config{To: audit.ToFile, File: path, MaxSize: 1 << 20, MaxFiles: 2}}, tcpFlows(20)...)
	openAudit(t, f)
	r := f.start(t)
	c, err := ctdclient.New(ctdclient.Config{Server: r.tcp, Token: secret})
	if err != nil {
		t.Fatal(err)
	}
	call := func(method, params string) error {
		var result json.RawMessage
		return c.Call(t.Context(), method, json.RawMessage(params), &result)
	}
	left := func() int {
		t.Helper()
		var n wire.CountResult
		if err := c.Call(t.Context(), "conntrack.count", wire.CountParams{}, &n); err != nil {
			t.Fatal(err)
		}
		return n.Count
	}
	recorded := func() wire.AuditResult {
		t.Helper()
		var got wire.AuditResult
		if err := c.Call(t.Context(), "server.audit", wire.AuditParams{Limit: 10000}, &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	const kill = `{"filter":"src=10.0.0.%d","reason":"test"}`
	if err := call("conntrack.kill", fmt.Sprintf(kill, 1)); err != nil || left() != 19 {
		t.Fatalf("%v, %d left", err, left())
	}
	got := recorded()
	if len(got.Records) != 1 {
		t.Fatalf("%+v", got)
	}
	if one := got.Records[0]; one.Outcome != "ok" || one.Changed == nil || *one.Changed != 1 || one.Via != "token" || one.Reason != "test" || len(one.Flows) != 1 {
		t.Errorf("%+v", one)
	}

	// Full to the last byte: the file has the rest of its page.
	for size := 32 << 10; size > 0; size /= 2 {
		for i := 0; ; i++ {
			err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("ballast-%d-%d", size, i)), make([]byte, size), 0o600)
			if err != nil {
				_ = os.Remove(filepath.Join(dir, fmt.Sprintf("ballast-%d-%d", size, i)))
				break
			}
			if size < 4096 {
				break
			}
		}
	}
	var full error
	n := 0
	for i := 2; i < 20 && full == nil; i++ {
		if full = call("conntrack.kill", fmt.Sprintf(kill, i)); full == nil {
			n++
		}
	}
	refused := func(what string, err error) {
		t.Helper()
		var we *wire.Error
		if !errors.As(err, &we) || we.Code != wire.Unavailable || !strings.Contains(we.Message, "can't be recorded") || we.Hint == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("the first on a full disk", full)
	rest := 19 - n
	for f.auditor.write(audit.Record{Event: audit.Begin, ID: "the least"}) == nil { // no shorter line has room either
		n++
	}
	var wg sync.WaitGroup
	for method, params := range map[string]string{
		"conntrack.kill":   fmt.Sprintf(kill, 0),
		"conntrack.modify": `{"filter":"src=10.0.0.0","set":{"mark":7}}`,
		"conntrack.flush":  `{"all":true}`,
		"conntrack.create": `{"flow":{"protocol":"udp","orig":{"src":"10.9.9.9","dst":"10.9.9.8","sport":1,"dport":2},"timeout":60}}`,
	} {
		wg.Go(func() {
			for range 20 {
				refused(method, call(method, params))
			}
		})
	}
	wg.Wait()
	if left() != rest {
		t.Errorf("%d flows are left of %d", left(), rest)
	}
	if err := call("conntrack.list", `{"filter":"mark=7 src=10.0.0.0"}`); err != nil {
		t.Errorf("a list: %v", err)
	}
	if err := call("conntrack.kill", `{"filter":"src=10.0.0.0","dry_run":true}`); err != nil {
		t.Errorf("a dry run: %v", err)
	}
	if got := recorded(); len(got.Records) != n+1 || got.Unread != 0 {
		t.Errorf("%d records and %d unread, want %d", len(got.Records), got.Unread, n+1)
	}
	if got := finding(t, f.Server, "audit"); got.Severity != severityError || !strings.HasPrefix(got.Mend, "df -h ") {
		t.Errorf("%+v", got)
	}

	ballast, _ := filepath.Glob(filepath.Join(dir, "ballast-*"))
	for _, name := range ballast {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	// Also where nobody tries.
	for end := time.Now().Add(conntracktest.Slow(time.Minute)); finding(t, f.Server, "audit").Severity != severityOK; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the doctor's alarm doesn't end")
		}
	}
	if err := call("conntrack.flush", `{"all":true}`); err != nil || left() != 0 {
		t.Errorf("with room again: %v, %d left", err, left())
	}
	if got := recorded(); len(got.Records) != n+2 || got.Records[n+1].Outcome != "ok" {
		t.Errorf("%d records, want %d", len(got.Records), n+2)
	}
	if got := finding(t, f.Server, "audit"); got.Severity != severityOK {
		t.Errorf("%+v", got)
	}
}
