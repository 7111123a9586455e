package claim_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
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

// hold has a process of a user's take a name, which may listen by it, and returns its id.
func hold(t *testing.T, ns netNS, uid, name string, listen bool) int {
	t.Helper()
	script := fmt.Sprintf(`
import socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.bind("\0%s")
if sys.argv[1] == "listen": s.listen(0)
print("ready", flush=True)
time.sleep(600)`, name)
	how := "bound"
	if listen {
		how = "listen"
	}
	cmd := exec.Command("setpriv", "--reuid", uid, "--clear-groups", "/usr/bin/python3", "-c", script, how)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("a process of user %s: %q, %v", uid, line, err)
	}
	return cmd.Process.Pid
}

func TestHolderOf(t *testing.T) {
	ns := netNS{conntracktest.NewNS(t)}
	for _, tt := range []struct {
		name, uid string
		listen    bool
		want      claim.Holder
	}{
		{"ctd_root", "0", true, claim.Holder{UID: 0}},
		{"ctd_nobody", "65534", true, claim.Holder{Stranger: true, UID: 65534}},
		{"ctd_silent", "65534", false, claim.Holder{Stranger: true, UID: -1}},
	} {
		pid := hold(t, ns, tt.uid, tt.name, tt.listen)
		if tt.listen {
			tt.want.PID = pid
		}
		if got, held, err := claim.HolderOf(ns, tt.name); got != tt.want || !held || err != nil {
			t.Errorf("%s: %+v, %v, %v; want %+v", tt.name, got, held, err, tt.want)
		}
		if _, held, err := claim.HolderOf(netNS{conntracktest.NewNS(t)}, tt.name); held || err != nil {
			t.Errorf("%s in another namespace: %v, %v", tt.name, held, err)
		}
	}
}

// TestHolderAnswers: however many ask, who lives is known.
func TestHolderAnswers(t *testing.T) {
	ns := netNS{conntracktest.NewNS(t)}
	c := take(t, ns, 1)
	want := claim.Holder{PID: os.Getpid(), UID: os.Geteuid()}
	for range 5000 { // more than can wait
		if got, held, err := claim.HolderOf(ns, c.Name()); got != want || !held || err != nil {
			t.Fatalf("%+v, %v, %v; want %+v", got, held, err, want)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got, held, err := claim.HolderOf(ns, "ctd_test"); held || err != nil {
		t.Errorf("given back: %+v, %v, %v", got, held, err)
	}
}

// TestStranger: a name that a stranger has is neither taken nor taken for a dead one's.
func TestStranger(t *testing.T) {
	ns := netNS{conntracktest.NewNS(t)}
	hold(t, ns, "65534", "ctd_test", true)
	c := take(t, ns, 3)
	if c.Name() != "ctd_test_2" || !c.Held() {
		t.Errorf("%s, held: %v", c.Name(), c.Held())
	}
	var names []string
	if err := c.EachDead(func(name string) error { names = append(names, name); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"ctd_test_2", "ctd_test_3"}; !slices.Equal(names, want) {
		t.Errorf("dead: %q, want %q", names, want)
	}
}
