package cli

import (
	"encoding/csv"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctd/rpc/wire"
)

func TestHumanBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 1023: "1023", 1024: "1.0K", 1536: "1.5K", 10188: "9.9K", 10189: "10K", 1048063: "1023K", 1048064: "1.0M",
		1 << 20: "1.0M", 5_000_000_000: "4.7G", 1 << 50: "1.0P", 1<<64 - 1: "16E",
	} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: want %s, got %s", n, want, got)
		}
	}
}

func TestHumanSeconds(t *testing.T) {
	for n, want := range map[uint32]string{
		0: "0s", 59: "59s", 60: "1m", 299: "4m59s", 3600: "1h", 3661: "1h1m", 431999: "4d23h", 432000: "5d", 1<<32 - 1: "49710d6h",
	} {
		if got := humanSeconds(n); got != want {
			t.Errorf("%d: want %s, got %s", n, want, got)
		}
	}
}

func TestConntrackLineStatus(t *testing.T) {
	now := time.Unix(1000, 0)
	base := func() wire.Flow {
		return wire.Flow{
			ProtoNum: 17, Status: []string{"seen_reply"},
			Orig:  &wire.Tuple{Src: "a", Dst: "b", SPort: new(uint16(1)), DPort: new(uint16(2))},
			Reply: &wire.Tuple{Src: "b", Dst: "a", SPort: new(uint16(2)), DPort: new(uint16(1))},
		}
	}
	const tuples = "udp      17 src=a dst=b sport=1 dport=2 src=b dst=a sport=2 dport=1"
	for name, tc := range map[string]struct {
		change func(*wire.Flow)
		want   string
	}{
		"bare":       {func(*wire.Flow) {}, tuples},
		"assured":    {func(f *wire.Flow) { f.Status = append(f.Status, "assured") }, tuples + " [ASSURED]"},
		"offload":    {func(f *wire.Flow) { f.Status = append(f.Status, "assured", "offload") }, tuples + " [OFFLOAD]"},
		"hw offload": {func(f *wire.Flow) { f.Status = append(f.Status, "offload", "hw_offload") }, tuples + " [HW_OFFLOAD]"},
		"the rest": {
			func(f *wire.Flow) {
				f.Mark, f.SecCtx, f.Zone, f.Helper, f.Use = new(uint32(1)), "system_u", 2, "ftp", new(uint32(3))
				f.Start = time.Unix(990, 999_999_999)
			},
			tuples + " mark=1 secctx=system_u zone=2 delta-time=10 helper=ftp use=3",
		},
		"ended":       {func(f *wire.Flow) { f.Start, f.Stop = time.Unix(990, 0), time.Unix(995, 0) }, tuples + " delta-time=5"},
		"clocks":      {func(f *wire.Flow) { f.Start = time.Unix(2000, 0) }, tuples + " delta-time=0"},
		"spoilt text": {func(f *wire.Flow) { f.Helper = "f\x1b[2J\np" }, tuples + " helper=f?[2J p"},
	} {
		t.Run(name, func(t *testing.T) {
			f := base()
			tc.change(&f)
			if diff := cmp.Diff(tc.want, string(conntrackLine(nil, &f, now))); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestExpectLineFlags(t *testing.T) {
	e := wire.Expect{ProtoNum: 17, Zone: 3, Class: 2, Flags: []string{"permanent", "inactive"}, Tuple: &wire.Tuple{Dst: "b"}}
	want := "proto=17 dst=b sport=0 dport=0 zone=3 PERMANENT,INACTIVE class=2"
	if diff := cmp.Diff(want, string(expectLine(nil, &e))); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestTableSample holds that no more than the sample is held, and that later rows may be wider.
func TestTableSample(t *testing.T) {
	var out strings.Builder
	tab := table{w: &out, cols: []tableColumn{{title: "N", right: true}, {title: "TEXT"}, {title: "END"}}}
	for i := range sampleRows - 1 {
		if err := tab.row([]string{fmt.Sprint(i), "x", ""}); err != nil {
			t.Fatal(err)
		}
	}
	if out.Len() != 0 {
		t.Error("written before the sample is whole")
	}
	for _, text := range []string{"x", "wider than the sample"} {
		if err := tab.row([]string{"7", text, "e"}); err != nil {
			t.Fatal(err)
		}
	}
	if tab.sample != nil {
		t.Errorf("%d rows are held", len(tab.sample))
	}
	if err := tab.close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	got := []string{lines[0], lines[1], lines[sampleRows], lines[sampleRows+1]}
	want := []string{"  N  TEXT  END", "  0  x     -", "  7  x     e", "  7  wider than the sample  e"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestTableWidth(t *testing.T) {
	const all, narrow = "A  BB     C\n1  22222  3\n", "A  C\n1  3\n"
	for name, tc := range map[string]struct {
		width int
		want  string
	}{
		"no terminal": {0, all},
		"fits":        {11, all},
		"too narrow":  {10, narrow},
		"hopeless":    {1, narrow},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			tab := table{w: &out, width: tc.width, cols: []tableColumn{{title: "A"}, {title: "BB", drop: 1}, {title: "C"}}}
			if err := tab.row([]string{"1", "22222", "3"}); err != nil {
				t.Fatal(err)
			}
			if err := tab.close(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if dropped := len(tab.dropped) > 0; dropped != (tc.want == narrow) {
				t.Errorf("dropped %v", tab.dropped)
			}
		})
	}
}

func TestCSV(t *testing.T) {
	var out strings.Builder
	w := newCSVWriter(&out, nil)
	f := wire.Flow{User: `a "b", c`, Orig: &wire.Tuple{Rate: new(1.5)}, Start: time.Unix(0, 1).UTC()}
	if err := w.write(nil, &f); err != nil {
		t.Fatal(err)
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `,"a ""b"", c"`+"\r\n") {
		t.Errorf("got %q", out.String())
	}
	records, err := csv.NewReader(strings.NewReader(out.String())).ReadAll()
	if err != nil || len(records) != 2 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	got := map[string]string{}
	for i, name := range records[0] {
		if records[1][i] != "" {
			got[name] = records[1][i]
		}
	}
	want := map[string]string{
		"protonum": "0", "zone": "0", "user": `a "b", c`, "orig.rate": "1.5", "start": "1970-01-01T00:00:00.000000001Z",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	out.Reset()
	if err := newCSVWriter(&out, []string{"id", "reply.bytes"}).close(); err != nil || out.String() != "id,reply.bytes\r\n" {
		t.Errorf("no flows: %q, %v", out.String(), err)
	}
}

func TestFlowCells(t *testing.T) {
	f := wire.Flow{
		NAT: "both", Status: []string{"seen_reply", "fixed_timeout"}, Zone: 3,
		Orig:   &wire.Tuple{Src: "fd00::1", Dst: "10.0.0.1", SPort: new(uint16(1)), DPort: new(uint16(2)), Zone: 5},
		Reply:  &wire.Tuple{Src: "fd00::2", Dst: "10.0.0.2", SPort: new(uint16(3))},
		Master: &wire.Tuple{Src: "a", Dst: "b"},
	}
	got := flowRow(&f, false)
	want := []string{
		"0", "replied", "[fd00::1]:1", "10.0.0.1:2", "snat 10.0.0.2 dnat [fd00::2]:3", "", "", "", "",
		"zone=3 zone-orig=5 master=a>b fixed_timeout",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	f.Orig.Rate = new(2048.0)
	if got := flowRow(&f, true)[7]; got != "2.0K/s" {
		t.Errorf("rate %s", got)
	}
	if got := flowRow(&wire.Flow{}, true); len(got) != len(flowTableColumns(true)) {
		t.Errorf("%d cells, %d columns", len(got), len(flowTableColumns(true)))
	}
}

func TestMaskedSide(t *testing.T) {
	e := &wire.Expect{
		Tuple: &wire.Tuple{Src: "fd00::1", Dst: "fd00::2", SPort: new(uint16(1)), DPort: new(uint16(2))},
		Mask:  &wire.Tuple{Src: "::", SPort: new(uint16(0)), DPort: new(uint16(0))},
	}
	if got := [2]string{maskedSide(e, false), maskedSide(e, true)}; got != [2]string{"*", "[fd00::2]:*"} {
		t.Errorf("got %q", got)
	}
	e.Mask = nil
	if got := [2]string{maskedSide(e, false), maskedSide(e, true)}; got != [2]string{"[fd00::1]:1", "[fd00::2]:2"} {
		t.Errorf("without a mask: %q", got)
	}
}
