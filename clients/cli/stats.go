package cli

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"

	"ctd/rpc/wire"
)

type statsCmd struct {
	PerCPU bool `name:"per-cpu" help:"Also the counters of each processor."`
}

func (statsCmd) Help() string {
	return `Examples:

  ctd stats
  ctd stats --per-cpu -o json`
}

func (c *statsCmd) Run(s *session) error {
	if err := s.only("table", "json", "jsonl"); err != nil {
		return err
	}
	var r wire.StatsResult
	printed, err := s.call("conntrack.stats", wire.StatsParams{PerCPU: c.PerCPU}, &r)
	if err != nil || printed {
		return err
	}
	if s.g.Output == "jsonl" {
		return s.encode(r)
	}
	fmt.Fprintf(s.out, "entries  %d of %d%s, %d buckets\n", r.Entries, r.Max, share(r.Entries, r.Max), r.Buckets)
	fmt.Fprintf(s.out, "expects  %d of %d\n\n", r.Expects, r.ExpectMax)
	return s.counters(&r)
}

func share(n, of uint32) string {
	if of == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d%%)", uint64(n)*100/uint64(of))
}

// counters prints one row a counter and one column a processor.
func (s *session) counters(r *wire.StatsResult) error {
	cols := []tableColumn{{title: "COUNTER"}, {title: "TOTAL", right: true}}
	for i, cpu := range r.PerCPU {
		title := "CPU" + strconv.Itoa(i)
		if cpu.CPU != nil {
			title = "CPU" + strconv.Itoa(int(*cpu.CPU))
		}
		cols = append(cols, tableColumn{title: title, right: true})
	}
	t := s.newTable(cols)
	t.width = 0 // nothing to leave out
	for _, f := range wire.Fields(reflect.TypeFor[wire.CPUStats]()) {
		if f.Type.Kind() != reflect.Uint64 {
			continue
		}
		value := func(c wire.CPUStats) string {
			return strconv.FormatUint(reflect.ValueOf(c).FieldByIndex(f.Index).Uint(), 10)
		}
		row := []string{f.Name, value(r.Total)}
		for _, cpu := range r.PerCPU {
			row = append(row, value(cpu))
		}
		if err := t.row(row); err != nil {
			return err
		}
	}
	return t.close()
}

// encode writes a result on one line.
func (s *session) encode(v any) error { return json.NewEncoder(s.out).Encode(v) }
