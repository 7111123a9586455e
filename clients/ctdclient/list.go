package ctdclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"

	"ctd/rpc/wire"
)

// errStop ends a walk whose caller wants no more.
var errStop = errors.New("stop")

// List lists flows as they come, in memory that does not grow with the table (over JSON-RPC).
// An error is the last thing that it yields, with a zero flow; a list that ends early always
// ends in one.
func (c *Client) List(ctx context.Context, p wire.ListParams) iter.Seq2[wire.Flow, error] {
	return c.Listing(ctx, p).Flows()
}

// Listing is a list of flows with what the server says about it as a whole. It calls the server
// each time that one of its iterators is run.
type Listing struct {
	c       *Client
	ctx     context.Context
	method  string
	params  any
	members []string // that a whole result has
	summary Summary
}

// Summary is what conntrack.list or conntrack.export says beside the flows.
type Summary struct {
	Matched int       `json:"matched"`
	Scanned int       `json:"scanned"` // of conntrack.list
	Time    time.Time `json:"time"`

	Exported int            `json:"exported"` // of conntrack.export
	Failed   []wire.Failure `json:"failed"`   // of conntrack.export: flows that can't be made again
	// Partial is whether Failed has any. It is known after CopyTo too.
	Partial bool `json:"-"`
}

// Listing prepares a list.
func (c *Client) Listing(ctx context.Context, p wire.ListParams) *Listing {
	return &Listing{c: c, ctx: ctx, method: "conntrack.list", params: p, members: []string{"flows", "matched", "scanned", "time"}}
}

// Export prepares a list of flows that can be made again by Import.
func (c *Client) Export(ctx context.Context, p wire.ExportParams) *Listing {
	return &Listing{c: c, ctx: ctx, method: "conntrack.export", params: p, members: []string{"flows", "matched", "exported", "time"}}
}

// Summary is known once an iterator has run to its end without an error.
func (l *Listing) Summary() Summary { return l.summary }

// Flows is as [Client.List].
func (l *Listing) Flows() iter.Seq2[wire.Flow, error] {
	return func(yield func(wire.Flow, error) bool) {
		err := l.walk(func(raw json.RawMessage) error {
			var f wire.Flow
			if err := json.Unmarshal(raw, &f); err != nil {
				return err
			}
			if !yield(f, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(wire.Flow{}, err)
		}
	}
}

// Raw is as Flows, but yields each flow as the server sent it. The bytes are good until the
// next one.
func (l *Listing) Raw() iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		err := l.walk(func(raw json.RawMessage) error {
			if !yield(raw, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(nil, err)
		}
	}
}

// CopyTo calls the server and writes the exact bytes of the result to w. Of the summary only
// Matched and Partial are known afterwards.
func (l *Listing) CopyTo(w io.Writer) error {
	if l.c.protocol == XML {
		var raw json.RawMessage
		if err := l.c.Call(l.ctx, l.method, l.params, &raw); err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &l.summary); err != nil {
			return fmt.Errorf("%s: decode result: %w", l.method, err)
		}
		l.summary.Partial = len(l.summary.Failed) > 0
		_, err := w.Write(raw)
		return err
	}
	body, err := l.c.send(l.ctx, l.method, l.params)
	if err != nil {
		return err
	}
	defer body.Close()
	s := scanner{w: w}
	if err := s.copy(body); err != nil {
		var we *writeError
		if errors.As(err, &we) {
			return we.err
		}
		return l.c.broken(l.ctx, l.method, err)
	}
	if isSet(s.rpcError) {
		return decodeError(s.rpcError)
	}
	if err := l.require(func(name string) bool { return s.members[name] }); err != nil {
		return l.c.broken(l.ctx, l.method, err)
	}
	l.summary.Partial = s.members["failed"]
	l.summary.Matched, err = strconv.Atoi(string(s.matched))
	if err != nil {
		return l.c.broken(l.ctx, l.method, err)
	}
	return nil
}

// ListRaw writes the exact bytes of conntrack.list's result to w as they come. Where it returns
// an error, what was written is not whole.
func (c *Client) ListRaw(ctx context.Context, p wire.ListParams, w io.Writer) error {
	return c.Listing(ctx, p).CopyTo(w)
}

// require returns an error where a result lacks a member that a whole one has.
func (l *Listing) require(has func(string) bool) error {
	for _, name := range l.members {
		if !has(name) {
			return fmt.Errorf("the result has no %q", name)
		}
	}
	return nil
}

func (l *Listing) walk(each func(json.RawMessage) error) error {
	if l.c.protocol == XML {
		return l.walkXML(each)
	}
	body, err := l.c.send(l.ctx, l.method, l.params)
	if err != nil {
		return err
	}
	defer body.Close()
	d := listDecoder{dec: json.NewDecoder(body), each: each, rest: map[string]json.RawMessage{}}
	switch err := d.envelope(); {
	case errors.Is(err, errStop):
		return err
	case err != nil:
		return l.c.broken(l.ctx, l.method, err)
	case isSet(d.rpcError):
		return decodeError(d.rpcError)
	}
	if err := l.require(func(name string) bool { return d.rest[name] != nil }); err != nil {
		return l.c.broken(l.ctx, l.method, err)
	}
	for name, into := range map[string]any{
		"matched": &l.summary.Matched, "scanned": &l.summary.Scanned, "time": &l.summary.Time,
		"exported": &l.summary.Exported, "failed": &l.summary.Failed,
	} {
		if raw, ok := d.rest[name]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				return fmt.Errorf("%s: decode %s: %w", l.method, name, err)
			}
		}
	}
	l.summary.Partial = len(l.summary.Failed) > 0
	return nil
}

