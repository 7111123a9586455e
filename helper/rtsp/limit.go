package rtsp

import (
	"errors"
	"fmt"
)

// Limits of what is read. What goes beyond one is ErrMalformed, except where it says otherwise.
const (
	MaxHead       = 16 << 10 // bytes of start line, headers and the empty line after them
	MaxStartLine  = 4 << 10  // bytes of the start line with its line ending
	MaxMethod     = 32       // bytes of a method's name
	MaxHeaders    = 128      // headers of a message; continuation lines belong to their header
	MaxSession    = 1024     // bytes of a session's identifier
	MaxBody       = 1 << 30  // Content-Length
	MaxTransports = 16       // alternatives in all Transport headers of a message
	MaxAddrs      = 8        // addresses in a dest_addr or src_addr
	MaxSSRCs      = 8        // sources in an ssrc; more are left out
	MaxText       = 256      // bytes of each text that is for people; the rest is left out
)

// Errors of Next and Rewrite. They come with detail: compare with errors.Is.
var (
	// ErrShort says that more bytes are needed: the whole head of a message, or the four bytes
	// that begin an interleaved frame.
	ErrShort = errors.New("more bytes are needed")
	// ErrMalformed says that the bytes aren't RTSP, whatever may follow them.
	ErrMalformed = errors.New("not RTSP")
	// ErrTooLong says that what is to be written doesn't fit.
	ErrTooLong = errors.New("the new text is too long")
)

// malformed is an ErrMalformed with detail. The detail never holds what was read.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
