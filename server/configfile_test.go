package server

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ctd/auth"
	"ctd/auth/audit"
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
	read, wrong := g.load()
	var texts []string
	for _, err := range wrong {
		texts = append(texts, strings.TrimPrefix(err.Error(), name+":"))
	}
	return read.cfg, texts
}

// Hashes of a password and a token that nobody knows.
const (
	testHash      = "$2b$10$oA.XFUoQR7h6fXzO9FIgAuA8.zudNF5xDJ8/YR39UACH.IIQvlJt6"
	testTokenHash = "5beed6438f4462c480c474904e8cc45d647d08823ffbb71964bbe69c40e3dbe3"
)

func defaultConfig() Config {
	authConfig := auth.DefaultConfig()
	authConfig.Passwords.Files, authConfig.Proxy.Addresses, authConfig.Proxy.UnixUsers = []string{}, []string{}, []string{}
	authConfig.UsersFile, authConfig.TokensFile = "/var/lib/ctd/users.toml", "/var/lib/ctd/tokens.toml"
	return Config{
		Listen: []string{DefaultListen}, Socket: DefaultSocket, StateDir: DefaultStateDir, MaxBody: rpc.DefaultMaxBody,
		Auth: authConfig, Scope: "either", Hosts: []string{}, Origins: []string{},
		Limits:    Limits{Requests: 64, RequestsPerCaller: 16},
		Audit:     audit.Config{To: audit.ToFile, File: "/var/lib/ctd/audit.log", MaxSize: 64 << 20, MaxFiles: 10, MaxAge: 90 * 24 * time.Hour},
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
state_dir = "/state"
run_as = "ctd"
max_body = 1
scope = "orig"
hosts = ["router.example.org"]
log_format = "json"
log_level = "debug"
pyctd = {rows = "list", addresses = "integer"}
token = [{name = "t", hash = "` + testTokenHash + `", role = "admin", expires = "2099-12-31"}]
[cors]
origins = ["https://noc.example.org:8443"]
[limits]
rate = 600
kills_per_minute = 60
requests = 1
requests_per_caller = 2
[audit]
to = "journald"
file = "/a"
max_size = 65_536
max_files = 1
max_age = "1h30m"
[[user]]
name = "jane"
password = "` + testHash + `"
role = "operator"
networks = ["10.3.0.0/16"]
rate = 1
kills_per_minute = 2
[[user]]
name = "joe"
role = "viewer"
[[unix]]
group = "root"
role = "viewer"
[passwords]
role = "viewer"
[oidc]
issuer = "https://sso.example.org"
audience = "ctd"
name_claim = "n"
role_claim = "r"
[[oidc.grant]]
value = "v"
role = "admin"
[proxy]
addresses = ["192.0.2.7"]
unix_users = ["root"]
header = "X-User"
role = "viewer"
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
					StateDir: "/state", RunAs: "ctd", Scope: "orig", Hosts: []string{"router.example.org"},
					Origins: []string{"https://noc.example.org:8443"},
					Limits:  Limits{Calls: 600, Kills: 60, Requests: 1, RequestsPerCaller: 2},
					Audit:   audit.Config{To: audit.ToJournald, File: "/a", MaxSize: 64 << 10, MaxFiles: 1, MaxAge: 90 * time.Minute},
					Auth: auth.Config{
						Users: []auth.User{
							{
								Name: "jane", Password: testHash,
								Grant: auth.Grant{Role: "operator", Networks: []string{"10.3.0.0/16"}, Rate: 1, KillsPerMinute: 2},
							},
							{Name: "joe", Grant: auth.Grant{Role: "viewer"}},
						},
						Tokens:    []auth.Token{{Name: "t", Hash: testTokenHash, Grant: auth.Grant{Role: "admin"}, Expires: "2099-12-31"}},
						Peers:     []auth.Peer{{Group: "root", Grant: auth.Grant{Role: "viewer"}}},
						Passwords: auth.PasswordFile{Files: []string{}, Role: "viewer"},
						OIDC: auth.OIDC{
							Issuer: "https://sso.example.org", Audience: "ctd", NameClaim: "n", RoleClaim: "r",
							Grants: []auth.OIDCGrant{{Value: "v", Grant: auth.Grant{Role: "admin"}}},
						},
						Proxy:     auth.Proxy{Addresses: []string{"192.0.2.7"}, UnixUsers: []string{"root"}, Header: "X-User", Role: "viewer"},
						UsersFile: "/state/users.toml", TokensFile: "/state/tokens.toml",
					},
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
		"a table in a table":   {"[[user]]\nname = \"a\"\nrole = \"viewer\"\nlimits = 3", []string{"4: user[0].limits: there is no such setting in this table; limits is a table of its own: [limits]"}},
		"a list in a table":    {"[cors]\nuser = \"a\"", []string{"2: cors.user: there is no such setting in this table; user is a list of tables of its own: [[user]]"}},
		"no table's":           {"[tls]\nlisten = []", []string{"2: tls.listen: there is no such setting in this table; listen stands at the beginning of the file, before the first table"}},
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
		"no sessions":          {"helper.rtsp.max_sessions = 0", []string{"1: helper.rtsp.max_sessions: 0 is below 1; leave the line out for the default"}},
		"two bits":             {"[helper.rtsp]\nmark_bit = 3", []string{"2: helper.rtsp.mark_bit: 0x3 has more than one bit"}},
		"no interface's name":  {"[helper.rtsp]\ninterfaces = [\"a b\"]", []string{"2: helper.rtsp.interfaces: "}},
		"below 0":              {"[helper.rtsp]\nmax_sessions = -1", []string{"2: helper.rtsp.max_sessions: -1 is below 1"}},
		"all that is wrong":    {"a = 1\nmax_body = \"b\"\nlog_format = \"xml\"", []string{"1: a: ", "2: max_body: ", "3: log_format: "}},
		"a date for anything":  {"netns = 2026-11-22", []string{"1: netns: want a text in quotes"}},
		"unknown in a list":    {"[[user]]\nname = \"a\"\nrole = \"viewer\"\n[[user]]\nname = \"b\"\nroel = \"viewer\"\nrole = \"viewer\"", []string{"6: user[1].roel: there is no such setting; did you mean role?"}},
		"unknown in a line":    {"token = [\n  {name = \"a\", hash = \"" + testTokenHash + "\", role = \"viewer\"},\n  {name = \"b\", rloe = \"b\", hash = \"0" + testTokenHash[1:] + "\", role = \"viewer\"},\n]", []string{"3: token[1].rloe: there is no such setting; did you mean role?"}},
		"type in a list":       {"[[user]]\nname = \"a\"\nrole = \"viewer\"\nnetworks = \"10.0.0.0/8\"\n[[user]]\nname = \"b\"\nrole = \"viewer\"", []string{"4: user[0].networks: want a list of texts in quotes"}},
		"word in a list table": {"[oidc]\nissuer = \"https://sso.example.org\"\naudience = \"ctd\"\n[[oidc.grant]]\nvalue = \"a\"\nrole = \"viewer\"\n[[oidc.grant]]\nvalue = \"b\"\nrole = \"amdin\"", []string{`9: oidc.grant[1].role: "amdin" is none of viewer, operator, admin; did you mean "admin"?`}},
		"lacking in a list":    {"\n[[unix]]\nuser = \"root\"\nrole = \"viewer\"\n[[unix]]\nuser = \"nobody\"", []string{"5: unix[1].role: one of viewer, operator, admin is needed"}},
		"below 0 in a list":    {"[[unix]]\nuser = \"root\"\nrole = \"viewer\"\nrate = -1", []string{"4: unix[0].rate: -1 is below 0"}},
		"table for tables":     {"[user]\nname = \"a\"", []string{"1: user: want tables, each with [[user]] above it"}},
		"number for tables":    {"user = 1", []string{"1: user: want tables, each with [[user]] above it"}},
		"list for tables":      {"oidc.grant = [\"a\"]", []string{"1: oidc.grant: want tables, each with [[oidc.grant]] above it"}},
		"name with a dot":      {"\"tls.cert\" = \"/c\"", []string{"1: tls.cert: there is no such setting"}},
		"a hidden setting":     {"UsersFile = \"/u\"", []string{"1: UsersFile: there is no such setting"}},
		"certificates, no CA":  {"[[user]]\nname = \"a\"\nrole = \"viewer\"\ncertificates = [\"CN=a\"]", []string{"4: user[0].certificates: client certificates need client_ca in [tls]"}},
		"host with a port":     {"hosts = [\"a\", \"b:80\"]", []string{`1: hosts: "b:80": want a name`}},
		"any origin":           {"[cors]\norigins = [\"https://*\"]", []string{`2: cors.origins: "https://*": want a site`}},
		"origin with a path":   {"[cors]\norigins = [\"https://a/\"]", []string{`2: cors.origins: "https://a/": want a site`}},
		"scope":                {"scope = \"both\"", []string{`1: scope: "both" is none of either, orig, reply`}},
		"rate below 0":         {"[limits]\nrate = -1", []string{"2: limits.rate: -1 is below 0"}},
		"no requests":          {"[limits]\nrequests = 0", []string{"2: limits.requests: 0 is below 1; leave the line out for the default"}},
		"no size":              {"[audit]\nmax_size = \"64MB\"", []string{`2: audit.max_size: want a size as "64M", or a number of bytes`}},
		"size 0":               {"[audit]\nmax_size = 0", []string{"2: audit.max_size: 0 is below 64K; leave the line out for the default"}},
		"size below the least": {"[audit]\nmax_size = \"63K\"", []string{"2: audit.max_size: 63K is below 64K; leave"}},
		"too many files":       {"[audit]\nmax_files = 101", []string{"2: audit.max_files: 101 is above 100"}},
		"files for a number":   {"[audit]\nmax_files = \"2\"", []string{"2: audit.max_files: want a whole number from 1 to 100"}},
		"no age":               {"[audit]\nmax_age = \"3 months\"", []string{`2: audit.max_age: want a time as "90d" or "12h"`}},
		"age below 0":          {"[audit]\nmax_age = -1", []string{"2: audit.max_age: want a time"}},
		"no audit file":        {"state_dir = \"\"", []string{"audit.file: a path is needed where there is no state_dir"}},
		"list for a word":      {"[[user]]\nname = \"a\"\nrole = [\"admin\"]", []string{"3: user[0].role: want a text in quotes"}},
		"unknown tables":       {"[[foo]]\na = 1\n[tls]\n[[foo]]\na = 2", []string{"1: foo: there is no such setting"}},
		"unknown, in two":      {"[[user]]\nname = \"a\"\nrole = \"viewer\"\nx = 1\n[[user]]\nname = \"b\"\nrole = \"viewer\"\nx = 1", []string{"4: user[0].x: ", "8: user[1].x: "}},
		"no body":              {"max_body = 0", []string{"1: max_body: 0 is below 1; leave the line out for the default"}},
		"a body too great":     {"max_body = 1_073_741_825", []string{"1: max_body: 1073741825 is above 1073741824"}},
		"too many requests":    {"[limits]\nrequests = 65537", []string{"2: limits.requests: 65537 is above 65536"}},
		"deep":                 {"netns = \"a\"\na = " + strings.Repeat("{a=", 20000) + "1" + strings.Repeat("}", 20000), []string{"2: tables, lists and keys are nested"}},
		"NUL":                  {"socket = \"/a\\u0000b\"", []string{"1: socket: there is a NUL character"}},
		"NUL in a list":        {"[passwords]\nfiles = [\"/a\", \"\\u0000\"]", []string{"2: passwords.files: there is a NUL character"}},
		"empty file":           {"[passwords]\nfiles = [\"/a\", \"\"]", []string{"2: passwords.files: entry 2 is empty"}},
		"grant, no issuer":     {"[[oidc.grant]]\nvalue = \"a\"\nrole = \"viewer\"", []string{"1: oidc.issuer: the issuer is needed"}},
		"proxy's role alone":   {"[proxy]\nrole = \"viewer\"", []string{"2: proxy.role: it needs"}},
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

// TestConfigFileSecrets: no error repeats a value that may be a secret.
func TestConfigFileSecrets(t *testing.T) {
	for _, value := range []string{"hunter2", "true5ecret", "5beed643", "99999999999999999999", "0123456", "1_2__3456", "1979-05-277", "0x5beeg643", "$2b$10$oA.XF", `"hunter2`, `"hun\qter2"`, "12.34.5678"} {
		_, wrong := configure(t, "[[user]]\npassword = "+value+"\n")
		if len(wrong) == 0 || !strings.HasPrefix(wrong[0], "2: ") {
			t.Errorf("%s: %q", value, wrong)
		}
		for _, text := range wrong {
			if strings.Contains(text, strings.Trim(value, `"`)) || strings.Contains(text, value[:5]) {
				t.Errorf("%s: %q", value, text)
			}
		}
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

// TestExampleConfig: the example is the defaults, and so is what it has commented out. Its examples, commented
// out with ##, are right, and with them it has every setting.
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
	examples := regexp.MustCompile(`(?m)^## `).ReplaceAllString(string(text), "")
	cfg, wrong := configure(t, examples)
	if wrong != nil {
		t.Errorf("its examples: %q", wrong)
	}
	if n := len(cfg.Auth.Users) * len(cfg.Auth.Tokens) * len(cfg.Auth.Peers) * len(cfg.Auth.OIDC.Grants); n == 0 || cfg.Auth.OIDC.Issuer == "" || cfg.Auth.Proxy.Role == "" {
		t.Errorf("it lacks examples: %+v", cfg.Auth)
	}
	keys := append(keyLines(uncommented), keyLines(regexp.MustCompile(`(?m)^## #?`).ReplaceAllString(string(text), ""))...)
	for _, s := range allSettings() {
		if !slices.ContainsFunc(keys, func(k keyLine) bool { return slices.Equal(k.path.names(), s.path) }) {
			t.Errorf("it lacks %s", s.key())
		}
	}
}

// TestEverySettingRead: each setting that the file can have is read into its field.
func TestEverySettingRead(t *testing.T) {
	for _, s := range allSettings() {
		if s.table || s.list {
			continue
		}
		var value, want string
		switch kind := s.typ.Kind(); {
		case s.typ == reflect.TypeFor[byteSize]():
			value, want = `"3K"`, "3072"
		case s.typ == reflect.TypeFor[span]():
			value, want = `"3h"`, strconv.Itoa(int(3*time.Hour))
		case kind == reflect.Bool && s.value(defaultSettings()).Bool():
			value, want = "false", "false"
		case kind == reflect.Bool:
			value, want = "true", "true"
		case kind == reflect.String:
			value, want = `"x"`, "x"
		case kind == reflect.Slice && s.typ.Elem().Kind() == reflect.String:
			value, want = `["x", "y"]`, "[x y]"
		case kind == reflect.Slice:
			value, want = "[77]", "[77]"
		default:
			value, want = "77", "77"
		}
		text := s.key() + " = " + value
		if s.in != nil {
			text = "[[" + strings.Join(s.path[:len(s.path)-1], ".") + "]]\n[[" + strings.Join(s.path[:len(s.path)-1], ".") + "]]\n" + s.name() + " = " + value
		}
		file, set := configFile{name: "ctd.toml"}, defaultSettings()
		if wrong := file.decode(text, set); wrong != nil {
			t.Errorf("%s: %v", s.key(), wrong)
		}
		got := "nothing"
		set.eachValue(func(one *setting, at keyPath, v reflect.Value) {
			of := func(p step) bool { return p.of == 2 }
			if slices.Equal(one.path, s.path) && slices.ContainsFunc(at, of) == (s.in != nil) {
				if got = fmt.Sprint(v.Interface()); v.CanInt() {
					got = strconv.FormatInt(v.Int(), 10)
				}
			}
		})
		if got != want {
			t.Errorf("%s: %s was read as %s, want %s", s.key(), value, got, want)
		}
	}
}

func TestCheckConfigCommand(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"good.toml": "scope = \"orig\"\n", "bad.toml": "nents = \"a\"\nlog_level = 1\n"} {
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
