package wire_test

import (
	"testing"

	"ctd/rpc/wire"
)

func TestParseProgress(t *testing.T) {
	for text, want := range map[string]wire.Progress{
		"0/0":                   {},
		"0/7":                   {Total: 7},
		"2048/200000":           {Done: 2048, Total: 200000},
		"7/7":                   {Done: 7, Total: 7},
		"8/7":                   {Done: -1},
		"-1/7":                  {Done: -1},
		"7":                     {Done: -1},
		"":                      {Done: -1},
		"1/2/3":                 {Done: -1},
		"1e3/2000":              {Done: -1},
		" 1/2":                  {Done: -1},
		"1/9999999999999999999": {Done: -1},
	} {
		got, ok := wire.ParseProgress(text)
		if ok != (want.Done >= 0) || ok && (got != want || got.String() != text) {
			t.Errorf("%q: %v, %v, want %v", text, got, ok, want)
		}
	}
}
