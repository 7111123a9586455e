package server

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestConfigCheck(t *testing.T) {
	pair := newAuthority(t, "ca").server(t, "server", "localhost")
	for name, c := range map[string]struct {
		cfg  Config
		want string // in the error; empty for none
	}{
		"defaults":            {Config{Socket: DefaultSocket, Listen: []string{DefaultListen}}, ""},
		"socket only":         {Config{Socket: "ctd.sock"}, ""},
		"longest socket":      {Config{Socket: strings.Repeat("s", maxSocketPath)}, ""},
		"socket too long":     {Config{Socket: strings.Repeat("s", maxSocketPath+1)}, "at most 107"},
		"no socket":           {Config{Listen: []string{DefaultListen}}, "socket: "},
		"negative body":       {Config{Socket: "s", MaxBody: -1}, "max_body: "},
		"body of a byte":      {Config{Socket: "s", MaxBody: 1}, ""},
		"localhost":           {Config{Socket: "s", Listen: []string{"LocalHost:1"}}, ""},
		"IPv6 loopback":       {Config{Socket: "s", Listen: []string{"[::1]:8420"}}, ""},
		"all of 127/8":        {Config{Socket: "s", Listen: []string{"127.9.9.9:1"}}, ""},
		"mapped loopback":     {Config{Socket: "s", Listen: []string{"[::ffff:127.0.0.1]:1"}}, ""},
		"any address":         {Config{Socket: "s", Listen: []string{"0.0.0.0:8420"}}, "nothing is encrypted"},
		"no address":          {Config{Socket: "s", Listen: []string{":8420"}}, "nothing is encrypted"},
		"second one beyond":   {Config{Socket: "s", Listen: []string{DefaultListen, "192.0.2.1:8420"}}, "192.0.2.1:8420"},
		"a name":              {Config{Socket: "s", Listen: []string{"router:8420"}}, "nothing is encrypted"},
		"insecure":            {Config{Socket: "s", Listen: []string{":8420", "router:8420"}, Insecure: true}, ""},
		"no port":             {Config{Socket: "s", Listen: []string{"127.0.0.1"}}, "want host:port"},
		"no port, insecure":   {Config{Socket: "s", Listen: []string{"127.0.0.1"}, Insecure: true}, "want host:port"},
		"http":                {Config{Socket: "s", Listen: []string{"http://127.0.0.1:1", "http://[::1]:1"}}, ""},
		"http beyond":         {Config{Socket: "s", Listen: []string{"http://0.0.0.0:1"}}, "http://0.0.0.0:1: nothing is encrypted"},
		"http beyond, asked":  {Config{Socket: "s", Listen: []string{"http://0.0.0.0:1"}, Insecure: true}, ""},
		"port too high":       {Config{Socket: "s", Listen: []string{"127.0.0.1:65536"}}, `"65536" is no port`},
		"port below 0":        {Config{Socket: "s", Listen: []string{"127.0.0.1:-1"}}, `"-1" is no port`},
		"a port's name":       {Config{Socket: "s", Listen: []string{"127.0.0.1:http"}}, `"http" is no port`},
		"empty port":          {Config{Socket: "s", Listen: []string{"127.0.0.1:"}}, `"" is no port`},
		"twice":               {Config{Socket: "s", Listen: []string{"127.0.0.1:1", "[::1]:1", "http://127.0.0.1:01"}}, "http://127.0.0.1:01 is listened on already by the entry 127.0.0.1:1"},
		"twice by name":       {Config{Socket: "s", Listen: []string{"localhost:1", "127.0.0.1:1"}}, "listened on already"},
		"twice, mapped":       {Config{Socket: "s", Listen: []string{"[::ffff:127.0.0.1]:1", "127.0.0.1:1"}}, "listened on already"},
		"in all addresses":    {Config{Socket: "s", Listen: []string{"127.0.0.1:1", ":1"}, Insecure: true}, "listened on already"},
		"all, the other way":  {Config{Socket: "s", Listen: []string{"0.0.0.0:1", "[::1]:1"}, Insecure: true}, "listened on already"},
		"any port twice":      {Config{Socket: "s", Listen: []string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:1", "127.0.0.2:1"}}, ""},
		"https without keys":  {Config{Socket: "s", Listen: []string{"https://127.0.0.1:1"}, Insecure: true}, "https needs a certificate"},
		"a path":              {Config{Socket: "s", Listen: []string{"http://127.0.0.1:1/"}}, "want host:port"},
		"another scheme":      {Config{Socket: "s", Listen: []string{"unix:///run/ctd.sock"}}, "want host:port"},
		"TLS beyond":          {Config{Socket: "s", Listen: []string{":8420", "https://router:443", "http://127.0.0.1:1"}, TLS: pair.config()}, ""},
		"TLS, but not there":  {Config{Socket: "s", Listen: []string{":8420", "http://:8421"}, TLS: pair.config()}, "http://:8421: nothing is encrypted"},
		"TLS, no such file":   {Config{Socket: "s", TLS: TLSConfig{Cert: "none.pem", Key: pair.key}}, "none.pem"},
		"loopback as a label": {Config{Socket: "s", Listen: []string{"127.0.0.1.example.com:1"}}, "nothing is encrypted"},
	} {
		wrong := c.cfg.check()
		if c.want == "" && len(wrong) > 0 || c.want != "" && (len(wrong) != 1 || !strings.Contains(wrong[0].Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, wrong, c.want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		status int
		want   string // on standard error, or output where the status is 0
	}{
		"help":              {[]string{"--help"}, 0, "ctd serve --rtsp"},
		"unknown flag":      {[]string{"--sokcet", "x"}, 2, "ctd serve --help"},
		"beyond loopback":   {[]string{"--listen", "0.0.0.0:1"}, 2, "nothing is encrypted"},
		"unknown log level": {[]string{"--log-level", "loud"}, 2, "debug"},
		"unknown rows":      {[]string{"--pyctd-rows", "table"}, 2, "struct"},
		"empty socket":      {[]string{"--socket="}, 2, "--socket"},
		"no such namespace": {[]string{"--netns", "ctd-there-is-none", "--socket", t.TempDir() + "/s", "--state-dir", t.TempDir(), "--no-listen"}, 6, "ctd-there-is-none"},
	} {
		var stdout, stderr bytes.Buffer
		args := append([]string{"--config", os.DevNull}, c.args...)
		status := Command(t.Context(), args, "1.2.3", &stdout, &stderr)
		text := stderr.String()
		if status == 0 {
			text = stdout.String()
		}
		if status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s: status %d, %q, want %d and %q", name, status, text, c.status, c.want)
		}
	}
}
