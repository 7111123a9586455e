package rtsp

import (
	"errors"
	"net/netip"
	"testing"
)

// FuzzNext holds that any stream is read the same however it comes, and that no unit claims more
// than its head says.
func FuzzNext(f *testing.F) {
	for _, tt := range messageCases() {
		f.Add([]byte(tt.text))
	}
	for _, s := range streams(f) {
		f.Add(s.data)
	}
	f.Add([]byte("\r\n\n$\x01\x00\x02abRTSP/1.0 200\n\nGET / HTTP/1.0\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, rest := checkStream(t, data)
		if len(rest) == 0 {
			return
		}
		// What ends the stream is not whole or malformed; if whole prefixes are malformed, so is all.
		_, err := Next(rest)
		if !errors.Is(err, ErrShort) && !errors.Is(err, ErrMalformed) {
			t.Fatalf("error %v", err)
		}
		malformed := false
		for i := 0; i <= len(rest); i += 1 + len(rest)/2000 {
			u, err := Next(rest[:i])
			switch {
			case err == nil:
				t.Fatalf("%q is a unit and %q isn't: %+v", rest[:i], rest, u)
			case errors.Is(err, ErrMalformed):
				malformed = true
			case malformed:
				t.Fatalf("%q isn't malformed and begins so", rest[:i])
			}
		}
		if malformed && !errors.Is(err, ErrMalformed) {
			t.Fatalf("%q begins malformed and isn't: %v", rest, err)
		}
		if n := Undecided(rest); n < 0 || n > len(rest) {
			t.Fatalf("Undecided says %d of %d bytes", n, len(rest))
		}
	})
}

// FuzzRewrite holds that what isn't rewritten passes byte for byte, and that the rest reads as it
// should (checkRewrite).
func FuzzRewrite(f *testing.F) {
	for _, tt := range messageCases() {
		f.Add([]byte(tt.text), uint8(0b11), uint16(6000), uint16(0), uint16(60000), uint16(60001), "192.0.2.1", "2001:db8::1", uint8(0), uint8(20))
		for _, rw := range tt.rewrites {
			c := rw.changes[0]
			f.Add([]byte(tt.text), uint8(1), c.ClientPort.First, c.ClientPort.Last, c.ServerPort.First, c.ServerPort.Last,
				c.Destination.String(), c.Source.String(), drops(c), uint8(rw.grow))
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte, which uint8, client, clientLast, server, serverLast uint16, destination, source string, drop, grow uint8) {
		u, err := Next(msg)
		if err != nil || u.Message == nil {
			return
		}
		m := u.Message
		c := Change{
			ClientPort: Ports{First: client, Last: clientLast}, ServerPort: Ports{First: server, Last: serverLast},
			DropDestination: drop&1 != 0, DropSource: drop&2 != 0,
		}
		// A text that is no address gives none.
		c.Destination, _ = netip.ParseAddr(destination)
		c.Source, _ = netip.ParseAddr(source)
		changes := make(map[int]Change)
		for i := range m.Transports {
			if which>>(i%8)&1 != 0 {
				changes[i] = c
			}
		}
		edits, err := m.Rewrite(msg, changes, int(grow))
		switch {
		case err == nil:
			checkRewrite(t, msg, m, changes, edits, int(grow))
		case !errors.Is(err, ErrTooLong) && !errors.Is(err, errPort) && !errors.Is(err, errAddrs):
			t.Errorf("error %v", err)
		}
		if edits, err := m.Rewrite(msg, nil, int(grow)); err != nil || len(edits) > 0 {
			t.Errorf("without changes: %v, %v", edits, err)
		}
	})
}

// drops are the flags of a change as bits.
func drops(c Change) (bits uint8) {
	if c.DropDestination {
		bits |= 1
	}
	if c.DropSource {
		bits |= 2
	}
	return bits
}
