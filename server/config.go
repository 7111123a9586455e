package server

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"ctd/auth"
	"ctd/auth/audit"
	"ctd/conntrack"
	"ctd/helper"
	"ctd/rpc"
)

// The defaults with which `ctd serve` works without any setting.
const (
	DefaultListen = "127.0.0.1:8420"
	DefaultSocket = "/run/ctd/ctd.sock"
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

// config makes a Config of settings, and says what is wrong with them.
func (s *settings) config() (Config, []*settingError) {
	cfg := Config{
		Listen: s.Listen, Insecure: s.Insecure, Socket: s.Socket, NetNS: s.NetNS, MaxBody: s.MaxBody,
		Pyctd:     rpc.PyctdConfig{Rows: s.Pyctd.Rows, Addresses: s.Pyctd.Addresses},
		LogFormat: s.LogFormat, LogLevel: s.LogLevel,
	}
	wrong := s.checkWords()
	rtsp, rtspWrong := s.Helper.RTSP.config()
	cfg.RTSP = rtsp
	wrong = append(wrong, rtspWrong...)
	return cfg, append(wrong, cfg.check()...)
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
	refuse("0 is not taken", map[string]bool{
		"queue": s.Queue == 0, "mark_bit": s.MarkBit == 0,
		"max_sessions": s.MaxSessions == 0, "max_sessions_per_client": s.MaxSessionsPerClient == 0,
	})
	slices.SortFunc(wrong, func(a, b *settingError) int { return strings.Compare(a.key, b.key) })
	cfg := RTSPConfig{Enabled: s.Enabled, Helper: helper.Config{
		Ports: s.Ports, Queue: s.Queue, Interfaces: s.Interfaces, Manual: !s.Install, MarkBit: s.MarkBit,
		AllowOtherSource: s.AllowOtherSource, MaxSessions: s.MaxSessions, MaxSessionsPerClient: s.MaxSessionsPerClient,
	}}
	for _, name := range s.Families { // other names are refused by checkWords
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
	return append(wrong, checkTLS(c.TLS)...)
}

// checkListen refuses an address beyond loopback without TLS, where the token and everything else could
// be read on the way.
func (c *Config) checkListen(entry string) *settingError {
	e := c.endpoint(entry)
	host, _, err := net.SplitHostPort(e.address)
	switch {
	case err != nil || strings.Contains(e.address, "/"):
		return wrongf("listen", "%s: want host:port, e.g. %s, with http:// or https:// before it or without", entry, DefaultListen)
	case e.https && c.TLS.Cert == "":
		return wrongf("listen", "%s: https needs a certificate: set cert and key in [tls]", entry)
	case e.https || c.Insecure || isLoopback(host):
		return nil
	}
	return wrongf("listen", "%s: nothing is encrypted, so only loopback is listened on; set cert and key in [tls], "+
		"reach it through ssh -L or a proxy with TLS, or give --insecure (insecure = true) in a network where nobody reads along", entry)
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
