// Package conntrack reads and changes the Linux connection tracking table of a network
// namespace over ctnetlink (NETLINK_NETFILTER, linux/netfilter/nfnetlink_conntrack.h).
//
//	t, err := conntrack.Open(conntrack.Config{NetNS: "router"})
//	...
//	f, err := conntrack.ParseFilter("proto=tcp dport=22 bytes=>1M")
//	...
//	for flow, err := range t.Flows(ctx, f) {
//		if err != nil {
//			return err // what came before is no whole list
//		}
//		fmt.Println(flow.Orig, flow.StateName())
//	}
//
// A Table lists flows (Flows), tells of new ones (NewFlows), and gets, creates, modifies, replaces,
// imports, kills and flushes them; it lists, gets, creates, kills and flushes expectations. A Filter
// says which flows are meant; what the kernel can compare by itself is left to it, and everything is
// compared again here.
//
// # What it needs
//
// Linux 4.19 or later, for flows that are told apart by an id; everything else that a kernel
// doesn't have is left out or an error, not guessed. Tuples in a filter are compared by the kernel
// from 5.8 on, zones from 6.8 on. The process needs CAP_NET_ADMIN in the user namespace that owns
// the network namespace, and CAP_SYS_ADMIN there to enter another one than its own.
//
// The kernel tracks connections only in a namespace where a rule asks for it (ct in nftables,
// conntrack in xtables, any NAT); without one the table is empty. Counters, start times and labels
// have to be turned on (net.netfilter.nf_conntrack_acct, net.netfilter.nf_conntrack_timestamp, a
// rule that uses labels) before a flow begins, as have events (net.netfilter.nf_conntrack_events).
//
// # Concurrency
//
// A Table may be used by many goroutines at once. Each request has a socket of its own while it
// lasts. Requests end with their context, a dump within a few milliseconds.
//
// # Errors
//
// What the kernel answered is an *OpError that unwraps to the errno. ErrNotFound and ErrExists
// stand for ENOENT and EEXIST.
package conntrack
