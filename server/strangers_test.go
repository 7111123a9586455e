package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"ctd/auth"
	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc"
)

// dialerFrom returns a dialer whose connections come from an address of this machine's.
func dialerFrom(from ...byte) *net.Dialer {
	a, _ := netip.AddrFromSlice(from)
	return &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))}
}

// xmlCall makes a request without credentials.
func xmlCall(t testing.TB, url, method string, params ...string) *http.Request {
	t.Helper()
	body := `<methodCall><methodName>` + method + `</methodName><params>`
	for _, p := range params {
		body += `<param><value>` + p + `</value></param>`
	}
	r, err := http.NewRequest(http.MethodPost, url+"/RPC2", strings.NewReader(body+`</params></methodCall>`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "text/xml")
	return r
}

var sidForm = regexp.MustCompile(`<string>([A-Z2-7]{26})</string>`)

// sidIn returns the id of a session in the answer of a login.
func sidIn(t testing.TB, answer string) string {
	t.Helper()
	found := sidForm.FindStringSubmatch(answer)
	if found == nil {
		t.Fatalf("no session: %s", answer)
	}
	return found[1]
}

// fill takes all places that there are for strangers until the returned function is called.
func (f *fixture) fill(t testing.TB) (free func()) {
	t.Helper()
	var all []func()
	strangers := f.Server.policy.Load().places.strangers
	for i := range strangerRequests {
		leave, err := strangers.takeSoon(t.Context(), fmt.Sprint("other ", i))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, leave)
	}
	return func() {
		for _, leave := range all {
			leave()
		}
	}
}

// TestStrangersAtATime: strangers have few places, and those of one address fewer.
func TestStrangersAtATime(t *testing.T) {
	strangers := newPlaces(Limits{}).strangers
	now, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range strangerRequestsPerAddress + 1 {
		if _, err := strangers.take(now, "192.0.2.1/32"); (err == nil) != (i < strangerRequestsPerAddress) {
			t.Errorf("place %d of an address: %v", i+1, err)
		}
	}
	for i := range strangerRequests - strangerRequestsPerAddress + 1 {
		if _, err := strangers.take(now, fmt.Sprint(i)); (err == nil) != (i < strangerRequests-strangerRequestsPerAddress) {
			t.Errorf("place %d of others: %v", i+1, err)
		}
	}
}

// TestWithout: who waits for something else has no place, and takes it again.
func TestWithout(t *testing.T) {
	room := newRoom(1, 1)
	leave, err := room.takeSoon(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	w := &placedWriter{leave: leave, work: room, whose: "a"}
	if err := w.without(t.Context(), func() {
		if !room.empty() {
			t.Error("it has its place")
		}
	}); err != nil || room.held("a") != 1 {
		t.Errorf("it has %d places: %v", room.held("a"), err)
	}
	var others func()
	if err := w.without(t.Context(), func() { others, err = room.takeSoon(t.Context(), "b") }); err == nil {
		t.Error("it has the place of another")
	}
	w.end() // nothing that isn't its own
	if room.held("b") != 1 {
		t.Error("the other's place is given back")
	}
	others()
	if !room.empty() {
		t.Error("a place is left")
	}
}

// TestSessionTime: what a session's owner sends may take as long as other known callers' bodies.
func TestSessionTime(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlows(3)...)
	f.timing.strangerRead, f.timing.read = conntracktest.Slow(time.Second), time.Minute
	r := f.start(t)
	_, answer := do(t, tcpClient(t), xmlCall(t, r.tcp, "login", "", secret))
	head := "<methodCall><methodName>kill</methodName><params><param><value>" + sidIn(t, answer) + "</value></param><param><value><array><data>"
	tail := "<value><int>1</int></value></data></array></value></param></params></methodCall>"
	fill := strings.Repeat(" ", rpc.MaxStrangerBody)
	c, err := net.Dial("tcp", strings.TrimPrefix(r.tcp, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%s%s", len(head)+len(fill)+len(tail), head, fill)
	time.Sleep(f.timing.strangerRead + 500*time.Millisecond)
	if _, err := io.WriteString(c, tail); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 200") || strings.Contains(string(text), "<fault>") {
		t.Errorf("%s, %v", text, err)
	}
}

// TestSlowStrangers: strangers whose requests don't end keep nobody out, whether from their address or from another.
func TestSlowStrangers(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlows(10)...)
	f.timing.strangerRead = conntracktest.Slow(2 * time.Second)
	r := f.start(t)
	address := strings.TrimPrefix(r.tcp, "http://")
	var slow []net.Conn
	for _, path := range []string{"/RPC2", sessionPath} {
		contentType := map[string]string{"/RPC2": "text/xml", sessionPath: "application/json"}[path]
		for i := range strangerRequests {
			c, err := dialerFrom(127, 0, 0, byte(1+i/8)).Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\n<", path, contentType); err != nil {
				t.Fatal(err)
			}
			slow = append(slow, c)
		}
	}
	for range 3 {
		status, answer := do(t, tcpClient(t), xmlCall(t, r.tcp, "login", "jane", secret))
		if status != 200 {
			t.Errorf("a login: %d %s", status, answer)
		}
		status, answer = do(t, tcpClient(t), xmlCall(t, r.tcp, "view", sidIn(t, answer)))
		if rows := strings.Count(answer, "orig_port_src"); status != 200 || rows != 10 {
			t.Errorf("its view: %d with %d rows", status, rows)
		}
	}
	for _, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(conntracktest.Slow(10 * time.Second)))
		if answer, err := io.ReadAll(c); err != nil || !strings.Contains(string(answer), "<fault>") && !strings.Contains(string(answer), "this is no login") {
			t.Errorf("a slow one: %s, %v", answer, err)
		}
	}
}

