package server

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"ctd/auth"
	"ctd/conntrack/conntracktest"
)

// TestLoginAttack: wrong logins from many addresses, by HTTP and by pyctd's login, keep no right one out that comes
// from elsewhere, and take little memory. With CTD_LONG_TESTS=1 there are 10,000 from 1,000 addresses.
func TestLoginAttack(t *testing.T) {
	guesses, addresses, atOnce := 40, 20, 8
	if os.Getenv("CTD_LONG_TESTS") != "" {
		guesses, addresses, atOnce = 10_000, 1000, 64
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.DefaultCost)
	if err != nil {
		t.Fatal(err)
	}
	var users []auth.User
	for _, name := range []string{"jane", "joe"} { // jane is attacked
		users = append(users, auth.User{Name: name, Password: string(hash), Grant: auth.Grant{Role: "viewer"}})
	}
	f := newFixture(t, Config{Auth: auth.Config{Users: users}})
	r := f.start(t)
	// login sends name and password from an address, by HTTP or by pyctd's method, over a connection of its own.
	login := func(from []byte, name, password string, pyctd bool) (right bool, status int, err error) {
		client := http.Client{Transport: &http.Transport{DialContext: dialerFrom(from...).DialContext, DisableKeepAlives: true}}
		call := xmlCall(t, r.tcp, "login", name, password)
		if !pyctd {
			call = xmlCall(t, r.tcp, "system.listMethods")
			call.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(name+":"+password)))
		}
		resp, err := client.Do(call)
		if err != nil {
			return false, 0, err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		return resp.StatusCode == 200 && !strings.Contains(string(answer), "<fault>"), resp.StatusCode, err
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	// How long a right one takes alone, which needs a hash.
	began := time.Now()
	if right, status, err := login([]byte{127, 3, 0, 1}, "jane", "right", true); !right {
		t.Fatalf("a right login: %d, %v", status, err)
	}
	alone := time.Since(began)
	before := heap()
	began = time.Now()
	var next, refused atomic.Int64
	var attackers sync.WaitGroup
	for range atOnce {
		attackers.Go(func() {
			for i := int(next.Add(1)) - 1; i < guesses; i = int(next.Add(1)) - 1 {
				n := i % addresses
				right, status, err := login([]byte{127, 1, byte(n >> 8), byte(n)}, "jane", fmt.Sprint("guess", i), i%2 > 0)
				if err != nil || right {
					t.Errorf("guess %d: %d, %v", i, status, err)
				}
				if status == http.StatusTooManyRequests {
					refused.Add(1)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { attackers.Wait(); close(done) }()

	// Meanwhile others log in, each from an address that has never been seen.
	took := map[string][]time.Duration{}
	for n := 0; ; n++ {
		select {
		case <-done:
		case <-time.After(20 * time.Millisecond):
			name, pyctd := users[n%2].Name, n/2%2 > 0
			was := time.Now()
			right, status, err := login([]byte{127, 2, byte(n >> 8), byte(n)}, name, "right", pyctd)
			if !right || err != nil {
				t.Errorf("a right login as %s, by pyctd's method %v: %d, %v", name, pyctd, status, err)
			}
			what := map[bool]string{false: "HTTP", true: "pyctd"}[pyctd] + " as " + name
			took[what] = append(took[what], time.Since(was))
			continue
		}
		break
	}
	grown := int64(heap()) - int64(before) - 2*int64(len(f.log.String())) // which is kept here alone
	t.Logf("%d guesses in %v, %d of them refused; heap grew by %d KiB", guesses, time.Since(began).Round(time.Millisecond), refused.Load(), grown>>10)
	for what, d := range took {
		slices.Sort(d)
		t.Logf("%d right logins by %s meanwhile: p50 %v, p90 %v, max %v; alone %v", len(d), what, d[len(d)/2], d[len(d)*9/10], d[len(d)-1], alone)
		// Those after the first need no hash, but wait for a processor.
		if d[len(d)/2] > 3*alone+conntracktest.Slow(100*time.Millisecond) {
			t.Errorf("right logins by %s took %v, and %v alone", what, d[len(d)/2], alone)
		}
	}
	if grown > 8<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
}
