package auth

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// proxy knows requests of a trusted reverse proxy.
type proxy struct {
	networks []netip.Prefix
	uids     map[uint32]bool
	header   string // with the user's name
}

// TrustedProxy is which of the trusted proxies sent a request, for whether it is trusted later too. The
// zero value is none.
type TrustedProxy struct {
	from netip.Addr
	uid  *uint32 // where it called by the Unix socket
}

// newProxy reads whom to trust. The errors are *SettingError.
func newProxy(cfg Proxy) (*proxy, []error) {
	p := &proxy{uids: make(map[uint32]bool), header: cfg.Header}
	var wrong []error
	for _, text := range cfg.Addresses {
		network, err := parseProxyNetwork(text)
		if err != nil {
			wrong = append(wrong, &SettingError{"proxy.addresses", err.Error()})
			continue
		}
		p.networks = append(p.networks, network)
	}
	for _, name := range cfg.UnixUsers {
		uid, err := lookupUser(name)
		if err != nil {
			wrong = append(wrong, &SettingError{"proxy.unix_users", err.Error()})
			continue
		}
		p.uids[uid] = true
	}
	header := DefaultConfig().Proxy.Header
	switch believed := len(cfg.Addresses)+len(cfg.UnixUsers) > 0; {
	case !believed && cfg.Role != "":
		wrong = append(wrong, &SettingError{"proxy.role", "it needs the proxy's addresses or unix_users: without, no proxy is believed"})
	case believed && !httpguts.ValidHeaderFieldName(cfg.Header):
		wrong = append(wrong, &SettingError{"proxy.header", fmt.Sprintf("%q is no name of a header; the default is %s", cfg.Header, header)})
	case believed && hasOtherMeaning(cfg.Header):
		wrong = append(wrong, &SettingError{"proxy.header", fmt.Sprintf("%s means something else in a request, so that it can't name the user; the default is %s", cfg.Header, header)})
	}
	return p, wrong
}

// takenHeaders are headers that mean something to HTTP, to browsers or to the daemon itself. Those that
// concern one connection only (RFC 9110 section 7.6.1) are among them: a proxy doesn't pass them on.
var takenHeaders = []string{
	"authorization", "host", "cookie", "origin", "x-csrf-token", "forwarded",
	"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
	"te", "trailer", "transfer-encoding", "upgrade",
	// Others of that beginning name users.
	"x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto", "x-forwarded-server",
}

// hasOtherMeaning tells whether a header can't have the name of a user.
func hasOtherMeaning(header string) bool {
	name := strings.ToLower(header)
	return slices.Contains(takenHeaders, name) || strings.HasPrefix(name, "content-")
}

// parseProxyNetwork reads an address or a network. One of everybody is refused: whoever is in it may call
// in anybody's name.
func parseProxyNetwork(text string) (netip.Prefix, error) {
	network, err := parseNetwork(text)
	if err == nil && network.Bits() == 0 {
		err = fmt.Errorf("%q is everybody, who could then call in anybody's name; give the proxy's own addresses", text)
	}
	return network, err
}

// trusts tells whether a proxy calls from an address. The zero address, a local caller's, is none.
func (p *proxy) trusts(from netip.Addr) bool {
	from = from.Unmap().WithZone("")
	for _, n := range p.networks {
		if n.Contains(from) {
			return true
		}
	}
	return false
}

// peer returns the proxy that is the process at the other end of a Unix socket, and whether it is one.
func (p *proxy) peer(c *net.UnixConn) (by TrustedProxy, ok bool) {
	if len(p.uids) == 0 {
		return by, false
	}
	cred, err := peerCredentials(c)
	if err != nil || !p.uids[cred.Uid] {
		return by, false
	}
	return TrustedProxy{uid: &cred.Uid}, true
}

// believes tells whether the word of a proxy counts that names users in a header.
func (p *proxy) believes(by TrustedProxy, header string) bool {
	trusted := p.trusts(by.from)
	if by.uid != nil {
		trusted = p.uids[*by.uid]
	}
	return trusted && strings.EqualFold(p.header, header)
}
