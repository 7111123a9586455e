package ctdclient

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/kolo/xmlrpc"

	"ctd/rpc/wire"
)

// callXML makes a call by XML-RPC. kolo/xmlrpc encodes and decodes; the HTTP is ours, because
// its client knows no context.
func (c *Client) callXML(ctx context.Context, method string, params, result any) error {
	body, err := encodeXML(method, params)
	if err != nil {
		return fmt.Errorf("%s: encode parameters: %w", method, err)
	}
	rc, err := c.post(ctx, method, "/RPC2", "text/xml", body)
	if err != nil {
		return err
	}
	defer rc.Close()
	text, err := io.ReadAll(rc)
	if err != nil {
		return c.broken(ctx, method, err)
	}
	// The decoder stops at the first value, so that it doesn't see that the end is missing.
	if !bytes.HasSuffix(bytes.TrimSpace(text), []byte("</methodResponse>")) {
		return c.broken(ctx, method, io.ErrUnexpectedEOF)
	}
	if isFault(text) {
		return decodeFault(text)
	}
	var tree any
	if err := xmlrpc.Response(text).Unmarshal(&tree); err != nil {
		return c.broken(ctx, method, err)
	}
	if result == nil {
		return nil
	}
	if raw, ok := result.(*json.RawMessage); ok {
		return rawFromTree(method, tree, raw)
	}
	if err := wire.Decode(tree, result, false); err != nil {
		return fmt.Errorf("%s: decode result: %w", method, err)
	}
	return nil
}

// rawFromTree gives an XML-RPC result the form that JSON-RPC would have: numbers above 31 bits,
// which came as text, become numbers where the method's result is known. A member that did not come
// is not there either.
func rawFromTree(method string, tree any, raw *json.RawMessage) error {
	v := resultOf(method)
	if v == nil {
		b, err := json.Marshal(tree)
		*raw = b
		return err
	}
	if err := wire.Decode(tree, v, false); err != nil {
		return fmt.Errorf("%s: decode result: %w", method, err)
	}
	typed, err := json.Marshal(v)
	if err != nil {
		return err
	}
	*raw, err = keepWhatCame(typed, tree)
	return err
}

// keepWhatCame returns a value's JSON without the members that didn't come, in the contract's order.
func keepWhatCame(typed json.RawMessage, came any) (json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(typed))
	switch came := came.(type) {
	case map[string]any:
		var out bytes.Buffer
		if _, err := d.Token(); err != nil { // the brace
			return nil, err
		}
		rest := maps.Clone(came)
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			member, ok := came[name.(string)]
			if err := appendMember(&out, d, name, member, ok); err != nil {
				return nil, err
			}
			delete(rest, name.(string))
		}
		// What is empty came, but the contract's struct leaves it out.
		for _, name := range slices.Sorted(maps.Keys(rest)) {
			value, err := json.Marshal(rest[name])
			if err != nil {
				return nil, err
			}
			writeMember(&out, name, value)
		}
		return []byte("{" + out.String() + "}"), nil
	case []any:
		var items []json.RawMessage
		kept := []json.RawMessage{}
		if err := d.Decode(&items); err != nil || len(items) != len(came) {
			return typed, err
		}
		for i := range items {
			item, err := keepWhatCame(items[i], came[i])
			if err != nil {
				return nil, err
			}
			kept = append(kept, item)
		}
		return json.Marshal(kept)
	}
	return typed, nil
}

// appendMember takes a member's value from d, and appends the member if it came.
func appendMember(out *bytes.Buffer, d *json.Decoder, name, came any, ok bool) error {
	var value json.RawMessage
	if err := d.Decode(&value); err != nil || !ok {
		return err
	}
	value, err := keepWhatCame(value, came)
	if err != nil {
		return err
	}
	writeMember(out, name, value)
	return nil
}

func writeMember(out *bytes.Buffer, name any, value json.RawMessage) {
	if out.Len() > 0 {
		out.WriteByte(',')
	}
	fmt.Fprintf(out, "%q:%s", name, value)
}

