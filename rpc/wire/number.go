package wire

import (
	"encoding/json"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// ParseUint reads a number from 0 to most: decimal digits, or 0x and hexadecimal digits. It has no
// sign, no underscores and no octal form, so that 010 is ten everywhere, as in a filter.
func ParseUint(s string, most uint64) (n uint64, ok bool) {
	base := 10
	if digits, hex := strings.CutPrefix(strings.ToLower(s), "0x"); hex {
		s, base = digits, 16
	}
	n, err := strconv.ParseUint(s, base, 64)
	return n, err == nil && n <= most
}

// number returns a number or the text of one as a json.Number: a whole one in plain decimal.
func number(tree any) (json.Number, bool) {
	switch v := tree.(type) {
	case json.Number:
		return plain(v.String())
	case string:
		return textNumber(v)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return "", false
		}
		return plain(strconv.FormatFloat(v, 'g', -1, 64))
	}
	v := reflect.ValueOf(tree)
	switch {
	case !v.IsValid():
		return "", false
	case v.CanInt():
		return json.Number(strconv.FormatInt(v.Int(), 10)), true
	case v.CanUint():
		return json.Number(strconv.FormatUint(v.Uint(), 10)), true
	}
	return "", false
}

// textNumber reads a number that was given as a text: decimal with an optional sign and
// fraction, or 0x and hexadecimal digits.
func textNumber(s string) (json.Number, bool) {
	if strings.HasPrefix(strings.ToLower(s), "0x") {
		u, ok := ParseUint(s, math.MaxUint64)
		return json.Number(strconv.FormatUint(u, 10)), ok
	}
	if s == "" || strings.Trim(s, "0123456789+-.eE") != "" {
		return "", false
	}
	return plain(s)
}

// plain rewrites a decimal number without exponent or empty fraction where it is whole.
func plain(s string) (json.Number, bool) {
	s = strings.TrimPrefix(s, "+")
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return json.Number(strconv.FormatInt(i, 10)), true
	}
	if u, err := strconv.ParseUint(s, 10, 64); err == nil {
		return json.Number(strconv.FormatUint(u, 10)), true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return "", false
	}
	// Below 2^53 every whole number is exact in a float64.
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return json.Number(strconv.FormatInt(int64(f), 10)), true
	}
	return json.Number(s), true
}

// normalise returns a tree with numbers and times in one form each.
func normalise(tree any) any {
	switch v := tree.(type) {
	case nil, string, bool, []byte:
		return v
	case Packed:
		return normalise(v.Unpack())
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = normalise(item)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, member := range v {
			out[name] = normalise(member)
		}
		return out
	}
	if n, ok := number(tree); ok {
		return n
	}
	return tree
}

func decodeInt(path string, tree any, into reflect.Value) error {
	n, ok := number(tree)
	if !ok {
		return mismatch(path, "a whole number", tree)
	}
	lowest := int64(math.MinInt64) >> (64 - into.Type().Bits())
	highest := int64(math.MaxInt64) >> (64 - into.Type().Bits())
	i, err := strconv.ParseInt(n.String(), 10, 64)
	switch {
	case err == nil && lowest <= i && i <= highest:
		into.SetInt(i)
		return nil
	case !whole(n):
		return mismatch(path, "a whole number", tree)
	case strings.HasPrefix(n.String(), "-"):
		return invalid(path, "%s is below %d", clip(n.String()), lowest)
	}
	return invalid(path, "%s is above %d", clip(n.String()), highest)
}

func decodeUint(path string, tree any, into reflect.Value) error {
	n, ok := number(tree)
	if !ok {
		return mismatch(path, "a whole number", tree)
	}
	highest := uint64(math.MaxUint64) >> (64 - into.Type().Bits())
	u, err := strconv.ParseUint(n.String(), 10, 64)
	switch {
	case err == nil && u <= highest:
		into.SetUint(u)
		return nil
	case !whole(n):
		return mismatch(path, "a whole number", tree)
	case strings.HasPrefix(n.String(), "-"):
		return invalid(path, "%s is below 0", clip(n.String()))
	}
	return invalid(path, "%s is above %d", clip(n.String()), highest)
}

// whole tells whether a number has no fraction, whatever its size.
func whole(n json.Number) bool {
	f, err := n.Float64()
	return err == nil && f == math.Trunc(f)
}
