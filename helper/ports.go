package helper

import (
	"math/rand/v2"
	"net/netip"

	"ctd/helper/rtsp"
)

// minPort is the lowest port that is opened: what is below belongs to services.
const minPort = 1024

// maxStreamPorts bounds the ports of one stream: two of RTP, more of layered encodings.
const maxStreamPorts = 8

// portTries bounds the search for ports that are free.
const portTries = 64

// portKey is a port of ours as a server sees it. Two clients may have the same one of two servers.
type portKey struct {
	public, server netip.Addr // server isn't valid where media may come from any
	port, zone     uint16
}

// portUse says whose a port is.
type portUse struct {
	client netip.AddrPort
	uses   int // a client that sets up the same stream anew uses its ports twice for a moment
}

// ports are the ports that are in use by registrations.
type ports map[portKey]*portUse

// free tells whether a client may have a port.
func (p ports) free(k portKey, client netip.AddrPort) bool {
	use := p[k]
	return use == nil || use.client == client
}

func (p ports) take(k portKey, client netip.AddrPort) {
	if p[k] == nil {
		p[k] = &portUse{client: client}
	}
	p[k].uses++
}

func (p ports) give(k portKey) {
	if use := p[k]; use != nil {
		if use.uses--; use.uses == 0 {
			delete(p, k)
		}
	}
}

// portsOf returns the ports that a Transport header asks for or grants: those of client_port, or of
// dest_addr in RTSP 2.0.
func portsOf(t *rtsp.Transport) []uint16 {
	switch {
	case t.ClientPort.Count() > 0:
		return spread(t.ClientPort)
	case t.DestinationAddr.Port() != 0: // "destination=192.0.2.1:5000", of some set-top boxes
		return []uint16{t.DestinationAddr.Port()}
	}
	return hostPorts(t.DestAddr)
}

// serverPortsOf returns the ports that a server sends from.
func serverPortsOf(t *rtsp.Transport) []uint16 {
	if t.ServerPort.Count() > 0 {
		return spread(t.ServerPort)
	}
	return hostPorts(t.SrcAddr)
}

// spread returns the ports of a range, or of a pair that isn't one.
func spread(p rtsp.Ports) []uint16 {
	if p.Sep == 0 || p.Last == p.First {
		return []uint16{p.First}
	}
	if p.Sep != '-' || p.Last < p.First { // a/b are two ports, whatever their order
		return []uint16{p.First, p.Last}
	}
	var list []uint16
	for port := p.First; len(list) < maxStreamPorts; port++ {
		list = append(list, port)
		if port == p.Last {
			break
		}
	}
	return list
}

func hostPorts(list []rtsp.HostPort) []uint16 {
	var ports []uint16
	for _, h := range list {
		if h.Port != 0 && len(ports) < maxStreamPorts {
			ports = append(ports, h.Port)
		}
	}
	return ports
}

// choose returns n ports from an even one on that are free for the key's addresses and have as many
// digits as old, so that a text that names them keeps its length; nil where there are none.
func (p ports) choose(k portKey, old uint16, n int) []uint16 {
	low, high := 1024, 9999
	if old > 9999 {
		low, high = 10000, 65535
	}
	for range portTries {
		first := (low + rand.IntN(high-low-n)) &^ 1 // #nosec G404 -- a port is no secret: it is in the message
		list := make([]uint16, n)
		free := true
		for i := range list {
			list[i] = uint16(first + i)
			k.port = list[i]
			free = free && p[k] == nil
		}
		if free {
			return list
		}
	}
	return nil
}
