package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// slow returns how long may take here what takes at most d on a usual machine; see
// conntracktest.Slow, which this package has no use for otherwise.
func slow(d time.Duration) time.Duration {
	if n, err := strconv.Atoi(os.Getenv("CTD_TEST_SLOW")); err == nil && n > 1 {
		d *= time.Duration(n)
	}
	return d
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestAttack: 10,000 wrong logins from 1,000 addresses need little memory, and keep nobody out who comes
// from elsewhere, neither by another name nor by that which is attacked. With CTD_LONG_TESTS=1 hashes cost
// what they usually do; else the least, which takes a few seconds.
func TestAttack(t *testing.T) {
	const attempts, addresses, atOnce, rights = 10_000, 1000, 8, 400
	cost := bcrypt.MinCost
	if os.Getenv("CTD_LONG_TESTS") != "" {
		cost = hashCost
	}
	hashed, err := bcrypt.GenerateFromPassword([]byte("secret"), cost)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{}
	names := []string{"jane", "joe"} // jane is attacked
	for _, name := range names {
		cfg.Users = append(cfg.Users, User{Name: name, Password: string(hashed), Grant: Grant{Role: "viewer"}})
	}
	log := &logBuffer{}
	// The time stands still, lest a slow machine's attackers get more attempts.
	a, wrong := newAuthenticator(cfg, Defaults{}, "own", nil, log.logger(), newClock().now)
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	defer a.Close()
	a.cost = cost
	for _, name := range names {
		if _, err := a.Password(t.Context(), addr("192.0.2.1"), name, "secret"); err != nil {
			t.Fatal(err)
		}
	}
	before := heap()
	var (
		wg             sync.WaitGroup
		looked, waited atomic.Int64
		next           atomic.Int64
		attack         = make(chan struct{})
	)
	began := time.Now()
	for range atOnce {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < attempts; i = next.Add(1) - 1 {
				name := "jane"
				if i%20 == 0 {
					name = fmt.Sprint("guessed", i)
				}
				n := i % addresses
				_, err := a.Password(t.Context(), addr("10.1.%d.%d", n>>8, n&255), name, fmt.Sprint("guess", i))
				switch {
				case errors.Is(err, ErrWrong):
					looked.Add(1)
				case errors.As(err, new(*SlowedError)):
					waited.Add(1)
				default:
					t.Errorf("guess %d: %v", i, err)
				}
			}
		})
	}
	go func() {
		wg.Wait()
		close(attack)
	}()

	// Meanwhile and afterwards others log in: from where they did so before, and for the first time.
	count := 0
	login := func(name string, known bool) time.Duration {
		count++
		from := netip.AddrFrom4([4]byte{172, 16, byte(count >> 8), byte(count)})
		if known {
			from = addr("192.0.2.1")
		}
		a.shared.remembered.forgetAll() // what was right a moment ago would need no hash
		began := time.Now()
		if _, err := a.Password(t.Context(), from, name, "secret"); err != nil {
			t.Errorf("right login %d: %v", count, err)
		}
		return time.Since(began)
	}
	var during [4][]time.Duration
	var after []time.Duration
	hash := func() time.Duration {
		began := time.Now()
		verifyPassword("", "x", cost)
		return time.Since(began)
	}
	var hashes []time.Duration // without a gate, meanwhile
	for i := 0; ; i++ {
		hashes = append(hashes, hash())
		one := i % len(during)
		during[one] = append(during[one], login(names[one%2], one < 2))
		for next.Load() < int64(i)*attempts/rights {
			time.Sleep(time.Millisecond)
		}
		if next.Load() >= attempts && i >= len(during) {
			break
		}
	}
	<-attack
	took := time.Since(began)
	for range 20 {
		after = append(after, login(names[count%2], false))
	}
	grown := int64(heap()) - int64(before)

	p50 := func(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }
	alone := p50(hashes)
	t.Logf("a hash takes %v beside; %d attempts in %v: %d looked at, %d told to wait; heap grew by %d KiB, %d addresses and %d names are kept",
		alone, attempts, took, looked.Load(), waited.Load(), grown>>10, len(a.shared.slowing.offenders.byKey), len(a.shared.slowing.names.byKey))
	for i, what := range []string{"the attacked name from where it is known", "another name likewise", "the attacked name from elsewhere", "another name likewise"} {
		if d := during[i]; len(d) > 0 {
			t.Logf("meanwhile %d right logins, %s: p50 %v, max %v", len(d), what, p50(d), slices.Max(d))
		}
	}
	t.Logf("afterwards %d right logins: p50 %v, max %v", len(after), p50(after), slices.Max(after))

	if n := looked.Load() + waited.Load(); n != attempts {
		t.Errorf("%d answers, want %d", n, attempts)
	}
	if looked.Load() > 2*addresses {
		t.Errorf("%d guesses were looked at", looked.Load())
	}
	if n := len(a.shared.slowing.offenders.byKey); n > addresses {
		t.Errorf("%d addresses are kept, want at most %d", n, addresses)
	}
	if n := len(a.shared.slowing.names.byKey); n > maxNamesKept {
		t.Errorf("%d names are kept, want at most %d", n, maxNamesKept)
	}
	if grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	// A machine that is busy with other things may need longer for the hash itself, as for those beside.
	for _, d := range append(during[:], after) {
		if limit := max(slow(100*time.Millisecond), 6*alone); p50(d) > limit {
			t.Errorf("a right login takes %v, want at most %v", p50(d), limit)
		}
	}
}

// forgetAll forgets all passwords.
func (r *remembered) forgetAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.proofs)
	r.oldest.Init()
}

// TestKnownDuringAttack: who logged in before the attack waits for no hash.
func TestKnownDuringAttack(t *testing.T) {
	f := newFixture(t, nil)
	f.must(f.login("jane", "secret"))
	for i := range attackedLevel {
		_, _ = f.a.Password(t.Context(), addr("198.51.100.%d", i), "jane", "x")
	}
	for g := f.a.shared.gate; g.busy < g.most[clean]; { // all hash for others, without end
		if err := g.enter(t.Context(), clean); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	for range 1000 {
		f.must(f.login("jane", "secret"))
	}
	t.Logf("%v a login", time.Since(began)/1000)
}
