// Package conntracktest helps to test what works on a connection tracking table: network
// namespaces of their own with a routed topology between them, traffic of every protocol that
// the kernel tracks, conntrack(8) as the reference for what the table holds, and Fake, a table
// in memory.
//
// What needs a kernel runs as root, with ip(8), nft(8) and conntrack(8), and only where the
// environment says CTD_KERNEL_TESTS=1; elsewhere the test is skipped.
package conntracktest

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// KernelEnv is the environment variable that lets kernel tests run where it is "1".
const KernelEnv = "CTD_KERNEL_TESTS"

// Kernel skips the test where kernel tests were not asked for, and fails it where they were but
// can't run.
func Kernel(t testing.TB) {
	t.Helper()
	if os.Getenv(KernelEnv) != "1" {
		t.Skipf("kernel tests run as root with %s=1", KernelEnv)
	}
	if os.Geteuid() != 0 {
		t.Fatalf("%s=1 needs root", KernelEnv)
	}
	for _, tool := range []string{"ip", "nft", "conntrack"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s=1: %v", KernelEnv, err)
		}
	}
}

// NS is a network namespace of a test. It goes, with the processes in it, when the test ends.
type NS struct {
	t    testing.TB
	name string
	etc  string // stands in for /etc under conntrack(8); see Conntrack8
}

// NewNS makes a network namespace in which the loopback is up.
func NewNS(t testing.TB) *NS {
	t.Helper()
	Kernel(t)
	var unique [4]byte
	rand.Read(unique[:])
	n := &NS{t: t, name: "ctd-" + hex.EncodeToString(unique[:])}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add %s: %v: %s", n.name, err, out)
	}
	t.Cleanup(n.remove)
	n.Exec("ip", "link", "set", "lo", "up")
	n.etc = labelMap(t)
	return n
}

// remove ends what still runs in the namespace, by process id, and deletes it.
func (n *NS) remove() {
	out, _ := exec.Command("ip", "netns", "pids", n.name).Output()
	for pid := range strings.FieldsSeq(string(out)) {
		if pid == strconv.Itoa(os.Getpid()) {
			continue // the main thread, which a goroutine left behind in the namespace
		}
		_ = exec.Command("kill", "-KILL", pid).Run()
	}
	if out, err := exec.Command("ip", "netns", "del", n.name).CombinedOutput(); err != nil {
		n.t.Errorf("ip netns del %s: %v: %s", n.name, err, out)
	}
}

// Name returns the name of the namespace, under which it is in /run/netns.
func (n *NS) Name() string { return n.name }

// Path returns the file that stands for the namespace.
func (n *NS) Path() string { return filepath.Join("/run/netns", n.name) }

// Do runs fn on a thread of its own in the namespace. Sockets that fn opens belong to the
// namespace for good; goroutines that fn starts run outside of it.
func (n *NS) Do(fn func()) {
	n.t.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		n.t.Fatalf("open own network namespace: %v", err)
	}
	defer home.Close()
	ns, err := os.Open(n.Path())
	if err != nil {
		n.t.Fatalf("open network namespace: %v", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		n.t.Fatalf("enter %s: %v", n.name, err)
	}
	defer func() {
		// A thread that can't go back stays locked, so that it ends with its goroutine.
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			n.t.Errorf("leave %s: %v", n.name, err)
			return
		}
		runtime.UnlockOSThread()
	}()
	fn()
}

// Run runs a command in the namespace and returns what it wrote to its standard output.
func (n *NS) Run(stdin string, cmd ...string) (string, error) {
	n.t.Helper()
	return n.run(exec.Command(cmd[0], cmd[1:]...), stdin)
}

func (n *NS) run(c *exec.Cmd, stdin string) (string, error) {
	n.t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &stdout, &stderr
	var err error
	// A child inherits the namespace of the thread that starts it.
	n.Do(func() { err = c.Start() })
	if err == nil {
		err = c.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), err, stderr.Bytes())
	}
	return stdout.String(), err
}

// Exec is Run for a command that must succeed.
func (n *NS) Exec(cmd ...string) string {
	n.t.Helper()
	out, err := n.Run("", cmd...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// Sysctl sets a variable, e.g. "net.ipv4.ip_forward".
func (n *NS) Sysctl(key, value string) {
	n.t.Helper()
	path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
	n.Do(func() {
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			n.t.Fatal(err)
		}
	})
}

// Nft runs an nft(8) script.
func (n *NS) Nft(script string) {
	n.t.Helper()
	if _, err := n.Run(script, "nft", "-f", "-"); err != nil {
		n.t.Fatalf("%v\n%s", err, script)
	}
}

// baseRules activate connection tracking, which is off in a namespace without rules that need
// it. The label rule gives every flow the label extension; its condition is never true. The
// chains are where Topology adds its rules.
const baseRules = `
table inet ctd {
	ct helper ftp { type "ftp" protocol tcp; l3proto inet; }
	ct helper q931 { type "Q.931" protocol tcp; l3proto inet; }
	chain zones { type filter hook prerouting priority -300; }
	chain flows {
		type filter hook prerouting priority -150;
		ct state invalid counter
		ct mark 0xffffffff ct label set 127
	}
	chain output {
		type filter hook output priority -150;
		ct state invalid counter
	}
	chain destination { type nat hook prerouting priority -100; }
	chain source { type nat hook postrouting priority 100; }
}`

// Conntrack activates connection tracking in the namespace, for IPv4 and IPv6, with counters,
// timestamps, labels and events.
func (n *NS) Conntrack() {
	n.t.Helper()
	n.Nft(baseRules)
	n.Sysctl("net.netfilter.nf_conntrack_acct", "1")
	n.Sysctl("net.netfilter.nf_conntrack_timestamp", "1")
	n.Sysctl("net.netfilter.nf_conntrack_events", "1")
}

// labelMap makes a directory that stands in for /etc: conntrack(8) tells labels only by the
// names in /etc/xtables/connlabel.conf, which hardly any machine has.
func labelMap(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"protocols", "services", "nsswitch.conf", "ld.so.cache"} {
		if b, err := os.ReadFile(filepath.Join("/etc", name)); err == nil {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	var names strings.Builder
	for i := range 128 {
		fmt.Fprintf(&names, "%d %s\n", i, LabelName(i))
	}
	if err := os.Mkdir(filepath.Join(dir, "xtables"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "xtables", "connlabel.conf"), []byte(names.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

const labelPrefix = "label-"

// LabelName is the name by which conntrack(8) under Conntrack8 knows label i (0 to 127).
func LabelName(i int) string { return labelPrefix + strconv.Itoa(i) }

// Conntrack8 runs conntrack(8) in the namespace and returns its output. Labels have the names
// of LabelName.
func (n *NS) Conntrack8(args ...string) (string, error) {
	n.t.Helper()
	return n.Conntrack8In("", args...)
}

// Conntrack8In is Conntrack8 with something on the standard input.
func (n *NS) Conntrack8In(stdin string, args ...string) (string, error) {
	n.t.Helper()
	c := exec.Command("sh", append([]string{"-c", `mount --bind "$0" /etc && exec conntrack "$@"`, n.etc}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return n.run(c, stdin)
}

// Eventually waits for a condition that packets under way, or other goroutines and processes, will make true.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience()); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("did not come about in %v: %s", Patience(), what)
		}
	}
}
