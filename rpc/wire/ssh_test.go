package wire_test

import (
	"errors"
	"strings"
	"testing"

	"ctd/rpc/wire"
)

func TestParseSSHConnection(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7 52100 198.51.100.1 22":                 "192.0.2.7:52100 198.51.100.1:22",
		"2001:db8::7 1 2001:db8::1 65535":                 "[2001:db8::7]:1 [2001:db8::1]:65535",
		"fe80::7%eth0 52100 fe80::1%eth0 22":              "[fe80::7]:52100 [fe80::1]:22",
		"::ffff:192.0.2.7 52100 ::ffff:198.51.100.1 2222": "192.0.2.7:52100 198.51.100.1:2222",
		"::ffff:192.0.2.7 52100 198.51.100.1 22":          "192.0.2.7:52100 198.51.100.1:22",
		"UNKNOWN 65535 UNKNOWN 65535":                     "",
		"":                                                "",
		"192.0.2.7 52100 198.51.100.1":                    "",
		"192.0.2.7 52100 198.51.100.1 22 ":                "",
		"192.0.2.7  52100 198.51.100.1 22":                "",
		"192.0.2.7\t52100\t198.51.100.1\t22":              "",
		"192.0.2.7 0 198.51.100.1 22":                     "",
		"192.0.2.7 65536 198.51.100.1 22":                 "",
		"192.0.2.7 +52100 198.51.100.1 22":                "",
		"192.0.2.7 052100 198.51.100.1 22":                "",
		"192.0.2.7 ssh 198.51.100.1 22":                   "",
		"router 52100 198.51.100.1 22":                    "",
		"192.0.2.7 52100 2001:db8::1 22":                  "",
		strings.Repeat("x", 1000) + " 1 192.0.2.7 22":     "",
	} {
		client, server, err := wire.ParseSSHConnection(text)
		if got := client.String() + " " + server.String(); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q: %s, %v, want %q", text, got, err, want)
		}
		var e *wire.Error
		if err != nil && (!errors.As(err, &e) || e.Code != wire.InvalidParams || e.Hint == "" || len(e.Message) > 200) {
			t.Errorf("%q: %+v", text, err)
		}
	}
}
