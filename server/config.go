package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ctd/auth"
	"ctd/auth/audit"
	"ctd/conntrack"
	"ctd/helper"
	"ctd/rpc"
)

// The defaults with which `ctd serve` works without any setting.
const (
	DefaultListen   = "127.0.0.1:8420"
	DefaultSocket   = "/run/ctd/ctd.sock"
	DefaultStateDir = "/var/lib/ctd"
)

// maxSocketPath is what struct sockaddr_un (unix(7)) leaves beside the terminating NUL.
const maxSocketPath = 107

// Config says how the daemon runs. A reload changes what policy says; the rest needs a restart.
type Config struct {
	// Listen are TCP addresses, host:port, with http:// or https:// before it; without that it is https
	// where TLS has a certificate.
	Listen   []string
	Insecure bool   // listen beyond loopback although nothing is encrypted
	Socket   string // path of the Unix socket
	NetNS    string // namespace whose table is managed, by name or path; empty for the daemon's own
	StateDir string // folder of what outlives the daemon: users, tokens, audit; empty: none
	RunAs    string // user to become once all is open; empty: stay
	Version  string

	TLS     TLSConfig
	MaxBody int64 // bytes of a request's body; rpc.DefaultMaxBody where 0
	Pyctd   rpc.PyctdConfig
	RTSP    RTSPConfig

	Auth    auth.Config
	Scope   string // addresses by which a flow is inside a caller's networks: either, orig or reply; either where empty
	Limits  Limits
	Audit   audit.Config
	Hosts   []string // names by which the daemon is called, beside addresses and localhost
	Origins []string // web sites, as https://host[:port], whose pages may call; none: only the daemon's own

	LogFormat string // text or json; text where empty
	LogLevel  string // debug, info, warn or error; info where empty
}

// TLSConfig names the files of TLS, in PEM. They are read again when they change.
type TLSConfig struct {
	Cert, Key string // the server's certificate with its chain, and its key; empty: no TLS
	ClientCA  string // authorities of client certificates; empty: none are asked for
}

// Limits bound how much callers ask for; 0 is no bound.
type Limits struct {
	Calls int // calls a minute, of a principal that has no rate of its own
	Kills int // flows killed or changed a minute, of a principal that has no number of its own

	Requests          int // requests at a time, of all callers; defaultRequests where 0
	RequestsPerCaller int // of one; defaultRequestsPerCaller where 0
}

// RTSPConfig says whether and how the RTSP helper works.
type RTSPConfig struct {
	Enabled bool
	// Helper lacks the table and the log, which the daemon brings.
	Helper helper.Config
}

// Files in the state directory.
const (
	usersFile  = "users.toml"
	tokensFile = "tokens.toml"
	auditFile  = "audit.log"
)

// config makes a Config of settings, and says what is wrong with them: of each setting the first that was
// found.
func (s *settings) config() (Config, []*settingError) {
	cfg := Config{
		Listen: s.Listen, Insecure: s.Insecure, Socket: s.Socket, NetNS: s.NetNS, StateDir: s.StateDir, RunAs: s.RunAs,
		TLS: TLSConfig(s.TLS), MaxBody: s.MaxBody, Pyctd: rpc.PyctdConfig(s.Pyctd),
		Auth: s.Config, Scope: s.Scope, Hosts: s.Hosts, Origins: s.CORS.Origins,
		Limits: Limits{
			Calls: s.Limits.Rate, Kills: s.Limits.KillsPerMinute,
			Requests: s.Limits.Requests, RequestsPerCaller: s.Limits.RequestsPerCaller,
		},
		Audit: audit.Config{
			To: s.Audit.To, File: s.Audit.File,
			MaxSize: int64(s.Audit.MaxSize), MaxFiles: s.Audit.MaxFiles, MaxAge: time.Duration(s.Audit.MaxAge),
		},
		LogFormat: s.LogFormat, LogLevel: s.LogLevel,
	}
	if s.StateDir != "" {
		cfg.Auth.UsersFile, cfg.Auth.TokensFile = filepath.Join(s.StateDir, usersFile), filepath.Join(s.StateDir, tokensFile)
		if s.Audit.File == "" {
			cfg.Audit.File = filepath.Join(s.StateDir, auditFile)
		}
	}
	wrong := s.checkValues()
	rtsp, rtspWrong := s.Helper.RTSP.config()
	cfg.RTSP = rtsp
	wrong = append(wrong, rtspWrong...)
	wrong = append(wrong, cfg.check()...)
	seen := map[string]bool{}
	return cfg, slices.DeleteFunc(wrong, func(e *settingError) bool {
		// A list may have more than one wrong element.
		again := seen[e.key] && e.key != "listen"
		seen[e.key] = true
		return again
	})
}

