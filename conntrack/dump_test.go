package conntrack

import (
	"encoding/binary"
	"errors"
	"slices"
	"syscall"
	"testing"
)

// entry returns a message with a flow of a dump.
func entry(seq uint32, flags uint16, mark uint32) []byte {
	return endMessage(appendBE32(beginMessage(nil, msgNew, flags, seq, FamilyIPv4), ctaMark, mark), 0)
}

// control returns an NLMSG_DONE or NLMSG_ERROR with an errno.
func control(typ uint16, seq uint32, flags uint16, errno syscall.Errno) []byte {
	b := make([]byte, nlHeaderLen)
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.NativeEndian.PutUint32(b[8:], seq)
	b = binary.NativeEndian.AppendUint32(b, uint32(-int32(errno)))
	return endMessage(b, 0)
}

func TestDump(t *testing.T) {
	const seq = 7
	one, two := entry(seq, 0, 1), entry(seq, 0, 2)
	done := control(nlmsgDone, seq, 0, 0)
	tests := []struct {
		name      string
		datagrams [][]byte
		marks     []uint32 // of the entries that are given on
		ended     bool
		err       error
	}{
		{"whole", [][]byte{slices.Concat(one, two), done}, []uint32{1, 2}, true, nil},
		{"end in the last datagram", [][]byte{slices.Concat(one, done)}, []uint32{1}, true, nil},
		{"empty", [][]byte{done}, nil, true, nil},
		{"not ended", [][]byte{one}, []uint32{1}, false, nil},
		{"of another request", [][]byte{entry(seq-1, 0, 9), control(nlmsgDone, seq-1, 0, 0), one, done}, []uint32{1}, true, nil},
		{"interrupted", [][]byte{one, entry(seq, flagDumpIntr, 2), done}, []uint32{1}, false, ErrInterrupted},
		{"interrupted at its end", [][]byte{one, control(nlmsgDone, seq, flagDumpIntr, 0)}, []uint32{1}, true, ErrInterrupted},
		{"refused", [][]byte{control(nlmsgError, seq, 0, syscall.EPERM)}, nil, true, syscall.EPERM},
		{"failed half way", [][]byte{one, control(nlmsgDone, seq, 0, syscall.ENOBUFS)}, []uint32{1}, true, syscall.ENOBUFS},
		{"cut header", [][]byte{one, done[:nlHeaderLen-1]}, []uint32{1}, false, errMalformed},
		{"length beyond the datagram", [][]byte{one[:len(one)-4]}, nil, false, errMalformed},
		{"error without an errno", [][]byte{control(nlmsgError, seq, 0, 0)[:nlHeaderLen+0]}, nil, false, errMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var (
				marks []uint32
				dec   decoder
				err   error
			)
			d := dump{seq: seq, fn: func(_ *message, data []byte) (bool, error) {
				var f Flow
				err := dec.decodeFlow(&f, data)
				marks = append(marks, f.Mark)
				return true, err
			}}
			for _, datagram := range tt.datagrams {
				if err = d.datagram(datagram); err != nil || d.ended {
					break
				}
			}
			if !errors.Is(err, tt.err) || !slices.Equal(marks, tt.marks) || d.ended != tt.ended {
				t.Errorf("marks %v, ended %v, error %v; want %v, %v, %v", marks, d.ended, err, tt.marks, tt.ended, tt.err)
			}
		})
	}
}

func TestDumpStops(t *testing.T) {
	calls := 0
	d := dump{seq: 1, fn: func(*message, []byte) (bool, error) { calls++; return false, nil }}
	if err := d.datagram(slices.Concat(entry(1, 0, 1), entry(1, 0, 2))); err != nil {
		t.Fatal(err)
	}
	if calls != 1 || !d.stopped || d.ended {
		t.Errorf("%d calls, stopped %v, ended %v", calls, d.stopped, d.ended)
	}
}

func TestEndsDump(t *testing.T) {
	for name, tt := range map[string]struct {
		datagram []byte
		want     bool
	}{
		"entry":           {entry(1, 0, 1), false},
		"done":            {slices.Concat(entry(1, 0, 1), control(nlmsgDone, 1, 0, 0)), true},
		"error":           {control(nlmsgError, 1, 0, syscall.EPERM), true},
		"another's done":  {control(nlmsgDone, 2, 0, 0), false},
		"malformed":       {[]byte{1, 2, 3}, true},
		"from a stranger": {nil, false},
	} {
		if got := endsDump(tt.datagram, 1); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
