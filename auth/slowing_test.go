package auth

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// clock is a time that only tests move.
type clock struct{ at time.Time }

func newClock() *clock                        { return &clock{time.Now().Truncate(time.Second)} }
func (c *clock) now() time.Time               { return c.at }
func (c *clock) after(d time.Duration)        { c.at = c.at.Add(d) }
func addr(format string, n ...any) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, n...)) }

// guess makes a wrong attempt, and returns how long it was told to wait.
func (s *slowing) guess(from netip.Addr, name string) time.Duration {
	a := newAttempt(from, byPassword, name)
	wait := s.begin(&a)
	if wait == 0 {
		s.end(a, true)
	}
	return wait
}

func TestSlowedAddress(t *testing.T) {
	c := newClock()
	s, from := newSlowing(c.now), addr("192.0.2.1")
	for i := range freeAttempts {
		if wait := s.guess(from, fmt.Sprint("name", i)); wait != 0 {
			t.Fatalf("attempt %d: wait %v", i+1, wait)
		}
	}
	want := firstWait
	for i := range 12 {
		if wait := s.guess(from, "name"); wait != want {
			t.Fatalf("attempt %d after the free ones: wait %v, want %v", i+1, wait, want)
		}
		c.after(want - time.Millisecond)
		if wait := s.guess(from, "name"); wait != time.Millisecond {
			t.Fatalf("a moment before: wait %v", wait)
		}
		c.after(time.Millisecond)
		if wait := s.guess(from, "name"); wait != 0 {
			t.Fatalf("after the wait of %v: wait %v", want, wait)
		}
		want = min(2*want, maxWait)
	}
	if want != maxWait {
		t.Errorf("the longest wait is %v, want %v", want, maxWait)
	}
	for name, other := range map[string]netip.Addr{"another address": addr("192.0.2.2"), "an IPv6 address": addr("2001:db8::1"), "local": {}} {
		if wait := s.guess(other, "other"); wait != 0 {
			t.Errorf("%s: wait %v", name, wait)
		}
	}
	if wait := s.guess(addr("::ffff:192.0.2.1"), "name"); wait == 0 {
		t.Error("the same within IPv6 is another")
	}
	for _, kind := range []attemptKind{byToken, byOIDC} {
		if wait := s.wait(newAttempt(from, kind, "")); wait != 0 {
			t.Errorf("kind %d: wait %v for wrong passwords", kind, wait)
		}
	}
	c.after(forgetAfter)
	for i := range freeAttempts {
		if wait := s.guess(from, "x"); wait != 0 {
			t.Fatalf("attempt %d when all is forgotten: wait %v", i+1, wait)
		}
	}
}

func TestSlowedIPv6(t *testing.T) {
	s := newSlowing(newClock().now)
	for i := range freeAttempts {
		s.guess(addr("2001:db8::%d", i), "name")
	}
	if wait := s.guess(addr("2001:db8:0:0:ffff::1"), "name"); wait == 0 {
		t.Error("an address of the same /64 isn't slowed")
	}
	if wait := s.guess(addr("2001:db8:0:1::1"), "name"); wait != 0 {
		t.Errorf("an address of another /64: wait %v", wait)
	}
}

