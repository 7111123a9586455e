package server

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ctd/clients/ctdclient"
	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/helper"
	"ctd/rpc"
	"ctd/rpc/wire"
)

// configure writes a configuration file and reads it, with flags.
func configure(t testing.TB, text string, flags ...string) (Config, []string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ctd.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := parse(append([]string{"--config", name}, flags...), t.Output(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	cfg, wrong := g.configure()
	var texts []string
	for _, err := range wrong {
		texts = append(texts, strings.TrimPrefix(err.Error(), name+":"))
	}
	return cfg, texts
}

func defaultConfig() Config {
	return Config{
		Listen: []string{DefaultListen}, Socket: DefaultSocket, MaxBody: rpc.DefaultMaxBody,
		Pyctd:     rpc.PyctdConfig{Rows: "struct", Addresses: "dotted"},
		LogFormat: "text", LogLevel: "info",
		RTSP: RTSPConfig{Helper: helper.Config{
			Ports: []uint16{554, 8554, 7070}, Queue: 554, Families: []conntrack.Family{conntrack.FamilyIPv4, conntrack.FamilyIPv6},
			Interfaces: []string{}, MarkBit: 1 << 30, MaxSessions: 4096, MaxSessionsPerClient: 32,
		}},
	}
}

func TestConfigFile(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		flags []string
		want  func(*Config) // changes the defaults
	}{
		"empty":      {"", nil, func(*Config) {}},
		"no section": {"[helper]\n", nil, func(*Config) {}},
		"all": {
			`listen = ["[::1]:1", "0.0.0.0:2"]
insecure = true
socket = "/s"
netns = "router"
max_body = 1
log_format = "json"
log_level = "debug"
pyctd = {rows = "list", addresses = "integer"}
[helper.rtsp]
enabled = true
install = false
ports = [
  555,
]
queue = 65_535
families = ["ipv6"]
interfaces = ["lan0", "wan.7"]
mark_bit = 0x1
allow_other_source = true
max_sessions = 2
max_sessions_per_client = 1
`, nil, func(cfg *Config) {
				*cfg = Config{
					Listen: []string{"[::1]:1", "0.0.0.0:2"}, Insecure: true, Socket: "/s", NetNS: "router", MaxBody: 1,
					Pyctd: rpc.PyctdConfig{Rows: "list", Addresses: "integer"}, LogFormat: "json", LogLevel: "debug",
					RTSP: RTSPConfig{Enabled: true, Helper: helper.Config{
						Manual: true, Ports: []uint16{555}, Queue: 65535, Families: []conntrack.Family{conntrack.FamilyIPv6},
						Interfaces: []string{"lan0", "wan.7"}, MarkBit: 1, AllowOtherSource: true, MaxSessions: 2, MaxSessionsPerClient: 1,
					}},
				}
			},
		},
		"no TCP":              {"listen = []", nil, func(cfg *Config) { cfg.Listen = []string{} }},
		"no TCP by flag":      {`listen = ["127.0.0.1:9"]`, []string{"--no-listen"}, func(cfg *Config) { cfg.Listen = nil }},
		"a flag wins":         {`socket = "/file"`, []string{"--socket", "/flag"}, func(cfg *Config) { cfg.Socket = "/flag" }},
		"a flag mends a line": {`log_level = "loud"`, []string{"--log-level=warn"}, func(cfg *Config) { cfg.LogLevel = "warn" }},
		"rtsp by flag":        {"", []string{"--rtsp"}, func(cfg *Config) { cfg.RTSP.Enabled = true }},
		"rtsp off by flag":    {"[helper.rtsp]\nenabled = true", []string{"--rtsp=false"}, func(*Config) {}},
		"flag over true":      {"insecure = true", []string{"--insecure=false"}, func(*Config) {}},
	} {
		want := defaultConfig()
		c.want(&want)
		got, wrong := configure(t, c.text, c.flags...)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(helper.Config{})); diff != "" || wrong != nil {
			t.Errorf("%s: %q (-want +got):\n%s", name, wrong, diff)
		}
	}
}

