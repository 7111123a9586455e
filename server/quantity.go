package server

import (
	"errors"
	"fmt"
	"time"

	"ctd/conntrack"
)

// byteSize is a setting that counts bytes: a number, or a text with K, M, G or T.
type byteSize int64

// UnmarshalTOML is toml.Unmarshaler's.
func (b *byteSize) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case int64:
		*b = byteSize(v)
		return nil
	case string:
		n, ok := conntrack.ParseBytes(v)
		if ok {
			*b = byteSize(n)
			return nil
		}
	}
	return errors.New("no size")
}

// MarshalText is encoding.TextMarshaler's.
func (b byteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String returns the number with the largest unit that leaves a whole one.
func (b byteSize) String() string {
	for _, u := range []struct {
		name  string
		scale byteSize
	}{{"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}} {
		if b > 0 && b%u.scale == 0 {
			return fmt.Sprintf("%d%s", int64(b/u.scale), u.name)
		}
	}
	return fmt.Sprint(int64(b))
}

// span is a setting that is a time: a number of seconds, or a text with s, m, h or d.
type span time.Duration

// UnmarshalTOML is toml.Unmarshaler's.
func (d *span) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case int64:
		if v < 0 || v > int64(maxSpan/time.Second) {
			return errors.New("no time")
		}
		*d = span(time.Duration(v) * time.Second)
		return nil
	case string:
		n, ok := conntrack.ParseSeconds(v)
		if ok {
			*d = span(n)
			return nil
		}
	}
	return errors.New("no time")
}

// maxSpan is the longest time.
const maxSpan = 1<<63 - 1

// MarshalText is encoding.TextMarshaler's.
func (d span) MarshalText() ([]byte, error) {
	for _, u := range []struct {
		name  string
		scale time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}} {
		if d > 0 && time.Duration(d)%u.scale == 0 {
			return fmt.Appendf(nil, "%d%s", time.Duration(d)/u.scale, u.name), nil
		}
	}
	return fmt.Appendf(nil, "%d", time.Duration(d)/time.Second), nil
}
