package auth

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// How wrong attempts are slowed.
const (
	// freeAttempts is how many wrong attempts an address has before it must wait, and freeAttacked how
	// many it has for a name that is being attacked.
	freeAttempts, freeAttacked = 5, 1
	// The first wait, likewise; each further one is twice as long, until maxWait, or maxWaitLocal for
	// callers by the Unix socket.
	firstWait, firstWaitAttacked = time.Second, 8 * time.Second
	maxWait, maxWaitLocal        = 5 * time.Minute, 5 * time.Second
	// forgetAfter is how long after its last wrong attempt an address begins anew.
	forgetAfter = 15 * time.Minute

	// A name is being attacked from attackedLevel wrong attempts on, from anywhere. One is forgotten
	// every levelStep, and no more than maxLevel are counted.
	attackedLevel, maxLevel = 20, 40
	levelStep               = 30 * time.Second

	// maxPending is how many attempts of an address are looked at at a time; of one that must wait, one.
	maxPending = 16
	// maxRefused is how often an address that must wait may still show a password that was right before,
	// each wrong one counting.
	maxRefused = 100

	// maxOffenders and maxNamesKept bound how many addresses and names are known.
	maxOffenders, maxNamesKept = 8192, 4096
	// sweepEvery is how often those are looked for that are forgotten, at most.
	sweepEvery = time.Minute

	// ipv6Bits is how much of an IPv6 address tells one network from another.
	ipv6Bits = 64
)

// attemptKind is what was shown. Each is slowed by itself, so that a forgotten script with an old token
// doesn't keep away who logs in by password from the same address.
type attemptKind uint8

const (
	byPassword attemptKind = iota
	byToken
	byOIDC
)

// offender is from where, and by what, wrong attempts come.
type offender struct {
	from netip.Addr // IPv6: the network; zero for local callers
	kind attemptKind
	// Of local callers, who have no address: the name, and the local user where that is known, so that none
	// keeps another from a name.
	name string
	user string
}

// offences are an offender's.
type offences struct {
	wrong   int
	last    time.Time // when the last wrong one ended
	pending int       // attempts that are being looked at
	refused int       // wrong ones that were not looked at
}

// attacks are those on a name.
type attacks struct {
	level float64
	at    time.Time // when that was the level
}

// slowing slows wrong attempts by address and by name. It keeps nobody out for good: an address that has
// done nothing wrong is always looked at, also for a name that is being attacked.
type slowing struct {
	now func() time.Time

	mu        sync.Mutex
	offenders *rankedTable[offender, offences]
	names     *rankedTable[string, attacks]
	looked    map[string]int // attempts for each name that are being looked at
	swept     time.Time
}

func newSlowing(now func() time.Time) *slowing {
	return &slowing{
		now: now, offenders: newRankedTable[offender, offences](maxOffenders), names: newRankedTable[string, attacks](maxNamesKept),
		looked: make(map[string]int),
	}
}

// attempt is one that is being looked at.
type attempt struct {
	who      offender
	name     string
	standing standing
}

// NetworkOf returns what of an address one host may have: all of an IPv4 address, and a /64 of IPv6. It is
// what callers without a name are told apart by; the zero Prefix of no address.
func NetworkOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = ipv6Bits
	}
	n, _ := a.Prefix(bits) // it has at least as many bits
	return n
}

func newAttempt(from netip.Addr, kind attemptKind, name string) attempt {
	if !from.IsValid() {
		return attempt{who: offender{kind: kind, name: name}, name: name}
	}
	return attempt{who: offender{from: NetworkOf(from).Addr(), kind: kind}, name: name}
}

type localUserKey struct{}

// WithLocalUser returns a context whose attempts are those of the process at the other end of a Unix socket.
func WithLocalUser(ctx context.Context, c *net.UnixConn) context.Context {
	cred, err := peerCredentials(c)
	if err != nil {
		return ctx // as all local callers who aren't known
	}
	return context.WithValue(ctx, localUserKey{}, strconv.FormatUint(uint64(cred.Uid), 10))
}

// by returns the attempt as the context's local user's, where it has no address.
func (a attempt) by(ctx context.Context) attempt {
	if !a.who.from.IsValid() {
		a.who.user, _ = ctx.Value(localUserKey{}).(string)
	}
	return a
}

