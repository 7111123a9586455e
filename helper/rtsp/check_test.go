package rtsp

import (
	"bytes"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkRewrite holds what Rewrite promises of its edits: nothing outside of them changes, none is
// shorter than what it replaces, one at most is longer, and the new message reads as the old one
// with exactly the changes.
func checkRewrite(t *testing.T, msg []byte, m *Message, changes map[int]Change, edits []Edit, grow int) {
	t.Helper()
	at, grown := 0, 0
	for _, e := range edits {
		if e.Start < at || e.End <= e.Start || e.End > m.Head {
			t.Fatalf("edit of %d to %d after %d in a head of %d", e.Start, e.End, at, m.Head)
		}
		at = e.End
		switch g := e.Growth(); {
		case g < 0:
			t.Errorf("an edit is shorter by %d bytes", -g)
		case g > max(grow, 0):
			t.Errorf("an edit grows by %d bytes, more than %d", g, grow)
		case g > 0:
			grown++
		}
		if isLWS(e.New[0]) {
			t.Errorf("%q begins with white space", e.New)
		}
	}
	if grown > 1 {
		t.Errorf("%d edits grow", grown)
	}

	got := Apply(msg, edits)
	// Every byte outside: what is between the edits, found in the new message at its shifted place.
	shift, from := 0, 0
	for _, e := range append(slices.Clone(edits), Edit{Start: len(msg), End: len(msg)}) {
		if !bytes.Equal(msg[from:e.Start], got[from+shift:e.Start+shift]) {
			t.Errorf("bytes %d to %d have changed", from, e.Start)
		}
		from, shift = e.End, shift+e.Growth()
	}

	u, err := Next(got)
	if err != nil || u.Message == nil {
		t.Fatalf("what was rewritten isn't a message: %v\n%q", err, got)
	}
	want := *m
	want.Head += len(got) - len(msg)
	want.Transports = nil
	for i, tr := range m.Transports {
		if c, ok := changes[i]; ok {
			tr = expected(tr, c)
			if i < len(u.Message.Transports) && u.Message.Transports[i].Spec+"/UDP" == tr.Spec && tr.Lower == "UDP" {
				tr.Spec = strings.TrimSuffix(tr.Spec, "/UDP")
			}
		}
		want.Transports = append(want.Transports, tr)
	}
	if d := cmp.Diff(&want, u.Message, same); d != "" {
		t.Errorf("%q\nbecame\n%q\n-want +got\n%s", msg[:m.Head], got[:u.Message.Head], d)
	}
}

// expected is what a change should make of an alternative, told by what was read of it.
func expected(t Transport, c Change) Transport {
	client, server := t.ClientPort, t.ServerPort
	t.ClientPort = movedPorts(client, c.ClientPort)
	t.ServerPort = movedPorts(server, c.ServerPort)
	t.Destination, t.DestinationAddr, t.HasDestination = movedHost(t.Destination, t.DestinationAddr, t.HasDestination, client, c.ClientPort, c.Destination, c.DropDestination)
	t.Source, t.SourceAddr, t.HasSource = movedHost(t.Source, t.SourceAddr, t.HasSource, server, c.ServerPort, c.Source, c.DropSource)
	t.DestAddr = movedHosts(t.DestAddr, c.ClientPort, c.Destination, c.DropDestination)
	t.SrcAddr = movedHosts(t.SrcAddr, c.ServerPort, c.Source, c.DropSource)
	return t
}

func movedPorts(p, to Ports) Ports {
	switch {
	case p.First == 0 || to.First == 0:
		return p
	case p.Sep == 0:
		return Ports{First: to.First, Last: to.First}
	case to.Last == 0:
		to.Last = to.First + p.Last - p.First
	}
	return Ports{First: to.First, Last: to.Last, Sep: p.Sep}
}

func movedHost(host string, ap netip.AddrPort, has bool, apart, to Ports, addr netip.Addr, drop bool) (string, netip.AddrPort, bool) {
	if drop {
		return "", netip.AddrPort{}, false
	}
	a, port := ap.Addr(), ap.Port()
	if addr.IsValid() && host != "" {
		a = addr.WithZone("").Unmap()
		host = a.String()
	}
	if to.First != 0 && port != 0 && (apart.First == 0 || apart.First == port) {
		port = to.First
	}
	return host, netip.AddrPortFrom(a, port), has
}

func movedHosts(hosts []HostPort, to Ports, addr netip.Addr, drop bool) []HostPort {
	hosts = slices.Clone(hosts)
	if drop && slices.ContainsFunc(hosts, func(h HostPort) bool { return h.Host != "" && h.Port == 0 }) {
		return nil
	}
	last := to.Last
	if len(hosts) == 2 && last == 0 {
		last = to.First + 1
		if hosts[0].Port != 0 && hosts[1].Port != 0 {
			last = to.First + hosts[1].Port - hosts[0].Port
		}
	}
	for i := range hosts {
		h := &hosts[i]
		switch {
		case drop:
			h.Host, h.Addr = "", netip.Addr{}
		case addr.IsValid() && h.Host != "":
			h.Addr = addr.WithZone("").Unmap()
			h.Host = h.Addr.String()
		}
		if h.Port != 0 && to.First != 0 {
			h.Port = []uint16{to.First, last}[i]
		}
	}
	return hosts
}

// checkStream walks a stream of bytes and returns its units. Each is read again from every prefix:
// as long as it isn't whole more bytes are asked for, and then nothing that follows matters.
func checkStream(t *testing.T, data []byte) (units []Unit, rest []byte) {
	t.Helper()
	for len(data) > 0 {
		u, err := Next(data)
		if err != nil {
			return units, data
		}
		if u.Size <= 0 {
			t.Fatalf("a unit of %d bytes", u.Size)
		}
		checkUnit(t, u, data)
		units = append(units, u)
		if u.Size > int64(len(data)) {
			return units, nil
		}
		data = data[u.Size:]
	}
	return units, nil
}

// checkUnit holds what must be so for one unit, the first of data.
func checkUnit(t *testing.T, u Unit, data []byte) {
	t.Helper()
	known := int(min(u.Size, frameHead)) // so many bytes decide
	if m := u.Message; m != nil {
		known = m.Head
		if m.Head <= 0 || m.Head > MaxHead || u.Size != int64(m.Head)+m.ContentLength || m.ContentLength < 0 {
			t.Fatalf("a head of %d bytes in a unit of %d", m.Head, u.Size)
		}
		if len(m.Transports) > MaxTransports || u.Size > math.MaxInt32+int64(MaxHead) {
			t.Fatalf("over a limit: %+v", m)
		}
		if end := HeadEnd(data, 0); end != m.Head {
			t.Fatalf("the head ends at %d or %d", m.Head, end)
		}
	}
	checkPrefixes(t, u, data[:known])
	if again, err := Next(data[:known]); err != nil || !reflect.DeepEqual(u, again) {
		t.Fatalf("another unit without what follows: %v\n%s", err, cmp.Diff(u, again, same))
	}
}

// checkPrefixes holds that head, which is whole, isn't decided before its last byte, and that bytes
// that Undecided lets go aren't rewritten.
func checkPrefixes(t *testing.T, u Unit, head []byte) {
	t.Helper()
	first := len(head)
	if u.Message != nil && len(u.Message.values) > 0 {
		first = u.Message.values[0].start
	}
	step := 1 + len(head)/2000 // of long heads some prefixes are enough
	for i := 0; i < len(head); i += step {
		if got, err := Next(head[:i]); err != ErrShort {
			t.Fatalf("%q of %q: %+v, %v", head[:i], head, got, err)
		}
		if u.Message == nil || u.Message.Head == 0 {
			continue
		}
		if end := HeadEnd(head[:i], max(0, i-step)); end >= 0 {
			t.Fatalf("a head's end at %d in the first %d bytes of %q", end, i, head)
		}
		if n := Undecided(head[:i]); n < 0 || n > min(first, i) {
			t.Fatalf("Undecided says %d of %d bytes, and the first value begins at %d", n, i, first)
		}
	}
}
