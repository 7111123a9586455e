package cli

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"

	"ctd/rpc/wire"
)

// flowWriter writes flows one by one in a form of the output. raw is the flow as the daemon sent
// it.
type flowWriter interface {
	write(raw json.RawMessage, f *wire.Flow) error
	close() error
}

// newFlowWriter returns the writer for -o; fields is what --fields asks for.
func (s *session) newFlowWriter(rates bool, fields []string) (flowWriter, error) {
	switch s.g.Output {
	case "jsonl":
		return &jsonlWriter{w: s.out}, nil
	case "csv":
		return newCSVWriter(s.out, fields), nil
	case "conntrack":
		if len(fields) > 0 {
			return nil, usagef("-o conntrack needs whole flows: leave --fields out")
		}
		return &conntrackWriter{w: s.out, now: time.Now()}, nil
	}
	return s.newTableWriter(rates, fields), nil
}

// jsonlWriter writes a flow a line.
type jsonlWriter struct {
	w   io.Writer
	buf bytes.Buffer
}

func (j *jsonlWriter) write(raw json.RawMessage, _ *wire.Flow) error {
	j.buf.Reset()
	if bytes.ContainsAny(raw, "\n\r") {
		if err := json.Compact(&j.buf, raw); err != nil {
			return err
		}
	} else {
		j.buf.Write(raw)
	}
	j.buf.WriteByte('\n')
	_, err := j.w.Write(j.buf.Bytes())
	return err
}

func (*jsonlWriter) close() error { return nil }

// csvWriter writes RFC 4180: a header, CRLF, and quotes where they are needed.
type csvWriter struct {
	w      *csv.Writer
	cols   []column
	record []string
	header bool
}

func newCSVWriter(w io.Writer, fields []string) *csvWriter {
	c := &csvWriter{w: csv.NewWriter(w), cols: chooseColumns(flowColumns(), fields)}
	c.w.UseCRLF = true
	c.record = make([]string, len(c.cols))
	return c
}

func (c *csvWriter) write(_ json.RawMessage, f *wire.Flow) error {
	if err := c.writeHeader(); err != nil {
		return err
	}
	for i, col := range c.cols {
		c.record[i] = col.get(f)
	}
	return c.w.Write(c.record)
}

func (c *csvWriter) writeHeader() error {
	if c.header {
		return nil
	}
	c.header = true
	names := make([]string, len(c.cols))
	for i, col := range c.cols {
		names[i] = col.name
	}
	return c.w.Write(names)
}

func (c *csvWriter) close() error {
	if err := c.writeHeader(); err != nil {
		return err
	}
	c.w.Flush()
	return c.w.Error()
}

// only refuses forms of output that a verb's result has not.
func (s *session) only(forms ...string) error {
	if slices.Contains(forms, s.g.Output) {
		return nil
	}
	return usagef("-o %s is for flows: here there are %s", s.g.Output, strings.Join(forms, ", "))
}

// line writes a result as the daemon sent it, with a line break at its end.
func (s *session) line(raw json.RawMessage) error {
	if _, err := s.out.Write(raw); err != nil {
		return err
	}
	return s.out.WriteByte('\n')
}

// call calls a method. With -o json it prints the result's exact bytes and decodes it too;
// printed says whether it did.
func (s *session) call(method string, params, result any) (printed bool, err error) {
	c, err := s.client()
	if err != nil {
		return false, err
	}
	var raw json.RawMessage
	b := s.startBar(method, isDryRun(params))
	err = c.Call(s.ctx, method, params, &raw)
	b.end()
	if err != nil {
		return false, err
	}
	if err := decodeInto(raw, result); err != nil {
		return false, err
	}
	if s.g.Output != "json" {
		return false, nil
	}
	return true, s.line(raw)
}

// flows writes flows that are held already, in the form of the output.
func (s *session) flows(flows []wire.Flow) error {
	w, err := s.newFlowWriter(false, nil)
	if err != nil {
		return err
	}
	for i := range flows {
		raw, err := json.Marshal(&flows[i])
		if err != nil {
			return err
		}
		if err := w.write(raw, &flows[i]); err != nil {
			return err
		}
	}
	return w.close()
}