// TestWaitingPasswords: strangers whose passwords wait to be looked at are in the way of no other call.
func TestWaitingPasswords(t *testing.T) {
	const cost = 12 // so that they wait
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), cost)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, Config{Auth: auth.Config{Users: []auth.User{{Name: "jane", Password: string(hash), Grant: auth.Grant{Role: "viewer"}}}}})
	r := f.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var sent atomic.Int64
	trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent.Add(1) }}
	const guesses = strangerRequests + 16
	for i := range guesses {
		client := &http.Client{Transport: &http.Transport{DialContext: dialerFrom(127, 0, 1, byte(1+i)).DialContext, DisableKeepAlives: true}}
		guess := xmlCall(t, r.tcp, "login", "jane", fmt.Sprint("guess", i)).WithContext(httptrace.WithClientTrace(ctx, trace))
		wg.Go(func() {
			if resp, err := client.Do(guess); err == nil {
				resp.Body.Close()
			}
		})
	}
	conntracktest.Eventually(t, "the guesses are sent", func() bool { return sent.Load() == guesses })
	time.Sleep(200 * time.Millisecond) // and mostly begun
	status, answer := do(t, tcpClient(t), xmlCall(t, r.tcp, "login", "", secret))
	if status != 200 {
		t.Errorf("a login with a token: %d %s", status, answer)
	}
	places := f.Server.policy.Load().places.strangers
	cancel()
	wg.Wait()
	conntracktest.Eventually(t, "all places are given back", places.empty)
}

// TestSessionPlaces: calls with a session's id have the places, and the room, of its owner.
func TestSessionPlaces(t *testing.T) {
	f := newFixture(t, Config{}, tcpFlows(3)...)
	r := f.start(t)
	client := tcpClient(t)
	_, answer := do(t, client, xmlCall(t, r.tcp, "login", "", secret))
	sid := sidIn(t, answer)
	free := f.fill(t)
	if status, _ := do(t, client, xmlCall(t, r.tcp, "login", "", secret)); status != 503 {
		t.Errorf("a login without a place: %d", status)
	}
	if status, _ := do(t, client, xmlCall(t, r.tcp, "view", strings.Repeat("A", len(sid)))); status != 503 {
		t.Errorf("a guessed session without a place: %d", status)
	}
	if status, answer := do(t, client, xmlCall(t, r.tcp, "view", sid)); status != 200 || strings.Count(answer, "orig_port_src") != 3 {
		t.Errorf("view: %d %s", status, answer)
	}
	ids := "<array><data>" + strings.Repeat("<value><int>2</int></value>", rpc.MaxStrangerBody/20) + "</data></array>"
	if status, answer := do(t, client, xmlCall(t, r.tcp, "kill", sid, ids)); status != 200 || strings.Contains(answer, "fault") {
		t.Errorf("a long kill: %d %s", status, answer)
	}
	if n, err := f.fake.Count(t.Context(), conntrack.Filter{}); err != nil || n != 2 {
		t.Errorf("%d flows are left, %v", n, err)
	}
	// It is no credential for anything else.
	if status, answer := do(t, client, xmlCall(t, r.tcp, "conntrack.count", "<string>"+sid+"</string>")); status != 401 && !strings.Contains(answer, "fault") {
		t.Errorf("a method that wants a caller: %d %s", status, answer)
	}
	free()
	for name, long := range map[string]*http.Request{
		"with its length": xmlCall(t, r.tcp, "kill", strings.Repeat("A", len(sid)), ids),
		"in chunks":       xmlCall(t, r.tcp, "kill", strings.Repeat("A", len(sid)), ids),
	} {
		if name == "in chunks" {
			long.ContentLength = -1
		}
		if status, answer := do(t, client, long); status != 413 || !strings.Contains(answer, "or in a session") {
			t.Errorf("a long call of a stranger's %s: %d %s", name, status, answer)
		}
	}
}
