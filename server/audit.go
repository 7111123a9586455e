package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"ctd/auth"
	"ctd/auth/audit"
	"ctd/rpc"
	"ctd/rpc/wire"
)

// How many records server.audit returns.
const (
	defaultAuditLimit = 100
	maxAuditLimit     = 10_000
)

// auditErrorEvery is how often a record that can't be written is logged: each refused call of a stranger
// would be one.
const auditErrorEvery = time.Minute

// auditor is the rpc.Auditor of a server.
type auditor struct {
	to     string
	log    atomic.Pointer[audit.Log] // nil until open
	knows  func(name string) bool
	logger *slog.Logger
	say    *rate.Limiter
}

// unknownName stands in the record for a name that nobody has: somebody may have given a password or a token
// in its place.
const unknownName = "(unknown)"

var _ rpc.Auditor = (*auditor)(nil)

// newAuditor returns what records, once it is opened; nil where nothing is to be recorded.
func newAuditor(cfg audit.Config, logger *slog.Logger) *auditor {
	if cfg.To == "" || cfg.To == audit.ToNone {
		return nil
	}
	return &auditor{to: cfg.To, logger: logger, say: rate.NewLimiter(rate.Every(auditErrorEvery), 1)}
}

// forService returns what a service needs; nil where nothing is to be recorded. Of the names that are only
// claimed, those are recorded that knows tells.
func (a *auditor) forService(knows func(name string) bool) rpc.Auditor {
	if a == nil {
		return nil
	}
	a.knows = knows
	return a
}

var errAuditNotOpen = errors.New("the record isn't open")

// open opens the log, after which changes can be made. The files are those of the user that the process
// runs as.
func (a *auditor) open(cfg audit.Config) (closeLog func(), err error) {
	if a == nil {
		return func() {}, nil
	}
	l, err := audit.Open(cfg, a.logger)
	if err != nil {
		return nil, &hintError{err, "changes are made only where they can be recorded: see [audit] in the configuration; to = \"none\" records nothing"}
	}
	a.log.Store(l)
	return func() {
		if err := l.Close(); err != nil {
			a.logger.Warn("the audit record was not closed", "error", err)
		}
	}, nil
}

// reopen opens the file anew, which an administrator's logrotate may have moved away.
func (a *auditor) reopen() {
	if a == nil || a.log.Load() == nil {
		return
	}
	if err := a.log.Load().Reopen(); err != nil {
		a.logger.Error("the audit file can't be opened anew", "error", err)
	}
}

func (a *auditor) write(r audit.Record) error {
	l := a.log.Load()
	if l == nil {
		return errAuditNotOpen
	}
	return l.Write(r)
}

// Begin is rpc.Auditor's.
func (a *auditor) Begin(c rpc.AuditedCall) (id string, err error) {
	r := a.record(audit.Begin, &c)
	if err := a.write(r); err != nil {
		if a.say.Allow() {
			a.logger.Error("a change can't be recorded and isn't made", "method", r.Method, "principal", clip(r.Principal), "error", err)
		}
		return "", &wire.Error{
			Code: wire.Unavailable, Message: "the change can't be recorded, so it isn't made", Errno: errnoOf(err),
			Hint: "see the daemon's log and server.doctor: the disk may be full, or the record's folder not writable",
		}
	}
	return r.ID, nil
}

// errnoOf returns why a record can't be written by the name of its errno: by having one this differs from what
// is unavailable after a part was done (see wire.Error.Exit). What has none is EIO.
func errnoOf(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		if name := unix.ErrnoName(errno); name != "" {
			return name
		}
	}
	return "EIO"
}

// End is rpc.Auditor's.
func (a *auditor) End(id string, c rpc.AuditedCall, o rpc.AuditOutcome) {
	r := audit.Record{Time: time.Now().UTC(), Event: audit.End, ID: id, Method: c.Method}
	r.Principal, _ = a.whoOf(&c)
	addOutcome(&r, &o)
	if err := a.write(r); err != nil {
		// What was done is done, so that it has to stand somewhere, also where it is written later: the daemon
		// may end before. There are no more of these than of changes that began.
		text, _ := json.Marshal(&r)
		a.logger.Error("the end of a change can't be recorded", "record", string(text), "later", errors.Is(err, audit.ErrOwed), "error", err)
	}
}

// Refused is rpc.Auditor's.
func (a *auditor) Refused(c rpc.AuditedCall, o rpc.AuditOutcome) {
	r := a.record(audit.Refusal, &c)
	addOutcome(&r, &o)
	if err := a.write(r); err != nil && a.say.Allow() {
		a.logger.Error("a refusal can't be recorded", "method", clip(r.Method), "error", err)
	}
}

// whoOf returns the caller's name, and who it is; nil where it is only claimed.
func (a *auditor) whoOf(c *rpc.AuditedCall) (string, rpc.Principal) {
	switch {
	case c.Principal != nil:
		return c.Principal.Name(), c.Principal
	case c.Claimed != "" && (a.knows == nil || !a.knows(c.Claimed)):
		return unknownName, nil
	}
	return c.Claimed, nil
}

