package auth

import (
	"net/netip"
	"slices"
	"testing"
)

func TestProxyTrusts(t *testing.T) {
	p, wrong := newProxy(Proxy{Addresses: []string{"192.0.2.1", "198.51.100.16/28", "2001:db8::/64"}, Header: "X-Remote-User"})
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	for from, want := range map[string]bool{
		"192.0.2.1": true, "::ffff:192.0.2.1": true, "192.0.2.2": false,
		"198.51.100.15": false, "198.51.100.16": true, "198.51.100.31": true, "198.51.100.32": false,
		"2001:db8::7": true, "2001:db8::7%eth0": true, "2001:db8:0:1::": false, "127.0.0.1": false,
	} {
		if got := p.trusts(netip.MustParseAddr(from)); got != want {
			t.Errorf("%s: %v, want %v", from, got, want)
		}
	}
	if p.trusts(netip.Addr{}) {
		t.Error("a local caller passes for the proxy")
	}
	none, _ := newProxy(DefaultConfig().Proxy)
	if none.trusts(netip.MustParseAddr("192.0.2.1")) || none.trusts(netip.Addr{}) {
		t.Error("somebody is trusted where no proxy is")
	}
}

func TestProxyTrustsPeer(t *testing.T) {
	rootOnly(t)
	p, wrong := newProxy(Proxy{UnixUsers: []string{"nobody"}, Header: "X-Remote-User"})
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	for uid, want := range map[uint32]bool{65534: true, 0: false, 41001: false} {
		c := connectAs(t, uid, uid)
		if _, got := p.peer(c); got != want {
			t.Errorf("uid %d: %v, want %v", uid, got, want)
		}
		none, _ := newProxy(Proxy{Addresses: []string{"127.0.0.1"}, Header: "X"})
		if _, ok := none.peer(c); ok {
			t.Errorf("uid %d is trusted where no user is", uid)
		}
	}
}

func TestNewProxyWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  Proxy
		want []string // keys
	}{
		"the default":    {DefaultConfig().Proxy, nil},
		"everybody":      {Proxy{Addresses: []string{"0.0.0.0/0", "::/0"}, Header: "X"}, []string{"proxy.addresses", "proxy.addresses"}},
		"no address":     {Proxy{Addresses: []string{"proxy.example.org"}, Header: "X"}, []string{"proxy.addresses"}},
		"no such user":   {Proxy{UnixUsers: []string{"ctd-no-such"}, Header: "X"}, []string{"proxy.unix_users"}},
		"no header":      {Proxy{UnixUsers: []string{"root"}}, []string{"proxy.header"}},
		"a wrong header": {Proxy{Addresses: []string{"192.0.2.1"}, Header: "X User"}, []string{"proxy.header"}},
		"a role alone":   {Proxy{Role: "viewer", Header: "X"}, []string{"proxy.role"}},
		"credentials":    {Proxy{Addresses: []string{"192.0.2.1"}, Header: "authorization"}, []string{"proxy.header"}},
		"the host":       {Proxy{Addresses: []string{"192.0.2.1"}, Header: "Host"}, []string{"proxy.header"}},
		"cookies":        {Proxy{Addresses: []string{"192.0.2.1"}, Header: "Cookie"}, []string{"proxy.header"}},
		"the body's":     {Proxy{Addresses: []string{"192.0.2.1"}, Header: "Content-Type"}, []string{"proxy.header"}},
		"the page's":     {Proxy{Addresses: []string{"192.0.2.1"}, Header: "x-csrf-TOKEN"}, []string{"proxy.header"}},
		"the site":       {Proxy{Addresses: []string{"192.0.2.1"}, Header: "Origin"}, []string{"proxy.header"}},
		"one connection": {Proxy{Addresses: []string{"192.0.2.1"}, Header: "Keep-Alive"}, []string{"proxy.header"}},
		"the address":    {Proxy{UnixUsers: []string{"root"}, Header: "X-Forwarded-For"}, []string{"proxy.header"}},
		"like another":   {Proxy{Addresses: []string{"192.0.2.1"}, Header: "X-Host"}, nil},
	} {
		_, wrong := newProxy(tt.cfg)
		if got := settingKeys(t, wrong); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %q", name, wrong, tt.want)
		}
	}
}