// resultOf returns a new result of a method, nil for a method that isn't known here.
func resultOf(method string) any {
	switch method {
	case "conntrack.list":
		return new(wire.ListResult)
	case "conntrack.get", "conntrack.create":
		return new(wire.Flow)
	case "conntrack.count":
		return new(wire.CountResult)
	case "conntrack.kill":
		return new(wire.KillResult)
	case "conntrack.reconcile":
		return new(wire.ReconcileResult)
	case "conntrack.blocks":
		return new(wire.BlocksResult)
	case "conntrack.unblock":
		return new(wire.UnblockResult)
	case "conntrack.modify":
		return new(wire.ModifyResult)
	case "conntrack.export":
		return new(wire.ExportResult)
	case "conntrack.import":
		return new(wire.ImportResult)
	case "conntrack.flush", "expect.flush":
		return new(wire.FlushResult)
	case "conntrack.stats":
		return new(wire.StatsResult)
	case "expect.list":
		return new(wire.ExpectListResult)
	case "expect.get", "expect.create":
		return new(wire.Expect)
	case "expect.kill":
		return new(wire.ExpectKillResult)
	case "server.info":
		return new(wire.InfoResult)
	case "helper.status":
		return new(wire.HelperStatusResult)
	case "helper.sessions":
		return new(wire.HelperSessionsResult)
	case "helper.rules":
		return new(wire.HelperRulesResult)
	case "server.doctor":
		return new(wire.DoctorResult)
	case "server.whoami":
		return new(wire.WhoamiResult)
	case "server.audit":
		return new(wire.AuditResult)
	}
	return nil
}

// isFault tells whether a response is a fault: the first element inside methodResponse says.
func isFault(text []byte) bool {
	dec := xml.NewDecoder(bytes.NewReader(text))
	for depth := 0; ; {
		tok, err := dec.Token()
		if err != nil {
			return false
		}
		if start, ok := tok.(xml.StartElement); ok {
			if depth++; depth == 2 {
				return start.Name.Local == "fault"
			}
		}
	}
}

// decodeFault turns a fault into a *wire.Error. Beside faultCode and faultString the server may
// add code, hint and errno, as in JSON-RPC's data.
func decodeFault(text []byte) error {
	var tree any
	if err := xmlrpc.Response(text).Unmarshal(&tree); err != nil {
		return &wire.Error{Code: wire.Internal, Message: "the server's fault can't be read: " + err.Error()}
	}
	m, _ := tree.(map[string]any)
	number, ok := m["faultCode"].(int64)
	if !ok {
		return &wire.Error{Code: wire.Internal, Message: "the server's fault can't be read: " + errNoFault.Error()}
	}
	str := func(name string) string { s, _ := m[name].(string); return s }
	e := &wire.Error{
		Code: wire.Code(str("code")), Message: str("faultString"), Hint: str("hint"), Errno: str("errno"),
	}
	if e.Code == "" {
		e.Code = wire.CodeOf(int(number))
	}
	return e
}

// encodeXML encodes a call. The parameters go through their JSON form, so that both protocols
// send the same members.
func encodeXML(method string, params any) ([]byte, error) {
	if params == nil {
		params = wire.Empty{} // kolo/xmlrpc would write a <param> without a value
	}
	text, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, err
	}
	tree, err = xmlTree(tree)
	if err != nil {
		return nil, err
	}
	return xmlrpc.EncodeMethodCall(escapeXML(method), tree)
}

// xmlTree turns a JSON tree into what kolo/xmlrpc encodes rightly: it writes every integer as
// <int> whatever its size, copies names unescaped, and writes nil as an empty string.
func xmlTree(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		return xmlNumber(v)
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, member := range v {
			if member == nil {
				continue // an absent member says the same
			}
			m, err := xmlTree(member)
			if err != nil {
				return nil, err
			}
			out[escapeXML(name)] = m
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, element := range v {
			if element == nil {
				return nil, errors.New("null in a list can't be said in XML-RPC")
			}
			e, err := xmlTree(element)
			if err != nil {
				return nil, err
			}
			out[i] = e
		}
		return out, nil
	}
	return v, nil
}

// xmlNumber keeps to <int> what fits in 32 signed bits; a larger integer goes as decimal text.
func xmlNumber(n json.Number) (any, error) {
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		if i >= math.MinInt32 && i <= math.MaxInt32 {
			return i, nil
		}
		return n.String(), nil
	}
	if _, err := strconv.ParseUint(n.String(), 10, 64); err == nil {
		return n.String(), nil
	}
	return n.Float64()
}

func escapeXML(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
