package server

import (
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

func TestQuantities(t *testing.T) {
	for text, want := range map[string]struct {
		size int64 // -1: none
		span time.Duration
	}{
		`0`:                    {0, 0},
		`"64M"`:                {64 << 20, -1},
		`"1.5k"`:               {1536, -1},
		`90`:                   {90, 90 * time.Second},
		`"90"`:                 {90, 90 * time.Second},
		`"90d"`:                {-1, 90 * 24 * time.Hour},
		`"1h30m"`:              {-1, 90 * time.Minute},
		`-1`:                   {-1, -1},
		`1.5`:                  {-1, -1},
		`""`:                   {-1, -1},
		`"64MB"`:               {-1, -1},
		`true`:                 {-1, -1},
		`9223372036`:           {9223372036, 9223372036 * time.Second},
		`9223372037`:           {9223372037, -1},
		`"8388607T"`:           {8388607 << 40, -1},
		`"8388608T"`:           {-1, -1},
		`"106751d"`:            {-1, 106751 * 24 * time.Hour},
		`"106752d"`:            {-1, -1},
		`[1]`:                  {-1, -1},
		`1979-05-27T07:32:00Z`: {-1, -1},
	} {
		var size struct{ V byteSize }
		if err := toml.Unmarshal([]byte("V = "+text), &size); err != nil {
			size.V = -1
		}
		var long struct{ V span }
		if err := toml.Unmarshal([]byte("V = "+text), &long); err != nil {
			long.V = -1
		}
		if int64(size.V) != want.size || time.Duration(long.V) != want.span {
			t.Errorf("%s: %d bytes, %v, want %d, %v", text, size.V, time.Duration(long.V), want.size, want.span)
		}
	}
	for _, c := range []struct {
		v    any
		want string
	}{
		{byteSize(0), `"0"`},
		{byteSize(1000), `"1000"`},
		{byteSize(3 << 10), `"3K"`},
		{byteSize(64 << 20), `"64M"`},
		{byteSize(2 << 30), `"2G"`},
		{span(0), `"0"`},
		{span(90 * time.Second), `"90"`},
		{span(90 * time.Minute), `"90m"`},
		{span(36 * time.Hour), `"36h"`},
		{span(90 * 24 * time.Hour), `"90d"`},
	} {
		b, err := toml.Marshal(map[string]any{"v": c.v})
		if got := strings.TrimSpace(string(b)); err != nil || got != "v = "+c.want {
			t.Errorf("%v: %s, %v, want %s", c.v, got, err, c.want)
		}
	}
}
