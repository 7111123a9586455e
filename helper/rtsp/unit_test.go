package rtsp

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnits(t *testing.T) {
	const data = "\r\n\nOPTIONS * RTSP/1.0\r\nContent-Length: 3\r\n\r\nabc$\x07\x01\x00"
	got, rest := checkStream(t, []byte(data))
	want := []Unit{
		{Blank: true, Size: 2},
		{Blank: true, Size: 1},
		{Size: 44, Message: &Message{Request: true, Method: MethodOptions, URI: "*", Major: 1, ContentLength: 3, Head: 41}},
		{Channel: 7, Size: 4 + 256}, // its data are still to come
	}
	if d := cmp.Diff(want, got, same); d != "" || len(rest) > 0 {
		t.Errorf("rest %q, -want +got\n%s", rest, d)
	}
}

func TestHeadEnd(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		from, want int
	}{
		{"none", "A B\r\nC: d\r\n", 0, -1},
		{"half", "A B\r\nC: d\r\n\r", 0, -1},
		{"CRLF", "A B\r\n\r\nx", 0, 7},
		{"LF", "A B\n\nx", 0, 5},
		{"LF, then CRLF", "A B\n\r\nx", 0, 6},
		{"CRLF, then LF", "A B\r\n\nx", 0, 6},
		{"last byte is new", "A B\r\n\r\n", 6, 7},
		{"last byte of LF is new", "A B\n\n", 4, 5},
		{"all is new", "A B\r\n\r\n", 4, 7},
		{"all is old", "A B\r\n\r\n", 7, -1},
		{"long before", "A B\r\n\r\nmore", 10, -1},
		{"a line of a space", "A B\r\n \r\n", 0, -1},
		{"empty", "", 5, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := HeadEnd([]byte(tt.text), tt.from); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestUndecided(t *testing.T) {
	for _, tt := range []struct {
		name, before, after string // the offset is between them
	}{
		{"nothing", "", ""},
		{"start line", "SETUP rtsp://a/Transport: x", ""},
		{"part of the name", "SETUP * RTSP/1.0\r\nTranspor", ""},
		{"the name", "SETUP * RTSP/1.0\r\nTransport", ""},
		{"no value yet", "SETUP * RTSP/1.0\r\nTransport : \t", ""},
		{"a value on the next line", "SETUP * RTSP/1.0\r\nTransport:\r\n", ""},
		{"a value that begins there", "SETUP * RTSP/1.0\r\nTransport:\r\n ", "R"},
		{"a value", "SETUP * RTSP/1.0\r\nCSeq: 1\r\ntransport:", "RTP/AVP;client_po"},
		{"a whole value", "SETUP * RTSP/1.0\r\nCSeq: 1\r\nTRANSPORT:  ", "RTP/AVP;client_port=1-2\r\nCSeq: 1\r\n"},
		{"the first of two", "SETUP * RTSP/1.0\nTransport: ", "a\nTransport: b"},
		{"an empty one", "SETUP * RTSP/1.0\nTransport: \nTransport: ", "b"},
		{"another name", "SETUP * RTSP/1.0\nX-Transport: b\n Transport: b\nTransport2: b", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := tt.before + tt.after
			if got := Undecided([]byte(text)); got != len(tt.before) {
				t.Errorf("%q: got %d, want %d", text, got, len(tt.before))
			}
			if _, err := Next([]byte(text)); !errors.Is(err, ErrShort) {
				t.Errorf("%q is no incomplete head: %v", text, err)
			}
		})
	}
}

func TestPorts(t *testing.T) {
	for _, tt := range []struct {
		text        string
		want        Ports
		count, span int
	}{
		{"5000", Ports{5000, 5000, 0}, 1, 1},
		{"5000-5001", Ports{5000, 5001, '-'}, 2, 2},
		{"5000/6001", Ports{5000, 6001, '/'}, 2, 2},
		{"5000-5003", Ports{5000, 5003, '-'}, 2, 4},
		{"5000-5000", Ports{5000, 5000, '-'}, 2, 1},
		{"5001-5000", Ports{5001, 5000, '-'}, 2, 0},
		{"1-65535", Ports{1, 65535, '-'}, 2, 65535},
		{" \" 05000 -\t5001\" ", Ports{5000, 5001, '-'}, 2, 2},
		{"", Ports{}, 0, 0},
		{"0-1", Ports{}, 0, 0},
		{"1-0", Ports{}, 0, 0},
		{"65536", Ports{}, 0, 0},
		{"000001", Ports{}, 0, 0},
		{"5000-", Ports{}, 0, 0},
		{"-5000", Ports{}, 0, 0},
		{"5000-5001-5002", Ports{}, 0, 0},
		{"5000 5001", Ports{}, 0, 0},
		{"5000x", Ports{}, 0, 0},
	} {
		t.Run(tt.text, func(t *testing.T) {
			p := readPorts([]byte(tt.text)).Ports
			if p != tt.want || p.Count() != tt.count || p.Span() != tt.span {
				t.Errorf("%+v of %d ports, a range of %d", p, p.Count(), p.Span())
			}
		})
	}
}

func TestUDP(t *testing.T) {
	for text, want := range map[string]bool{
		"RTP/AVP;unicast;client_port=1-2": true,
		"RTP/AVP":                         true,
		"RTP/SAVPF/UDP":                   true,
		"RTP":                             true,
		"MP2T/UDP":                        true,
		"RAW/RAW/UDP;unicast":             true,
		"RTP/AVP/TCP;interleaved=0-1":     false,
		"RTP/AVP/TCP":                     false,
		"RTP/AVP;interleaved=0-1":         false,
		"RTP/AVP;interleaved":             false,
		"RTP/AVP;multicast":               false,
		"x-real-rdt/mcast":                false,
		"UDP":                             false,
	} {
		tr, err := parseTransport([]byte(text))
		if err != nil || tr.UDP() != want {
			t.Errorf("%s: %v, %v", text, tr.UDP(), err)
		}
	}
}
