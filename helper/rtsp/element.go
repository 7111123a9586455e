package rtsp

import "bytes"

// cut splits text at the first sep that isn't between quotes. A quote that isn't closed is a
// character like any other.
func cut(text []byte, sep byte) (before, after []byte) {
	i := separator(text, sep)
	if i == len(text) {
		return text, nil
	}
	return text[:i], text[i+1:]
}

// separator is the offset of the first sep that isn't between quotes, len(text) where there is none.
func separator(text []byte, sep byte) int {
	open := true // whether a quote may still be closed: one that wasn't is looked for once only
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == sep:
			return i
		case text[i] == '"' && open:
			n := quoted(text[i:])
			if n == 0 {
				open = false
				continue
			}
			i += n - 1
		}
	}
	return len(text)
}

// quoted is the length of the quoted string (RFC 2326 section 15.1) that text begins with, 0 where it
// isn't closed. A backslash takes its meaning from what follows.
func quoted(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// param is a parameter of a Transport: its name, and where its value stands in its text.
type param struct {
	kind  paramKind
	value span // without white space around; empty where there is none
}

// paramKind is a parameter that is known.
type paramKind uint8

const (
	paramOther paramKind = iota
	paramUnicast
	paramMulticast
	paramInterleaved
	paramClientPort
	paramServerPort
	paramPort
	paramDestination
	paramSource
	paramDestAddr
	paramSrcAddr
	paramSSRC
	paramMode
	paramTTL
	paramSetup
	paramConnection
	paramRTCPMux
)

// paramNames are the names of RFC 2326 section 12.39 and RFC 7826 section 18.54, in lower case.
var paramNames = [...]string{
	paramUnicast:     "unicast",
	paramMulticast:   "multicast",
	paramInterleaved: "interleaved",
	paramClientPort:  "client_port",
	paramServerPort:  "server_port",
	paramPort:        "port",
	paramDestination: "destination",
	paramSource:      "source",
	paramDestAddr:    "dest_addr",
	paramSrcAddr:     "src_addr",
	paramSSRC:        "ssrc",
	paramMode:        "mode",
	paramTTL:         "ttl",
	paramSetup:       "setup",
	paramConnection:  "connection",
	paramRTCPMux:     "rtcp-mux",
}

// readParam reads "name=value" or "name".
func readParam(text []byte) param {
	p := param{value: span{start: len(text), end: len(text)}}
	name := text
	if i := bytes.IndexByte(text, '='); i >= 0 {
		name, p.value = text[:i], trimmed(text, span{start: i + 1, end: len(text)})
	}
	name = bytes.Trim(name, lws)
	for k := paramOther + 1; int(k) < len(paramNames); k++ {
		if is(name, paramNames[k]) {
			p.kind = k
			break
		}
	}
	return p
}
