// Package cut ends connections, where deleting their entries in the connection tracking table
// doesn't: the next packet of an established TCP connection makes a new entry
// (net.netfilter.nf_conntrack_tcp_loose), with the same translation, and its users never notice.
//
//	c, err := cut.Open(cut.Config{Table: table})
//	...
//	defer c.Close()
//	if err := c.Prepare(flows, len(flows), options); err != nil {
//		return err // before anything is deleted
//	}
//	... table.Kill(ctx, keys) ...
//	result, err := c.Cut(ctx, killed, options)
//
// # What happens to a connection
//
// The tuples of both directions stand for a time in sets of an nftables table of our own, whose
// chains look at packets where they enter netfilter: prerouting, for what comes from a network, and
// output, for what the router itself sends, both after connection tracking and before NAT. There a
// packet of a flow bears one of the flow's two tuples as the table had them, whatever is translated
// later; further inside, as in forward, it would depend on NAT rules that may have changed. TCP is
// answered with a reset, everything else is dropped, or rejected where that is asked for.
//
// An end that sends nothing would not notice. So each end of a TCP connection is sent a segment that
// can't be in its window, as if by the other end. It answers with an ACK (RFC 9293 section 3.10.7.4),
// which runs into the set, and the reset that it gets bears the very sequence number that it waits
// for. No packet that is already under way could be turned into such a reset: it goes to
// one end only, since nft has no statement that both changes a packet, sends a copy through NAT and
// rejects it. Sockets of the router itself are closed by inet_diag.
//
// The entries are deleted first, with their ids compared by the kernel, and only flows that were
// deleted are cut: the other order would also reset a new connection that has taken the tuple. A
// packet that slips through in between makes an entry again, which Cut's caller should delete: its
// original tuple is the one or the other of the flow's. Whatever has these otherwise is another flow.
//
// # What it needs
//
// Linux 5.9 or later (reject in prerouting) with nf_tables, CAP_NET_ADMIN, and CAP_NET_RAW for the
// segments to ends that are silent; without it they notice at their next packet.
//
// The table is made when it is first needed and made whole again should others have changed the
// ruleset, and is deleted when the last tuple has left it and by Close. What a process that was killed
// left behind is deleted by the next Open.
package cut
