package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"ctd/rpc"
	"ctd/rpc/wire"
)

// grammar is the command line of `ctd serve`. A flag that isn't given is nil: it wins over the
// configuration file where it is.
type grammar struct {
	Config    *string  `placeholder:"FILE" help:"Configuration file. Else ${config}, where it is there."`
	Listen    []string `placeholder:"HOST:PORT" help:"TCP addresses to listen on (${listen}). Callers show the token."`
	NoListen  bool     `help:"Listen on the Unix socket only."`
	Insecure  *bool    `help:"Allow --listen beyond loopback although nothing is encrypted."`
	Socket    *string  `placeholder:"PATH" help:"Unix socket to listen on (${socket}). Root and the daemon's own user need no token there. The token is written beside it."`
	Netns     *string  `placeholder:"NAME|PATH" help:"Network namespace whose table is managed; the listeners stay where the daemon was started. Needs CAP_SYS_ADMIN."`
	StateDir  *string  `placeholder:"PATH" help:"Folder of what outlives the daemon: users, tokens, the audit log (${stateDir})."`
	MaxBody   *int64   `placeholder:"BYTES" help:"How long a request may be (${maxBody})."`
	LogFormat *string  `placeholder:"FORM" help:"Form of the log on standard error: text or json."`
	LogLevel  *string  `placeholder:"LEVEL" help:"What is logged: debug, info, warn or error (info)."`
	RTSP      *bool    `name:"rtsp" help:"Follow RTSP connections and let their media streams in."`

	PyctdRows      *string `placeholder:"FORM" help:"Rows of pyctd's view: a struct by id, or a list: struct or list (struct)."`
	PyctdAddresses *string `placeholder:"FORM" help:"Addresses in pyctd's view, text or IPv4 as numbers: dotted or integer (dotted)."`
}

// over sets what flags set, and returns the flags that were given by the key of what they set.
func (g *grammar) over(s *settings) map[string]string {
	flags := map[string]string{}
	if g.NoListen {
		s.Listen, flags["listen"] = nil, "--no-listen"
	} else if g.Listen != nil {
		s.Listen, flags["listen"] = g.Listen, "--listen"
	}
	override(flags, "insecure", "--insecure", &s.Insecure, g.Insecure)
	override(flags, "socket", "--socket", &s.Socket, g.Socket)
	override(flags, "netns", "--netns", &s.NetNS, g.Netns)
	override(flags, "state_dir", "--state-dir", &s.StateDir, g.StateDir)
	override(flags, "max_body", "--max-body", &s.MaxBody, g.MaxBody)
	override(flags, "log_format", "--log-format", &s.LogFormat, g.LogFormat)
	override(flags, "log_level", "--log-level", &s.LogLevel, g.LogLevel)
	override(flags, "helper.rtsp.enabled", "--rtsp", &s.Helper.RTSP.Enabled, g.RTSP)
	override(flags, "pyctd.rows", "--pyctd-rows", &s.Pyctd.Rows, g.PyctdRows)
	override(flags, "pyctd.addresses", "--pyctd-addresses", &s.Pyctd.Addresses, g.PyctdAddresses)
	return flags
}

func override[T any](flags map[string]string, key, flag string, into, given *T) {
	if given != nil {
		*into, flags[key] = *given, flag
	}
}

// serveHelp is the head of `ctd serve --help`.
const serveHelp = `Run the daemon.

The daemon needs CAP_NET_ADMIN in the namespace whose table it manages, and CAP_NET_RAW to reset
silent ends of connections that are cut. SIGINT and SIGTERM end it once the requests under way are answered;
at SIGHUP it reads its configuration file again.

Examples:

  ctd serve
  ctd serve --rtsp
  ctd serve --config /etc/ctd/ctd.toml --log-level debug
  ctd serve --netns router --listen 127.0.0.1:8421 --socket /run/ctd-router/ctd.sock --state-dir /var/lib/ctd-router`

// helpShown is the panic that leaves kong once it has printed the help.
type helpShown struct{}

