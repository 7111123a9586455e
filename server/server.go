package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"ctd/auth"
	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc"
)

// maxHeaderBytes bounds a request's header; net/http allows 4 KiB more.
const maxHeaderBytes = 64 << 10

// gcPercent is how much garbage there may be for what is in use before it is collected (GOGC): half of Go's
// default, since a router has little memory and most requests leave little garbage.
const gcPercent = 50

// timing says how long a caller may take.
type timing struct {
	readHeader time.Duration // for the header of a request
	read       time.Duration // for a whole request
	// strangerRead is for the rest of the request of a caller who isn't known.
	strangerRead time.Duration
	idle         time.Duration // between two requests of a connection
	// writeStall is how long an answer may be left unread before the connection is cut. It
	// counts from each piece that is sent, so that a long list to a slow caller may take its
	// time.
	writeStall time.Duration
	// grace is how long requests that are under way may take once the daemon ends.
	grace time.Duration
}

func defaultTiming() timing {
	return timing{
		readHeader: 10 * time.Second, read: time.Minute, strangerRead: 5 * time.Second, idle: 2 * time.Minute,
		writeStall: 30 * time.Second, grace: 10 * time.Second,
	}
}

// Table is what the daemon needs of conntrack.Table.
type Table interface {
	rpc.Table
	Sysctl(name string) (string, error)
	InNetNS(fn func() error) error
	NetNS() *os.File
}

var _ Table = (*conntrack.Table)(nil)

// Server is the daemon without its listeners.
type Server struct {
	cfg      Config
	timing   timing
	table    Table
	cutter   rpc.Cutter // nil where connections can't be cut
	helper   *rtspHelper
	auditor  *auditor    // nil where nothing is recorded
	records  rpc.Auditor // the same; nil where nothing is recorded
	secret   string      // the daemon's own token
	policy   atomic.Pointer[policy]
	sessions *sessions // of the page
	reloads  *reloads  // nil: the configuration isn't read again
	registry *rpc.Registry
	// sessionOf returns whose session of pyctd's a request is of.
	sessionOf func(head []byte) rpc.Principal
	logger    *slog.Logger
	started   time.Time
	stopping  atomic.Bool
	ended     chan struct{} // closed by end when the daemon begins to stop
	end       func()
}

// New returns a server for a table. cutter ends connections; nil can't. secret is the token that
// recognises an admin.
func New(cfg Config, table Table, cutter rpc.Cutter, secret string, logger *slog.Logger) (*Server, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, timing: defaultTiming(), table: table, cutter: cutter, logger: logger, started: time.Now().UTC(), registry: rpc.NewRegistry(),
		secret: secret, auditor: newAuditor(cfg.Audit, logger), sessions: newSessions(),
		helper: newRTSPHelper(cfg.RTSP, logger), ended: make(chan struct{}),
	}
	s.records = s.auditor.forService(s.knowsName)
	p, wrong := s.newPolicy(cfg, nil)
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	s.setPolicy(p)
	s.end = sync.OnceFunc(func() { close(s.ended) })
	service := &rpc.Service{
		Table: table, Cutter: cutter, Info: s.info, Doctor: s.doctor, Login: s.login, Pyctd: cfg.Pyctd, Stopping: s.ended,
		Scope: func(ctx context.Context) string { return s.policyOf(ctx).cfg.Scope }, Auditor: s.records, Audit: s.audit,
		HelperStatus: s.helperStatus, HelperSessions: s.helperSessions, HelperRules: s.helperRules,
	}
	service.Register(s.registry)
	s.sessionOf = service.SessionOf
	rpc.RegisterSystem(s.registry, cfg.Version)
	return s, nil
}

// Handler returns all that is reached over HTTP.
func (s *Server) Handler() http.Handler {
	calls := rpc.NewHandler(s.registry, rpc.HandlerConfig{MaxBody: s.cfg.MaxBody, Logger: s.logger})
	mux := http.NewServeMux()
	for _, path := range []string{"/rpc", "/RPC2", "/{$}"} {
		mux.Handle(path, calls)
	}
	mux.HandleFunc("GET "+healthPath, s.healthz)
	mux.HandleFunc("GET "+readyPath, s.readyz)
	mux.Handle("GET /openrpc.json", s.forViewers(http.HandlerFunc(s.openRPC)))
	mux.Handle("GET "+metricsPath, s.forViewers(s.metrics()))
	s.handleSessions(mux)
	return s.underPolicy(s.logged(s.ownOrigin(s.authenticated(s.placed(mux)))))
}