// record makes the record of a call.
func (a *auditor) record(event audit.Event, c *rpc.AuditedCall) audit.Record {
	now := time.Now().UTC()
	r := audit.Record{
		Time: now, Event: event, ID: newAuditID(now), From: c.From,
		Protocol: c.Protocol, Method: c.Method, Params: c.Params, ParamsTruncated: c.Truncated, Reason: c.Reason,
		Matched: c.Matched, Flows: c.Flows, FlowsTruncated: c.FlowsTruncated,
	}
	name, p := a.whoOf(c)
	r.Principal = name
	if p != nil {
		r.Role, r.Via, r.Credential = p.Role(), p.Via(), p.Credential()
	}
	return r
}

func addOutcome(r *audit.Record, o *rpc.AuditOutcome) {
	r.Outcome = "ok"
	if o.Err != nil {
		r.Outcome, r.Message = string(o.Err.Code), o.Err.Message
	}
	r.Changed, r.Failed, r.TookMS = o.Changed, o.Failed, o.Took.Milliseconds()
}

// newAuditID returns an ID that no other record has: the time in microseconds, and 30 random bits. Those of
// later records sort after those of earlier ones.
func newAuditID(now time.Time) string {
	return strconv.FormatInt(now.UnixMicro(), 36) + "-" + strings.ToLower(rand.Text()[:6])
}

// audit answers server.audit.
func (s *Server) audit(ctx context.Context, p wire.AuditParams) (wire.AuditResult, error) {
	if who := rpc.PrincipalFrom(ctx); who == nil || len(who.Networks()) > 0 {
		return wire.AuditResult{}, &wire.Error{
			Code: wire.PermissionDenied, Message: "the record has flows of everywhere, and you are bound to networks",
			Hint: "ask an administrator who isn't",
		}
	}
	q, err := auditQuery(&p)
	if err != nil {
		return wire.AuditResult{}, err
	}
	var l *audit.Log
	if s.auditor != nil {
		l = s.auditor.log.Load()
	}
	switch l.To() {
	case audit.ToNone:
		return wire.AuditResult{}, &wire.Error{
			Code: wire.Unsupported, Message: "this daemon keeps no record",
			Hint: `set to = "file" in [audit] of the configuration, and restart the daemon`,
		}
	case audit.ToJournald:
		return wire.AuditResult{}, &wire.Error{
			Code: wire.Unsupported, Message: "this daemon's record is in journald",
			Hint: "on the daemon's machine: journalctl -t " + audit.Identifier + " -o cat",
		}
	}
	got, err := l.Read(ctx, q)
	switch {
	case errors.Is(err, audit.ErrReading):
		return wire.AuditResult{}, &wire.Error{Code: wire.Busy, Message: err.Error(), Hint: "try again in a while"}
	case ctx.Err() != nil:
		return wire.AuditResult{}, ctx.Err()
	case err != nil:
		s.logger.ErrorContext(ctx, "the audit record can't be read", "error", err)
		return wire.AuditResult{}, &wire.Error{Code: wire.Unavailable, Message: "the record can't be read", Hint: "server.doctor (ctd doctor) says why, and the daemon's log"}
	}
	if names := s.registry.Names(); q.Method != "" && len(got.Records) == 0 && !slices.Contains(names, q.Method) {
		// Strangers call, and earlier versions had, methods that there aren't: those can be asked for too.
		return wire.AuditResult{}, unknownWord("method", q.Method, names, "there is no such method, and none was called")
	}
	result := wire.AuditResult{Records: make([]wire.AuditRecord, len(got.Records)), Truncated: got.Truncated, Unread: got.Unread}
	for i := range got.Records {
		result.Records[i] = wireRecord(&got.Records[i])
	}
	return result, nil
}

// auditQuery reads the parameters of server.audit.
func auditQuery(p *wire.AuditParams) (audit.Query, error) {
	q := audit.Query{
		Principal: p.Principal, Method: p.Method, Outcome: p.Outcome, Kind: p.Kind, Text: p.Text, Limit: p.Limit,
	}
	refuse := func(hint, format string, args ...any) (audit.Query, error) {
		return audit.Query{}, &wire.Error{Code: wire.InvalidParams, Message: fmt.Sprintf(format, args...), Hint: hint}
	}
	if p.Since != nil {
		q.Since = *p.Since
	}
	if p.Until != nil {
		q.Until = *p.Until
	}
	if p.Since != nil && p.Until != nil && q.Until.Before(q.Since) {
		return refuse("", "until: it is before since")
	}
	if outcomes := auditOutcomes(); q.Outcome != "" && !slices.Contains(outcomes, q.Outcome) {
		return audit.Query{}, unknownWord("outcome", q.Outcome, outcomes, "it is none of "+strings.Join(outcomes, ", "))
	}
	switch {
	case p.Limit == 0:
		q.Limit = defaultAuditLimit
	case p.Limit < 0 || p.Limit > maxAuditLimit:
		return refuse("for more, narrow it by since and until, several times", "limit: %d is not from 1 to %d", p.Limit, maxAuditLimit)
	}
	switch p.From {
	case "":
	case "unix":
		q.Unix = true
	default:
		network, err := netip.ParsePrefix(p.From)
		if err != nil {
			address, err := netip.ParseAddr(p.From)
			if err != nil {
				return refuse("", "from: want an address, a network as 10.3.0.0/16, or unix, got %q", clip(p.From))
			}
			address = address.Unmap().WithZone("")
			network = netip.PrefixFrom(address, address.BitLen())
		}
		if network != network.Masked() {
			return refuse("", "from: %q has bits set beyond its length; the network is %s", p.From, network.Masked())
		}
		q.From = network
	}
	return q, nil
}

