package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// slowTable has many flows and takes its time to change them.
type slowTable struct {
	*fakeTable
	pause time.Duration // for each call
}

func (t *slowTable) Kill(_ context.Context, keys []conntrack.Key) []error {
	time.Sleep(t.pause)
	return make([]error, len(keys))
}

func (t *slowTable) Modify(_ context.Context, keys []conntrack.Key, _ conntrack.Change) []error {
	time.Sleep(t.pause)
	return make([]error, len(keys))
}

// interim sends a call and returns the interim answers and the whole answer.
func interim(t *testing.T, url, ask, contentType, body string) (progress []string, answer string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, url+"/rpc", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Authorization", "Bearer "+secret)
	if ask != "" {
		r.Header.Set(wire.ProgressHeader, ask)
	}
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		progress = append(progress, fmt.Sprint(code, " ", h.Get(wire.ProgressHeader)))
		return nil
	}}
	resp, err := http.DefaultClient.Do(r.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get(wire.ProgressHeader) != "" {
		t.Fatalf("%s, headers %v, %v", resp.Status, resp.Header, err)
	}
	return progress, string(text)
}

// TestProgress: who asks is told how far a change is; the answer is the same for all.
func TestProgress(t *testing.T) {
	f := newFixture(t, Config{})
	const flows = 9000 // in five chunks
	f.fake.many = flows
	table := &slowTable{f.fake, 150 * time.Millisecond}
	f.Server = newServer(t, Config{Version: "1.2.3"}, table, f.logger)
	f.timing.writeStall = 500 * time.Millisecond // shorter than the call: each interim answer has its own
	s := httptest.NewServer(f.Handler())
	defer s.Close()
	const kill = `{"jsonrpc":"2.0","id":1,"method":"conntrack.kill","params":{"all":true,"max":9000}}`
	told := func(progress []string, began time.Time) {
		t.Helper()
		last := 0
		for _, p := range progress {
			var code, done, total int
			if n, _ := fmt.Sscanf(p, "%d %d/%d", &code, &done, &total); n != 3 || code != 102 || done <= last || done > flows || total != flows {
				t.Errorf("told %q", progress)
			}
			last = done
		}
		// 750 ms at least, and at most one in 250.
		if took := time.Since(began); len(progress) < 1 || len(progress) > int(took/(250*time.Millisecond)) {
			t.Errorf("told %d times in %v: %q", len(progress), took, progress)
		}
	}
	began := time.Now()
	progress, asked := interim(t, s.URL, "1", "application/json", kill)
	told(progress, began)
	progress, plain := interim(t, s.URL, "", "application/json", kill)
	if len(progress) != 0 {
		t.Errorf("nobody asked, and was told %q", progress)
	}
	if asked != plain || !strings.Contains(plain, `"killed":9000,"matched":9000`) {
		t.Errorf("answers differ, or are wrong:\n%.200s\n%.200s", asked, plain)
	}
	began = time.Now()
	progress, _ = interim(t, s.URL, "1", "application/json",
		`{"jsonrpc":"2.0","id":1,"method":"conntrack.modify","params":{"all":true,"max":9000,"set":{"mark":77777}}}`)
	told(progress, began)
	began = time.Now()
	progress, _ = interim(t, s.URL, "1", "text/xml", `<methodCall><methodName>conntrack.kill</methodName><params><param><value><struct>`+
		`<member><name>all</name><value><boolean>1</boolean></value></member><member><name>max</name><value><int>9000</int></value></member>`+
		`</struct></value></param></params></methodCall>`)
	told(progress, began)

	// The answer of the first call of several may be under way when the second works.
	table.pause = 60 * time.Millisecond
	for _, body := range []string{
		"[" + kill + "," + kill + "]",
		`{"jsonrpc":"2.0","id":1,"method":"system.multicall","params":[[{"methodName":"conntrack.kill","params":{"all":true,"max":9000}}]]}`,
	} {
		progress, answer := interim(t, s.URL, "1", "application/json", body)
		if len(progress) != 0 || !strings.Contains(answer, `"killed":9000`) {
			t.Errorf("%.60s: told %q, answer %.200s", body, progress, answer)
		}
	}
	for _, e := range f.log.events(t, "request") {
		if e["status"] != 200.0 || e["cut"] != nil {
			t.Errorf("logged %v", e)
		}
	}
}

// TestProgressHTTP10: HTTP/1.0 has no interim answers.
func TestProgressHTTP10(t *testing.T) {
	f := newFixture(t, Config{})
	f.fake.many = 5000
	f.Server = newServer(t, Config{Version: "1.2.3"}, &slowTable{f.fake, 150 * time.Millisecond}, f.logger)
	for proto, want := range map[string]bool{"HTTP/1.0": false, "HTTP/1.1": true} {
		r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"conntrack.kill","params":{"all":true,"max":9000}}`))
		r.Proto = proto
		_, r.ProtoMinor, _ = http.ParseHTTPVersion(proto)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+secret)
		r.Header.Set(wire.ProgressHeader, "1")
		w := &statuses{ResponseRecorder: httptest.NewRecorder()}
		f.Handler().ServeHTTP(w, r)
		if told := slices.Contains(w.all, http.StatusProcessing); told != want {
			t.Errorf("%s: statuses %v", proto, w.all)
		}
	}
}

// statuses notes every status that is written.
type statuses struct {
	*httptest.ResponseRecorder
	all []int
}

func (s *statuses) WriteHeader(status int) {
	s.all = append(s.all, status)
	if status >= http.StatusOK { // the recorder takes the first one for the last
		s.ResponseRecorder.WriteHeader(status)
	}
}

// leavingTable has many flows, and its caller goes in the middle of the third chunk of a change.
type leavingTable struct {
	*fakeTable
	leave  context.CancelFunc
	chunks int
}

func (t *leavingTable) Kill(ctx context.Context, keys []conntrack.Key) []error {
	if t.chunks++; t.chunks == 3 {
		t.leave()
		<-ctx.Done()
	}
	errs := make([]error, len(keys))
	for i := range errs {
		errs[i] = ctx.Err()
	}
	return errs
}

// TestInterruptedLog: the log says how much a call changed whose caller went before the answer.
func TestInterruptedLog(t *testing.T) {
	f := newFixture(t, Config{})
	f.fake.many = 9000
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	f.Server = newServer(t, Config{}, &leavingTable{fakeTable: f.fake, leave: leave}, f.logger)
	s := httptest.NewServer(f.Handler())
	defer s.Close()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/rpc",
		strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"conntrack.kill","params":{"all":true,"max":9000}}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+secret)
	if resp, err := http.DefaultClient.Do(r); err == nil {
		resp.Body.Close()
		t.Fatal("it was answered")
	}
	conntracktest.Eventually(t, "the call is logged", func() bool { return len(f.log.events(t, "request")) == 1 })
	if n, _ := f.log.events(t, "request")[0]["changed"].(float64); n != 2*2048 {
		t.Errorf("logged %v", f.log.events(t, "request"))
	}
}
