package claim_test

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"ctd/conntrack/claim"
	"ctd/conntrack/conntracktest"
)

// netNS enters a test's namespace.
type netNS struct{ *conntracktest.NS }

func (n netNS) InNetNS(fn func() error) (err error) {
	n.Do(func() { err = fn() })
	return err
}

func take(t *testing.T, ns netNS, names int) *claim.Claim {
	t.Helper()
	c, err := claim.Take(ns, "ctd_test", names)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestClaims(t *testing.T) {
	ns := netNS{conntracktest.NewNS(t)}
	first, second, third := take(t, ns, 2), take(t, ns, 2), take(t, ns, 2)
	for _, tt := range []struct {
		name  string
		claim *claim.Claim
		want  string
		held  bool
	}{
		{"the first", first, "ctd_test", true},
		{"the second", second, "ctd_test_2", true},
		{"one too many", third, fmt.Sprintf("ctd_test_pid%d", os.Getpid()), false},
		{"in another namespace", take(t, netNS{conntracktest.NewNS(t)}, 2), "ctd_test", true},
	} {
		if tt.claim.Name() != tt.want || tt.claim.Held() != tt.held {
			t.Errorf("%s: %s, held: %v", tt.name, tt.claim.Name(), tt.claim.Held())
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if first.Held() {
		t.Error("a name is held that was given back")
	}
	if again := take(t, ns, 2); again.Name() != "ctd_test" {
		t.Errorf("a free name isn't taken, but %s", again.Name())
	}
}

func TestEachDead(t *testing.T) {
	ns := netNS{conntracktest.NewNS(t)}
	first, second, _ := take(t, ns, 4), take(t, ns, 4), take(t, ns, 4)
	dead := func() (names []string) {
		t.Helper()
		if err := second.EachDead(func(name string) error { names = append(names, name); return nil }); err != nil {
			t.Fatal(err)
		}
		return names
	}
	if got, want := dead(), []string{"ctd_test_2", "ctd_test_4"}; !slices.Equal(got, want) {
		t.Errorf("while three live: %q, want %q", got, want)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := dead(), []string{"ctd_test_2", "ctd_test", "ctd_test_4"}; !slices.Equal(got, want) {
		t.Errorf("after one's death: %q, want %q", got, want)
	}
}
