package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ctd/helper"
)

// helperRetry is how long it takes until a helper that could not start, or ended, is tried again.
const helperRetry = 30 * time.Second

// errHelperEnded says that the helper ended by itself, and not why.
var errHelperEnded = errors.New("it ended")

// engine is what the daemon needs of helper.Helper.
type engine interface {
	Run(ctx context.Context) error
	Status() helper.Status
	Sessions() []helper.Session
	Close() error
}

var _ engine = (*helper.Helper)(nil)

// rtspHelper keeps the RTSP helper running while the daemon does. Where it can't start, or ends, the
// daemon goes on without it, and tries again.
type rtspHelper struct {
	cfg    RTSPConfig
	open   func(ctx context.Context, cfg helper.Config) (engine, error)
	logger *slog.Logger
	retry  time.Duration

	mu      sync.RWMutex
	running engine // nil while it doesn't run
	err     error  // why it doesn't
}

// newRTSPHelper returns a helper that isn't started.
func newRTSPHelper(cfg RTSPConfig, logger *slog.Logger) *rtspHelper {
	return &rtspHelper{cfg: cfg, logger: logger, retry: helperRetry}
}

// openHelper starts the helper, where it is enabled; elsewhere it deletes what one left behind that was
// killed. What the daemon is asked of it is answered from then on; serve runs it, and closes it at the
// end.
func (s *Server) openHelper(ctx context.Context, table helper.Table) {
	h := s.helper
	h.open = func(ctx context.Context, cfg helper.Config) (engine, error) {
		cfg.Table, cfg.Logger = table, s.logger
		e, err := helper.Open(ctx, cfg)
		if err != nil {
			return nil, err // rather than a nil *Helper that isn't nil
		}
		return e, nil
	}
	if h.cfg.Enabled {
		h.start(ctx)
	} else if err := helper.Clear(table, s.logger); err != nil { // mostly there is no nf_tables, and nothing to delete
		s.logger.Debug("looked for rules that an RTSP helper left behind", "error", err)
	}
}

// start opens the helper and notes what came of it.
func (h *rtspHelper) start(ctx context.Context) {
	e, err := h.open(ctx, h.cfg.Helper)
	if err != nil {
		h.failed(ctx, fmt.Errorf("start the RTSP helper: %w", err))
		return
	}
	h.mu.Lock()
	h.running, h.err = e, nil
	h.mu.Unlock()
	st := e.Status()
	h.logger.Info("the RTSP helper follows connections", "strategy", st.Strategy, "interception", st.Interception, "queue", st.Queue, "ports", st.Ports)
}

// failed notes why the helper doesn't run. What fails again in the same way is no news.
func (h *rtspHelper) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	h.mu.Lock()
	again := h.err != nil && h.err.Error() == err.Error()
	h.err = err
	h.mu.Unlock()
	if again {
		h.logger.Debug("the RTSP helper does not run still", "error", err)
		return
	}
	h.logger.Error("the RTSP helper does not run", "error", err, "hint", h.hint(err), "again_in", h.retry)
}

// run runs the helper, and starts it again where it isn't running, until ctx ends; then it is closed.
func (h *rtspHelper) run(ctx context.Context) error {
	for {
		if e := h.engine(); e != nil {
			err := e.Run(ctx)
			h.close()
			if err == nil {
				err = errHelperEnded
			}
			h.failed(ctx, fmt.Errorf("run the RTSP helper: %w", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(h.retry):
		}
		h.start(ctx)
	}
}

// close takes down what the helper set up.
func (h *rtspHelper) close() {
	h.mu.Lock()
	e := h.running
	h.running = nil
	h.mu.Unlock()
	if e == nil {
		return
	}
	if err := e.Close(); err != nil {
		h.logger.Warn("something of the RTSP helper's is left behind", "error", err)
	}
}

func (h *rtspHelper) engine() engine {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.running
}

// status returns the helper's status; nil where it doesn't run, and why.
func (h *rtspHelper) status() (*helper.Status, error) {
	h.mu.RLock()
	defer h.mu.RUnlock() // it isn't closed meanwhile
	if h.running == nil {
		return nil, h.err
	}
	st := h.running.Status()
	return &st, nil
}

func (h *rtspHelper) sessions() []helper.Session {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.running == nil {
		return nil
	}
	return h.running.Sessions()
}

// busy tells whether an error of the helper's says that somebody else reads the queue. The kernel refuses
// a second one as if it weren't allowed to (nfqnl_recv_config, net/netfilter/nfnetlink_queue.c), and shows
// who reads it to root alone.
func busy(err error) bool {
	return errors.Is(err, helper.ErrQueueTaken) || errors.Is(err, os.ErrPermission) && !lacksNetAdmin()
}

// otherHelper tells whether an error says that another process is the helper, and which; 0 where that
// isn't known.
func otherHelper(err error) (pid int, ok bool) {
	other, ok := errors.AsType[*helper.OtherHelperError](err)
	if !ok {
		return 0, false
	}
	return other.PID, true
}

func lacksNetAdmin() bool {
	have, err := effectiveCapabilities()
	return err == nil && have&(1<<unix.CAP_NET_ADMIN) == 0
}

// unsupported tells whether an error says that the kernel hasn't what the helper needs.
func unsupported(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EOPNOTSUPP, syscall.EPROTONOSUPPORT, syscall.ENOENT, syscall.EINVAL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// hint says what to do about a failure.
func (h *rtspHelper) hint(err error) string {
	_, other := otherHelper(err)
	switch {
	case other:
		return "a network namespace has one RTSP helper: stop the other daemon, or set helper.rtsp.enabled = false in one of the two"
	case busy(err):
		return fmt.Sprintf("another program may read queue %d: stop it, or set helper.rtsp.queue to another number", h.cfg.Helper.Queue)
	case errors.Is(err, os.ErrPermission):
		return "give the daemon CAP_NET_ADMIN"
	case unsupported(err):
		return "the kernel may lack NFQUEUE: modprobe -a nfnetlink_queue nft_queue"
	}
	return "it is tried again every " + h.retry.String() + "; the daemon's log may say more"
}
