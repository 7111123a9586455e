package rpc

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"time"
)

// dateLayouts are the forms of dateTime.iso8601: the specification's, and with dashes, each
// with or without a zone. Fractions of a second are read with any of them.
var dateLayouts = [...]string{
	"20060102T15:04:05", "20060102T15:04:05Z07:00", "20060102T15:04:05Z0700",
	"2006-01-02T15:04:05", "2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700",
}

// parseScalar reads the text of an element of a scalar type: int64 or uint64, bool, string,
// float64, time.Time, []byte or nil. An <int> may be longer than 32 bits, because clients send
// such; what receives it checks the range.
func parseScalar(typ, text string) (any, bool) {
	if typ == "string" {
		return text, true
	}
	text = strings.TrimSpace(text)
	switch typ {
	case "int", "i1", "i2", "i4", "i8":
		return parseXMLInt(text)
	case "boolean":
		return text == "1", text == "0" || text == "1"
	case "double", "float":
		if text == "" || strings.Trim(text, "0123456789+-.eE") != "" {
			return nil, false // no hexadecimal, nan or inf
		}
		f, err := strconv.ParseFloat(text, 64)
		return f, err == nil && !math.IsInf(f, 0)
	case "dateTime.iso8601", "dateTime":
		for _, layout := range dateLayouts {
			if t, err := time.Parse(layout, text); err == nil {
				return t, true
			}
		}
		return nil, false
	case "base64":
		text = strings.Join(strings.Fields(text), "")
		b, err := base64.StdEncoding.DecodeString(text)
		return b, err == nil
	case "nil":
		return nil, text == ""
	}
	return nil, false
}

func parseXMLInt(text string) (any, bool) {
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return i, true
	}
	u, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 10, 64)
	return u, err == nil
}
