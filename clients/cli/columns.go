package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"ctd/rpc/wire"
)

// column is one scalar of a flow, by its path in the JSON form.
type column struct {
	name string
	get  func(*wire.Flow) string
}

// flowColumns returns the columns of every scalar of a flow, in the order of its members.
func flowColumns() []column {
	cols := []column{
		{"id", func(f *wire.Flow) string { return nonZero(f.ID) }},
		{"family", func(f *wire.Flow) string { return f.Family }},
		{"protocol", func(f *wire.Flow) string { return f.Protocol }},
		{"protonum", func(f *wire.Flow) string { return strconv.Itoa(int(f.ProtoNum)) }},
		{"zone", func(f *wire.Flow) string { return strconv.Itoa(int(f.Zone)) }},
	}
	cols = append(cols, tupleColumns("orig", func(f *wire.Flow) *wire.Tuple { return f.Orig })...)
	cols = append(cols, tupleColumns("reply", func(f *wire.Flow) *wire.Tuple { return f.Reply })...)
	cols = append(cols, []column{
		{"state", func(f *wire.Flow) string { return f.State }},
		{"timeout", func(f *wire.Flow) string { return number(f.Timeout) }},
		{"status", func(f *wire.Flow) string { return strings.Join(f.Status, ",") }},
		{"nat", func(f *wire.Flow) string { return f.NAT }},
		{"mark", func(f *wire.Flow) string { return number(f.Mark) }},
		{"use", func(f *wire.Flow) string { return number(f.Use) }},
		{"labels", func(f *wire.Flow) string { return joinInts(f.Labels) }},
		{"helper", func(f *wire.Flow) string { return f.Helper }},
	}...)
	cols = append(cols, tupleColumns("master", func(f *wire.Flow) *wire.Tuple { return f.Master })...)
	return append(cols, []column{
		{"secctx", func(f *wire.Flow) string { return f.SecCtx }},
		{"start", func(f *wire.Flow) string { return timestamp(f.Start) }},
		{"stop", func(f *wire.Flow) string { return timestamp(f.Stop) }},
		{"user", func(f *wire.Flow) string { return f.User }},
	}...)
}

func tupleColumns(direction string, tuple func(*wire.Flow) *wire.Tuple) []column {
	cols := []column{
		{"src", func(f *wire.Flow) string { return tuple(f).Src }},
		{"dst", func(f *wire.Flow) string { return tuple(f).Dst }},
		{"sport", func(f *wire.Flow) string { return number(tuple(f).SPort) }},
		{"dport", func(f *wire.Flow) string { return number(tuple(f).DPort) }},
		{"type", func(f *wire.Flow) string { return number(tuple(f).Type) }},
		{"code", func(f *wire.Flow) string { return number(tuple(f).Code) }},
		{"id", func(f *wire.Flow) string { return number(tuple(f).ID) }},
		{"key", func(f *wire.Flow) string { return number(tuple(f).Key) }},
		{"srckey", func(f *wire.Flow) string { return number(tuple(f).SrcKey) }},
		{"zone", func(f *wire.Flow) string { return nonZero(tuple(f).Zone) }},
	}
	if direction == "master" {
		cols = append(cols, column{"protocol", func(f *wire.Flow) string { return tuple(f).Protocol }})
	} else {
		cols = append(cols, []column{
			{"packets", func(f *wire.Flow) string { return number(tuple(f).Packets) }},
			{"bytes", func(f *wire.Flow) string { return number(tuple(f).Bytes) }},
			{"rate", func(f *wire.Flow) string { return float(tuple(f).Rate) }},
		}...)
	}
	for i, c := range cols {
		cols[i] = column{direction + "." + c.name, func(f *wire.Flow) string {
			if tuple(f) == nil {
				return ""
			}
			return c.get(f)
		}}
	}
	return cols
}

// chooseColumns keeps the columns that --fields asks for: a member by its path, or all that is
// inside one.
func chooseColumns(cols []column, fields []string) []column {
	if len(fields) == 0 {
		return cols
	}
	var chosen []column
	for _, field := range fields {
		for _, c := range cols {
			if c.name == field || strings.HasPrefix(c.name, field+".") {
				chosen = append(chosen, c)
			}
		}
	}
	return chosen
}

