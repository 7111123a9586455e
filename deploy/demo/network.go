package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Addresses of the network: a private side, and a documentation range as the outside.
const (
	clientAddr  = "192.168.77.2"
	clientAddr6 = "fd77::2"
	routerLAN   = "192.168.77.1"
	routerLAN6  = "fd77::1"
	routerWAN   = "198.51.100.1"
	routerWAN6  = "2001:db8::1"
	serverAddr  = "198.51.100.2"
	serverAddr6 = "2001:db8::2"
)

// routerRules masquerade the client, and look at the connection's state, which is what makes
// the kernel track connections in a namespace.
const routerRules = `
table inet demo {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		ct state new iifname "lan" accept
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		meta nfproto ipv4 oifname "wan" masquerade
	}
}
`

// network is a client, a router and a server in namespaces of their own.
type network struct {
	prefix string // of the namespaces' names
	procs  []*exec.Cmd
}

func (n *network) client() string { return n.prefix + "-client" }
func (n *network) router() string { return n.prefix + "-router" }
func (n *network) server() string { return n.prefix + "-server" }

// up makes the network. What a run that crashed left under the same names is removed first.
func (n *network) up() error {
	if err := n.down(); err != nil {
		return err
	}
	for _, ns := range []string{n.client(), n.router(), n.server()} {
		if err := ip("netns", "add", ns); err != nil {
			return err
		}
		if err := ip("-n", ns, "link", "set", "lo", "up"); err != nil {
			return err
		}
	}
	for _, link := range []struct {
		ns, dev, addr, addr6, peer, peerDev, peerAddr, peerAddr6 string
	}{
		{n.client(), "eth0", clientAddr, clientAddr6, n.router(), "lan", routerLAN, routerLAN6},
		{n.server(), "eth0", serverAddr, serverAddr6, n.router(), "wan", routerWAN, routerWAN6},
	} {
		if err := ip("link", "add", link.dev, "netns", link.ns, "type", "veth",
			"peer", "name", link.peerDev, "netns", link.peer); err != nil {
			return err
		}
		for _, end := range [][4]string{
			{link.ns, link.dev, link.addr, link.addr6},
			{link.peer, link.peerDev, link.peerAddr, link.peerAddr6},
		} {
			ns, dev := end[0], end[1]
			if err := errors.Join(
				ip("-n", ns, "addr", "add", end[2]+"/24", "dev", dev),
				// Without nodad the address is of no use for its first second.
				ip("-n", ns, "addr", "add", end[3]+"/64", "dev", dev, "nodad"),
				ip("-n", ns, "link", "set", dev, "up"),
			); err != nil {
				return err
			}
		}
	}
	// No route from the server to the client but for IPv6: masquerading must do.
	if err := errors.Join(
		ip("-n", n.client(), "route", "add", "default", "via", routerLAN),
		ip("-n", n.client(), "-6", "route", "add", "default", "via", routerLAN6),
		ip("-n", n.server(), "-6", "route", "add", "default", "via", routerWAN6),
	); err != nil {
		return err
	}
	// Written in the namespace, whose own settings /proc/sys/net shows.
	if err := run("", "ip", "netns", "exec", n.router(), "sh", "-ec", `
		echo 1 >/proc/sys/net/ipv4/ip_forward
		echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
		echo 1 >/proc/sys/net/netfilter/nf_conntrack_acct
		echo 1 >/proc/sys/net/netfilter/nf_conntrack_timestamp`); err != nil {
		return err
	}
	return run(routerRules, "ip", "netns", "exec", n.router(), "nft", "-f", "-")
}

// down ends what runs in the network's namespaces and removes them.
func (n *network) down() error {
	for _, p := range n.procs {
		p.Process.Kill() // the error is that it has ended
		p.Wait()
	}
	n.procs = nil
	var errs []error
	for _, ns := range []string{n.client(), n.router(), n.server()} {
		if _, err := os.Stat("/run/netns/" + ns); err != nil {
			continue
		}
		// A namespace lives on while something runs in it.
		out, err := exec.Command("ip", "netns", "pids", ns).Output()
		errs = append(errs, err)
		for _, field := range strings.Fields(string(out)) {
			if pid, err := strconv.Atoi(field); err == nil {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		errs = append(errs, ip("netns", "del", ns))
	}
	return errors.Join(errs...)
}

// start runs this program again in a namespace, as the source or the sink of traffic.
func (n *network) start(ns, role string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command("ip", "netns", "exec", ns, self)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // Ctrl-C is for us alone; we end the others in order
		Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", role, err)
	}
	n.procs = append(n.procs, cmd)
	return nil
}

func ip(args ...string) error { return run("", "ip", args...) }

func run(stdin, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
