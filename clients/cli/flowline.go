package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"ctd/rpc/wire"
)

// maxImportText is how much an import reads before it sends anything: some 600,000 flows.
const maxImportText = 256 << 20

// flowLine is one flow of an import.
type flowLine struct {
	raw   json.RawMessage
	place string // where it stands, for messages

	orig, reply flowPlace
	master      flowPlace // zero: none
}

// flowPlace is a tuple in a zone, which at most one flow has.
type flowPlace struct {
	proto, src, dst string
	ids             [6]uint16 // ports, ICMP's type, code and id, or GRE's keys; the direction's own zone
	zone            uint16
}

// readFlows reads the flows of files; none, or "-", is standard input.
func (s *session) readFlows(files []string) ([]flowLine, error) {
	if len(files) == 0 {
		files = []string{"-"}
	}
	r := flowReader{left: maxImportText}
	for _, name := range files {
		if err := r.file(s, name); err != nil {
			return nil, err
		}
	}
	if len(r.lines) == 0 && !r.whole {
		return nil, &usageError{
			message: "import: there is no flow to read, nor the head and end of an empty export",
			hint:    "see what the command before says: an export that fails at once prints nothing",
		}
	}
	if r.leftOut > 0 {
		s.complain(fmt.Sprintf("the export left out %s that can't be made again", plural(r.leftOut, "flow")), "")
	}
	return r.lines, nil
}

// flowReader reads lines of flows. Those between the head of an export and its end are counted.
type flowReader struct {
	lines   []flowLine
	left    int // how much may still be read
	leftOut int
	whole   bool // an export has ended

	name  string // of the file
	head  string // where the export began that has not ended; empty where there is none
	since int    // lines of flows since then
}

func (r *flowReader) file(s *session, name string) error {
	in := s.o.Stdin
	r.name = ""
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return &usageError{message: "import: " + err.Error()}
		}
		defer f.Close()
		in, r.name = f, name+", "
	}
	text := bufio.NewReader(in)
	if err := skipMark(text, cmp.Or(name, "-")); err != nil {
		return err
	}
	lines := bufio.NewScanner(text)
	lines.Buffer(make([]byte, 0, 64<<10), maxFlowText)
	n := 0
	for lines.Scan() {
		n++
		if r.left -= len(lines.Bytes()) + 1; r.left < 0 {
			return &usageError{
				message: fmt.Sprintf("import: more than %d MiB; nothing was done", maxImportText>>20),
				hint:    "split it, masters before the flows that are related to them",
			}
		}
		if err := r.line(bytes.TrimSpace(lines.Bytes()), fmt.Sprintf("%sline %d", r.name, n)); err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return &usageError{message: fmt.Sprintf("%sline %d: longer than %d bytes; nothing was done", r.name, n+1, maxFlowText), hint: oneALine}
	} else if err != nil {
		return fmt.Errorf("read flows: %w", err)
	}
	if r.head != "" {
		return &usageError{
			message: fmt.Sprintf("the export that begins at %s has no end: it broke off; nothing was done", r.head),
			hint:    "export again; to import what there is of it, take its first line away",
		}
	}
	return nil
}

func (r *flowReader) line(text []byte, place string) error {
	if len(text) == 0 || text[0] == '#' {
		return nil
	}
	var f wire.Flow
	if !plainNames(text) || !plainFlow(text, &f) {
		tree, err := oneObject(text)
		if err != nil {
			return &usageError{message: place + ": " + err.Error(), hint: "want a flow in JSON on each line; nothing was done"}
		}
		switch {
		case tree["flows"] != nil && tree["ctd_export"] == nil:
			return &usageError{message: place + ": flows in one piece, as -o json prints them; nothing was done", hint: oneALine}
		case tree["ctd_export"] != nil:
			return r.begin(tree, place)
		case tree["exported"] != nil:
			return r.end(tree, place)
		}
		if err := wire.Decode(tree, &f, true); err != nil {
			return badLine(place, err)
		}
	}
	line := flowLine{raw: bytes.Clone(text), place: place}
	if f.Orig == nil {
		return &usageError{message: place + ": orig is missing", hint: "want a flow as ctd export or ctd list -o jsonl prints it; nothing was done"}
	}
	line.places(&f)
	r.lines = append(r.lines, line)
	r.since++
	return nil
}