func number[T uint8 | uint16 | uint32 | uint64](p *T) string {
	if p == nil {
		return ""
	}
	return strconv.FormatUint(uint64(*p), 10)
}

func nonZero[T uint16 | uint32](n T) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(n), 10)
}

func float(p *float64) string {
	if p == nil {
		return ""
	}
	return strconv.FormatFloat(*p, 'f', -1, 64)
}

func joinInts(ns []int) string {
	texts := make([]string, len(ns))
	for i, n := range ns {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ",")
}

func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// flowTableColumns returns the columns of the table of flows.
func flowTableColumns(rates bool) []tableColumn {
	cols := []tableColumn{
		{title: "PROTO"},
		{title: "STATE"},
		{title: "SRC"},
		{title: "DST"},
		{title: "NAT", drop: 3},
		{title: "TIMEOUT", right: true, drop: 5},
		{title: "BYTES", right: true, drop: 4},
	}
	if rates {
		cols = append(cols, tableColumn{title: "RATE", right: true})
	}
	return append(cols, tableColumn{title: "MARK", drop: 2}, tableColumn{title: "ID"}, tableColumn{title: "INFO", drop: 1})
}

// flowRow returns the cells of flowTableColumns.
func flowRow(f *wire.Flow, rates bool) []string {
	src, dst := sides(f.Orig)
	row := []string{protocolCell(f.Protocol, f.ProtoNum), stateCell(f), src, dst, natCell(f), "", bytesCell(f)}
	if f.Timeout != nil {
		row[5] = humanSeconds(*f.Timeout)
	}
	if rates {
		cell := ""
		if r, ok := sum(f, func(t *wire.Tuple) *float64 { return t.Rate }); ok {
			cell = humanBytes(uint64(r)) + "/s"
		}
		row = append(row, cell)
	}
	mark := ""
	if f.Mark != nil && *f.Mark != 0 {
		mark = fmt.Sprintf("%#x", *f.Mark)
	}
	return append(row, mark, nonZero(f.ID), infoCell(f))
}

func protocolCell(name string, number uint8) string {
	if name == "" {
		return strconv.Itoa(int(number))
	}
	return name
}

// stateCell is the connection's state, or for a protocol that has none how far its flow has
// come.
func stateCell(f *wire.Flow) string {
	if f.State != "" {
		return f.State
	}
	state := "unreplied"
	for _, bit := range f.Status {
		switch bit {
		case "seen_reply":
			if state == "unreplied" {
				state = "replied"
			}
		case "assured":
			state = "assured"
		}
	}
	return state
}

// natCell says where the addresses are translated to.
func natCell(f *wire.Flow) string {
	if f.NAT == "" || f.Reply == nil {
		return f.NAT
	}
	var parts []string
	if f.NAT == "snat" || f.NAT == "both" {
		parts = append(parts, "snat "+endpoint(f.Reply.Dst, f.Reply.DPort))
	}
	if f.NAT == "dnat" || f.NAT == "both" {
		parts = append(parts, "dnat "+endpoint(f.Reply.Src, f.Reply.SPort))
	}
	return strings.Join(parts, " ")
}

func bytesCell(f *wire.Flow) string {
	n, ok := sum(f, func(t *wire.Tuple) *uint64 { return t.Bytes })
	if !ok {
		return ""
	}
	return humanBytes(n)
}

// infoCell is what few flows have.
func infoCell(f *wire.Flow) string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+value)
		}
	}
	add("zone", nonZero(f.Zone))
	if f.Orig != nil {
		add("zone-orig", nonZero(f.Orig.Zone))
	}
	if f.Reply != nil {
		add("zone-reply", nonZero(f.Reply.Zone))
	}
	add("labels", joinInts(f.Labels))
	add("helper", f.Helper)
	add("user", f.User)
	if f.Master != nil {
		src, dst := sides(f.Master)
		add("master", src+">"+dst)
	}
	for _, bit := range f.Status {
		switch bit {
		case "fixed_timeout", "dying", "offload", "hw_offload":
			parts = append(parts, bit)
		}
	}
	return strings.Join(parts, " ")
}
