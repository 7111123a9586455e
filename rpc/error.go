package rpc

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/rpc/wire"
)

// kernelRow is what an errno of ctnetlink's means to a caller.
type kernelRow struct {
	errno unix.Errno
	code  wire.Code
	hint  string
}

// kernelTable maps what the kernel answers. What isn't in it is internal.
var kernelTable = [...]kernelRow{
	{unix.ENOENT, wire.NotFound, "it may have ended in the meantime; list again"},
	{unix.ESRCH, wire.NotFound, "it may have ended in the meantime; list again"},
	{unix.EEXIST, wire.AlreadyExists, "a flow or expectation has one of these tuples already; get it, or kill it first"},
	{unix.EPERM, wire.PermissionDenied, "the daemon needs CAP_NET_ADMIN in the namespace's user namespace; some changes, such as of a fixed timeout, the kernel allows nobody"},
	{unix.EACCES, wire.PermissionDenied, "the daemon needs CAP_NET_ADMIN in the namespace's user namespace"},
	{unix.EBUSY, wire.Busy, "the kernel is changing it just now, or does not let this be changed on a live flow; try again"},
	{unix.EAGAIN, wire.Busy, "try again"},
	{unix.EINTR, wire.Busy, "the table changed while it was read; try again"},
	{unix.EOPNOTSUPP, wire.Unsupported, "the kernel was built without it, or the flow lacks the extension (a helper, labels) that it needs; see server.doctor"},
	{unix.EPROTONOSUPPORT, wire.Unsupported, "the kernel doesn't track this protocol"},
	{unix.EAFNOSUPPORT, wire.Unsupported, "only ipv4 and ipv6 are tracked"},
	{unix.EINVAL, wire.InvalidParams, "the kernel refuses this combination of values"},
	{unix.ERANGE, wire.InvalidParams, "a value is out of the kernel's range"},
	{unix.ENOMEM, wire.LimitExceeded, "the table may be full: raise net.netfilter.nf_conntrack_max or kill flows"},
	{unix.ENOBUFS, wire.LimitExceeded, "the kernel sent faster than the daemon read; try again"},
	{unix.ENOSPC, wire.LimitExceeded, "no room in the entry: labels need a rule with the connlabel match to be loaded when the flow begins"},
	{unix.EMFILE, wire.LimitExceeded, "the daemon has too many files open: raise its limit"},
	{unix.ETIMEDOUT, wire.Deadline, "try again"},
}

// layerRow is what an error of the conntrack layer's own means to a caller.
type layerRow struct {
	err  error
	code wire.Code
	hint string
}

var layerTable = [...]layerRow{
	{conntrack.ErrIncomplete, wire.InvalidParams, ""},
	{conntrack.ErrNotReplayable, wire.Unsupported, "take it off the flow table (delete or change the rule with flow add), and export again"},
	{conntrack.ErrNoKey, wire.InvalidParams, "give an id, or a tuple with source and destination"},
	{conntrack.ErrNotTCP, wire.InvalidParams, "narrow the filter to proto=tcp"},
	{conntrack.ErrNoPort, wire.InvalidParams, "leave the port out, or narrow the filter to protocols that have ports"},
	{conntrack.ErrAmbiguous, wire.Conflict, "list the flows with this id and give one with its tuple"},
	{conntrack.ErrNATTaken, wire.Conflict, "choose another address or port"},
	{conntrack.ErrFixedTimeout, wire.Conflict, "the kernel never changes a fixed timeout again; kill the flow instead"},
	{conntrack.ErrExpectLimit, wire.LimitExceeded, "kill one of the master's expectations first, or wait until it ends"},
	{conntrack.ErrNetNSGone, wire.Unavailable, "restart the daemon, so that it opens the namespace of this name"},
	{conntrack.ErrInterrupted, wire.Busy, "try again"},
	{cut.ErrFull, wire.LimitExceeded, "wait until the time of earlier cuts is over, lift blocks with conntrack.unblock, or cut for a shorter time"},
	{cut.ErrUnsupported, wire.Unsupported, "Linux 5.9 or later with nf_tables (inet tables, reject, notrack) is needed; kill without cut and block"},
	{conntrack.ErrNoEvents, wire.Unsupported, "set net.netfilter.nf_conntrack_events to 1, or reconcile without watch"},
	{conntrack.ErrClosed, wire.Unavailable, "the daemon is stopping; try again when it has started"},
}

// ErrorOf returns what a caller is told of a failed call: err itself where it is a *wire.Error,
// else by the kernel's errno or the well-known error in it. What it doesn't know is Internal,
// without a detail: that belongs in the log.
func ErrorOf(err error) *wire.Error {
	var we *wire.Error
	if errors.As(err, &we) {
		if we.Code == wire.Internal {
			return errInternal()
		}
		e := *we
		e.Message = err.Error() // with what was wrapped around it
		return &e
	}
	var fe *conntrack.FilterError
	if errors.As(err, &fe) {
		return &wire.Error{Code: wire.InvalidParams, Message: err.Error(), Hint: fe.Hint}
	}
	for _, row := range layerTable {
		if errors.Is(err, row.err) {
			return &wire.Error{Code: row.code, Message: err.Error(), Hint: row.hint}
		}
	}
	switch {
	case errors.Is(err, conntrack.ErrNotFound):
		return &wire.Error{
			Code: wire.NotFound, Message: err.Error(), Errno: "ENOENT",
			Hint: "it may have ended in the meantime; list again",
		}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return &wire.Error{Code: wire.Deadline, Message: "it took too long", Hint: "ask for less, or try again"}
	case errors.Is(err, context.Canceled):
		return &wire.Error{Code: wire.Unavailable, Message: "the call was cancelled", Hint: "the daemon may be stopping; try again"}
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		for _, row := range kernelTable {
			if row.errno == errno {
				return &wire.Error{Code: row.code, Message: err.Error(), Hint: row.hint, Errno: errnoName(errno)}
			}
		}
		e := errInternal()
		e.Errno = errnoName(errno)
		return e
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return &wire.Error{Code: wire.Unsupported, Message: err.Error(), Hint: "see server.doctor"}
	}
	return errInternal()
}

// errnoName returns the name of an errno; of the two that 95 has, the one that the kernel's
// network code uses.
func errnoName(errno unix.Errno) string {
	if errno == unix.EOPNOTSUPP {
		return "EOPNOTSUPP"
	}
	return unix.ErrnoName(errno)
}

func errInternal() *wire.Error {
	return &wire.Error{Code: wire.Internal, Message: "internal error", Hint: "the daemon's log says more"}
}

func errUnauthenticated() *wire.Error {
	return &wire.Error{
		Code:    wire.Unauthenticated,
		Message: "the caller is not known",
		Hint:    "send the token as Authorization: Bearer TOKEN, or call over the unix socket",
	}
}

// invalidParams returns an error of that code.
func invalidParams(format string, args ...any) *wire.Error {
	return &wire.Error{Code: wire.InvalidParams, Message: fmt.Sprintf(format, args...)}
}

// invalidRequest returns an error of that code.
func invalidRequest(format string, args ...any) *wire.Error {
	return &wire.Error{Code: wire.InvalidRequest, Message: fmt.Sprintf(format, args...)}
}

// parseError returns an error of that code.
func parseError(format string, args ...any) *wire.Error {
	return &wire.Error{Code: wire.ParseError, Message: fmt.Sprintf(format, args...)}
}