func TestSlowedName(t *testing.T) {
	c := newClock()
	s := newSlowing(c.now)
	for i := range attackedLevel {
		if wait := s.guess(addr("198.51.100.%d", i), "jane"); wait != 0 {
			t.Fatalf("address %d: wait %v", i, wait)
		}
	}
	here := addr("192.0.2.1")
	if wait := s.guess(here, "joe"); wait != 0 {
		t.Errorf("another name: wait %v", wait)
	}
	if wait := s.wait(newAttempt(here, byPassword, "jane")); wait != firstWaitAttacked {
		t.Errorf("the attacked name after one wrong attempt: wait %v, want %v", wait, firstWaitAttacked)
	}
	if wait := s.wait(newAttempt(here, byPassword, "joe")); wait != 0 {
		t.Errorf("another name from there: wait %v", wait)
	}
	// From where nothing wrong came it is always looked at.
	for i := range 1000 {
		if wait := s.guess(addr("10.0.%d.%d", i>>8, i&255), "jane"); wait != 0 {
			t.Fatalf("a clean address %d: wait %v", i, wait)
		}
	}
	for name, want := range map[string]standing{"jane": attacked, "joe": clean} {
		if a := newAttempt(addr("192.0.2.5"), byPassword, name); s.begin(&a) != 0 || a.standing != want {
			t.Errorf("%s from a clean address has the standing %d, want %d", name, a.standing, want)
		}
	}
	if wait := s.guess(netip.Addr{}, "jane"); wait != 0 {
		t.Errorf("local: wait %v", wait)
	}
	c.after(maxLevel * levelStep)
	for i := range freeAttempts {
		if wait := s.guess(addr("192.0.2.9"), "jane"); wait != 0 {
			t.Fatalf("attempt %d after the attack: wait %v", i+1, wait)
		}
	}
}

func TestSlowedLocal(t *testing.T) {
	c := newClock()
	s := newSlowing(c.now)
	var longest time.Duration
	for range 60 {
		wait := s.guess(netip.Addr{}, "jane")
		longest = max(longest, wait)
		c.after(wait)
	}
	if longest != maxWaitLocal {
		t.Errorf("the longest wait is %v, want %v", longest, maxWaitLocal)
	}
	if wait := s.guess(netip.Addr{}, "joe"); wait != 0 {
		t.Errorf("another name: wait %v", wait)
	}
}

func TestRightIsNotCounted(t *testing.T) {
	s, from := newSlowing(newClock().now), addr("192.0.2.1")
	for range 100 {
		a := newAttempt(from, byPassword, "jane")
		if wait := s.begin(&a); wait != 0 || a.standing != clean {
			t.Fatalf("wait %v, standing %v", wait, a.standing)
		}
		s.end(a, false)
	}
	if len(s.offenders.byKey) != 0 || len(s.names.byKey) != 0 {
		t.Errorf("%d addresses and %d names are kept", len(s.offenders.byKey), len(s.names.byKey))
	}
	// Nor does it make wrong ones forgotten.
	for range freeAttempts - 1 {
		s.guess(from, "jane")
	}
	a := newAttempt(from, byPassword, "jane")
	s.begin(&a)
	s.end(a, false)
	s.guess(from, "jane")
	if wait := s.guess(from, "jane"); wait == 0 {
		t.Error("a right attempt has bought free ones")
	}
}

func TestPending(t *testing.T) {
	c := newClock()
	s, from := newSlowing(c.now), addr("192.0.2.1")
	begun := make([]attempt, maxPending)
	for i := range begun {
		begun[i] = newAttempt(from, byPassword, "jane")
		if wait := s.begin(&begun[i]); wait != 0 {
			t.Fatalf("attempt %d at a time: wait %v", i+1, wait)
		}
	}
	if wait := s.guess(from, "jane"); wait == 0 {
		t.Error("one more was taken")
	}
	for _, a := range begun {
		s.end(a, true)
	}
	c.after(maxWait)
	first, second := newAttempt(from, byPassword, "jane"), newAttempt(from, byPassword, "jane")
	if wait := s.begin(&first); wait != 0 || first.standing != bad {
		t.Errorf("after the wait: %v, standing %v", wait, first.standing)
	}
	if wait := s.begin(&second); wait == 0 {
		t.Error("two at a time from an address that must wait")
	}
}

func TestRefuse(t *testing.T) {
	s, from := newSlowing(newClock().now), addr("192.0.2.1")
	a := newAttempt(from, byPassword, "jane")
	for range freeAttempts {
		s.guess(from, "jane")
	}
	for i := range 10 * maxRefused { // right ones
		if !s.refuse(a) {
			t.Fatalf("right password %d isn't known any more", i)
		}
		s.unrefuse(a)
	}
	for i := range maxRefused {
		if !s.refuse(a) {
			t.Fatalf("after %d wrong ones", i)
		}
	}
	if s.refuse(a) {
		t.Error("as many guesses as one likes")
	}
}

