package auth

import (
	"fmt"
	"net/netip"
)

// maxNetworks bounds the networks of one grant: each flow is held against all of them.
const maxNetworks = 256

// parsedGrant is a Grant that was checked.
type parsedGrant struct {
	role         Role
	networks     []netip.Prefix // empty is everywhere
	calls, kills int            // a minute; 0 is the default
}

// parseGrant checks a grant. key is where it stands, e.g. user[0]; empty is the top. The errors are
// *SettingError.
func parseGrant(key string, g Grant) (parsedGrant, []error) {
	p := parsedGrant{role: Role(g.Role), calls: g.Rate, kills: g.KillsPerMinute}
	var wrong []error
	refuse := func(name, format string, args ...any) {
		wrong = append(wrong, &SettingError{Key: below(key, name), Text: fmt.Sprintf(format, args...)})
	}
	switch {
	case g.Role == "":
		refuse("role", "a role is needed: viewer, operator or admin")
	case p.role.rank() == 0:
		refuse("role", "%q is none of viewer, operator, admin", g.Role)
	}
	if len(g.Networks) > maxNetworks {
		refuse("networks", "%d networks; at most %d are taken", len(g.Networks), maxNetworks)
	} else {
		for _, text := range g.Networks {
			n, err := parseNetwork(text)
			if err != nil {
				refuse("networks", "%v", err)
				continue
			}
			p.networks = append(p.networks, n)
		}
	}
	if g.Rate < 0 {
		refuse("rate", "%d is below 0", g.Rate)
	}
	if g.KillsPerMinute < 0 {
		refuse("kills_per_minute", "%d is below 0", g.KillsPerMinute)
	}
	return p, wrong
}

// below is the key of a setting inside a table.
func below(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// parseNetwork reads a network, or an address, which is a network of its own.
func parseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(text)
	switch {
	case err != nil || n.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is no network; want 10.3.0.0/16, 2001:db8::/32 or an address", text)
	case n != n.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has bits set beyond its length; the network is %s", text, n.Masked())
	}
	return n, nil
}

// identity returns the identity of a name that was granted this.
func (p parsedGrant) identity(name string, via Via, credential string, b *budgets) Identity {
	return Identity{
		Name: name, Role: p.role, Via: via, Credential: credential, Networks: p.networks,
		Budget: &Budget{of: b, name: name, calls: p.calls, kills: p.kills},
	}
}
