package wire

import (
	"net/netip"
	"strconv"
	"strings"
)

// ParseSSHConnection reads a value of sshd's SSH_CONNECTION (ssh(1), ENVIRONMENT): the address and
// port of the client, and those of the server. A zone of an address is cut off; an IPv4 address in an
// IPv6 one is taken out. sshd writes UNKNOWN where it doesn't talk to a socket, which is no address
// here.
func ParseSSHConnection(text string) (client, server netip.AddrPort, err error) {
	words := strings.Split(text, " ")
	if len(words) != 4 {
		return client, server, errSSHConnection(text)
	}
	client, ok := sshEnd(words[0], words[1])
	if !ok {
		return client, server, errSSHConnection(text)
	}
	if server, ok = sshEnd(words[2], words[3]); !ok || client.Addr().Is4() != server.Addr().Is4() {
		return client, server, errSSHConnection(text)
	}
	return client, server, nil
}

func sshEnd(addr, port string) (end netip.AddrPort, ok bool) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return end, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return end, false
	}
	return netip.AddrPortFrom(a.WithZone("").Unmap(), uint16(n)), true
}

func errSSHConnection(text string) *Error {
	const longest = 100
	if len(text) > longest {
		text = text[:longest] + "..."
	}
	return &Error{
		Code: InvalidParams, Message: "ssh_connection: " + strconv.Quote(text) + " is no SSH connection",
		Hint: `give what $SSH_CONNECTION holds, e.g. "192.0.2.7 52100 198.51.100.1 22", or leave it out`,
	}
}