// run opens the table and serves until ctx ends. It says on stdout how to reach it. r may be nil.
func run(ctx context.Context, cfg Config, r *reloads, logger *slog.Logger, stdout io.Writer) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	table, err := conntrack.Open(conntrack.Config{NetNS: cfg.NetNS})
	if err != nil {
		return withHint(err)
	}
	defer table.Close()
	// Fail at once rather than at every call: without the capability the kernel answers nothing.
	if _, err := table.Stats(ctx); err != nil {
		return withHint(fmt.Errorf("read the table: %w", err))
	}
	if err := makeStateDir(cfg.StateDir); err != nil {
		return withHint(err)
	}
	listeners, err := listenAll(&cfg)
	if err != nil {
		return withHint(err)
	}
	unlock, err := auth.LockToken(cfg.tokenFile())
	if err != nil {
		closeAll(listeners)
		return withHint(err)
	}
	defer unlock()
	secret := auth.NewToken()
	if err := auth.WriteToken(cfg.tokenFile(), secret); err != nil {
		closeAll(listeners)
		return withHint(err)
	}
	defer func() {
		if err := auth.RemoveToken(cfg.tokenFile(), secret); err != nil {
			logger.Warn("the token is left behind", "error", err)
		}
	}()
	cutter, closeCutter := openCutter(table, logger)
	defer closeCutter()
	s, err := New(cfg, table, cutter, secret, logger)
	if err != nil {
		closeAll(listeners)
		return err
	}
	s.reloads = r
	defer func() { s.policy.Load().auth.Close() }()
	s.openHelper(ctx, table)
	defer s.helper.close() // where serve didn't come to it
	if err := leastPrivilege(&cfg, logger); err != nil {
		closeAll(listeners)
		return err
	}
	// As the user that it runs as, who rotates the file.
	closeAudit, err := s.auditor.open(cfg.Audit)
	if err != nil {
		closeAll(listeners)
		return err
	}
	defer closeAudit()
	s.announce(stdout, listeners)
	return s.serve(ctx, listeners)
}

// openCutter returns what ends connections. Without nf_tables there is none, and everything else works.
func openCutter(table *conntrack.Table, logger *slog.Logger) (rpc.Cutter, func()) {
	cutter, err := cut.Open(cut.Config{Table: table, Logger: logger})
	if err != nil {
		logger.Warn("connections can't be cut", "error", err)
		return nil, func() {}
	}
	return cutter, func() {
		if err := cutter.Close(); err != nil {
			logger.Warn("an nftables table is left behind", "table", cutter.Name(), "error", err)
		}
	}
}

// withHint says what to do about a failure to start.
func withHint(err error) error {
	if _, has := errors.AsType[*hintError](err); has {
		return err
	}
	switch {
	case errors.Is(err, errStateDir):
		return &hintError{err, "make it and give it to the daemon's user, or name another one with --state-dir (state_dir)"}
	case errors.Is(err, os.ErrPermission):
		return &hintError{err, "run it as root, or with CAP_NET_ADMIN (CAP_SYS_ADMIN for --netns) and a --socket in a folder that is yours"}
	case errors.Is(err, errInUse):
		return &hintError{err, "another daemon is there; stop it, or give --listen, --socket and --state-dir of your own"}
	case errors.Is(err, auth.ErrTokenLocked):
		return &hintError{err, "each daemon writes its token beside its socket: wait until the other one has ended, or give this one a --socket in a folder of its own"}
	}
	return err
}

// announce says how to reach the daemon.
func (s *Server) announce(w io.Writer, listeners []net.Listener) {
	fmt.Fprintf(w, "ctd %s is ready.\n", s.cfg.Version)
	client, curl := "ctd list", ""
	for _, l := range listeners {
		if l.Addr().Network() == "tcp" {
			url := "http://" + l.Addr().String()
			curl = url
			if speaksTLS(l) {
				url = "https://" + l.Addr().String()
				curl = s.tlsExample(l.Addr())
			}
			fmt.Fprintf(w, "  TCP:         %s\n", url)
			continue
		}
		fmt.Fprintf(w, "  Unix socket: %s\n", l.Addr())
		if l.Addr().String() != DefaultSocket {
			client = "CTD_SERVER=unix://" + s.absSocket() + " ctd list"
		}
	}
	fmt.Fprintf(w, "  Token file:  %s\n\nTry:\n  %s\n", s.cfg.tokenFile(), client)
	if curl != "" {
		fmt.Fprintf(w, "  curl -H \"Authorization: Bearer $(cat %s)\" -H 'Content-Type: application/json' \\\n"+
			"    -d '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"conntrack.count\"}' %s/rpc\n", s.cfg.tokenFile(), curl)
	}
}

func (s *Server) absSocket() string {
	abs, err := filepath.Abs(s.cfg.Socket)
	if err != nil {
		return s.cfg.Socket
	}
	return abs
}

// serve answers on the listeners until ctx ends, then lets what is under way come to its end.
func (s *Server) serve(ctx context.Context, listeners []net.Listener) error {
	httpServer := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: s.timing.readHeader,
		ReadTimeout:       s.timing.read,
		IdleTimeout:       s.timing.idle,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
		ConnContext:       withConnection,
		// With HTTP/2 a connection could have many requests at a time, and the limit on connections
		// would be none on requests.
		Protocols: new(http.Protocols),
	}
	httpServer.Protocols.SetHTTP1(true)
	tasks, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		tasks.Go(func() error {
			if err := httpServer.Serve(s.withTLS(l)); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	if s.helper.cfg.Enabled && s.helper.open != nil {
		tasks.Go(func() error { return s.helper.run(ctx) })
	}
	if s.reloads != nil {
		tasks.Go(func() error { return s.reloadWhenTold(ctx) })
	}
	tasks.Go(func() error {
		<-ctx.Done()
		s.stopping.Store(true)
		s.end()
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
		s.logger.Info("stopping", "grace", s.timing.grace)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timing.grace)
		defer cancel()
		if err := httpServer.Shutdown(grace); err != nil {
			s.logger.Warn("requests are cut off", "after", s.timing.grace)
			return httpServer.Close()
		}
		return nil
	})
	s.logger.Info("started", "version", s.cfg.Version, "netns", s.cfg.NetNS)
	// systemd may wait for it; elsewhere nobody does.
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	err := tasks.Wait()
	s.logger.Info("stopped")
	return err
}
