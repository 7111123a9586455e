package rpc

import (
	"encoding/json"
	"maps"
	"slices"
	"unicode/utf8"

	"ctd/rpc/wire"
)

const (
	// maxRecordedParams is how many bytes of a call's parameters a record has, about.
	maxRecordedParams = 4096
	// maxRecordedText is how many bytes of one text.
	maxRecordedText = 512
)

// recordedParams returns parameters as JSON, as far as a record has room for them; truncated tells that
// texts or lists are cut. The first secrets of them are left out.
func recordedParams(p Params, secrets int) (text json.RawMessage, truncated bool) {
	r := &paramRecorder{room: maxRecordedParams}
	p.Args = p.Args[min(secrets, len(p.Args)):]
	var v any
	switch {
	case p.Named != nil:
		v = r.cut(p.Named)
	case len(p.Args) > 0:
		v = r.cut(p.Args)
	default:
		return nil, false
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, true // a number that JSON doesn't have, as XML-RPC may bring
	}
	return b, r.truncated
}

// paramRecorder copies a tree as far as there is room.
type paramRecorder struct {
	room      int
	truncated bool
}

func (r *paramRecorder) cut(v any) any {
	switch v := wire.Unpack(v).(type) {
	case map[string]any:
		members := make(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if !r.fits(len(name) + 4) {
				break
			}
			members[wire.MaskTokens(name)] = r.cut(v[name])
		}
		return members
	case []any:
		items := []any{}
		for _, item := range v {
			if !r.fits(1) {
				break
			}
			items = append(items, r.cut(item))
		}
		return items
	case string:
		return r.text(v)
	case []byte:
		return r.text(string(v))
	case json.Number:
		if len(v) > maxRecordedText || !r.fits(len(v)) {
			return r.text(v.String())
		}
		return v
	}
	r.fits(8)
	return v
}

func (r *paramRecorder) text(s string) string {
	s = wire.MaskTokens(s)
	most := max(0, min(maxRecordedText, r.room))
	if len(s) > most {
		r.truncated = true
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	r.room -= len(s) + 2
	return s
}

func (r *paramRecorder) fits(n int) bool {
	if r.room < n {
		r.truncated = true
		return false
	}
	r.room -= n
	return true
}
