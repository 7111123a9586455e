package auth

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// connectAs has a process of a user connect to a Unix socket, and returns our end of it. The process
// lives until the test ends.
func connectAs(t *testing.T, uid, gid uint32, groups ...uint32) *net.UnixConn {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("to become another user takes root")
	}
	dir, err := os.MkdirTemp("", "ctd-peer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(filepath.Join(dir, "s"), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-c",
		`import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()`, filepath.Join(dir, "s"))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	_ = l.SetDeadline(time.Now().Add(30 * time.Second))
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatalf("nobody connected: %v %s", err, stderr.String())
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// rootOnly skips a test that becomes other users, as those of the kernel are skipped.
func rootOnly(t *testing.T) {
	if os.Getenv("CTD_KERNEL_TESTS") != "1" {
		t.Skip("set CTD_KERNEL_TESTS=1 to run it")
	}
}

func TestPeers(t *testing.T) {
	rootOnly(t)
	const jane, office, helpdesk = 41001, 41002, 41003
	rules := []Peer{
		{User: fmt.Sprint(jane), Grant: Grant{Role: "operator", Networks: []string{"10.3.0.0/16"}}},
		{Group: fmt.Sprint(helpdesk), Grant: Grant{Role: "viewer"}},
		{User: "nobody", Grant: Grant{Role: "viewer"}},
		{Group: fmt.Sprint(office), Grant: Grant{Role: "admin"}},
	}
	many := make([]uint32, 3*fewGroups) // more than there is room for at first
	for i := range many {
		many[i] = 50000 + uint32(i)
	}
	for _, tt := range []struct {
		name     string
		uid, gid uint32
		groups   []uint32
		want     string // name and role; empty is nobody
	}{
		{"root", 0, 0, nil, "root admin"},
		{"by user, before the groups", jane, office, []uint32{helpdesk}, fmt.Sprintf("uid %d operator", jane)},
		{"by a name", 65534, 65534, nil, "nobody viewer"},
		{"by the group", 41009, office, nil, "uid 41009 admin"},
		{"by a supplementary group", 41009, 41009, []uint32{5, helpdesk}, "uid 41009 viewer"},
		{"by the last of many groups", 41009, 41009, append(slices.Clone(many), office), ""},
		{"the first rule counts", 41009, office, []uint32{helpdesk}, "uid 41009 viewer"},
		{"a user with a group's number", office, 41009, nil, ""},
		{"a group with a user's number", 41009, jane, nil, ""},
		{"nobody's", 41009, 41009, nil, ""},
	} {
		if tt.name == "by the last of many groups" {
			tt.want = "uid 41009 admin"
		}
		p, wrong := newPeers(rules, newBudgets(time.Now))
		if len(wrong) > 0 {
			t.Fatal(wrong)
		}
		got, err := p.principal(connectAs(t, tt.uid, tt.gid, tt.groups...))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		text := ""
		if got != nil {
			text = got.Name() + " " + got.Role()
			if got.Via() != "unix" {
				t.Errorf("%s: via %q", tt.name, got.Via())
			}
		}
		if text != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, text, tt.want)
		}
		if tt.uid == jane && fmt.Sprint(got.Networks()) != "[10.3.0.0/16]" {
			t.Errorf("%s: networks %v", tt.name, got.Networks())
		}
	}
}

// TestOwnPeer: the process's own user is an admin without any rule.
func TestOwnPeer(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "pair")
	defer f.Close()
	fc, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer fc.Close()
	var p peers
	got, err := p.principal(fc.(*net.UnixConn))
	if err != nil || got == nil || got.Role() != "admin" {
		t.Errorf("%v, %v", got, err)
	}
	for uid, want := range map[uint32]bool{0: true, uint32(os.Geteuid()): true, 41001: false} {
		if isOwn(uid) != want {
			t.Errorf("uid %d is our own: %v", uid, !want)
		}
	}
}

func TestNewPeersWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		rule Peer
		want []string // keys
	}{
		"right":            {Peer{User: "41002", Grant: Grant{Role: "viewer"}}, nil},
		"a number":         {Peer{Group: "41001", Grant: Grant{Role: "viewer"}}, nil},
		"neither":          {Peer{Grant: Grant{Role: "viewer"}}, []string{"unix[1].user"}},
		"both":             {Peer{User: "root", Group: "root", Grant: Grant{Role: "viewer"}}, []string{"unix[1].user"}},
		"no such user":     {Peer{User: "ctd-no-such", Grant: Grant{Role: "viewer"}}, []string{"unix[1].user"}},
		"no such group":    {Peer{Group: "ctd-no-such", Grant: Grant{Role: "viewer"}}, []string{"unix[1].group"}},
		"too high":         {Peer{User: "4294967295", Grant: Grant{Role: "viewer"}}, []string{"unix[1].user"}},
		"no role either":   {Peer{User: "ctd-no-such"}, []string{"unix[1].role", "unix[1].user"}},
		"a wrong network":  {Peer{User: "41002", Grant: Grant{Role: "viewer", Networks: []string{"x"}}}, []string{"unix[1].networks"}},
		"the same user":    {Peer{User: "0", Grant: Grant{Role: "admin"}}, []string{"unix[1].user"}},
		"the same group":   {Peer{Group: "41003", Grant: Grant{Role: "admin"}}, []string{"unix[1].group"}},
		"its own group":    {Peer{Group: "0", Grant: Grant{Role: "admin"}}, nil},
		"a negative group": {Peer{Group: "-1", Grant: Grant{Role: "viewer"}}, []string{"unix[1].group"}},
	} {
		first := Peer{User: "root", Grant: Grant{Role: "viewer"}}
		if name == "the same group" {
			first.User, first.Group = "", "41003"
		}
		_, wrong := newPeers([]Peer{first, tt.rule}, newBudgets(time.Now))
		if got := settingKeys(t, wrong); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %q", name, wrong, tt.want)
		}
	}
}

// settingKeys returns the keys of errors, each of which must be a *SettingError.
func settingKeys(t *testing.T, errs []error) (keys []string) {
	t.Helper()
	for _, err := range errs {
		e, ok := err.(*SettingError)
		if !ok {
			t.Fatalf("%T: %v", err, err)
		}
		keys = append(keys, e.Key)
	}
	return keys
}

// TestUserNames: names are remembered, and not more than maxUIDNames of them.
func TestUserNames(t *testing.T) {
	var n userNames
	for uid := range uint32(maxUIDNames + 1) {
		if got := n.of(100000 + uid); got != "uid "+strconv.Itoa(100000+int(uid)) {
			t.Fatal(got)
		}
		if len(n.names) > maxUIDNames {
			t.Fatalf("%d names are remembered", len(n.names))
		}
	}
	n.names[7] = rememberedName{"seven", time.Now().Add(nameLife)}
	if got := n.of(7); got != "seven" {
		t.Errorf("not remembered: %q", got)
	}
	n.names[7] = rememberedName{"seven", time.Now()}
	if got := n.of(7); got == "seven" {
		t.Error("remembered for too long")
	}
}

func BenchmarkPeer(b *testing.B) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer syscall.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "pair")
	defer f.Close()
	fc, err := net.FileConn(f)
	if err != nil {
		b.Fatal(err)
	}
	defer fc.Close()
	p := &peers{groups: true}
	for b.Loop() {
		if _, err := p.principal(fc.(*net.UnixConn)); err != nil {
			b.Fatal(err)
		}
		if _, err := peerGroups(fc.(*net.UnixConn)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPeerEnds: what a local user has begun ends when the rule that let it in goes, or says something else.
func TestPeerEnds(t *testing.T) {
	me := parsedGrant{role: Operator}
	rules := func(r ...peerRule) *Authenticator {
		return &Authenticator{peers: &peers{rules: r, budgets: newBudgets(time.Now)}}
	}
	s := newShared(time.Now)
	for name, tt := range map[string]struct {
		now  *Authenticator
		want bool
	}{
		"the same":     {rules(peerRule{id: 1234, grant: me}), true},
		"by its group": {rules(peerRule{byGroup: true, id: 77, grant: me}), true},
		"another role": {rules(peerRule{id: 1234, grant: parsedGrant{role: Viewer}}), false},
		"no rule":      {rules(), false},
	} {
		s.install(tt.now)
		p := &peers{rules: []peerRule{{id: 1234, grant: me}}, budgets: newBudgets(time.Now), valid: s.valid}
		got, err := p.principalOf(1234, []uint32{77})
		if err != nil || got == nil || got.Valid() != tt.want {
			t.Errorf("%s: %v, %v, want valid %v", name, got, err, tt.want)
		}
	}
}
