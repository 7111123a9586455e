package cli

import (
	"ctd/clients/ctdclient"
)

// grammar is the command line: a field with cmd is a verb.
type grammar struct {
	globals

	List       listCmd       `cmd:"" help:"List flows."`
	Get        getCmd        `cmd:"" help:"Show one flow."`
	Count      countCmd      `cmd:"" help:"Count flows."`
	Kill       killCmd       `cmd:"" help:"Delete flows from the table."`
	Reconcile  reconcileCmd  `cmd:"" help:"Kill flows until only those are there that may remain."`
	Modify     modifyCmd     `cmd:"" help:"Change flows: timeout, mark, labels, state, addresses."`
	Create     createCmd     `cmd:"" help:"Make a flow."`
	Flush      flushCmd      `cmd:"" help:"Delete all flows."`
	Blocks     blocksCmd     `cmd:"" help:"List the addresses that are kept apart."`
	Unblock    unblockCmd    `cmd:"" help:"Lift blocks."`
	Export     exportCmd     `cmd:"" help:"Print flows so that they can be made again."`
	Import     importCmd     `cmd:"" help:"Make the flows of an export."`
	Expect     expectCmd     `cmd:"" help:"Expectations: list, get, create, kill, flush."`
	Helper     helperCmd     `cmd:"" help:"RTSP helper: status, sessions, rules."`
	Stats      statsCmd      `cmd:"" help:"Show the table's size and counters."`
	Audit      auditCmd      `cmd:"" help:"Show who changed what, and who was refused."`
	Doctor     doctorCmd     `cmd:"" help:"Find what keeps the table from being useful."`
	Info       infoCmd       `cmd:"" help:"Show the daemon's version and what its kernel can do."`
	Completion completionCmd `cmd:"" help:"Print the completion script for a shell."`
	Version    versionCmd    `cmd:"" help:"Print the version of this program."`
}

// globals are the flags that every verb takes.
type globals struct {
	Server    string `placeholder:"URL" help:"Daemon to call: unix:///path, http://host:port or https://host:port. Else CTD_SERVER, else ${defaultServer}."`
	Token     string `placeholder:"TOKEN" help:"Token to show. Else CTD_TOKEN. Other users of the machine can see it in the list of processes."`
	TokenFile string `placeholder:"FILE" help:"File that holds the token. Else CTD_TOKEN_FILE."`
	CACert    string `name:"cacert" placeholder:"FILE" help:"Authorities to trust for https, in PEM. Else CTD_CACERT, else those of the system."`
	Cert      string `placeholder:"FILE" help:"Client certificate for https, in PEM. Else CTD_CERT."`
	Key       string `placeholder:"FILE" help:"Its key, in PEM. Else CTD_KEY, else it is in the same file."`
	Protocol  string `default:"json" enum:"json,xml" help:"What carries the calls: json or xml."`
	Output    string `short:"o" default:"table" enum:"table,json,jsonl,csv,conntrack" help:"Form of the output: table, json (the result as the daemon sent it), jsonl (a flow a line), csv, or conntrack (the lines of conntrack(8))."`
	NoColor   bool   `help:"No colours. Else NO_COLOR; there are none either where the output is not a terminal."`
}

// description is the head of `ctd --help`.
const description = `Remote control of the Linux connection tracking table.

Filters are plain words: ctd list proto=tcp dport=22 'src=10.0.0.0/8,!10.0.0.5'

Exit status: 0 done, 1 nothing matched (only with --fail-if-none), 2 usage, 3 refused,
4 not found, 5 daemon unreachable, 6 anything else.

Examples:

  ctd list proto=tcp dport=22
  ctd count --by state
  ctd doctor`

// client returns a client for the daemon that flags and environment name; a flag wins.
// A run has one, so that its calls go by one connection: a change spares that by which it comes, and no
// other.
func (s *session) client() (*ctdclient.Client, error) {
	if s.made != nil {
		return s.made, nil
	}
	cfg := ctdclient.FromEnv(s.o.Getenv)
	if s.g.Server != "" {
		cfg.Server = s.g.Server
	}
	if s.g.TokenFile != "" {
		cfg.Token, cfg.TokenFile = "", s.g.TokenFile
	}
	if s.g.Token != "" {
		cfg.Token = s.g.Token
	}
	if s.g.CACert != "" {
		cfg.CACert = s.g.CACert
	}
	if s.g.Cert != "" { // whose key is not the one of another
		cfg.Cert, cfg.Key = s.g.Cert, ""
	}
	if s.g.Key != "" {
		cfg.Key = s.g.Key
	}
	cfg.Protocol = ctdclient.Protocol(s.g.Protocol)
	cfg.HTTPClient = s.o.HTTPClient
	if terminalWidth(s.o.Stderr) > 0 {
		cfg.Progress = func(done, total int) { s.bar.show(done, total) }
	}
	c, err := ctdclient.New(cfg)
	if err != nil {
		return nil, &usageError{message: err.Error(), hint: "see --server, --token-file, --cacert, --cert, --key and CTD_SERVER, CTD_TOKEN, CTD_TOKEN_FILE, CTD_CACERT, CTD_CERT, CTD_KEY"}
	}
	s.made = c
	return c, nil
}