// walkXML holds the whole answer, because kolo/xmlrpc decodes no stream.
func (l *Listing) walkXML(each func(json.RawMessage) error) error {
	var raw json.RawMessage
	if err := l.c.Call(l.ctx, l.method, l.params, &raw); err != nil {
		return err
	}
	var r struct {
		Flows []json.RawMessage
		Summary
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("%s: decode result: %w", l.method, err)
	}
	l.summary = r.Summary
	l.summary.Partial = len(r.Failed) > 0
	for _, flow := range r.Flows {
		if err := each(flow); err != nil {
			return err
		}
	}
	return nil
}

// listDecoder walks a response object token by token, so that no more than one flow is held.
type listDecoder struct {
	dec      *json.Decoder
	each     func(json.RawMessage) error
	rest     map[string]json.RawMessage // the result's other members; "flows" is there once it has ended
	rpcError json.RawMessage
	result   bool
}

func (d *listDecoder) envelope() error {
	err := d.object(func(name string) error {
		switch name {
		case "result":
			d.result = true
			return d.object(d.resultMember)
		case "error":
			return d.dec.Decode(&d.rpcError)
		}
		var skipped json.RawMessage
		return d.dec.Decode(&skipped)
	})
	if err != nil {
		return err
	}
	// A body that goes on is not the one that was asked for; one whose end is missing (the last
	// chunk) shows only here.
	if _, err := d.dec.Token(); err == nil {
		return errors.New("something follows the response object")
	} else if err != io.EOF {
		return err
	}
	if !d.result && !isSet(d.rpcError) {
		return errNoResult
	}
	return nil
}

func (d *listDecoder) resultMember(name string) error {
	if name != "flows" {
		var v json.RawMessage
		err := d.dec.Decode(&v)
		d.rest[name] = v
		return err
	}
	if err := d.delim('['); err != nil {
		return err
	}
	var raw json.RawMessage
	for d.dec.More() {
		if err := d.dec.Decode(&raw); err != nil {
			return err
		}
		if err := d.each(raw); err != nil {
			return err
		}
	}
	d.rest[name] = json.RawMessage("[]")
	return d.delim(']')
}

// object walks one object; member decodes the value that follows each name.
func (d *listDecoder) object(member func(name string) error) error {
	if err := d.delim('{'); err != nil {
		return err
	}
	for d.dec.More() {
		tok, err := d.dec.Token()
		if err != nil {
			return err
		}
		name, ok := tok.(string)
		if !ok {
			return fmt.Errorf("%v stands where a member's name should", tok)
		}
		if err := member(name); err != nil {
			return err
		}
	}
	return d.delim('}')
}

func (d *listDecoder) delim(want json.Delim) error {
	tok, err := d.dec.Token()
	if err != nil {
		return err
	}
	if tok != want {
		return fmt.Errorf("%v stands where %v should", tok, want)
	}
	return nil
}