// oneALine says how to have flows in lines.
const oneALine = "want a flow in JSON on each line: export without -o json, or list with -o jsonl"

// plainFlow reads a flow whose members are as the daemon writes them; it is twice as fast as the
// decoder that takes all that the daemon takes and says what is wrong.
func plainFlow(text []byte, f *wire.Flow) bool {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if d.Decode(f) != nil {
		*f = wire.Flow{}
		return false
	}
	_, err := d.Token()
	return errors.Is(err, io.EOF)
}

func badLine(place string, err error) error {
	u := &usageError{message: place + ": " + err.Error(), hint: "nothing was done"}
	if we := (*wire.Error)(nil); errors.As(err, &we) && we.Hint != "" {
		u.hint = we.Hint
	}
	return u
}

func (r *flowReader) begin(tree map[string]any, place string) error {
	var head exportHead
	if err := wire.Decode(tree, &head, false); err != nil {
		return badLine(place, err)
	}
	switch {
	case head.Format != exportFormat:
		return &usageError{message: fmt.Sprintf("%s: an export of format %d; this ctd reads %d", place, head.Format, exportFormat)}
	case r.head != "":
		return &usageError{
			message: fmt.Sprintf("%s: an export begins, but that of %s has not ended: it broke off; nothing was done", place, r.head),
			hint:    "export again; to import what there is of it, take its first line away",
		}
	}
	r.head, r.since = place, 0
	return nil
}

func (r *flowReader) end(tree map[string]any, place string) error {
	var end exportEnd
	if err := wire.Decode(tree, &end, false); err != nil {
		return badLine(place, err)
	}
	switch {
	case r.head == "":
		return &usageError{
			message: fmt.Sprintf("%s: an export ends whose beginning isn't there; nothing was done", place),
			hint:    "export again; to import what there is of it, take its last line away",
		}
	case *end.Exported != r.since:
		return &usageError{
			message: fmt.Sprintf("%s: the export had %d flows and %d are here; nothing was done", place, *end.Exported, r.since),
			hint:    "to import a part of an export, take its first and its last line away",
		}
	}
	r.head, r.whole = "", true
	r.leftOut += end.LeftOut
	return nil
}

// places notes what names the flow and its master.
func (l *flowLine) places(f *wire.Flow) {
	proto := f.Protocol
	if proto == "" {
		proto = fmt.Sprint(f.ProtoNum)
	}
	l.orig = placeOf(f.Orig, proto, f.Zone)
	reply := f.Reply
	if reply == nil {
		reply = &wire.Tuple{}
	}
	l.reply = placeOf(completeReply(f.Orig, reply), proto, f.Zone)
	if f.Master != nil {
		if f.Master.Protocol != "" {
			proto = f.Master.Protocol
		}
		master := *f.Master
		master.Zone = f.Orig.Zone // the kernel looks for it there
		l.master = placeOf(&master, proto, f.Zone)
	}
}

func placeOf(t *wire.Tuple, proto string, zone uint16) flowPlace {
	p := flowPlace{proto: proto, src: canonical(t.Src), dst: canonical(t.Dst), zone: zone}
	p.ids[5] = t.Zone
	for i, v := range []*uint16{t.SPort, t.DPort, t.ID, t.Key, t.SrcKey} {
		if v != nil {
			p.ids[i] = *v
		}
	}
	if t.Type != nil {
		p.ids[0] = uint16(*t.Type)
	}
	if t.Code != nil {
		p.ids[1] = uint16(*t.Code)
	}
	return p
}

// canonical returns an address in the one form that the kernel's has.
func canonical(addr string) string {
	if a, err := netip.ParseAddr(addr); err == nil {
		return a.Unmap().String()
	}
	return addr
}
