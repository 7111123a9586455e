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
)

// Error is what a caller is told of a failure.
type Error struct {
	Code    Code
	Message string // what went wrong, for a person
	Hint    string // what to do next; may be empty
	Errno   string // the kernel's answer by name, e.g. "ENOENT"; may be empty
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

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