// wait returns how long until an attempt would be looked at.
func (s *slowing) wait(a attempt) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waitOf(a)
}

func (s *slowing) waitOf(a attempt) time.Duration {
	o := s.offences(a.who)
	if o == nil {
		return 0
	}
	free, wait, longest := freeAttempts, firstWait, maxWait
	switch {
	case !a.who.from.IsValid():
		longest = maxWaitLocal
	case s.levelOf(a.name) >= attackedLevel:
		free, wait = freeAttacked, firstWaitAttacked
	}
	if o.wrong < free {
		if o.pending >= maxPending {
			return firstWait
		}
		return 0
	}
	for i := free; i < o.wrong && wait < longest; i++ {
		wait *= 2
	}
	if left := o.last.Add(min(wait, longest)).Sub(s.now()); left > 0 {
		return left
	}
	if o.pending > 0 {
		return firstWait
	}
	return 0
}

// begin takes an attempt, which is to be ended; or says how long until one is looked at, and takes none.
func (s *slowing) begin(a *attempt) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait := s.waitOf(*a); wait > 0 {
		return wait
	}
	o := s.offences(a.who)
	switch {
	case o != nil && o.wrong > 0:
		a.standing = bad
	case s.levelOf(a.name)+float64(s.looked[a.name]) >= attackedLevel: // before the first are known to be wrong
		a.standing = attacked
	default:
		a.standing = clean
	}
	if o == nil {
		o = &offences{last: s.now()}
	}
	o.pending++
	s.set(a.who, *o)
	s.looked[a.name]++
	return 0
}

// end ends an attempt.
func (s *slowing) end(a attempt, wrong bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looked[a.name]--; s.looked[a.name] <= 0 {
		delete(s.looked, a.name)
	}
	if o := s.offences(a.who); o != nil {
		o.pending = max(0, o.pending-1)
		if o.wrong == 0 && o.pending == 0 && o.refused == 0 {
			s.offenders.remove(a.who)
		}
	}
	if wrong {
		s.count(a)
	}
}

// wrong counts a wrong attempt that was not begun.
func (s *slowing) wrong(a attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(a)
}

func (s *slowing) count(a attempt) {
	o := s.offences(a.who)
	if o == nil {
		o = &offences{}
	}
	o.wrong++
	o.last = s.now()
	s.set(a.who, *o)
	if a.name != "" {
		level := min(s.levelOf(a.name)+1, maxLevel)
		s.names.set(a.name, attacks{level, s.now()}, int(level)*ranks/maxLevel)
	}
}

// refuse counts an attempt that wasn't looked at, since its address must wait, and tells whether it may
// still show a password that was right before. Of those it can't try many.
func (s *slowing) refuse(a attempt) (known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.offences(a.who)
	if o == nil {
		return true
	}
	o.refused = min(o.refused+1, maxRefused+1)
	return o.refused <= maxRefused
}

// unrefuse takes back what refuse counted, as the password was right.
func (s *slowing) unrefuse(a attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.offences(a.who); o != nil {
		o.refused = max(0, o.refused-1)
	}
}

// set keeps an offender's offences.
func (s *slowing) set(who offender, o offences) {
	if now := s.now(); now.Sub(s.swept) >= sweepEvery {
		s.swept = now
		s.offenders.sweep(s.forgotten)
		s.names.sweep(func(a *attacks) bool { return s.level(a) <= 0 })
	}
	s.offenders.set(who, o, o.wrong)
}

// offences returns what an offender has done; nil for nothing.
func (s *slowing) offences(who offender) *offences {
	o := s.offenders.get(who)
	if o != nil && s.forgotten(o) {
		s.offenders.remove(who)
		return nil
	}
	return o
}

func (s *slowing) forgotten(o *offences) bool { return s.now().Sub(o.last) >= forgetAfter }

func (s *slowing) levelOf(name string) float64 {
	if a := s.names.get(name); a != nil {
		return s.level(a)
	}
	return 0
}

func (s *slowing) level(a *attacks) float64 {
	return max(0, a.level-float64(s.now().Sub(a.at))/float64(levelStep))
}
