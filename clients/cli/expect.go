package cli

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"ctd/rpc/wire"
)

type expectCmd struct {
	List   expectListCmd   `cmd:"" help:"List expectations."`
	Get    expectGetCmd    `cmd:"" help:"Show one expectation."`
	Create expectCreateCmd `cmd:"" help:"Make an expectation."`
	Kill   expectKillCmd   `cmd:"" help:"Delete expectations."`
	Flush  expectFlushCmd  `cmd:"" help:"Delete all expectations."`
}

func (expectCmd) Help() string {
	return `An expectation is a flow that the kernel will take as related to its master.

Examples:

  ctd expect list`
}

type expectListCmd struct {
	Filter     []string `arg:"" optional:"" help:"Which expectations, as key=value words: src dst sport dport proto family zone helper id."`
	Limit      int      `placeholder:"N" help:"At most so many."`
	FailIfNone bool     `help:"Exit with 1 where nothing matches."`
}

func (expectListCmd) Help() string {
	return `Examples:

  ctd expect list
  ctd expect list helper=ftp -o conntrack`
}

func (l *expectListCmd) Run(s *session) error {
	if l.Limit < 0 {
		return usagef("--limit can't be below 0")
	}
	var r wire.ExpectListResult
	printed, err := s.call("expect.list", wire.ExpectListParams{Filter: filterText(l.Filter), Limit: l.Limit}, &r)
	if err != nil {
		return err
	}
	if !printed {
		if err := s.expects(r.Expects); err != nil {
			return err
		}
	}
	return s.matched(l.FailIfNone, r.Matched)
}

type expectGetCmd struct {
	ID uint32 `arg:"" help:"The expectation's id."`
}

func (expectGetCmd) Help() string {
	return `Examples:

  ctd expect get 77`
}

func (g *expectGetCmd) Run(s *session) error {
	var e wire.Expect
	printed, err := s.call("expect.get", wire.ExpectGetParams{Expect: g.ID}, &e)
	if err != nil || printed {
		return err
	}
	return s.expects([]wire.Expect{e})
}

type expectKillCmd struct {
	Filter     []string `arg:"" optional:"" help:"Which expectations, as key=value words, or their ids."`
	DryRun     bool     `help:"Only say what would be deleted."`
	Max        *int     `placeholder:"N" help:"Delete nothing where more than so many match; the daemon's limit is 1000."`
	All        bool     `help:"Without a filter: yes, every expectation."`
	Yes        bool     `short:"y" help:"Don't ask. Without a terminal, and in every form of output but the table, nothing is asked anyway."`
	Reason     string   `placeholder:"TEXT" help:"For the daemon's log."`
	FailIfNone bool     `help:"Exit with 1 where nothing matches."`
}

func (expectKillCmd) Help() string {
	return `On a terminal it says how many match and asks; --yes, or -y, is for scripts. Those that were counted
are killed then, and nothing that came in between.

Examples:

  ctd expect kill helper=ftp --dry-run
  ctd expect kill helper=ftp --yes
  ctd expect kill 77`
}

func (k *expectKillCmd) Run(s *session) error {
	c := choice{Filter: k.Filter, All: k.All, Max: k.Max}
	filter, ids, err := c.selected("expect kill")
	if err != nil {
		return err
	}
	p := wire.ExpectKillParams{Filter: filter, Expects: ids, DryRun: k.DryRun, Max: k.Max, All: k.All, Reason: k.Reason}
	r, printed, err := k.kill(s, p)
	if err != nil {
		return err
	}
	if !printed {
		if err := k.print(s, &r); err != nil {
			return err
		}
	}
	var refused refusals
	for _, f := range r.Failed {
		src, dst := sides(f.Expect.Tuple)
		refused.add(fmt.Sprintf("%s %s -> %s", protocolCell(f.Expect.Protocol, f.Expect.ProtoNum), src, dst), f.Message, f.Hint)
	}
	s.refused(&refused)
	if len(r.Failed) > 0 {
		return statusError(refusedExit(r.Failed[0].Code))
	}
	return s.matched(k.FailIfNone, r.Matched)
}

// kill kills, and asks before where that is wanted.
func (k *expectKillCmd) kill(s *session, p wire.ExpectKillParams) (r wire.ExpectKillResult, printed bool, err error) {
	if s.asks(k.Yes, k.DryRun) {
		if none, err := s.confirmExpectKill(&p, &r); none {
			return r, false, err
		}
	}
	printed, err = s.call("expect.kill", p, &r)
	return r, printed, err
}

func (k *expectKillCmd) print(s *session, r *wire.ExpectKillResult) error {
	if len(r.Expects) > 0 || s.g.Output != "table" {
		if err := s.expects(r.Expects); err != nil {
			return err
		}
	}
	if s.g.Output != "table" {
		return nil
	}
	n, did := r.Killed, "killed"
	if k.DryRun {
		n, did = r.Matched, "would kill"
	}
	_, err := fmt.Fprintln(s.out, did, plural(n, "expectation"))
	return err
}

type expectFlushCmd struct {
	All    bool `help:"Yes, every expectation."`
	DryRun bool `help:"Only count what would go."`
	Yes    bool `short:"y" help:"Don't ask. Without a terminal, and in every form of output but the table, nothing is asked anyway."`
}