func TestConfigFileErrors(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"syntax":               {"socket = \"a\"\nlisten = [", []string{`2: `}},
		"twice":                {"netns = \"a\"\nnetns = \"b\"", []string{"2: "}},
		"unknown":              {"\nsokcet = 1", []string{"2: sokcet: there is no such setting; did you mean socket?"}},
		"unlike anything":      {"colour = 1", []string{"1: colour: there is no such setting"}},
		"wrong case":           {"Listen = []", []string{"1: Listen: there is no such setting; did you mean listen?"}},
		"unknown in a table":   {"[helper.rtsp]\nenabled = true\nprots = [1]", []string{"3: helper.rtsp.prots: there is no such setting; did you mean ports?"}},
		"in the wrong table":   {"[helper]\nmark_bit = 1", []string{"2: helper.mark_bit: there is no such setting; did you mean helper.rtsp.mark_bit?"}},
		"unknown table":        {"[helper.rstp]\nports = [1]\nqueue = 1", []string{"1: helper.rstp: there is no such setting; did you mean rtsp?"}},
		"wrong type":           {"[helper.rtsp]\nports = \"554\"", []string{"2: helper.rtsp.ports: want a list of whole numbers from 1 to 65535"}},
		"wrong element":        {"[helper.rtsp]\n\nports = [\n  554,\n  \"8554\",\n]", []string{"3: helper.rtsp.ports: want a list of whole numbers from 1 to 65535"}},
		"port out of range":    {"helper.rtsp.ports = [65536]", []string{"1: helper.rtsp.ports: want a list of whole numbers from 1 to 65535"}},
		"negative":             {"helper.rtsp.queue = -1", []string{"1: helper.rtsp.queue: want a whole number from 1 to 65535"}},
		"text for truth":       {"insecure = \"yes\"", []string{"1: insecure: want true or false"}},
		"number for text":      {"socket = 1", []string{"1: socket: want a text in quotes"}},
		"number for a table":   {"pyctd = 1", []string{"1: pyctd: want a table"}},
		"table for a list":     {"[listen]\na = 1", []string{"1: listen: want a list of texts in quotes"}},
		"tables for a table":   {"[[pyctd]]\nrows = \"list\"", []string{"1: pyctd: want a table"}},
		"word":                 {"log_level = \"wran\"", []string{`1: log_level: "wran" is none of debug, info, warn, error; did you mean "warn"?`}},
		"word in a list":       {"helper.rtsp.families = [\"ipv4\", \"ip6\"]", []string{`1: helper.rtsp.families: "ip6" is none of ipv4, ipv6; did you mean "ipv6"?`}},
		"beyond loopback":      {"\n\nlisten = [\"0.0.0.0:1\"]", []string{"3: listen: 0.0.0.0:1: nothing is encrypted"}},
		"no port":              {"helper.rtsp.ports = []", []string{"1: helper.rtsp.ports: at least one is needed"}},
		"queue 0":              {"helper.rtsp.queue = 0", []string{"1: helper.rtsp.queue: 0 is not taken; leave the line out for the default"}},
		"bit 0":                {"helper.rtsp.mark_bit = 0", []string{"1: helper.rtsp.mark_bit: 0 is not taken; leave the line out for the default"}},
		"port 0":               {"helper.rtsp.ports = [0]", []string{"1: helper.rtsp.ports: 0 is none"}},
		"no sessions":          {"helper.rtsp.max_sessions = 0", []string{"1: helper.rtsp.max_sessions: 0 is not taken; leave the line out for the default"}},
		"two bits":             {"[helper.rtsp]\nmark_bit = 3", []string{"2: helper.rtsp.mark_bit: 0x3 has more than one bit"}},
		"no interface's name":  {"[helper.rtsp]\ninterfaces = [\"a b\"]", []string{"2: helper.rtsp.interfaces: "}},
		"below 0":              {"[helper.rtsp]\nmax_sessions = -1", []string{"2: helper.rtsp.max_sessions: -1 is below 0"}},
		"all that is wrong":    {"a = 1\nmax_body = \"b\"\nlog_format = \"xml\"", []string{"1: a: ", "2: max_body: ", "3: log_format: "}},
		"a date for anything":  {"netns = 2026-11-22", []string{"1: netns: want a text in quotes"}},
		"nested under a value": {"socket = {path = \"a\"}", []string{"1: socket: want a text in quotes"}},
	} {
		_, got := configure(t, c.text)
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%s: %q, want %q", name, got[i], want)
			}
		}
	}
	if _, got := configure(t, "listen = []", "--listen", "0.0.0.0:1"); len(got) != 1 || !strings.HasPrefix(got[0], "--listen: 0.0.0.0:1: nothing") {
		t.Errorf("a flag's error: %q", got)
	}
}

