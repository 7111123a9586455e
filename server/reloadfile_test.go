package server

import (
	"os"
	"strings"
	"testing"
)

// TestReloadWithoutFile: a default file that is gone takes nothing along; one that never was isn't missed.
func TestReloadWithoutFile(t *testing.T) {
	f := newReloadFixture(t, "scope = \"orig\"\n[limits]\nrate = 5\n")
	named := f.reloads.load
	f.reloads.load = func() (*loaded, []error) {
		if !isMissing(f.file) {
			return named()
		}
		l := &loaded{settings: defaultSettings(), file: &configFile{name: f.file}}
		return l, l.configure()
	}
	still := func(when, severity string) {
		t.Helper()
		if cfg := f.policy.Load().cfg; cfg.Scope != "orig" || cfg.Limits.Calls != 5 {
			t.Errorf("%s: %+v", when, cfg)
		}
		if got := f.finding(t); got.Severity != severity || severity != severityOK && !strings.Contains(got.Message, f.file+" isn't there any more; put it back") {
			t.Errorf("%s: %+v", when, got)
		}
	}
	f.reload(t.Context())
	still("as it was", severityOK)
	if err := os.Remove(f.file); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f.reload(t.Context())
		still("without it", severityWarning)
	}
	if n := len(f.log.events(t, "the configuration is wrong and stays as it was")); n != 2 {
		t.Errorf("log: %s", f.log)
	}
	f.reloadWith(t, "scope = \"orig\"\nlimits.rate = 5\n")
	still("with it again", severityOK)
	f.reloadWith(t, "")
	if cfg := f.policy.Load().cfg; cfg.Scope != "either" || cfg.Limits.Calls != 0 {
		t.Errorf("empty: %+v", cfg)
	}
	f.reloads.last.file.there = false // as where there never was one
	if err := os.Remove(f.file); err != nil {
		t.Fatal(err)
	}
	f.reload(t.Context())
	if got := f.finding(t); got.Severity == severityWarning {
		t.Errorf("never there: %+v", got)
	}
}