func (expectFlushCmd) Help() string {
	return `On a terminal it says how many there are and asks; --yes, or -y, is for scripts.

Examples:

  ctd expect flush --all --dry-run
  ctd expect flush --all --yes`
}

func (f *expectFlushCmd) Run(s *session) error {
	if f.All && s.asks(f.Yes, f.DryRun) {
		none, err := s.confirmExpectFlush(wire.ExpectFlushParams{All: true})
		if none && err == nil {
			_, err = fmt.Fprintln(s.out, "deleted 0 expectations")
		}
		if none || err != nil {
			return err
		}
	}
	return s.flush("expect.flush", "expectation", f.All, f.DryRun, wire.ExpectFlushParams{All: f.All, DryRun: f.DryRun})
}

// expects writes expectations in the form of the output.
func (s *session) expects(es []wire.Expect) error {
	switch s.g.Output {
	case "jsonl":
		enc := json.NewEncoder(s.out)
		for i := range es {
			if err := enc.Encode(&es[i]); err != nil {
				return err
			}
		}
		return nil
	case "conntrack":
		for i := range es {
			if _, err := s.out.Write(append(expectLine(nil, &es[i]), '\n')); err != nil {
				return err
			}
		}
		return nil
	case "csv":
		return s.expectsCSV(es)
	}
	t := s.newTable([]tableColumn{
		{title: "PROTO"},
		{title: "SRC"},
		{title: "DST"},
		{title: "MASTER"},
		{title: "TIMEOUT", right: true, drop: 1},
		{title: "HELPER", drop: 3},
		{title: "ID"},
		{title: "INFO", drop: 2},
	})
	for i := range es {
		if err := t.row(expectRow(&es[i])); err != nil {
			return err
		}
	}
	if err := t.close(); err != nil {
		return err
	}
	s.note(&t, "%s", plural(len(es), "expectation"))
	return nil
}

func expectRow(e *wire.Expect) []string {
	src, dst := maskedSide(e, false), maskedSide(e, true)
	master := ""
	if e.Master != nil {
		from, to := sides(e.Master)
		master = from + ">" + to
	}
	timeout := ""
	if e.Timeout != nil {
		timeout = humanSeconds(*e.Timeout)
	}
	var info []string
	if e.Zone != 0 {
		info = append(info, "zone="+nonZero(e.Zone))
	}
	if e.Class != 0 {
		info = append(info, "class="+nonZero(e.Class))
	}
	if e.Function != "" {
		info = append(info, "function="+e.Function)
	}
	if e.NAT != nil && e.NAT.Tuple != nil {
		info = append(info, "nat="+endpoint(e.NAT.Tuple.Src, e.NAT.Tuple.SPort))
	}
	info = append(info, e.Flags...)
	return []string{
		protocolCell(e.Protocol, e.ProtoNum), src, dst, master, timeout, e.Helper, nonZero(e.ID), strings.Join(info, " "),
	}
}

// maskedSide writes one end of what is expected: a star for what the mask leaves out.
func maskedSide(e *wire.Expect, dst bool) string {
	if e.Tuple == nil {
		return ""
	}
	addr, port := e.Tuple.Src, e.Tuple.SPort
	var maskAddr string
	var maskPort *uint16
	if e.Mask != nil {
		maskAddr, maskPort = e.Mask.Src, e.Mask.SPort
	}
	if dst {
		addr, port = e.Tuple.Dst, e.Tuple.DPort
		maskAddr = "" // a destination always counts
		if e.Mask != nil {
			maskPort = e.Mask.DPort
		}
	}
	if addr == "" || strings.Trim(maskAddr, "0.:") == "" && maskAddr != "" {
		addr = "*"
	}
	if port == nil {
		return addr
	}
	if maskPort != nil && *maskPort == 0 {
		if addr == "*" {
			return addr
		}
		if strings.Contains(addr, ":") {
			addr = "[" + addr + "]"
		}
		return addr + ":*"
	}
	return endpoint(addr, port)
}

func (s *session) expectsCSV(es []wire.Expect) error {
	w := csv.NewWriter(s.out)
	w.UseCRLF = true
	header := []string{"id", "family", "protocol", "protonum", "zone"}
	for _, t := range []string{"tuple", "mask", "master"} {
		header = append(header, t+".src", t+".dst", t+".sport", t+".dport")
	}
	header = append(header, "timeout", "helper", "function", "class", "flags", "nat.direction", "nat.tuple.src", "nat.tuple.sport")
	if err := w.Write(header); err != nil {
		return err
	}
	for i := range es {
		e := &es[i]
		record := []string{
			nonZero(e.ID), e.Family, e.Protocol, strconv.Itoa(int(e.ProtoNum)), strconv.Itoa(int(e.Zone)),
		}
		for _, t := range []*wire.Tuple{e.Tuple, e.Mask, e.Master} {
			u := deref(t)
			record = append(record, u.Src, u.Dst, number(u.SPort), number(u.DPort))
		}
		nat := deref(e.NAT)
		to := deref(nat.Tuple)
		record = append(record, number(e.Timeout), e.Helper, e.Function, strconv.Itoa(int(e.Class)),
			strings.Join(e.Flags, ","), nat.Direction, to.Src, number(to.SPort))
		if err := w.Write(record); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}
