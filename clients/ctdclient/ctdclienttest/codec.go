package ctdclienttest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/kolo/xmlrpc"

	"ctd/rpc/wire"
)

func readJSON(body []byte) (Call, error) {
	var req struct {
		Version string         `json:"jsonrpc"`
		Method  string         `json:"method"`
		Params  map[string]any `json:"params"`
		ID      *int           `json:"id"`
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&req); err != nil {
		return Call{}, err
	}
	if req.Version != "2.0" || req.ID == nil || req.Method == "" {
		return Call{}, errors.New("no JSON-RPC 2.0 call")
	}
	return Call{Method: req.Method, Params: req.Params, Protocol: "json"}, nil
}

var methodName = regexp.MustCompile(`<methodName>([^<]+)</methodName>`)

func readXML(body []byte) (Call, error) {
	var whole struct{}
	if err := xml.Unmarshal(body, &whole); err != nil {
		return Call{}, err
	}
	name := methodName.FindSubmatch(body)
	if name == nil {
		return Call{}, errors.New("no methodName")
	}
	for _, n := range regexp.MustCompile(`<(?:int|i4)>(-?\d+)</`).FindAllSubmatch(body, -1) {
		if _, err := strconv.ParseInt(string(n[1]), 10, 32); err != nil {
			return Call{}, fmt.Errorf("an int of more than 32 bits: %w", err)
		}
	}
	call := Call{Method: string(name[1]), Protocol: "xml"}
	var tree any
	if err := xmlrpc.Response(body).Unmarshal(&tree); err != nil {
		return Call{}, err
	}
	params, ok := tree.(map[string]any)
	if !ok {
		return Call{}, fmt.Errorf("the parameter is a %T", tree)
	}
	call.Params = params
	return call, nil
}

// writeXML writes an answer with the daemon's rule for numbers.
func writeXML(w io.Writer, result any, rpcErr *wire.Error) {
	if rpcErr != nil {
		fmt.Fprintf(w, `<?xml version="1.0"?><methodResponse><fault>`)
		writeValue(w, map[string]any{"faultCode": json.Number(strconv.Itoa(rpcErr.Code.Number())), "faultString": rpcErr.Message})
		fmt.Fprint(w, "</fault></methodResponse>\n")
		return
	}
	text, err := json.Marshal(result)
	if err != nil {
		panic(err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		panic(err)
	}
	fmt.Fprint(w, `<?xml version="1.0" encoding="UTF-8"?><methodResponse><params><param>`)
	writeValue(w, tree)
	fmt.Fprint(w, "</param></params></methodResponse>\n")
}

func writeValue(w io.Writer, v any) {
	fmt.Fprint(w, "<value>")
	defer fmt.Fprint(w, "</value>")
	switch v := v.(type) {
	case map[string]any:
		fmt.Fprint(w, "<struct>")
		for _, name := range slices.Sorted(maps.Keys(v)) {
			fmt.Fprintf(w, "<member><name>%s</name>", name)
			writeValue(w, v[name])
			fmt.Fprint(w, "</member>")
		}
		fmt.Fprint(w, "</struct>")
	case []any:
		fmt.Fprint(w, "<array><data>")
		for _, e := range v {
			writeValue(w, e)
		}
		fmt.Fprint(w, "</data></array>")
	case json.Number:
		if _, err := strconv.ParseInt(v.String(), 10, 32); err == nil {
			fmt.Fprintf(w, "<int>%s</int>", v)
		} else if _, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			fmt.Fprintf(w, "<string>%s</string>", v)
		} else {
			fmt.Fprintf(w, "<double>%s</double>", v)
		}
	case bool:
		fmt.Fprintf(w, "<boolean>%d</boolean>", map[bool]int{true: 1}[v])
	case string:
		fmt.Fprint(w, "<string>")
		_ = xml.EscapeText(w, []byte(v))
		fmt.Fprint(w, "</string>")
	default:
		panic(fmt.Sprintf("%T in a result", v))
	}
}
