package rtsp

import (
	"bytes"
	"net/netip"
)

// HostPort is an address of dest_addr or src_addr (RFC 7826 section 18.54).
type HostPort struct {
	Host string     // as written, without brackets; empty in ":5000"
	Addr netip.Addr // where Host is an IP address; without zone, and IPv4 as such
	Port uint16     // 0 where none is written
}

// hostText is how a host and port are written. Offsets are those in the text that was read.
type hostText struct {
	HostPort
	host     span // with the brackets
	port     span // the digits; empty where there are none
	brackets bool
}

// readHost reads "host", "host:port", ":port", "[v6]", "[v6]:port" or a bare IPv6 address. Host is
// the whole text where that is none of them.
func readHost(text []byte) hostText {
	whole := hostText{host: span{end: len(text)}}
	if len(text) > 0 && text[0] == '[' {
		i := bytes.IndexByte(text, ']')
		if i < 0 {
			return whole.named(text)
		}
		h := hostText{host: span{end: i + 1}, brackets: true}
		switch rest := text[i+1:]; {
		case len(rest) == 0:
			return h.named(text[1:i])
		case rest[0] == ':' && h.setPort(text, i+2):
			return h.named(text[1:i])
		}
		return whole.named(text)
	}
	i := bytes.IndexByte(text, ':')
	if i < 0 || bytes.IndexByte(text[i+1:], ':') >= 0 {
		return whole.named(text)
	}
	h := hostText{host: span{end: i}}
	if !h.setPort(text, i+1) {
		return whole.named(text)
	}
	return h.named(text[:i])
}

// setPort reads the port that begins at byte i and ends with text.
func (h *hostText) setPort(text []byte, i int) bool {
	var ok bool
	h.Port, ok = portNumber(text[i:])
	h.port = span{start: i, end: len(text)}
	return ok
}

// named takes host for the host.
func (h hostText) named(host []byte) hostText {
	h.Host = clean(host)
	if len(host) > MaxText {
		return h
	}
	if a, err := netip.ParseAddr(h.Host); err == nil {
		h.Addr = a.WithZone("").Unmap()
	}
	return h
}

// readHosts reads the addresses of a dest_addr or src_addr: each in quotes or not, with '/' between.
func readHosts(text []byte) ([]HostPort, error) {
	var hosts []HostPort
	for rest := text; len(rest) > 0; {
		var one []byte
		one, rest = cut(rest, '/')
		if len(hosts) == MaxAddrs {
			return nil, malformed("more than %d addresses", MaxAddrs)
		}
		hosts = append(hosts, readHost(unquote(one)).HostPort)
	}
	return hosts, nil
}