// config makes the helper's configuration, in which what is empty would stand for a default.
func (s *rtspSettings) config() (RTSPConfig, []*settingError) {
	const table = "helper.rtsp."
	var wrong []*settingError
	refuse := func(text string, empty map[string]bool) {
		for key, is := range empty {
			if is {
				wrong = append(wrong, wrongf(table+key, "%s; leave the line out for the default", text))
			}
		}
	}
	refuse("at least one is needed", map[string]bool{"ports": len(s.Ports) == 0, "families": len(s.Families) == 0})
	refuse("0 is not taken", map[string]bool{"queue": s.Queue == 0, "mark_bit": s.MarkBit == 0})
	slices.SortFunc(wrong, func(a, b *settingError) int { return strings.Compare(a.key, b.key) })
	cfg := RTSPConfig{Enabled: s.Enabled, Helper: helper.Config{
		Ports: s.Ports, Queue: s.Queue, Interfaces: s.Interfaces, Manual: !s.Install, MarkBit: s.MarkBit,
		AllowOtherSource: s.AllowOtherSource, MaxSessions: s.MaxSessions, MaxSessionsPerClient: s.MaxSessionsPerClient,
	}}
	for _, name := range s.Families { // other names are refused by checkValues
		switch name {
		case "ipv4":
			cfg.Helper.Families = append(cfg.Helper.Families, conntrack.FamilyIPv4)
		case "ipv6":
			cfg.Helper.Families = append(cfg.Helper.Families, conntrack.FamilyIPv6)
		}
	}
	if err := cfg.Helper.Check(); err != nil {
		// The helper names its settings as the file does.
		key, text, _ := strings.Cut(err.Error(), ": ")
		wrong = append(wrong, wrongf(table+key, "%s", text))
	}
	return cfg, wrong
}

// tokenFile returns where the token is written: beside the socket.
func (c *Config) tokenFile() string { return filepath.Join(filepath.Dir(c.Socket), "token") }

// level returns the least that is logged.
func (c *Config) level() (level slog.Level) {
	// Only names come through that slog knows; an empty one is info.
	_ = level.UnmarshalText([]byte(strings.ToUpper(c.LogLevel)))
	return level
}

// check says what is wrong with c.
func (c *Config) check() []*settingError {
	var wrong []*settingError
	if c.Socket == "" {
		wrong = append(wrong, wrongf("socket", "a path is needed; the token is written beside it"))
	}
	if len(c.Socket) > maxSocketPath {
		wrong = append(wrong, wrongf("socket", "the path has %d bytes, and the kernel takes at most %d", len(c.Socket), maxSocketPath))
	}
	if c.MaxBody < 0 {
		wrong = append(wrong, wrongf("max_body", "%d is below 0", c.MaxBody))
	}
	for _, address := range c.Listen {
		if e := c.checkListen(address); e != nil {
			wrong = append(wrong, e)
		}
	}
	for i, u := range c.Auth.Users {
		if len(u.Certificates) > 0 && c.TLS.ClientCA == "" {
			wrong = append(wrong, wrongf(fmt.Sprintf("user[%d].certificates", i), "client certificates need client_ca in [tls]"))
		}
	}
	wrong = append(wrong, c.checkTwice()...)
	for i, name := range c.Auth.Passwords.Files {
		if name == "" {
			wrong = append(wrong, wrongf("passwords.files", "entry %d is empty: a path is needed", i+1))
		}
	}
	wrong = append(wrong, c.checkSites()...)
	wrong = append(wrong, checkTLS(c.TLS)...)
	if c.Audit.To == audit.ToFile && c.Audit.File == "" {
		wrong = append(wrong, wrongf("audit.file", "a path is needed where there is no state_dir; or set audit.to to %s or %s", audit.ToJournald, audit.ToNone))
	} else if err := c.Audit.Check(); err != nil {
		// It names its settings as the file does.
		key, text, _ := strings.Cut(err.Error(), ": ")
		wrong = append(wrong, wrongf("audit."+key, "%s", text))
	}
	for _, err := range auth.Check(c.Auth) {
		if e, ok := errors.AsType[*auth.SettingError](err); ok {
			wrong = append(wrong, &settingError{e.Key, e.Text})
		} else {
			wrong = append(wrong, wrongf("user", "%v", err))
		}
	}
	return wrong
}

