package server

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/helper"
)

func TestMetrics(t *testing.T) {
	f := withHelper(t, newFakeEngine())
	f.fake.SetStats(conntrack.Stats{Entries: 3, Max: 100})
	up := func(want int) {
		t.Helper()
		if n := testutil.CollectAndCount(newCollector(f.Server)); n != want {
			t.Errorf("%d metrics, want %d", n, want)
		}
		if problems, err := testutil.CollectAndLint(newCollector(f.Server)); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}
	}
	up(7)
	f.helper.start(t.Context())
	up(7 + len(helperCounters()) + len(helperGauges()))
	want := `# HELP ctd_rtsp_ended_total Streams that ended.
# TYPE ctd_rtsp_ended_total counter
ctd_rtsp_ended_total 5e+09
# HELP ctd_rtsp_flows Related flows of the RTSP helper's.
# TYPE ctd_rtsp_flows gauge
ctd_rtsp_flows 6
# HELP ctd_rtsp_up Whether the RTSP helper follows connections.
# TYPE ctd_rtsp_up gauge
ctd_rtsp_up 1
`
	if err := testutil.CollectAndCompare(newCollector(f.Server), strings.NewReader(want), "ctd_rtsp_ended_total", "ctd_rtsp_flows", "ctd_rtsp_up"); err != nil {
		t.Error(err)
	}
	f.fake.Fail(conntracktest.OpStats, 0, unix.EPERM) // the rest is told all the same
	up(5 + len(helperCounters()) + len(helperGauges()))
}

// TestMetricsOfCounters: each counter of the helper's is a metric of its own.
func TestMetricsOfCounters(t *testing.T) {
	var c helper.Counters
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		v.Field(i).SetUint(uint64(i) + 1)
	}
	seen := map[uint64]string{}
	for _, m := range helperCounters() {
		n := m.value(&c)
		if seen[n] != "" || n == 0 {
			t.Errorf("%s is %s too", m.name, seen[n])
		}
		seen[n] = m.name
	}
	if len(seen) != v.NumField() {
		t.Errorf("%d metrics of %d counters", len(seen), v.NumField())
	}
}

func TestMetricsRequest(t *testing.T) {
	f := newFixture(t, Config{})
	h := f.Handler()
	get := func(token, accept string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, metricsPath, nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	if w := get("", ""); w.Code != http.StatusUnauthorized || strings.Contains(w.Body.String(), "ctd_build_info") {
		t.Errorf("a stranger got %d %s", w.Code, w.Body)
	}
	w := get(secret, "")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("%d, %v", w.Code, w.Header())
	}
	for _, want := range []string{`ctd_build_info{goversion="go`, "version=\"1.2.3\"} 1\n", "\nctd_rtsp_up 0\n", "\nctd_rtsp_enabled 0\n", "\ngo_goroutines ", "\nprocess_resident_memory_bytes "} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	w = get(secret, "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(w.Header().Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(w.Body.String(), "# EOF\n") {
		t.Errorf("OpenMetrics: %v", w.Header())
	}
}