// auditOutcomes returns what a record may have as its outcome.
func auditOutcomes() []string {
	outcomes := []string{"ok", audit.Unknown}
	for _, c := range wire.Codes() {
		outcomes = append(outcomes, string(c))
	}
	return outcomes
}

// unknownWord returns an error for the value of a parameter that is none of words.
func unknownWord(parameter, value string, words []string, why string) *wire.Error {
	err := &wire.Error{Code: wire.InvalidParams, Message: fmt.Sprintf("%s: %q: %s", parameter, clip(value), why)}
	if near := wire.Nearest(value, words); near != "" {
		err.Hint = fmt.Sprintf("did you mean %q?", near)
	}
	return err
}

// wireRecord makes a record of the contract's.
func wireRecord(r *audit.Record) wire.AuditRecord {
	out := wire.AuditRecord{
		Time: r.Time, Kind: audit.Change, ID: r.ID, Principal: r.Principal, Role: r.Role, Via: r.Via, Credential: r.Credential,
		From: r.From, Protocol: r.Protocol, Method: r.Method, ParamsTruncated: r.ParamsTruncated, Reason: r.Reason,
		Matched: r.Matched, Flows: r.Flows, FlowsTruncated: r.FlowsTruncated,
		Outcome: r.Outcome, Message: r.Message, Changed: r.Changed, Failed: r.Failed, TookMS: r.TookMS, Suppressed: r.Suppressed,
	}
	if r.Event == audit.Refusal {
		out.Kind = audit.Refused
	}
	if len(r.Params) > 0 {
		d := json.NewDecoder(bytes.NewReader(r.Params))
		d.UseNumber()
		_ = d.Decode(&out.Params) // it was read as JSON already
	}
	return out
}

// checkAudit looks whether changes can be recorded.
func (s *Server) checkAudit(context.Context) wire.Finding {
	f := wire.Finding{Check: "audit", Severity: severityInfo}
	if s.auditor == nil {
		f.Message = `changes and refusals are not recorded; to = "file" in [audit] of the configuration records them`
		return f
	}
	l := s.auditor.log.Load()
	st, path := l.Status(), l.Path()
	folder := filepath.Dir(path)
	switch {
	case l == nil:
		f.Severity, f.Message, f.Mend = severityError, "the audit record isn't open, so that nothing is changed", "systemctl restart ctd"
	case st.Err != nil:
		f.Severity = severityError
		f.Message = fmt.Sprintf("nothing is changed since %s, as it can't be recorded: %v", st.Since.UTC().Format(time.RFC3339), st.Err)
		switch {
		case path == "":
			f.Mend = "systemctl restart systemd-journald"
		case errors.Is(st.Err, unix.ENOSPC), errors.Is(st.Err, unix.EDQUOT):
			f.Message += "; make room, and it goes on by itself"
			f.Mend = "df -h " + folder
		default:
			f.Mend = "ls -ld " + folder + " " + path
		}
	case st.Rotate != nil:
		f.Severity = severityWarning
		f.Message = "the audit file can't be set aside and grows on: " + st.Rotate.Error()
		f.Mend = "ls -la " + folder
	case path == "":
		f.Severity, f.Message = severityOK, "changes and refusals are recorded in journald: journalctl -t "+audit.Identifier+" -o cat"
	default:
		f.Severity, f.Message = severityOK, "changes and refusals are recorded in "+path
		if err := l.Readable(); err != nil {
			// What is open is written on, until the daemon ends.
			f.Severity = severityWarning
			f.Message += ", but they can't be read, nor would the daemon start again: " + err.Error()
			f.Mend = readMend(path, err)
		}
	}
	return f
}

// readMend is the command that lets the daemon read a file of its record, or shows what is wrong.
func readMend(path string, err error) string {
	if file, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(err, fs.ErrPermission) {
		return fileMend(&auth.FileError{Path: file.Path, Err: err})
	}
	return "ls -la " + shellWord(filepath.Dir(path))
}