// Command runs `ctd serve` with its arguments until ctx ends, and returns its exit status.
func Command(ctx context.Context, args []string, version string, stdout, stderr io.Writer) (status int) {
	// Before anything else, as nobody who asks for a reload means to end the daemon.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	// Whoever reads the log may end; Go's default is to end with it. A handler isn't inherited by other programs, as
	// what is ignored would be.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	g, err := parse(args, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "ctd: serve: %v\nhint: ctd serve --help shows what it takes\n", err)
		return int(wire.ExitUsage)
	}
	if g == nil {
		return int(wire.ExitDone)
	}
	read, wrong := g.load()
	if len(wrong) > 0 {
		for _, err := range wrong {
			fmt.Fprintf(stderr, "ctd: serve: %v\n", err)
		}
		return int(wire.ExitUsage)
	}
	cfg := read.cfg
	cfg.Version = version
	level := &slog.LevelVar{}
	logger := newLogger(&cfg, level, stderr)
	warnDoubts(logger, read)
	if err := run(ctx, cfg, newReloads(hup, g.load, read, level), logger, stdout); err != nil {
		for _, err := range read.placed(each(err)) {
			fmt.Fprintf(stderr, "ctd: serve: %v\n", err)
		}
		var h *hintError
		if errors.As(err, &h) {
			fmt.Fprintf(stderr, "hint: %s\n", h.hint)
		}
		return int(wire.ExitOther)
	}
	return int(wire.ExitDone)
}

// parse returns nil where only the help was asked for.
func parse(args []string, stdout, stderr io.Writer) (*grammar, error) {
	g := &grammar{}
	if helped, err := parseInto(g, "serve", serveHelp, args, stdout, stderr); helped || err != nil {
		return nil, err
	}
	return g, nil
}

// parseInto reads the arguments of a verb; helped says that only the help was asked for, which was shown.
func parseInto(g any, verb, description string, args []string, stdout, stderr io.Writer) (helped bool, err error) {
	var chosen *kong.Context
	return parseChosen(g, verb, description, args, stdout, stderr, &chosen)
}

// parseChosen is parseInto for a verb that has verbs of its own; chosen says which was given.
func parseChosen(g any, verb, description string, args []string, stdout, stderr io.Writer, chosen **kong.Context) (helped bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(helpShown); !ok {
				panic(r)
			}
			helped, err = true, nil
		}
	}()
	parser, err := kong.New(g,
		kong.Name("ctd "+verb),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { panic(helpShown{}) }),
		kong.Vars{"listen": DefaultListen, "socket": DefaultSocket, "stateDir": DefaultStateDir, "maxBody": fmt.Sprint(rpc.DefaultMaxBody), "config": DefaultConfigFile},
	)
	if err != nil {
		return false, err
	}
	*chosen, err = parser.Parse(args)
	return false, err
}

// loaded is a configuration as it was read.
type loaded struct {
	cfg      Config
	settings *settings
	file     *configFile
	flags    map[string]string // those that were given, by the key of what they set
}

// load makes the daemon's configuration of flags, file and defaults. The errors are all that is wrong
// with it.
func (g *grammar) load() (*loaded, []error) {
	l, name := &loaded{settings: defaultSettings()}, ""
	if g.Config != nil {
		if name = *g.Config; name == "" {
			return nil, []error{errors.New("--config: a path is needed; " + os.DevNull + " is an empty file")}
		}
	}
	var wrong []error
	l.file, wrong = readConfigFile(name, l.settings)
	l.flags = g.over(l.settings)
	return l, append(wrong, l.configure()...)
}

// configure makes cfg of settings, and says where is what is wrong with them.
func (l *loaded) configure() []error {
	var wrong []error
	cfg, more := l.settings.config()
	more = append(more, cfg.checkAuditFile(l.file.name)...)
	l.cfg = cfg
	for _, e := range more {
		// What can't be read of the file is its default, or nothing, with which more may be wrong.
		if _, flag := l.flags[e.key]; l.file.noted[e.key] && !flag {
			continue
		}
		wrong = append(wrong, l.file.placed(e, l.flags))
	}
	return wrong
}

// newLogger returns a log whose level is in level from now on.
func newLogger(cfg *Config, level *slog.LevelVar, w io.Writer) *slog.Logger {
	level.Set(cfg.level())
	opts := &slog.HandlerOptions{Level: level}
	form := func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, opts) }
	if cfg.LogFormat == "json" {
		form = func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, opts) }
	}
	return slog.New(form(newLogWriter(w, form)))
}

// hintError is an error with what to do about it.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }
