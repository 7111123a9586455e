package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"ctd/rpc/wire"
)

// IANA protocol numbers whose tuples conntrack(8) prints by more than addresses (linux/in.h).
const (
	protoICMP    = 1
	protoTCP     = 6
	protoUDP     = 17
	protoDCCP    = 33
	protoGRE     = 47
	protoICMPv6  = 58
	protoSCTP    = 132
	protoUDPLite = 136
)

// conntrackName returns conntrack(8)'s name of a protocol.
func conntrackName(proto uint8) string {
	switch proto {
	case protoICMP:
		return "icmp"
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoDCCP:
		return "dccp"
	case protoGRE:
		return "gre"
	case protoICMPv6:
		return "icmpv6"
	case protoSCTP:
		return "sctp"
	case protoUDPLite:
		return "udplite"
	}
	return "unknown"
}

// conntrackLine appends a flow as `conntrack -L` prints it. now is when the table was read, for
// delta-time.
func conntrackLine(b []byte, f *wire.Flow, now time.Time) []byte {
	b = fmt.Appendf(b, "%-8s %d ", conntrackName(f.ProtoNum), f.ProtoNum)
	if f.Timeout != nil {
		b = fmt.Appendf(b, "%d ", *f.Timeout)
	}
	if f.State != "" {
		b = append(append(b, oneLine(f.State)...), ' ')
	}
	b = appendDirection(b, f.ProtoNum, f.Orig, "zone-orig")
	if !slices.Contains(f.Status, "seen_reply") {
		b = append(b, "[UNREPLIED] "...)
	}
	b = appendDirection(b, f.ProtoNum, f.Reply, "zone-reply")
	switch {
	case slices.Contains(f.Status, "hw_offload"):
		b = append(b, "[HW_OFFLOAD] "...)
	case slices.Contains(f.Status, "offload"):
		b = append(b, "[OFFLOAD] "...)
	case slices.Contains(f.Status, "assured"):
		b = append(b, "[ASSURED] "...)
	}
	b = appendRest(b, f, now)
	return trimSpace(b)
}

func appendRest(b []byte, f *wire.Flow, now time.Time) []byte {
	if f.Mark != nil {
		b = fmt.Appendf(b, "mark=%d ", *f.Mark)
	}
	if f.SecCtx != "" {
		b = fmt.Appendf(b, "secctx=%s ", oneLine(f.SecCtx))
	}
	if f.Zone != 0 {
		b = fmt.Appendf(b, "zone=%d ", f.Zone)
	}
	if !f.Start.IsZero() {
		end := now
		if !f.Stop.IsZero() {
			end = f.Stop
		}
		b = fmt.Appendf(b, "delta-time=%d ", max(0, end.Unix()-f.Start.Unix()))
	}
	if f.Helper != "" {
		b = fmt.Appendf(b, "helper=%s ", oneLine(f.Helper))
	}
	if f.Use != nil {
		b = fmt.Appendf(b, "use=%d ", *f.Use)
	}
	return b
}

func appendDirection(b []byte, proto uint8, t *wire.Tuple, zone string) []byte {
	if t == nil {
		return b
	}
	b = appendTuple(b, proto, t, "")
	if t.Zone != 0 {
		b = fmt.Appendf(b, "%s=%d ", zone, t.Zone)
	}
	if t.Packets != nil && t.Bytes != nil {
		b = fmt.Appendf(b, "packets=%d bytes=%d ", *t.Packets, *t.Bytes)
	}
	return b
}

// appendTuple appends addresses, their names behind prefix, and what the protocol has in place
// of ports.
func appendTuple(b []byte, proto uint8, t *wire.Tuple, prefix string) []byte {
	if t.Src != "" {
		b = fmt.Appendf(b, "%ssrc=%s ", prefix, t.Src)
	}
	if t.Dst != "" {
		b = fmt.Appendf(b, "%sdst=%s ", prefix, t.Dst)
	}
	switch proto {
	case protoTCP, protoUDP, protoDCCP, protoSCTP, protoUDPLite:
		b = fmt.Appendf(b, "sport=%d dport=%d ", deref(t.SPort), deref(t.DPort))
	case protoGRE:
		b = fmt.Appendf(b, "srckey=%#x dstkey=%#x ", deref(t.SrcKey), deref(t.Key))
	case protoICMP, protoICMPv6:
		b = fmt.Appendf(b, "type=%d code=%d id=%d ", deref(t.Type), deref(t.Code), deref(t.ID))
	}
	return b
}

// expectLine appends an expectation as `conntrack -L expect` prints it.
func expectLine(b []byte, e *wire.Expect) []byte {
	if e.Timeout != nil {
		b = fmt.Appendf(b, "%d ", *e.Timeout)
	}
	b = fmt.Appendf(b, "proto=%d ", e.ProtoNum)
	for _, part := range []struct {
		tuple  *wire.Tuple
		prefix string
	}{{e.Tuple, ""}, {e.Mask, "mask-"}, {e.Master, "master-"}} {
		if part.tuple != nil {
			b = appendTuple(b, protoOf(part.tuple, e.ProtoNum), part.tuple, part.prefix)
		}
	}
	if e.Zone != 0 {
		b = fmt.Appendf(b, "zone=%d ", e.Zone)
	}
	if len(e.Flags) > 0 {
		b = append(append(b, strings.ToUpper(strings.Join(e.Flags, ","))...), ' ')
	}
	b = fmt.Appendf(b, "class=%d ", e.Class)
	if e.Helper != "" {
		b = fmt.Appendf(b, "helper=%s", oneLine(e.Helper))
	}
	return trimSpace(b)
}

// protoOf returns the protocol of a tuple that stands alone: its own where it says one, such as
// a master's.
func protoOf(t *wire.Tuple, otherwise uint8) uint8 {
	for _, p := range []uint8{
		protoICMP, protoTCP, protoUDP, protoDCCP, protoGRE, protoICMPv6, protoSCTP, protoUDPLite,
	} {
		if t.Protocol == conntrackName(p) {
			return p
		}
	}
	if n, err := strconv.ParseUint(t.Protocol, 10, 8); err == nil {
		return uint8(n)
	}
	return otherwise
}

func deref[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return b
}

// conntrackWriter writes flows as conntrack(8)'s lines.
type conntrackWriter struct {
	w    io.Writer
	now  time.Time
	line []byte
}

func (c *conntrackWriter) write(_ json.RawMessage, f *wire.Flow) error {
	c.line = append(conntrackLine(c.line[:0], f, c.now), '\n')
	_, err := c.w.Write(c.line)
	return err
}

func (*conntrackWriter) close() error { return nil }
