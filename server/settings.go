package server

import (
	"time"

	"ctd/auth"
	"ctd/auth/audit"
	"ctd/helper"
	"ctd/rpc"
)

// settings are what the configuration file can set, and in part the command line: the raw form of
// Config. They are the one list of settings. Of the tags toml is the key, flag the flag of `ctd serve`
// that sets the same, doc the description, enum the values that it, or each of a list, may have, min and max
// bound a number (from 0 on), and reload says "no" where a reload leaves it, and all in it, as it is. A
// struct is a table of the file, a list of structs a list of tables, and what is embedded is as if it stood here.
type settings struct {
	Listen    []string `toml:"listen" flag:"--listen" reload:"no" doc:"TCP addresses to listen on, as host:port, with http:// or https:// before it; without that it is https where [tls] has a certificate. An empty list listens on the Unix socket only."`
	Insecure  bool     `toml:"insecure" flag:"--insecure" reload:"no" doc:"Allow addresses beyond loopback in listen although nothing is encrypted there."`
	Socket    string   `toml:"socket" flag:"--socket" reload:"no" doc:"Path of the Unix socket. Root and the daemon's own user need no token there, nor who has a [[unix]]. The token is written beside it."`
	NetNS     string   `toml:"netns" flag:"--netns" reload:"no" doc:"Network namespace whose table is managed, by name as in ip netns or by path; empty for the daemon's own. The listeners stay where the daemon was started. It needs CAP_SYS_ADMIN."`
	StateDir  string   `toml:"state_dir" flag:"--state-dir" reload:"no" doc:"Folder of what outlives the daemon: users of ctd passwd, tokens of ctd token, the audit log. It is made where it isn't there; empty: none, and [audit] needs another place."`
	RunAs     string   `toml:"run_as" reload:"no" doc:"User to become once all is open, where the daemon is started as root; empty: stay."`
	MaxBody   int64    `toml:"max_body" flag:"--max-body" min:"1" max:"1073741824" reload:"no" doc:"How many bytes the body of a request may have."`
	Scope     string   `toml:"scope" enum:"either,orig,reply" doc:"By which addresses a flow is inside a caller's networks: those of its original direction, of its reply direction, or either."`
	Hosts     []string `toml:"hosts" doc:"Names by which the daemon is called, as in the Host header, beside addresses and localhost."`
	LogFormat string   `toml:"log_format" flag:"--log-format" reload:"no" enum:"text,json" doc:"Form of the log on standard error."`
	LogLevel  string   `toml:"log_level" flag:"--log-level" enum:"debug,info,warn,error" doc:"The least that is logged."`

	TLS    tlsSettings    `toml:"tls" doc:"Encryption of the addresses in listen. The files are read again when they change."`
	CORS   corsSettings   `toml:"cors" doc:"Web pages of other sites that may call."`
	Limits limitsSettings `toml:"limits" doc:"How much callers may ask for. What is a minute's may be used at once."`
	Audit  auditSettings  `toml:"audit" reload:"no" doc:"The record of changes and refusals. Where it can't be written, nothing is changed."`
	auth.Config
	Pyctd  pyctdSettings  `toml:"pyctd" reload:"no" doc:"What pyctd's view returns."`
	Helper helperSettings `toml:"helper" reload:"no"`
}

type tlsSettings struct {
	Cert     string `toml:"cert" doc:"The server's certificate and its chain, in PEM. To turn TLS on or off needs a restart."`
	Key      string `toml:"key" doc:"Its key, in PEM."`
	ClientCA string `toml:"client_ca" doc:"Authorities of client certificates, in PEM; empty: none are asked for. Whose a certificate is says [[user]]."`
}

type corsSettings struct {
	Origins []string `toml:"origins" doc:"Sites, as https://host[:port], whose pages may call from a browser. An empty list is the daemon's own page only."`
}

type limitsSettings struct {
	Rate              int `toml:"rate" doc:"How many calls a minute a caller may make who has no rate of its own; 0 is no bound."`
	KillsPerMinute    int `toml:"kills_per_minute" doc:"How many flows a minute a caller may kill or change who has no number of its own; 0 is no bound."`
	Requests          int `toml:"requests" min:"1" max:"65536" doc:"How many requests are answered at a time."`
	RequestsPerCaller int `toml:"requests_per_caller" min:"1" doc:"How many of them for one caller."`
}