// TestSlowingIsBounded: neither addresses nor names without end need more memory, or make those
// forgotten that have done the most.
func TestSlowingIsBounded(t *testing.T) {
	c := newClock()
	s, offender := newSlowing(c.now), addr("192.0.2.1")
	for range freeAttempts + 5 {
		c.after(s.guess(offender, "jane"))
		s.guess(offender, "jane")
	}
	for i := range attackedLevel {
		s.guess(addr("198.51.100.%d", i), "jane")
	}
	before := s.wait(newAttempt(offender, byPassword, "joe"))
	if before == 0 {
		t.Fatal("the offender isn't slowed")
	}
	for i := range 20 * maxOffenders {
		from := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 16), byte(i >> 8), byte(i)})
		name := fmt.Sprint("name", i)
		s.guess(from, name)
		s.guess(from, name)
	}
	if got := len(s.offenders.byKey); got != maxOffenders {
		t.Errorf("%d addresses are kept, want %d", got, maxOffenders)
	}
	if got := len(s.names.byKey); got != maxNamesKept {
		t.Errorf("%d names are kept, want %d", got, maxNamesKept)
	}
	if wait := s.wait(newAttempt(offender, byPassword, "joe")); wait != before {
		t.Errorf("the offender waits %v, want %v", wait, before)
	}
	if s.levelOf("jane") < attackedLevel {
		t.Errorf("the attacked name has the level %v", s.levelOf("jane"))
	}
	c.after(time.Hour)
	s.guess(addr("192.0.2.2"), "joe")
	if len(s.offenders.byKey) != 1 || len(s.names.byKey) != 1 {
		t.Errorf("an hour later %d addresses and %d names are kept", len(s.offenders.byKey), len(s.names.byKey))
	}
}

func TestRankedTable(t *testing.T) {
	r := newRankedTable[string, int](3)
	r.set("a", 1, 2)
	r.set("b", 2, 1)
	r.set("c", 3, 1)
	r.set("d", 4, 100)
	if r.get("b") != nil || r.get("a") == nil || r.get("c") == nil || r.get("d") == nil {
		t.Error("not the oldest of the lowest rank made room")
	}
	r.set("c", 5, 3) // now above a
	r.set("e", 6, 0)
	if r.get("a") != nil || *r.get("c") != 5 {
		t.Error("what was set again has its old rank")
	}
	r.set("f", 7, 0)
	if r.get("e") != nil || r.get("f") == nil {
		t.Error("the newest made room for itself")
	}
	r.sweep(func(v *int) bool { return *v != 4 })
	if len(r.byKey) != 1 || r.get("d") == nil {
		t.Errorf("%d are left", len(r.byKey))
	}
}

// TestLocalUsersApart: a local user who guesses doesn't keep another from the same name.
func TestLocalUsersApart(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSlowing(func() time.Time { return now })
	of := func(user string) attempt {
		return newAttempt(netip.Addr{}, byPassword, "bob").by(context.WithValue(t.Context(), localUserKey{}, user))
	}
	for range 50 {
		if at := of("1000"); s.begin(&at) == 0 {
			s.end(at, true)
		}
	}
	if s.wait(of("1000")) == 0 {
		t.Error("who guesses isn't slowed")
	}
	if wait := s.wait(of("1001")); wait != 0 {
		t.Errorf("another local user waits %v", wait)
	}
}

// TestNetworkOf: an IPv6 host has a /64 to call from, which counts as one.
func TestNetworkOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "2001:db8::1": "2001:db8::/64", "2001:db8::ffff:1:2": "2001:db8::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := NetworkOf(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
