package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// A message is struct nlmsghdr (linux/netlink.h), then struct nfgenmsg
// (linux/netfilter/nfnetlink.h), then attributes.
const (
	nlHeaderLen = 16
	nfHeaderLen = 4

	nlmsgError = 2 // NLMSG_ERROR
	nlmsgDone  = 3 // NLMSG_DONE

	flagRequest  = 0x1    // NLM_F_REQUEST
	flagAck      = 0x4    // NLM_F_ACK
	flagDumpIntr = 0x10   // NLM_F_DUMP_INTR
	flagDump     = 0x300  // NLM_F_DUMP
	flagExcl     = 0x200  // NLM_F_EXCL
	flagCreate   = 0x400  // NLM_F_CREATE
	nfVersion    = 1      // nfgenmsg.version: from 1 on a flush heeds the family
	subsysCT     = 1 << 8 // NFNL_SUBSYS_CTNETLINK
	subsysExp    = 2 << 8 // NFNL_SUBSYS_CTNETLINK_EXP
)

// Message types, the subsystem in the upper byte (cntl_msg_types and ctnl_exp_msg_types,
// linux/netfilter/nfnetlink_conntrack.h).
const (
	msgNew            = subsysCT     // IPCTNL_MSG_CT_NEW
	msgGet            = subsysCT | 1 // IPCTNL_MSG_CT_GET
	msgDelete         = subsysCT | 2 // IPCTNL_MSG_CT_DELETE
	msgGetZero        = subsysCT | 3 // IPCTNL_MSG_CT_GET_CTRZERO
	msgGetStatsCPU    = subsysCT | 4 // IPCTNL_MSG_CT_GET_STATS_CPU
	msgGetDying       = subsysCT | 6 // IPCTNL_MSG_CT_GET_DYING
	msgGetUnconfirmed = subsysCT | 7 // IPCTNL_MSG_CT_GET_UNCONFIRMED

	msgExpNew    = subsysExp     // IPCTNL_MSG_EXP_NEW
	msgExpGet    = subsysExp | 1 // IPCTNL_MSG_EXP_GET
	msgExpDelete = subsysExp | 2 // IPCTNL_MSG_EXP_DELETE
)

// Errors that a caller may branch on. An answer of the kernel is an *OpError, which unwraps to
// the errno.
var (
	// ErrNotFound says that there is no such flow or expectation. It is ENOENT.
	ErrNotFound error = &kernelError{"no such entry", syscall.ENOENT}
	// ErrExists says that there is one already. It is EEXIST.
	ErrExists error = &kernelError{"there is such an entry already", syscall.EEXIST}
	// ErrInterrupted says that the table changed so much during a dump that entries may be
	// missing (NLM_F_DUMP_INTR, or another size of the hash table): what has been read so far is
	// no whole list; read it again.
	ErrInterrupted = errors.New("the dump was interrupted by a change of the table; read it again")
	// ErrNoKey says that a Key names nothing. It guards against a request to delete without a
	// tuple, which the kernel takes for a flush.
	ErrNoKey = errors.New("the key names no flow: it needs a tuple or an id")
	// ErrAmbiguous says that an id fits more than one flow.
	ErrAmbiguous = errors.New("more than one flow has this id; give a tuple with it")
	// ErrNetNSGone says that the namespace was deleted since the table was opened, or made anew.
	ErrNetNSGone = errors.New("it was deleted or made anew since it was opened")
	// ErrClosed says that the table was closed.
	ErrClosed = errors.New("the table is closed")
)

// kernelError is an errno with the meaning that it has in this table: its own speaks of files.
type kernelError struct {
	text  string
	errno syscall.Errno
}

func (e *kernelError) Error() string { return e.text }
func (e *kernelError) Unwrap() error { return e.errno }

// errnoError returns the error of an errno that the kernel answered.
func errnoError(errno syscall.Errno) error {
	switch errno {
	case syscall.ENOENT:
		return ErrNotFound
	case syscall.EEXIST:
		return ErrExists
	}
	return errno
}

// OpError is a failed operation. It unwraps to what the kernel answered, so that
// errors.Is(err, syscall.ENOENT) works.
type OpError struct {
	Op  string // what was tried, e.g. "list flows"
	Err error
}

// Error returns the operation and the cause.
func (e *OpError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// also returns err, with what went wrong besides on the same line.
func also(err, besides error) error {
	if err == nil || besides == nil {
		return errors.Join(err, besides)
	}
	return fmt.Errorf("%w; %w", err, besides)
}

func opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Err: err}
}

// beginMessage appends the headers of a message; endMessage, given the length of b before, sets
// its length.
func beginMessage(b []byte, typ, flags uint16, seq uint32, family Family) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags|flagRequest)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return append(b, uint8(family), nfVersion, 0, 0)
}

func endMessage(b []byte, start int) []byte {
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// orFlags sets more flags in the header of a message.
func orFlags(msg []byte, flags uint16) {
	binary.NativeEndian.PutUint16(msg[6:], binary.NativeEndian.Uint16(msg[6:])|flags)
}

// message is one message that was received.
type message struct {
	typ, flags uint16
	seq        uint32
	data       []byte // what follows struct nlmsghdr
}

// nextMessage cuts the first message off what was received.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < nlHeaderLen {
		return m, nil, fmt.Errorf("%w: message of %d bytes", errMalformed, len(b))
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < nlHeaderLen || n > len(b) {
		return m, nil, fmt.Errorf("%w: message of %d bytes in %d", errMalformed, n, len(b))
	}
	m = message{
		typ:   binary.NativeEndian.Uint16(b[4:]),
		flags: binary.NativeEndian.Uint16(b[6:]),
		seq:   binary.NativeEndian.Uint32(b[8:]),
		data:  b[nlHeaderLen:n],
	}
	return m, b[min(align4(n), len(b)):], nil
}

// errno returns the error that an NLMSG_ERROR or NLMSG_DONE carries, nil for an acknowledgement.
func (m *message) errno() error {
	if len(m.data) < 4 {
		if m.typ == nlmsgDone {
			return nil
		}
		return fmt.Errorf("%w: error message of %d bytes", errMalformed, len(m.data))
	}
	if code := int32(binary.NativeEndian.Uint32(m.data)); code < 0 {
		return errnoError(syscall.Errno(-code))
	}
	return nil
}

// attributes returns what follows struct nfgenmsg.
func (m *message) attributes() ([]byte, error) {
	if len(m.data) < nfHeaderLen {
		return nil, fmt.Errorf("%w: message without nfgenmsg", errMalformed)
	}
	return m.data[nfHeaderLen:], nil
}

// resource returns nfgenmsg.res_id: the processor in the answer to a request for its counters.
func (m *message) resource() uint16 { return binary.BigEndian.Uint16(m.data[2:]) }