type auditSettings struct {
	To       string   `toml:"to" enum:"file,journald,none" doc:"Where records go."`
	File     string   `toml:"file" doc:"Path of the file, in a folder that is there and the daemon may write to (with systemd see access.md); empty: audit.log in state_dir."`
	MaxSize  byteSize `toml:"max_size" min:"65536" doc:"Size from which on a file is set aside and a new one begun, at least 64K."`
	MaxFiles int      `toml:"max_files" min:"1" max:"100" doc:"How many files are kept, the current one among them."`
	MaxAge   span     `toml:"max_age" doc:"Age of its first record from which on a file is set aside; 0 is no bound."`
}

type pyctdSettings struct {
	Rows      string `toml:"rows" flag:"--pyctd-rows" enum:"struct,list" doc:"Rows of view: a struct by id, or a list."`
	Addresses string `toml:"addresses" flag:"--pyctd-addresses" enum:"dotted,integer" doc:"Addresses in view: text, or IPv4 as numbers."`
}

type helperSettings struct {
	RTSP rtspSettings `toml:"rtsp" doc:"The helper for RTSP, which lets media streams in; see rtsp.md."`
}

type rtspSettings struct {
	Enabled              bool     `toml:"enabled" flag:"--rtsp" doc:"Follow RTSP connections and let their media in."`
	Install              bool     `toml:"install" doc:"Install the rules that queue RTSP packets, and remove them at the end. With false the administrator installs those that ctd helper rules prints."`
	Ports                []uint16 `toml:"ports" doc:"TCP ports at which RTSP servers listen, as clients connect to them or as a server has them behind a forwarded port."`
	Queue                uint16   `toml:"queue" doc:"Number of the packet queue (NFQUEUE). No other program may read it."`
	Families             []string `toml:"families" enum:"ipv4,ipv6" doc:"Address families that are followed."`
	Interfaces           []string `toml:"interfaces" doc:"Interfaces that RTSP packets come in by, or go out by where they are the router's own: those of both sides. An empty list is all."`
	MarkBit              uint32   `toml:"mark_bit" doc:"The one bit of the connection mark that takes a connection out of the queue once its media go inside it. Nothing else may use it."`
	AllowOtherSource     bool     `toml:"allow_other_source" doc:"Let media in from another address than the RTSP server's."`
	MaxSessions          int      `toml:"max_sessions" min:"1" doc:"How many streams are let in at a time."`
	MaxSessionsPerClient int      `toml:"max_sessions_per_client" min:"1" doc:"How many of them for one client's address."`
}

func defaultSettings() *settings {
	s := &settings{
		Listen: []string{DefaultListen}, Socket: DefaultSocket, MaxBody: rpc.DefaultMaxBody,
		StateDir: DefaultStateDir, Scope: "either", Hosts: []string{}, LogFormat: "text", LogLevel: "info",
		CORS:   corsSettings{Origins: []string{}},
		Limits: limitsSettings{Requests: defaultRequests, RequestsPerCaller: defaultRequestsPerCaller},
		Audit:  auditSettings{To: audit.ToFile, MaxSize: 64 << 20, MaxFiles: 10, MaxAge: span(90 * 24 * time.Hour)},
		Config: auth.DefaultConfig(),
		Pyctd:  pyctdSettings{Rows: "struct", Addresses: "dotted"},
		Helper: helperSettings{RTSP: rtspSettings{
			Install: true, Ports: helper.DefaultPorts(), Queue: helper.DefaultQueue, Families: []string{"ipv4", "ipv6"},
			Interfaces: []string{}, MarkBit: helper.DefaultMarkBit,
			MaxSessions: helper.DefaultMaxSessions, MaxSessionsPerClient: helper.DefaultMaxSessionsPerClient,
		}},
	}
	// An empty list of the file is no nil, and reloads compare.
	s.Passwords.Files, s.Proxy.Addresses, s.Proxy.UnixUsers = []string{}, []string{}, []string{}
	return s
}