func TestConfigFileMissing(t *testing.T) {
	if _, wrong := readConfigFile(filepath.Join(t.TempDir(), "none"), defaultSettings()); len(wrong) != 1 {
		t.Errorf("a file that was named: %v", wrong)
	}
	if _, err := os.Stat(DefaultConfigFile); err == nil {
		t.Skip(DefaultConfigFile + " is there")
	}
	if _, wrong := readConfigFile("", defaultSettings()); wrong != nil {
		t.Errorf("none: %v", wrong)
	}
}

func TestConfigFileBound(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ctd.toml")
	for size, ok := range map[int]bool{maxConfigFile: true, maxConfigFile + 1: false} {
		if err := os.WriteFile(name, bytes.Repeat([]byte("\n"), size), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, wrong := readConfigFile(name, defaultSettings()); (wrong == nil) != ok {
			t.Errorf("%d bytes: %v", size, wrong)
		}
	}
}

// TestExampleConfig: the example is the defaults, and so is what it has commented out, which is every
// setting.
func TestExampleConfig(t *testing.T) {
	text, err := os.ReadFile("../deploy/ctd.toml")
	if err != nil {
		t.Fatal(err)
	}
	uncommented := regexp.MustCompile(`(?m)^#([a-z\[])`).ReplaceAllString(string(text), "$1")
	for _, text := range []string{string(text), uncommented} {
		got, wrong := configure(t, text)
		if diff := cmp.Diff(defaultConfig(), got); diff != "" || wrong != nil {
			t.Errorf("%q (-want +got):\n%s", wrong, diff)
		}
	}
	file := configFile{name: "ctd.toml"}
	if wrong := file.decode(uncommented, defaultSettings()); wrong != nil {
		t.Fatal(wrong)
	}
	for _, s := range allSettings() {
		if _, ok := file.find(s.path); !ok {
			t.Errorf("it lacks %s", s.key())
		}
	}
}

func TestCheckConfigCommand(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"good.toml": "netns = \"a\"\n", "bad.toml": "nents = \"a\"\nlog_level = 1\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		args        []string
		status      int
		out, errors string // parts
	}{
		"good":    {[]string{dir + "/good.toml"}, 0, "ok\n", ""},
		"bad":     {[]string{dir + "/bad.toml"}, 2, "", "ctd: check-config: " + dir + "/bad.toml:1: nents: there is no such setting; did you mean netns?\nctd: check-config: " + dir + "/bad.toml:2: log_level: want"},
		"missing": {[]string{dir + "/none.toml"}, 2, "", "no such file"},
		"a flag":  {[]string{"--loud"}, 2, "", "hint: ctd check-config --help"},
		"help":    {[]string{"--help"}, 0, "Examples:", ""},
		"empty":   {[]string{os.DevNull}, 0, "ok\n", ""},
	} {
		var stdout, stderr bytes.Buffer
		status := CheckConfigCommand(c.args, &stdout, &stderr)
		if status != c.status || !strings.Contains(stdout.String(), c.out) || !strings.Contains(stderr.String(), c.errors) || c.errors == "" && stderr.Len() > 0 {
			t.Errorf("%s: status %d, %q, %q", name, status, stdout.String(), stderr.String())
		}
	}
}

// TestDaemonWithConfig: the daemon reads its file, flags win, and with the helper enabled it serves whether
// that can start here or not, and leaves nothing behind.
func TestDaemonWithConfig(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	dir := t.TempDir()
	file := filepath.Join(dir, "ctd.toml")
	text := "listen = [\"192.0.2.1:1\"]\ninsecure = true\nmax_body = 200\n[helper.rtsp]\nenabled = true\nports = [5554]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, ns, dir, "--config", file)
	c := p.client(ctdclient.Config{})
	st, err := c.HelperStatus(t.Context())
	if err != nil || !st.Enabled || st.Running == (st.Reason != "") || !slices.Equal(st.Settings.Ports, []uint16{5554}) {
		t.Errorf("helper.status: %+v, %v", st, err)
	}
	for _, form := range []string{"nft", "iptables"} {
		if rules, err := c.HelperRules(t.Context(), form); err != nil || rules.Rules == "" {
			t.Errorf("helper.rules %s: %+v, %v", form, rules, err)
		}
	}
	if _, err := c.Count(t.Context(), wire.CountParams{Filter: strings.Repeat(" ", 200)}); err == nil {
		t.Error("max_body of the file isn't kept to")
	}
	p.end(syscall.SIGTERM)
	if p.status != nil {
		t.Errorf("it ended with %v\n%s", p.status, p.log.String())
	}
	if tables := ns.Exec("nft", "list", "tables"); strings.Contains(tables, helper.TableName) {
		t.Errorf("left behind: %s", tables)
	}
}
