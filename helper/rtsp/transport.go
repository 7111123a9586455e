package rtsp

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
)

// Transport is one alternative of a Transport header (RFC 2326 section 12.39, RFC 7826 section
// 18.54). Where a parameter comes twice, the first that can be read counts.
type Transport struct {
	Spec  string // protocol, profile and lower transport, in upper case: "RTP/AVP", "RTP/SAVP/TCP", "RAW/RAW/UDP"
	Lower string // lower transport: "UDP", where RTP doesn't say otherwise; empty where it isn't known

	// Unicast and Multicast are as written. Where neither is, RFC 2326 has multicast for the
	// default; who writes client_port and neither means unicast.
	Unicast, Multicast bool

	Interleaved    Channels
	HasInterleaved bool // even where the channels can't be read

	ClientPort, ServerPort Ports
	Port                   Ports // of multicast

	// Destination and Source are the hosts as written, without port. The addresses are valid where
	// the hosts are IP addresses; their port is 0 where none is written.
	Destination, Source         string
	HasDestination, HasSource   bool // even where they have no value, which RFC 2326 allows
	DestinationAddr, SourceAddr netip.AddrPort

	DestAddr, SrcAddr []HostPort // RTSP 2.0: for RTP and for RTCP

	SSRC    []uint32
	Mode    string // in upper case, without quotes: "PLAY", "RECORD", "PLAY,RECORD"
	TTL     uint8
	RTCPMux bool // RTSP 2.0: RTP and RTCP share one port

	// Setup and Connection are those of RTSP 2.0, in lower case: "active", "new".
	Setup, Connection string
}

// Channels are those of interleaved frames; equal where a single one is written.
type Channels struct{ First, Last uint8 }

// UDP tells whether the media go in datagrams to one receiver.
func (t *Transport) UDP() bool {
	return t.Lower == "UDP" && !t.Multicast && !t.HasInterleaved
}

// parseTransport reads one alternative. The first part is always the specification.
func parseTransport(text []byte) (Transport, error) {
	var t Transport
	spec, rest := cut(text, ';')
	t.Spec = strings.ToUpper(clean(spec))
	t.Lower = lowerTransport(t.Spec)
	for len(rest) > 0 {
		var one []byte
		one, rest = cut(rest, ';')
		p := readParam(one)
		if err := t.param(p.kind, one[p.value.start:p.value.end]); err != nil {
			return Transport{}, err
		}
	}
	return t, nil
}

// lowerTransport is the third part of a specification. RTP has UDP as its default; others name their
// lower transport last ("MP2T/UDP", "x-real-rdt/mcast").
func lowerTransport(spec string) string {
	protocol, rest, ok := strings.Cut(spec, "/")
	if protocol == "RTP" {
		_, rest, _ = strings.Cut(rest, "/")
		lower, _, _ := strings.Cut(rest, "/")
		if lower == "" {
			return "UDP"
		}
		return lower
	}
	if !ok {
		return ""
	}
	return rest[strings.LastIndexByte(rest, '/')+1:]
}

// param reads one parameter.
func (t *Transport) param(kind paramKind, value []byte) (err error) {
	switch kind {
	case paramUnicast:
		t.Unicast = true
	case paramMulticast:
		t.Multicast = true
	case paramRTCPMux:
		t.RTCPMux = true
	case paramInterleaved:
		t.interleaved(value)
	case paramClientPort:
		setPorts(&t.ClientPort, value)
	case paramServerPort:
		setPorts(&t.ServerPort, value)
	case paramPort:
		setPorts(&t.Port, value)
	case paramDestination:
		if !t.HasDestination {
			t.HasDestination = true
			t.Destination, t.DestinationAddr = hostAddr(value)
		}
	case paramSource:
		if !t.HasSource {
			t.HasSource = true
			t.Source, t.SourceAddr = hostAddr(value)
		}
	case paramDestAddr:
		err = setHosts(&t.DestAddr, value)
	case paramSrcAddr:
		err = setHosts(&t.SrcAddr, value)
	case paramSSRC:
		if t.SSRC == nil {
			t.SSRC = sources(value)
		}
	case paramMode:
		setText(&t.Mode, strings.ToUpper(clean(unquote(value))))
	case paramTTL:
		if n, ok := number(unquote(value), 1<<8-1); ok && t.TTL == 0 {
			t.TTL = uint8(n)
		}
	case paramSetup:
		setText(&t.Setup, strings.ToLower(clean(unquote(value))))
	case paramConnection:
		setText(&t.Connection, strings.ToLower(clean(unquote(value))))
	}
	return err
}

func setText(to *string, text string) {
	if *to == "" {
		*to = text
	}
}

func setPorts(to *Ports, value []byte) {
	if to.First == 0 {
		*to = readPorts(value).Ports
	}
}

func setHosts(to *[]HostPort, value []byte) error {
	hosts, err := readHosts(value)
	if *to == nil {
		*to = hosts
	}
	return err
}

// hostAddr reads the value of destination or source.
func hostAddr(value []byte) (string, netip.AddrPort) {
	h := readHost(unquote(value))
	return h.Host, netip.AddrPortFrom(h.Addr, h.Port)
}

// interleaved reads "0-1" or "0".
func (t *Transport) interleaved(value []byte) {
	if t.HasInterleaved {
		return
	}
	t.HasInterleaved = true
	value = unquote(value)
	first, last := value, value
	if i := bytes.IndexAny(value, "-/"); i >= 0 {
		first, last = bytes.TrimRight(value[:i], lws), bytes.TrimLeft(value[i+1:], lws)
	}
	a, ok := number(first, 1<<8-1)
	b, ok2 := number(last, 1<<8-1)
	if ok && ok2 {
		t.Interleaved = Channels{First: uint8(a), Last: uint8(b)}
	}
}

// sources reads "A358FFF0", or several with '/' between. What isn't hexadecimal is left out.
func sources(value []byte) []uint32 {
	var ssrc []uint32
	for rest := unquote(value); len(rest) > 0 && len(ssrc) < MaxSSRCs; {
		var one []byte
		one, rest, _ = bytes.Cut(rest, []byte{'/'})
		one = bytes.Trim(one, lws)
		if len(one) > 8 {
			continue
		}
		if n, err := strconv.ParseUint(string(one), 16, 32); err == nil {
			ssrc = append(ssrc, uint32(n))
		}
	}
	return ssrc
}
