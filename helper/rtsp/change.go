package rtsp

import (
	"errors"
	"net/netip"
	"strconv"
)

// Errors of Rewrite, beside ErrTooLong.
var (
	errNoTransport = errors.New("the message has no such transport")
	errPort        = errors.New("the second port would be none")
	errAddrs       = errors.New("there are more than two addresses to change the ports of")
)

// change returns the new value of a parameter, nil where it stays, or that it is dropped.
func (t *Transport) change(kind paramKind, value []byte, c Change) (to []byte, drop bool, err error) {
	client, server := side{c.ClientPort, c.Destination, c.DropDestination}, side{c.ServerPort, c.Source, c.DropSource}
	switch kind {
	case paramClientPort:
		to, err = client.changePorts(value)
	case paramServerPort:
		to, err = server.changePorts(value)
	case paramDestination:
		return client.changeHost(value, t.ClientPort), client.drop, nil
	case paramSource:
		return server.changeHost(value, t.ServerPort), server.drop, nil
	case paramDestAddr:
		return client.changeHosts(value)
	case paramSrcAddr:
		return server.changeHosts(value)
	}
	return to, false, err
}

// side is what becomes of one side's ports and address.
type side struct {
	ports Ports
	addr  netip.Addr
	drop  bool
}

// changePorts changes client_port or server_port.
func (s side) changePorts(value []byte) ([]byte, error) {
	old := readPorts(value)
	if s.ports.First == 0 || old.First == 0 {
		return nil, nil
	}
	last, err := s.lastPort(old.First, old.Last)
	if err != nil {
		return nil, err
	}
	to := append([]byte(nil), value[:old.first.start]...)
	to = strconv.AppendUint(to, uint64(s.ports.First), 10)
	if old.Sep != 0 {
		to = append(to, value[old.first.end:old.last.start]...)
		to = strconv.AppendUint(to, uint64(last), 10)
	}
	return append(to, value[old.last.end:]...), nil
}

// lastPort is the new second port where first and last stood before.
func (s side) lastPort(first, last uint16) (uint16, error) {
	if s.ports.Last != 0 {
		return s.ports.Last, nil
	}
	n := int(s.ports.First) + int(last) - int(first)
	if n < 1 || n > 1<<16-1 {
		return 0, errPort
	}
	return uint16(n), nil
}

// changeHost changes destination or source, in an alternative whose ports stand apart.
func (s side) changeHost(value []byte, apart Ports) []byte {
	in := inner(value)
	h := readHost(value[in.start:in.end])
	var port uint16
	if apart.First == 0 || apart.First == h.Port {
		port = s.ports.First
	}
	to := append([]byte(nil), value[:in.start]...)
	to = h.append(to, value[in.start:in.end], s.addr, port, false)
	return append(to, value[in.end:]...)
}

// append writes text, of which h was read, with another address and port where they aren't zero and
// there is one already. IPv6 stands in brackets where it did or where it must: before a port, and in
// lists.
func (h *hostText) append(to, text []byte, addr netip.Addr, port uint16, brackets bool) []byte {
	switch {
	case !addr.IsValid() || h.Host == "":
		to = append(to, text[:h.host.end]...)
	case addr.Unmap().Is6() && (brackets || h.brackets || h.port.end > 0):
		to = append(to, '[')
		to = addr.WithZone("").AppendTo(to)
		to = append(to, ']')
	default:
		to = addr.WithZone("").Unmap().AppendTo(to)
	}
	return h.appendPort(to, text, port)
}

// appendPort writes what is behind the host.
func (h *hostText) appendPort(to, text []byte, port uint16) []byte {
	if port == 0 || h.Port == 0 {
		return append(to, text[h.host.end:]...)
	}
	to = append(to, text[h.host.end:h.port.start]...)
	return strconv.AppendUint(to, uint64(port), 10)
}

// changeHosts changes dest_addr or src_addr.
func (s side) changeHosts(value []byte) (to []byte, drop bool, err error) {
	ports, drop, err := s.listPorts(value)
	if err != nil || drop {
		return nil, drop, err
	}
	for n := 0; ; n++ {
		i := separator(value, '/')
		one := value[:i]
		in := inner(one)
		text := one[in.start:in.end]
		h := readHost(text)
		port := ports[min(n, 1)]
		to = append(to, one[:in.start]...)
		if s.drop && h.Host != "" {
			to = h.appendPort(to, text, port)
		} else {
			to = h.append(to, text, s.addr, port, true)
		}
		to = append(to, one[in.end:]...)
		if i == len(value) {
			return to, false, nil
		}
		to, value = append(to, '/'), value[i+1:]
	}
}

// listPorts are the new ports of a list, and whether it can't go without its hosts.
func (s side) listPorts(value []byte) (ports [2]uint16, drop bool, err error) {
	hosts, err := readHosts(value)
	if err != nil {
		return ports, false, err
	}
	for _, h := range hosts {
		drop = drop || s.drop && h.Host != "" && h.Port == 0
	}
	if s.ports.First == 0 || drop {
		return ports, drop, nil
	}
	ports[0] = s.ports.First
	switch len(hosts) {
	case 0, 1:
	case 2:
		first, last := hosts[0].Port, hosts[1].Port
		if first == 0 || last == 0 {
			first, last = 1, 2 // RTCP is next to RTP
		}
		ports[1], err = s.lastPort(first, last)
	default:
		err = errAddrs
	}
	return ports, false, err
}
