package rtsp

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// stream is one direction of a recorded dialogue.
type stream struct {
	name string
	data []byte
}

// streams reads testdata/dialogues: what real programs said to each other, as plain bytes. Of media
// inside the connection there are only a few frames.
func streams(t testing.TB) []stream {
	t.Helper()
	names, err := filepath.Glob("testdata/dialogues/*.*")
	if err != nil {
		t.Fatal(err)
	}
	var all []stream
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, stream{filepath.Base(name), data})
	}
	if len(all) != 16 {
		t.Fatalf("%d streams, not both of eight dialogues", len(all))
	}
	return all
}

// outline is a unit in short: what a reader of the table below looks for.
func outline(u Unit) string {
	m := u.Message
	switch {
	case m == nil:
		return fmt.Sprintf("$%d", u.Channel)
	case m.Request:
		return fmt.Sprintf("%d %s", m.CSeq, m.Method)
	}
	return fmt.Sprintf("%d %d", m.CSeq, m.Status)
}

func TestDialogues(t *testing.T) {
	want := map[string][]string{
		"ffmpeg-udp.client":         {"1 OPTIONS", "2 DESCRIBE", "3 SETUP", "4 SETUP", "5 PLAY", "6 TEARDOWN"},
		"ffmpeg-udp.server":         {"1 200", "2 200", "3 200", "4 200", "5 200", "6 200"},
		"ffmpeg-tcp.client":         {"1 OPTIONS", "2 DESCRIBE", "3 SETUP", "4 SETUP", "5 PLAY", "6 TEARDOWN"},
		"ffmpeg-tcp.server":         {"1 200", "2 200", "3 200", "4 200", "5 200", "$0", "$0", "$3", "$0", "$0", "$0", "6 200"},
		"ffmpeg-record.client":      {"1 OPTIONS", "2 ANNOUNCE", "3 SETUP", "4 SETUP", "5 RECORD"},
		"ffmpeg-record.server":      {"1 200", "2 200", "3 200", "4 200", "5 200"},
		"gortsplib.client":          {"1 OPTIONS", "2 DESCRIBE", "3 SETUP", "4 SETUP", "5 PLAY", "6 TEARDOWN"},
		"gortsplib.server":          {"1 200", "2 200", "3 200", "4 200", "5 200", "6 200"},
		"gstreamer-1.0.client":      {"1 OPTIONS", "2 DESCRIBE", "3 SETUP", "4 SETUP", "5 PLAY", "6 PAUSE", "7 TEARDOWN"},
		"gstreamer-1.0.server":      {"1 200", "2 200", "3 200", "4 200", "5 200", "6 200", "7 200"},
		"gstreamer-2.0.client":      {"1 OPTIONS", "2 DESCRIBE", "3 SETUP", "4 SETUP", "5 PLAY", "6 TEARDOWN"},
		"gstreamer-2.0.server":      {"1 200", "2 200", "3 200", "4 200", "5 200", "6 200"},
		"openrtsp-gstreamer.client": {"2 OPTIONS", "3 DESCRIBE", "4 SETUP", "5 SETUP", "6 PLAY", "7 TEARDOWN"},
		"openrtsp-gstreamer.server": {"2 200", "3 200", "4 200", "5 200", "6 200", "7 200"},
		"openrtsp-live555.client":   {"2 OPTIONS", "3 DESCRIBE", "4 SETUP", "5 PLAY", "6 TEARDOWN"},
		"openrtsp-live555.server":   {"2 200", "3 200", "4 200", "5 200", "6 200"},
	}
	for _, s := range streams(t) {
		t.Run(s.name, func(t *testing.T) {
			units, rest := checkStream(t, s.data)
			if len(rest) > 0 {
				t.Errorf("%d bytes are left over", len(rest))
			}
			var size int64
			var got []string
			for _, u := range units {
				size += u.Size
				got = append(got, outline(u))
			}
			if size != int64(len(s.data)) {
				t.Errorf("the units have %d bytes of %d", size, len(s.data))
			}
			if d := cmp.Diff(want[s.name], got); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

// TestDialoguesInPieces has each stream come in two pieces, cut at every place, and byte by byte.
func TestDialoguesInPieces(t *testing.T) {
	for _, s := range streams(t) {
		t.Run(s.name, func(t *testing.T) {
			want, _ := checkStream(t, s.data)
			for i := 1; i < len(s.data); i++ {
				got := inPieces(t, s.data[:i], s.data[i:])
				// What the cut goes through, and what comes next, are compared in full: the units
				// before were read without it.
				n, at := 0, int64(0)
				for at+want[n].Size <= int64(i) {
					at += want[n].Size
					n++
				}
				if len(got) != len(want) {
					t.Fatalf("cut at %d: %d units, not %d", i, len(got), len(want))
				}
				last := min(n+2, len(want))
				if !reflect.DeepEqual(want[n:last], got[n:last]) {
					t.Fatalf("cut at %d: -want +got\n%s", i, cmp.Diff(want, got, same))
				}
			}
			got := inPieces(t, slices.Collect(slices.Chunk(s.data, 1))...)
			if !reflect.DeepEqual(want, got) {
				t.Fatalf("byte by byte: -want +got\n%s", cmp.Diff(want, got, same))
			}
		})
	}
}

// inPieces reads a stream as a receiver does: it reads what there is, keeps what isn't whole, and
// passes bodies and data over without keeping them.
func inPieces(t *testing.T, pieces ...[]byte) (units []Unit) {
	t.Helper()
	var buf []byte
	var skip int64
	for _, p := range pieces {
		n := min(skip, int64(len(p)))
		skip -= n
		buf = append(buf, p[n:]...)
		for {
			u, err := Next(buf)
			if errors.Is(err, ErrShort) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			units = append(units, u)
			n := min(u.Size, int64(len(buf)))
			buf, skip = buf[n:], u.Size-n
		}
	}
	return units
}

// TestDialoguesRewritten moves the ports of every Transport in the dialogues, without room to grow.
func TestDialoguesRewritten(t *testing.T) {
	moved := 0
	for _, s := range streams(t) {
		t.Run(s.name, func(t *testing.T) {
			data := s.data
			for len(data) > 0 {
				u, err := Next(data)
				if err != nil {
					t.Fatal(err)
				}
				if m := u.Message; m != nil && len(m.Transports) > 0 {
					// As long as those that are there: the ports here have four digits or five.
					to := Ports{First: m.Transports[0].ClientPort.First ^ 2}
					edits, err := m.Rewrite(data[:u.Size], change(Change{ClientPort: to}), 0)
					if err != nil {
						t.Fatal(err)
					}
					moved += len(edits)
					checkRewrite(t, data[:u.Size], m, change(Change{ClientPort: to}), edits, 0)
				}
				data = data[u.Size:]
			}
		})
	}
	if moved != 26 {
		t.Errorf("%d messages were rewritten", moved)
	}
}
