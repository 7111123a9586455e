package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"ctd/auth"
	"ctd/rpc/wire"
)

// reloads are what reading the configuration again needs.
type reloads struct {
	signals <-chan os.Signal          // one for each time that it is asked for
	load    func() (*loaded, []error) // reads it
	level   *slog.LevelVar            // of the log
	last    *loaded                   // what counts; the reloading task's

	mu    sync.Mutex
	since time.Time // when last was read
	wrong error     // with what was read since; nil where that counts
	kept  []string  // settings that need a restart
}

func (r *reloads) setKept(kept []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = kept
}

// newReloads returns reloads of a configuration that was read.
func newReloads(signals <-chan os.Signal, load func() (*loaded, []error), read *loaded, level *slog.LevelVar) *reloads {
	return &reloads{signals: signals, load: load, level: level, last: read, since: time.Now()}
}

// reloadWhenTold reads the configuration again each time that it is asked for, until ctx ends.
func (s *Server) reloadWhenTold(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.reloads.signals:
		}
		if ctx.Err() == nil && !s.reloadWithin(ctx) { // the daemon isn't about to stop
			return nil
		}
	}
}

// reloadWithin reads the configuration again, and tells whether that has ended. Once ctx ends it is waited for
// as long as for requests: a file system that hangs doesn't keep the daemon from ending.
func (s *Server) reloadWithin(ctx context.Context) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.reload(ctx)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	select {
	case <-done:
		return true
	case <-time.After(s.timing.grace):
		s.logger.Warn("the configuration is still being read, which isn't waited for", "after", s.timing.grace)
		return false
	}
}

// reload reads the configuration again, and opens the audit file anew. Where all of the configuration is
// right, it counts for requests that come from then on; else nothing of it changes.
func (s *Server) reload(ctx context.Context) {
	notifyReloading()
	s.auditor.reopen()
	r := s.reloads
	wrong := s.adopt(ctx)
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	if r.wrong = errors.Join(wrong...); r.wrong == nil {
		r.since = time.Now()
	}
	r.mu.Unlock()
	if len(wrong) == 0 {
		s.logger.InfoContext(ctx, "the configuration was read again", "file", r.last.file.name)
		notifyReloaded("")
		return
	}
	for _, err := range wrong {
		s.logger.ErrorContext(ctx, "the configuration is wrong and stays as it was", "error", err)
	}
	notifyReloaded("the configuration is wrong and stays as it was")
}

// adopt reads the configuration and has it count, or says what is wrong with it.
func (s *Server) adopt(ctx context.Context) []error {
	next, wrong := s.reloads.load()
	if ctx.Err() != nil { // the daemon has stopped, or is about to
		return []error{context.Cause(ctx)}
	}
	if len(wrong) > 0 {
		for i, err := range wrong {
			// It was root who read it at first, where there is run_as.
			if errors.Is(err, fs.ErrPermission) {
				wrong[i] = fmt.Errorf("%w: the user that the daemon runs as must be able to read it", err)
			}
		}
		return wrong
	}
	if was := s.reloads.last.file; was.there && !next.file.there {
		// All that it says would be gone, limits and networks too, which nobody means who only moves it.
		return []error{fmt.Errorf("%[1]s isn't there any more; put it back and reload, or leave an empty %[1]s for the defaults", was.name)}
	}
	kept := next.keep(s.reloads.last)
	if len(kept) > 0 { // what stays may not go with what doesn't
		if wrong := next.configure(); len(wrong) > 0 {
			return []error{fmt.Errorf("it doesn't go with %s as the daemon has it now, which needs a restart: %w", strings.Join(kept, ", "), errors.Join(wrong...))}
		}
	}
	next.cfg.Version = s.cfg.Version
	p, wrong := s.newPolicy(next.cfg, s.policy.Load())
	if len(wrong) > 0 {
		return next.placed(wrong)
	}
	s.setPolicy(p)
	s.reloads.last = next
	s.reloads.setKept(kept)
	s.reloads.level.Set(next.cfg.level())
	for _, key := range kept {
		s.logger.WarnContext(ctx, "a setting was changed that needs a restart", "setting", key)
	}
	warnDoubts(s.logger, next)
	return nil
}

// keep takes over from before what a reload leaves as it is, and returns the keys of what differed.
func (l *loaded) keep(before *loaded) (kept []string) {
	for _, one := range allSettings() {
		if !one.fixed || one.table || one.in != nil {
			continue
		}
		now, was := one.value(l.settings), one.value(before.settings)
		if !reflect.DeepEqual(now.Interface(), was.Interface()) {
			now.Set(was)
			kept = append(kept, one.key())
		}
	}
	// The listeners that there are speak TLS, or don't.
	if now, was := &l.settings.TLS, before.settings.TLS; (now.Cert == "") != (was.Cert == "") {
		*now = was
		kept = append(kept, "tls.cert")
	}
	return kept
}

// placed says of errors of settings where in the file they are.
func (l *loaded) placed(wrong []error) []error {
	placed := make([]error, len(wrong))
	for i, err := range wrong {
		placed[i] = err
		if e, ok := errors.AsType[*auth.SettingError](err); ok {
			placed[i] = l.file.placed(&settingError{e.Key, e.Text}, l.flags)
		} else if e, ok := errors.AsType[*settingError](err); ok {
			placed[i] = l.file.placed(e, l.flags)
		}
	}
	return placed
}

// warnDoubts logs which files with secrets others may read, and what of the configuration has no effect now.
func warnDoubts(logger *slog.Logger, l *loaded) {
	for _, err := range l.doubts() {
		logger.Warn("a setting may have no effect, or keep the daemon from starting", "setting", err)
	}
	for _, e := range exposed(l.file, &l.cfg) {
		logger.Warn("a file is open to others", "file", e.file, "mend", e.text)
	}
}

// checkConfiguration tells whether what the configuration says is what counts.
func (s *Server) checkConfiguration(context.Context) wire.Finding {
	s.reloads.mu.Lock()
	defer s.reloads.mu.Unlock()
	since := s.reloads.since.Format(time.DateTime)
	if kept := s.reloads.kept; s.reloads.wrong == nil && len(kept) > 0 {
		return wire.Finding{
			Check: "configuration", Severity: severityInfo,
			Message: fmt.Sprintf("the configuration counts as it was read at %s, but for what needs a restart: %s", since, strings.Join(kept, ", ")),
			Mend:    "systemctl restart ctd",
		}
	}
	if s.reloads.wrong == nil {
		return wire.Finding{Check: "configuration", Severity: severityOK, Message: "the configuration counts as it was read at " + since}
	}
	return wire.Finding{
		Check: "configuration", Severity: severityWarning,
		Message: fmt.Sprintf("the file changed and is wrong, so that what was read at %s counts still: %s", since, firstLine(s.reloads.wrong)),
		Mend:    "systemctl reload ctd # once ctd check-config finds nothing",
	}
}

// firstLine returns the first of the errors, and how many more there are.
func firstLine(err error) string {
	all := each(err)
	text := all[0].Error()
	if n := len(all) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}

// each returns the errors that errors.Join joined, or the one that there is.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 { //nolint:errorlint // not one that is wrapped
		return joined.Unwrap()
	}
	return []error{err}
}

// notifyReloading tells systemd that a reload has begun; elsewhere nobody listens. It compares the time
// with that of its signal (sd_notify(3), Type=notify-reload).
func notifyReloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // there is no kernel without this clock
	_, _ = daemon.SdNotify(false, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/int64(time.Microsecond)))
}

// notifyReloaded tells systemd that it has ended; status is shown.
func notifyReloaded(status string) {
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="+status)
}
