package cli

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"ctd/rpc/wire"
)

// filterText joins filter words to the text form, which the daemon parses; nil where there are
// none.
func filterText(words []string) wire.Filter {
	if len(words) == 0 {
		return nil
	}
	return strings.Join(words, " ")
}

// selection tells ids from filter words: where every word is a number they name entries.
func selection(words []string) (filter wire.Filter, ids []any, err error) {
	for _, w := range words {
		id, perr := strconv.ParseUint(w, 10, 32)
		if perr == nil {
			ids = append(ids, uint32(id))
			continue
		}
		if len(ids) > 0 {
			break
		}
	}
	switch len(ids) {
	case 0:
		return filterText(words), nil, nil
	case len(words):
		return nil, ids, nil
	}
	return nil, nil, usagef("give ids or filter words, not both")
}

// pair is one key=value word.
type pair struct{ key, value string }

// pairs splits words, each of which may hold several pairs with spaces between.
func pairs(words []string) ([]pair, error) {
	var ps []pair
	for _, word := range words {
		for w := range strings.FieldsSeq(word) {
			key, value, ok := strings.Cut(w, "=")
			if !ok || key == "" || value == "" {
				return nil, usagef("%q: want key=value", w)
			}
			ps = append(ps, pair{strings.ToLower(key), value})
		}
	}
	return ps, nil
}

// tupleKeys are the members of a tuple by the names that filters use for them too.
var tupleKeys = []string{
	"src", "dst", "sport", "dport", "icmp_type", "icmp_code", "icmp_id", "gre_key", "gre_srckey",
}

// setTuple sets a tuple's member. ok is false where key names none.
func setTuple(t *wire.Tuple, p pair) (ok bool, err error) {
	switch p.key {
	case "src", "dst":
		a, perr := netip.ParseAddr(p.value)
		if perr != nil {
			return true, usagef("%s=%s: want an address", p.key, p.value)
		}
		if p.key == "src" {
			t.Src = a.String()
		} else {
			t.Dst = a.String()
		}
	case "sport":
		t.SPort, err = parse[uint16](p)
	case "dport":
		t.DPort, err = parse[uint16](p)
	case "icmp_type", "type":
		t.Type, err = parse[uint8](p)
	case "icmp_code", "code":
		t.Code, err = parse[uint8](p)
	case "icmp_id":
		t.ID, err = parse[uint16](p)
	case "gre_key", "key":
		t.Key, err = parse[uint16](p)
	case "gre_srckey", "srckey":
		t.SrcKey, err = parse[uint16](p)
	default:
		return false, nil
	}
	return true, err
}

// parse reads an unsigned number, decimal or 0x.
func parse[T uint8 | uint16 | uint32](p pair) (*T, error) {
	n, ok := wire.ParseUint(p.value, uint64(^T(0)))
	if !ok {
		return nil, usagef("%s=%s: want a number from 0 to %d", p.key, p.value, ^T(0))
	}
	v := T(n)
	return &v, nil
}

// unknownKey names the nearest key that there is.
func unknownKey(key string, known []string) error {
	u := usagef("unknown key %q", key)
	if near := wire.Nearest(key, known); near != "" {
		u.message += fmt.Sprintf(", did you mean %q?", near)
	}
	u.hint = "known here: " + strings.Join(known, " ")
	return u
}

// selectorKeys are the keys of selector.
func selectorKeys() []string {
	keys := append([]string{"id", "family", "proto", "zone"}, tupleKeys...)
	for _, k := range tupleKeys {
		keys = append(keys, "reply_"+k)
	}
	return keys
}

// selector reads which flow is meant: an id alone, or pairs of id, proto, zone and a tuple's
// members; those of the reply direction begin with reply_.
func selector(words []string) (any, error) {
	if len(words) == 1 {
		if id, err := strconv.ParseUint(words[0], 10, 32); err == nil {
			return uint32(id), nil
		}
	}
	ps, err := pairs(words)
	if err != nil {
		return nil, err
	}
	var sel wire.Selector
	for _, p := range ps {
		if err := setSelector(&sel, p); err != nil {
			return nil, err
		}
	}
	return sel, nil
}

func setSelector(sel *wire.Selector, p pair) error {
	switch p.key {
	case "id":
		id, err := parse[uint32](p)
		if err != nil {
			return err
		}
		sel.ID = *id
		return nil
	case "family":
		sel.Family = p.value
		return nil
	case "proto", "protocol":
		sel.Protocol = p.value
		return nil
	case "zone":
		zone, err := parse[uint16](p)
		if err != nil {
			return err
		}
		sel.Zone = *zone
		return nil
	}
	t, key := &sel.Orig, p.key
	if k, ok := strings.CutPrefix(p.key, "reply_"); ok {
		t, key = &sel.Reply, k
	}
	if *t == nil {
		*t = &wire.Tuple{}
	}
	ok, err := setTuple(*t, pair{key, p.value})
	if !ok {
		return unknownKey(p.key, selectorKeys())
	}
	return err
}

// seconds reads a time: a number of seconds, or 90s, 10m, 1h30m, 5d.
func seconds(text string) (uint32, error) {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return uint32(n), nil
	}
	rest, total := text, time.Duration(0)
	if days, after, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, badTime(text)
		}
		rest, total = after, time.Duration(n)*24*time.Hour
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 {
			return 0, badTime(text)
		}
		total += d
	}
	n := uint64(total / time.Second)
	if text == "" || total%time.Second != 0 || n > uint64(^uint32(0)) {
		return 0, badTime(text)
	}
	return uint32(n), nil
}

func badTime(text string) error {
	return usagef("%q is no time: want seconds, or such as 90s, 10m, 1h30m, 5d", text)
}

// mark reads a mark: a number, or value/mask, which stays text.
func mark(text string) (any, error) {
	value, mask, masked := strings.Cut(text, "/")
	n, ok := wire.ParseUint(value, math.MaxUint32)
	if ok && masked {
		_, ok = wire.ParseUint(mask, math.MaxUint32)
	}
	if !ok {
		return nil, usagef("mark %q: want a number or value/mask, e.g. 0x10/0xff", text)
	}
	if masked {
		return text, nil
	}
	return uint32(n), nil
}

// labels reads label numbers: 1,2 as a list of numbers, +3,-4 as texts that set and clear one.
func labels(text string) ([]any, error) {
	list := []any{}
	if text == "" {
		return list, nil
	}
	for l := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseUint(strings.TrimLeft(l, "+-"), 10, 8)
		if err != nil || n > 127 || len(l) > 1 && strings.ContainsAny(l[1:], "+-") {
			return nil, usagef("label %q: want a number from 0 to 127, with + or - before it to set or clear that one", l)
		}
		if l[0] == '+' || l[0] == '-' {
			list = append(list, l)
		} else {
			list = append(list, int(n))
		}
	}
	return list, nil
}

// splitList splits texts at commas and drops what is empty.
func splitList(texts []string) []string {
	var out []string
	for _, t := range texts {
		for part := range strings.SplitSeq(t, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}

// decodeInto decodes a result that was kept as bytes.
func decodeInto(raw json.RawMessage, into any) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("decode result: %w", err)
	}
	return nil
}
