package rpc

import (
	"context"
	"fmt"
	"net/netip"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

// Caller says where a call comes from. The server's listeners put it in the context.
type Caller struct {
	// Remote and Local are the caller's end of a TCP connection and the daemon's, as the daemon's
	// socket has them, without zones and with IPv4 not within IPv6; zero over the Unix socket.
	Remote, Local netip.AddrPort
	// From is where the call comes from, for records: address and port, or unix. Behind a proxy it is the
	// address that the proxy tells.
	From string
	// Here tells that the call comes from the daemon's own machine: by the Unix socket, or by an
	// address of the machine.
	Here bool
}

type callerKey struct{}

// WithCaller returns a context whose calls come from c.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns where a call comes from; the zero Caller where that isn't known.
func CallerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// sshPort is where an SSH session is looked for that nobody named.
const sshPort = 22

// ends are the two ends of a TCP connection to a socket of this machine, as that socket has them:
// what the router sees after it has translated addresses.
type ends struct{ remote, local netip.AddrPort }

// self tells which flows are the caller's own: its connection to the daemon and the SSH session that
// it comes by. A caller on this machine who names no session may have come by a tunnel, or by sudo,
// which takes SSH_CONNECTION away; then every SSH session to the router may be the one. So it is where
// the session that is named has ended, as in a tmux that was begun in an earlier one.
type self struct {
	table Table
	own   []ends
	ssh   *ends // the session that the caller names
	guess bool  // look for sessions that nobody named

	asked bool
	addrs map[netip.Addr]bool // of the router, once asked

	looked bool
	lives  bool // the session that the caller names, once looked for
}

// newSelf returns what is the caller's own; nil where that is not to be spared.
func newSelf(ctx context.Context, t Table, s wire.Sparing) (*self, error) {
	me := selfOf(CallerFrom(ctx), t)
	if s.SSHConnection != "" {
		client, server, err := wire.ParseSSHConnection(s.SSHConnection)
		if err != nil {
			return nil, err
		}
		me.ssh = &ends{remote: client, local: server}
		me.own = append(me.own, *me.ssh)
	}
	if s.IncludeSelf {
		return nil, nil
	}
	return me, nil
}

// selfOf returns what is the own of a caller who names no SSH session.
func selfOf(c Caller, t Table) *self {
	me := &self{table: t, guess: c.Here}
	if c.Remote.IsValid() && c.Local.IsValid() {
		me.own = append(me.own, ends{remote: c.Remote, local: c.Local})
	}
	return me
}

// has tells whether a flow is the caller's own. The table is asked for the router's addresses where
// that has to be known; where it can't say, nothing may be changed.
func (s *self) has(ctx context.Context, f *conntrack.Flow) (bool, error) {
	if s == nil || f.Proto() != conntrack.TCP {
		return false, nil
	}
	for _, e := range s.own {
		if e.are(&f.Reply) || e.are(&f.Orig) {
			return true, nil
		}
	}
	if !s.guess || f.Reply.SrcPort != sshPort && f.Orig.SrcPort != sshPort {
		return false, nil
	}
	if err := s.askAddrs(ctx); err != nil {
		return false, err
	}
	if !s.isSSH(&f.Reply) && !s.isSSH(&f.Orig) {
		return false, nil
	}
	// A session that the caller named, that ends here and is there, is the one. One that ends elsewhere
	// says nothing of how the caller came here.
	if s.ssh == nil || !s.isHere(s.ssh.local.Addr()) {
		return true, nil
	}
	err := s.lookForSession(ctx)
	return err == nil && !s.lives, err
}

// lookForSession looks once, in all zones, whether the session that the caller names is there. Its
// ends may be those of either direction, translated or not.
func (s *self) lookForSession(ctx context.Context) error {
	if s.looked {
		return nil
	}
	with, err := conntrack.ParseFilter(fmt.Sprintf("proto=tcp addr=%s port=%d", s.ssh.remote.Addr(), s.ssh.remote.Port()))
	if err != nil {
		return err
	}
	for f, err := range s.table.Flows(ctx, with) {
		if err != nil {
			return err
		}
		if (s.ssh.are(&f.Reply) || s.ssh.are(&f.Orig)) && !isOver(&f) {
			s.lives = true
			break
		}
	}
	s.looked = true
	return nil
}

// isOver tells whether a TCP connection is closing or closed: its entry remains for minutes. A state
// that the kernel doesn't tell says nothing.
func isOver(f *conntrack.Flow) bool {
	state := f.StateName()
	return state != "" && state != "ESTABLISHED"
}

// pairs returns the addresses between which the caller's own connections are: as its sockets have
// them, and as the router met their first packets, before it translated them.
func (s *self) pairs(ctx context.Context) ([]cut.Pair, error) {
	if s == nil {
		return nil, nil
	}
	var pairs []cut.Pair
	var own []string // filters
	for _, e := range s.own {
		pairs = append(pairs, cut.Pair{Src: e.remote.Addr(), Dst: e.local.Addr()})
		own = append(own, fmt.Sprintf("proto=tcp addr=%s port=%d", e.remote.Addr(), e.remote.Port()))
	}
	if s.guess {
		own = append(own, fmt.Sprintf("proto=tcp port=%d", sshPort))
	}
	for _, text := range own {
		filter, err := conntrack.ParseFilter(text)
		if err != nil {
			return nil, err
		}
		for f, err := range s.table.Flows(ctx, filter) {
			if err != nil {
				return nil, err
			}
			if own, err := s.has(ctx, &f); err != nil {
				return nil, err
			} else if own {
				pairs = append(pairs, cut.Pair{Src: f.Orig.Src, Dst: f.Orig.Dst})
			}
		}
	}
	return pairs, nil
}

// are tells whether a tuple is that of the packets from the local end to the remote one. Mostly that
// is a flow's reply direction; the original one where the kernel met the connection in its middle.
func (e ends) are(t *conntrack.Tuple) bool {
	return t.SrcPort == e.local.Port() && t.DstPort == e.remote.Port() && t.Src == e.local.Addr() && t.Dst == e.remote.Addr()
}

func (s *self) isSSH(t *conntrack.Tuple) bool { return t.SrcPort == sshPort && s.isHere(t.Src) }

func (s *self) isHere(a netip.Addr) bool { return a.IsLoopback() || s.addrs[a] }

func (s *self) askAddrs(ctx context.Context) error {
	if s.asked {
		return nil
	}
	addrs, err := s.table.LocalAddrs(ctx)
	if err != nil {
		return err
	}
	s.asked, s.addrs = true, make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		s.addrs[a] = true
	}
	return nil
}
