package rtsp

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestLimits has each limit at its boundary: what is just in is read, and one more isn't.
func TestLimits(t *testing.T) {
	const start = "SETUP * RTSP/1.0\r\n"
	for _, tt := range []struct {
		name string
		most int
		text func(n int) string
	}{
		{"head", MaxHead, func(n int) string { return start + "A:" + strings.Repeat("x", n-len(start)-6) + "\r\n\r\n" }},
		{"start line", MaxStartLine, func(n int) string { return "PLAY " + strings.Repeat("u", n-16) + " RTSP/1.0\r\n\r\n" }},
		{"method", MaxMethod, func(n int) string { return strings.Repeat("M", n) + " * RTSP/1.0\n\n" }},
		{"headers", MaxHeaders, func(n int) string { return start + strings.Repeat("A:\n b\n", n) + "\n" }},
		{"session", MaxSession, func(n int) string { return start + "Session: " + strings.Repeat("s", n) + ";timeout=1\n\n" }},
		{"body", MaxBody, func(n int) string { return start + fmt.Sprintf("Content-Length: %d\n\n", n) }},
		{"transports", MaxTransports, func(n int) string {
			return start + "Transport: a\nTransport: b" + strings.Repeat(",c", n-2) + "\n\n"
		}},
		{"dest_addr", MaxAddrs, func(n int) string { return start + "Transport: a;dest_addr=:1" + strings.Repeat("/:2", n-1) + "\n\n" }},
		{"src_addr", MaxAddrs, func(n int) string { return start + "Transport: a;src_addr=:1" + strings.Repeat("/:2", n-1) + "\n\n" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := tt.text(tt.most)
			u, err := Next([]byte(text))
			if err != nil {
				t.Fatalf("at the limit: %v", err)
			}
			if u.Message.Head != len(text) {
				t.Errorf("a head of %d bytes, not %d", u.Message.Head, len(text))
			}
			if _, err := Next([]byte(tt.text(tt.most + 1))); !errors.Is(err, ErrMalformed) {
				t.Errorf("over the limit: %v", err)
			}
		})
	}
}

// TestLimitsOfPrefixes has those limits that tell before the head is whole.
func TestLimitsOfPrefixes(t *testing.T) {
	const start = "SETUP * RTSP/1.0\r\n"
	for _, tt := range []struct {
		name string
		text string
	}{
		{"head", start + strings.Repeat("A: b\n", MaxHead/5+1)[:MaxHead-len(start)]},
		{"start line", "PLAY " + strings.Repeat("u", MaxStartLine-5)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Next([]byte(tt.text[:len(tt.text)-1])); !errors.Is(err, ErrShort) {
				t.Errorf("one byte before the limit: %v", err)
			}
			if _, err := Next([]byte(tt.text)); !errors.Is(err, ErrMalformed) {
				t.Errorf("at the limit: %v", err)
			}
		})
	}
}

// TestCutTexts has the limits at which the rest is left out.
func TestCutTexts(t *testing.T) {
	long := strings.Repeat("x", MaxText+1)
	ssrc := strings.Repeat("1/", MaxSSRCs) + "2"
	u, err := Next([]byte(lines("SETUP * RTSP/1.0", "User-Agent: "+long, "Transport: "+long+";destination="+long+";mode="+long+";ssrc="+ssrc)))
	if err != nil {
		t.Fatal(err)
	}
	tr := u.Message.Transports[0]
	for name, text := range map[string]string{"User-Agent": u.Message.UserAgent, "specification": tr.Spec, "destination": tr.Destination, "mode": tr.Mode} {
		if !strings.EqualFold(text, long[:MaxText]) {
			t.Errorf("%s has %d bytes", name, len(text))
		}
	}
	if len(tr.SSRC) != MaxSSRCs || tr.SSRC[MaxSSRCs-1] != 1 {
		t.Errorf("sources: %x", tr.SSRC)
	}
}

// TestHeadDoesNotOutgrow: a rewritten head is still one that can be read.
func TestHeadDoesNotOutgrow(t *testing.T) {
	const start = "SETUP * RTSP/1.0\r\nTransport: RTP/AVP;client_port=5000-5001\r\nA:"
	msg := []byte(start + strings.Repeat("x", MaxHead-1-len(start)-4) + "\r\n\r\n")
	u, err := Next(msg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Message.Rewrite(msg, change(Change{ClientPort: Ports{First: 60000}}), 2); !errors.Is(err, ErrTooLong) {
		t.Errorf("one byte too many: %v", err)
	}
	if _, err := u.Message.Rewrite(msg, change(Change{ClientPort: Ports{First: 6000, Last: 60001}}), 2); err != nil {
		t.Errorf("just fits: %v", err)
	}
	if _, err := u.Message.Rewrite(msg[:u.Message.Head-1], nil, 0); err == nil {
		t.Error("rewrote a message that isn't whole")
	}
}
