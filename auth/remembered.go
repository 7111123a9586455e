package auth

import (
	"container/list"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

const (
	// rememberFor is how long a right password is known without hashing it again.
	rememberFor = 5 * time.Minute
	// knowFor is how long it is known from where a name logged in.
	knowFor = 12 * time.Hour
	// maxRemembered bounds how many of either are.
	maxRemembered = 4096
)

// proof stands for a name, the hash of its password, a password, and, where it is bound to one, an
// address. Without the key of this process it tells nothing of them. As the hash is in it, a new password
// makes new proofs.
type proof [sha256.Size]byte

// remembered are the passwords that were right a while ago, or the places that they came from.
type remembered struct {
	now  func() time.Time
	long time.Duration
	key  [sha256.Size]byte

	mu     sync.Mutex
	proofs map[proof]*list.Element // of *rememberedProof
	oldest list.List               // the oldest first
}

type rememberedProof struct {
	proof proof
	until time.Time
}

func newRemembered(now func() time.Time, long time.Duration) *remembered {
	r := &remembered{now: now, long: long, proofs: map[proof]*list.Element{}}
	_, _ = rand.Read(r.key[:]) // never fails
	return r
}

// proof returns what stands for a password. from is zero where it is bound to no address.
func (r *remembered) proof(name, hash, password string, from netip.Addr) proof {
	mac := hmac.New(sha256.New, r.key[:])
	for _, text := range []string{name, hash, password, from.String()} {
		// The length before each keeps one from beginning in another.
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(text)))
		mac.Write(n[:])
		mac.Write([]byte(text))
	}
	return proof(mac.Sum(nil))
}

func (r *remembered) has(p proof) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.proofs[p]
	return ok && r.now().Before(e.Value.(*rememberedProof).until)
}

func (r *remembered) add(p proof) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if e, ok := r.proofs[p]; ok {
		r.forget(e)
	}
	for e := r.oldest.Front(); e != nil && (len(r.proofs) >= maxRemembered || !now.Before(e.Value.(*rememberedProof).until)); e = r.oldest.Front() {
		r.forget(e)
	}
	r.proofs[p] = r.oldest.PushBack(&rememberedProof{p, now.Add(r.long)})
}

func (r *remembered) forget(e *list.Element) {
	delete(r.proofs, r.oldest.Remove(e).(*rememberedProof).proof)
}
