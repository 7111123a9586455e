package auth

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestRemembered(t *testing.T) {
	c := newClock()
	r := newRemembered(c.now, rememberFor)
	here := addr("192.0.2.1")
	r.add(r.proof("jane", "hash", "secret", here))
	for name, tt := range map[string]struct {
		proof proof
		want  bool
	}{
		"the same":           {r.proof("jane", "hash", "secret", here), true},
		"another name":       {r.proof("joe", "hash", "secret", here), false},
		"another hash":       {r.proof("jane", "hash2", "secret", here), false},
		"another password":   {r.proof("jane", "hash", "secrets", here), false},
		"another address":    {r.proof("jane", "hash", "secret", addr("192.0.2.2")), false},
		"no address":         {r.proof("jane", "hash", "secret", netip.Addr{}), false},
		"parts that run on":  {r.proof("janeh", "ash", "secret", here), false},
		"of another process": {newRemembered(c.now, rememberFor).proof("jane", "hash", "secret", here), false},
	} {
		if got := r.has(tt.proof); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	c.after(rememberFor - time.Second)
	if !r.has(r.proof("jane", "hash", "secret", here)) {
		t.Error("forgotten too early")
	}
	c.after(time.Second)
	if r.has(r.proof("jane", "hash", "secret", here)) {
		t.Error("remembered too long")
	}
	for i := range 2 * maxRemembered {
		r.add(r.proof(fmt.Sprint(i), "", "", here))
	}
	if len(r.proofs) != maxRemembered || r.oldest.Len() != maxRemembered {
		t.Errorf("%d and %d are kept, want %d", len(r.proofs), r.oldest.Len(), maxRemembered)
	}
	if !r.has(r.proof(fmt.Sprint(2*maxRemembered-1), "", "", here)) || r.has(r.proof("0", "", "", here)) {
		t.Error("not the oldest went")
	}
}
