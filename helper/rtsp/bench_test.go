package rtsp

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// setup is a SETUP of about size bytes.
func setup(size int) []byte {
	text := lines("SETUP rtsp://203.0.113.10:9554/cam/trackID=0 RTSP/1.0", "Transport: RTP/AVP/UDP;unicast;client_port=27392-27393",
		"CSeq: 3", "User-Agent: Lavf59.27.100", "Session: e0d2904553fc46949f18167a8534626b", "X: ")
	return []byte(text[:len(text)-4] + strings.Repeat("x", max(0, size-len(text))) + "\r\n\r\n")
}

func BenchmarkNext(b *testing.B) {
	for _, size := range []int{250, 500, 4000, 16000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			msg := setup(size)
			b.ReportAllocs()
			b.SetBytes(int64(len(msg)))
			for b.Loop() {
				if _, err := Next(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNextShort(b *testing.B) {
	msg := setup(500)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Next(msg[:len(msg)-1]); err != ErrShort {
			b.Fatal(err)
		}
	}
}

func BenchmarkRewrite(b *testing.B) {
	msg := setup(500)
	u, err := Next(msg)
	if err != nil {
		b.Fatal(err)
	}
	changes := change(Change{ClientPort: Ports{First: 40000}})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := u.Message.Rewrite(msg, changes, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// hostile are heads as long as may be, made to have as much as possible looked at more than once.
func hostile() map[string][]byte {
	const start = "SETUP * RTSP/1.0\r\n"
	fill := func(before, part, after string) []byte {
		n := (MaxHead - len(start) - len(before) - len(after)) / len(part)
		return []byte(start + before + strings.Repeat(part, n) + after)
	}
	return map[string][]byte{
		"empty alternatives": fill("Transport: ", ",", "\r\n\r\n"),
		"open quotes":        fill("Transport: RTP/AVP;", `"\`, "\r\n\r\n"),
		"quotes":             fill("Transport: RTP/AVP;", `"`, "\r\n\r\n"),
		"parameters":         fill("Transport: RTP/AVP;", "c=;", "\r\n\r\n"),
		"client ports":       fill("Transport: RTP/AVP;", "client_port=1-2;", "\r\n\r\n"),
		"destinations":       fill("Transport: RTP/AVP;", "destination=::;", "\r\n\r\n"),
		"dest_addr":          fill("Transport: RTP/AVP;", "dest_addr=::/::/::/::/::/::/::/::;", "\r\n\r\n"),
		"continued lines":    fill("Transport: RTP/AVP;", "\n ", "\r\n\r\n"),
		"session parameters": fill("Session: a", ";timeout=1", "\r\n\r\n"),
		"lines":              fill("", "a\n", "\r\n"),
	}
}

// TestHostileHeads has them read and rewritten in no time: what is quadratic takes a tenth of a second and more.
func TestHostileHeads(t *testing.T) {
	for name, head := range hostile() {
		t.Run(name, func(t *testing.T) {
			readAndRewrite := func() {
				u, err := Next(head)
				if err != nil || len(u.Message.Transports) == 0 {
					return
				}
				// What doesn't fit is written in every way there is.
				c := Change{ClientPort: Ports{First: 60000}, Destination: addr("2001:db8:1111:2222:3333:4444:5555:6666")}
				_, _ = u.Message.Rewrite(head, change(c), 0)
			}
			// The fastest of ten, as the machine may be busy with something else.
			fastest := time.Hour
			for range 10 {
				begin := time.Now()
				readAndRewrite()
				fastest = min(fastest, time.Since(begin))
			}
			if fastest > 100*time.Millisecond {
				t.Errorf("it takes %v", fastest)
			}
		})
	}
}
