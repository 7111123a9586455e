package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The flows of a table are dealt to groups in turn. A group is a /16 of sources; in the first
// one all flows have the same source. Marks are dealt likewise, across the groups.
const (
	groups    = 20
	marks     = 20
	flowUnit  = groups * marks // a table of a multiple of this has groups and marks of one size
	oneSource = "10.1.0.1"     // of group 0
	oneNet    = "10.2.0.0/16"  // group 1
	oneMark   = 7
)

// flow is the i-th entry of a table.
type flow struct {
	src, dst     string
	sport, dport int
	mark         int
}

func flowAt(i int) flow {
	group, k := i%groups, i/groups
	f := flow{
		src:   oneSource,
		dst:   fmt.Sprintf("198.51.100.%d", 1+k/60000),
		sport: 1024 + k%60000,
		dport: 443,
		mark:  1 + k%marks,
	}
	if group != 0 {
		host := 1 + k%5000
		f.src = fmt.Sprintf("10.%d.%d.%d", 1+group, host>>8, host&0xff)
	}
	return f
}

// args are the words of conntrack(8) for the flow's original direction.
func (f flow) args() []string {
	return []string{
		"-p", "tcp", "-s", f.src, "-d", f.dst,
		"--sport", strconv.Itoa(f.sport), "--dport", strconv.Itoa(f.dport),
	}
}

// selector is the flow as the API takes it.
func (f flow) selector() map[string]any {
	return map[string]any{
		"family": "ipv4", "protocol": "tcp",
		"orig": map[string]any{"src": f.src, "dst": f.dst, "sport": f.sport, "dport": f.dport},
	}
}

// rig is a table of its own, in a network namespace.
type rig struct {
	ns  string
	dir string // files to load from
	n   int    // flows
}

// newRig makes a namespace whose table holds n flows.
func newRig(ctx context.Context, name, dir string, n int) (*rig, error) {
	r := &rig{ns: fmt.Sprintf("ctd-bench-%d-%s", os.Getpid(), name), dir: dir, n: n}
	if err := command("ip", "netns", "add", r.ns).Run(); err != nil {
		return nil, fmt.Errorf("make namespace: %w", err)
	}
	err := r.in(func() error {
		// What other routers have: counters, and a rule that looks at the connection's state.
		if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_acct", []byte("1"), 0o644); err != nil {
			return err
		}
		nft := command("nft", "-f", "-")
		nft.Stdin = strings.NewReader("table inet bench { chain in { type filter hook input priority 0; ct state invalid drop; }; }")
		if err := nft.Run(); err != nil {
			return err
		}
		// Where the ends of connections are: packets to them go nowhere.
		ip := command("ip", "-batch", "-")
		ip.Stdin = strings.NewReader("link add ends type veth peer name far\nlink set ends arp off up\nlink set far up\nroute add default dev ends\n")
		return ip.Run()
	})
	if err == nil {
		err = r.load(ctx, func(int) bool { return true })
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *rig) close() error { return command("ip", "netns", "del", r.ns).Run() }

// in runs fn on a thread in the rig's namespace. Programs that fn starts are in it, too.
func (r *rig) in(fn func() error) error { return inNamespace(r.ns, fn) }

// inNamespace runs fn on a thread in a namespace. Programs that fn starts are in it, too.
func inNamespace(name string, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + name)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", name, err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// load puts the flows whose number is chosen into the table, and checks that all n are there.
func (r *rig) load(ctx context.Context, chosen func(i int) bool) error {
	file, err := os.Create(filepath.Join(r.dir, r.ns))
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	w := bufio.NewWriterSize(file, 1<<20)
	// No status bits: conntrack(8) 1.4.7 writes those of -u into the mark as well.
	for i := range r.n {
		if f := flowAt(i); chosen(i) {
			fmt.Fprintf(w, "-A %s -m %d -t 100000 --state ESTABLISHED\n",
				strings.Join(f.args(), " "), f.mark)
		}
	}
	if err := errors.Join(w.Flush(), file.Close()); err != nil {
		return err
	}
	if _, err := r.conntrack(ctx, "-R", file.Name()); err != nil {
		return err
	}
	return r.holds(ctx, r.n)
}

// holds checks how many flows the table holds.
func (r *rig) holds(ctx context.Context, want int) error {
	n, err := r.count(ctx)
	if err == nil && n != want {
		err = fmt.Errorf("the table holds %d flows, want %d", n, want)
	}
	return err
}

// count is how many flows the table holds.
func (r *rig) count(ctx context.Context) (n int, err error) {
	err = r.in(func() error {
		out, err := exec.CommandContext(ctx, "conntrack", "-C").Output()
		if err != nil {
			return fmt.Errorf("conntrack -C: %w", err)
		}
		n, err = strconv.Atoi(strings.TrimSpace(string(out)))
		return err
	})
	return n, err
}

// conntrack runs conntrack(8), discards what it prints and returns how long it took.
func (r *rig) conntrack(ctx context.Context, args ...string) (took time.Duration, err error) {
	err = r.in(func() error {
		var stderr strings.Builder
		cmd := exec.CommandContext(ctx, "conntrack", args...)
		cmd.Stderr = &stderr
		begin := time.Now()
		err := cmd.Run()
		took = time.Since(begin)
		if err != nil {
			return fmt.Errorf("conntrack %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
		}
		return nil
	})
	return took, err
}

// bareDump reads the whole table and decodes nothing but the messages' lengths: the least that
// a program must do to be sent the table.
func (r *rig) bareDump() (took time.Duration, err error) {
	err = r.in(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		defer unix.Close(fd)
		begin := time.Now()
		n, err := dump(fd)
		took = time.Since(begin)
		if err == nil && n != r.n {
			err = fmt.Errorf("bare dump saw %d flows, want %d", n, r.n)
		}
		return err
	})
	return took, err
}

// command makes a command that complains on our standard error.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// raiseMax lets n more flows into the machine's tables; restore takes that back. The limit can
// only be set outside of the namespaces.
func raiseMax(n int) (restore func() error, err error) {
	const file = "/proc/sys/net/netfilter/nf_conntrack_max"
	read := func() (int, error) {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(string(b)))
	}
	write := func(v int) error { return os.WriteFile(file, []byte(strconv.Itoa(v)), 0o644) }

	before, err := read()
	if err != nil {
		return nil, err
	}
	raised := n + n/10
	if before >= raised {
		return func() error { return nil }, nil
	}
	if err := write(raised); err != nil {
		return nil, err
	}
	return func() error {
		// Somebody else may have set it in the meantime: then it is theirs.
		if now, err := read(); err != nil || now != raised {
			return err
		}
		return write(before)
	}, nil
}

// discard reads r to its end and returns how much there was, and the last of it.
func discard(r io.Reader) (n int64, tail []byte, err error) {
	buf := make([]byte, 256<<10)
	for {
		m, err := r.Read(buf)
		n += int64(m)
		tail = append(tail, buf[max(0, m-tailSize):m]...)
		if len(tail) > tailSize {
			tail = append(tail[:0], tail[len(tail)-tailSize:]...)
		}
		if err == io.EOF {
			return n, tail, nil
		}
		if err != nil {
			return n, tail, err
		}
	}
}

const tailSize = 512
