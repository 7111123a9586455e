package wire

import "errors"

// Code is the kind of an error, from a closed set that is the same in every protocol.
type Code string

// The codes. Every error that a caller sees has one of them.
const (
	InvalidParams    Code = "invalid_params"
	Unauthenticated  Code = "unauthenticated"
	PermissionDenied Code = "permission_denied"
	NotFound         Code = "not_found"
	AlreadyExists    Code = "already_exists"
	Conflict         Code = "conflict"
	LimitExceeded    Code = "limit_exceeded"
	Unsupported      Code = "unsupported"
	Busy             Code = "busy"
	Unavailable      Code = "unavailable"
	RateLimited      Code = "rate_limited"
	Deadline         Code = "deadline"
	Internal         Code = "internal"

	// The codes of the JSON-RPC 2.0 specification, section 5.1, that are about the message
	// rather than the method.
	ParseError     Code = "parse_error"
	InvalidRequest Code = "invalid_request"
	MethodNotFound Code = "method_not_found"

	// The codes that the XML-RPC fault code interoperability specification adds for a document
	// whose characters can't be read.
	UnsupportedEncoding Code = "unsupported_encoding"
	InvalidCharacter    Code = "invalid_character"
)

// Exit is the exit status of the ctd command.
type Exit int

// What the command's exit status says.
const (
	ExitDone        Exit = 0
	ExitNoMatch     Exit = 1 // nothing matched, only where --fail-if-none asks for it
	ExitUsage       Exit = 2
	ExitRefused     Exit = 3
	ExitNotFound    Exit = 4
	ExitUnreachable Exit = 5
	ExitOther       Exit = 6
)

// codeRow is what one code is in each protocol.
type codeRow struct {
	code   Code
	number int // error.code of JSON-RPC, faultCode of XML-RPC
	status int // HTTP status, where the failure comes before a message of the protocol is read
	exit   Exit
	doc    string
}

// codeTable is the one table of codes. The numbers from -32700 to -32600 are those of JSON-RPC
// 2.0 section 5.1 and of the XML-RPC fault code interoperability specification, which agree;
// from -32001 on they are ours.
var codeTable = [...]codeRow{
	{ParseError, -32700, 400, ExitUsage, "the document is not well-formed"},
	{UnsupportedEncoding, -32701, 400, ExitUsage, "XML-RPC: the declared encoding is not known"},
	{InvalidCharacter, -32702, 400, ExitUsage, "XML-RPC: bytes that are no character of the encoding"},
	{InvalidRequest, -32600, 400, ExitUsage, "well-formed, but not a request"},
	{MethodNotFound, -32601, 404, ExitUsage, "there is no such method"},
	{InvalidParams, -32602, 400, ExitUsage, "a parameter is unknown, missing, of the wrong type or out of range"},
	{Internal, -32603, 500, ExitOther, "a fault of the daemon; its log says more"},
	{Unauthenticated, -32001, 401, ExitRefused, "the caller is not known"},
	{PermissionDenied, -32002, 403, ExitRefused, "the caller, or the daemon, may not do this"},
	{NotFound, -32003, 404, ExitNotFound, "there is no such entry"},
	{AlreadyExists, -32004, 409, ExitRefused, "there is such an entry already"},
	{Conflict, -32005, 409, ExitRefused, "the entry is not in the state that the call needs"},
	{LimitExceeded, -32006, 413, ExitRefused, "more than is allowed; nothing was done"},
	{Unsupported, -32007, 415, ExitOther, "the kernel or the daemon can't do this"},
	{Busy, -32008, 503, ExitOther, "in use just now; try again"},
	{Unavailable, -32009, 503, ExitUnreachable, "the daemon or the kernel's table can't be reached"},
	{RateLimited, -32010, 429, ExitRefused, "too many calls; try again later"},
	{Deadline, -32011, 504, ExitOther, "it took too long"},
}

func (c Code) row() codeRow {
	for _, r := range codeTable {
		if r.code == c {
			return r
		}
	}
	return codeRow{code: c, number: -32603, status: 500, exit: ExitOther}
}

// Codes returns every code, in the order of the documentation.
func Codes() []Code {
	codes := make([]Code, len(codeTable))
	for i, r := range codeTable {
		codes[i] = r.code
	}
	return codes
}

// Number returns the code's number, the same in a JSON-RPC error and an XML-RPC fault. A code
// that isn't in the closed set has Internal's.
func (c Code) Number() int { return c.row().number }

// HTTPStatus returns the HTTP status of an answer that is given before a message of either
// protocol is read. What reaches a method is answered with 200 and the error in the body.
func (c Code) HTTPStatus() int { return c.row().status }

// Exit returns the exit status of a command that ends with this code.
func (c Code) Exit() Exit { return c.row().exit }

// Doc says in a few words what the code means.
func (c Code) Doc() string { return c.row().doc }

// CodeOf returns the code that has a number; Internal for a number that none has.
func CodeOf(number int) Code {
	for _, r := range codeTable {
		if r.number == number {
			return r.code
		}
	}
	return Internal
}

// Error is what a caller is told of a failure.
type Error struct {
	Code    Code
	Message string // what went wrong, for a person
	Hint    string // what to do next; may be empty
	Errno   string // the kernel's answer by name, e.g. "ENOENT"; may be empty
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Exit returns the exit status of a command that ends with this error. It is the code's, but that of a change
// that wasn't made as it can't be recorded: of what is unavailable, that alone has an errno.
func (e *Error) Exit() Exit {
	if e.Code == Unavailable && e.Errno != "" {
		return ExitRefused
	}
	return e.Code.Exit()
}

// Is tells whether target is an *Error of the same code, so that
// errors.Is(err, &wire.Error{Code: wire.NotFound}) works.
func (e *Error) Is(target error) bool {
	var t *Error
	return errors.As(target, &t) && t.Code == e.Code && t.Message == ""
}

// ErrorData is the data member of a JSON-RPC error object.
type ErrorData struct {
	Code  Code   `json:"code" doc:"the kind of error, the same in every protocol"`
	Hint  string `json:"hint,omitempty" doc:"what to do next"`
	Errno string `json:"errno,omitempty" doc:"the kernel's answer by name, e.g. ENOENT"`
}