// checkSites says what is wrong with names of hosts and sites.
func (c *Config) checkSites() []*settingError {
	var wrong []*settingError
	for _, host := range c.Hosts {
		if host == "" || strings.ContainsAny(host, "/:@*? []") {
			wrong = append(wrong, wrongf("hosts", "%q: want a name without scheme and port, e.g. router.example.org", host))
		}
	}
	for _, origin := range c.Origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Contains(u.Host, "*") ||
			u.Scheme+"://"+u.Host != origin {
			wrong = append(wrong, wrongf("cors.origins", "%q: want a site without path, e.g. https://noc.example.org", origin))
		}
	}
	return wrong
}

// checkListen refuses an address beyond loopback without TLS, where the token and everything else could
// be read on the way.
func (c *Config) checkListen(entry string) *settingError {
	e := c.endpoint(entry)
	host, port, err := net.SplitHostPort(e.address)
	switch {
	case err != nil || strings.Contains(e.address, "/"):
		return wrongf("listen", "%s: want host:port, e.g. %s, with http:// or https:// before it or without", entry, DefaultListen)
	case !isPort(port):
		return wrongf("listen", "%s: %q is no port; want a number from 0 to 65535, where 0 is any that is free", entry, port)
	case e.https && c.TLS.Cert == "":
		return wrongf("listen", "%s: https needs a certificate: set cert and key in [tls]", entry)
	case e.https || c.Insecure || isLoopback(host):
		return nil
	}
	return wrongf("listen", "%s: nothing is encrypted, so only loopback is listened on; set cert and key in [tls], "+
		"reach it through ssh -L or a proxy with TLS, or give --insecure (insecure = true) in a network where nobody reads along", entry)
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

// checkTwice refuses an address that is listened on already by an entry before it.
func (c *Config) checkTwice() []*settingError {
	var wrong []*settingError
	before := map[netip.AddrPort]string{}
	for _, entry := range c.Listen {
		host, text, err := net.SplitHostPort(c.endpoint(entry).address)
		port, portErr := strconv.ParseUint(text, 10, 16)
		if err != nil || portErr != nil || port == 0 { // checkListen tells, or there is a port of its own for each
			continue
		}
		if strings.EqualFold(host, "localhost") {
			host = "127.0.0.1"
		}
		a, err := netip.ParseAddr(host)
		switch {
		case host == "" || err == nil && a.IsUnspecified():
			a = netip.IPv6Unspecified() // whichever it is, both families are listened on
		case err != nil:
			continue
		}
		at := netip.AddrPortFrom(a.Unmap(), uint16(port))
		for other, first := range before {
			if other == at || other.Port() == at.Port() && (other.Addr().IsUnspecified() || a.IsUnspecified()) {
				wrong = append(wrong, wrongf("listen", "%s is listened on already by the entry %s", entry, first))
				break
			}
		}
		if _, ok := before[at]; !ok {
			before[at] = entry
		}
	}
	return wrong
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
