package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/alecthomas/kong"

	"ctd/rpc"
	"ctd/rpc/wire"
)

// grammar is the command line of `ctd serve`.
type grammar struct {
	Listen    []string `placeholder:"HOST:PORT" default:"${listen}" help:"TCP addresses to listen on (${default}). Callers show the token."`
	NoListen  bool     `help:"Listen on the Unix socket only."`
	Insecure  bool     `help:"Allow --listen beyond loopback although nothing is encrypted."`
	Socket    string   `placeholder:"PATH" default:"${socket}" help:"Unix socket to listen on (${default}). Root and the daemon's own user need no token there. The token is written beside it."`
	Netns     string   `placeholder:"NAME|PATH" help:"Network namespace whose table is managed; the listeners stay where the daemon was started. Needs CAP_SYS_ADMIN."`
	MaxBody   int64    `placeholder:"BYTES" default:"${maxBody}" help:"How long a request may be (${default})."`
	LogFormat string   `enum:"text,json" default:"text" help:"Form of the log on standard error: text or json."`
	LogLevel  string   `enum:"debug,info,warn,error" default:"info" help:"What is logged: debug, info, warn or error."`

	PyctdRows      string `enum:"struct,list" default:"struct" help:"Rows of pyctd's view: a struct by id, or a list."`
	PyctdAddresses string `enum:"dotted,integer" default:"dotted" help:"Addresses in pyctd's view: text, or IPv4 as numbers."`
}

// Help is shown under the flags.
func (grammar) Help() string {
	return `The daemon needs CAP_NET_ADMIN in the namespace whose table it manages, and CAP_NET_RAW to reset
silent ends of connections that are cut. SIGINT and
SIGTERM end it once the requests under way are answered.

Examples:

  ctd serve
  ctd serve --netns router --listen 127.0.0.1:8421 --socket /run/ctd-router/ctd.sock`
}

// helpShown is the panic that leaves kong once it has printed the help.
type helpShown struct{}

// Command runs `ctd serve` with its arguments until ctx ends, and returns its exit status.
func Command(ctx context.Context, args []string, version string, stdout, stderr io.Writer) (status int) {
	g, err := parse(args, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "ctd: serve: %v\nhint: ctd serve --help shows what it takes\n", err)
		return int(wire.ExitUsage)
	}
	if g == nil {
		return int(wire.ExitDone)
	}
	cfg := Config{
		Listen: g.Listen, Insecure: g.Insecure, Socket: g.Socket, NetNS: g.Netns, MaxBody: g.MaxBody,
		Pyctd: rpc.PyctdConfig{Rows: g.PyctdRows, Addresses: g.PyctdAddresses}, Version: version,
	}
	if g.NoListen {
		cfg.Listen = nil
	}
	if err := cfg.check(); err != nil {
		fmt.Fprintf(stderr, "ctd: serve: %v\n", err)
		return int(wire.ExitUsage)
	}
	if err := run(ctx, cfg, newLogger(g, stderr), stdout); err != nil {
		fmt.Fprintf(stderr, "ctd: serve: %v\n", err)
		var h *hintError
		if errors.As(err, &h) {
			fmt.Fprintf(stderr, "hint: %s\n", h.hint)
		}
		return int(wire.ExitOther)
	}
	return int(wire.ExitDone)
}

// parse returns nil where only the help was asked for.
func parse(args []string, stdout, stderr io.Writer) (g *grammar, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(helpShown); !ok {
				panic(r)
			}
			g, err = nil, nil
		}
	}()
	g = &grammar{}
	parser, err := kong.New(g,
		kong.Name("ctd serve"),
		kong.Description("Run the daemon."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { panic(helpShown{}) }),
		kong.Vars{"listen": DefaultListen, "socket": DefaultSocket, "maxBody": fmt.Sprint(rpc.DefaultMaxBody)},
	)
	if err != nil {
		return nil, err
	}
	_, err = parser.Parse(args)
	return g, err
}

func newLogger(g *grammar, w io.Writer) *slog.Logger {
	var level slog.Level
	// The grammar lets only names through that slog knows.
	_ = level.UnmarshalText([]byte(strings.ToUpper(g.LogLevel)))
	opts := &slog.HandlerOptions{Level: level}
	if g.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// hintError is an error with what to do about it.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }
