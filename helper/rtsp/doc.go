// Package rtsp reads RTSP 1.0 (RFC 2326) and RTSP 2.0 (RFC 7826) as it goes by, and changes the
// ports and addresses in its Transport headers. It does no I/O and keeps no state of a connection.
//
// A stream of bytes is read unit by unit with Next: requests, replies, interleaved frames and the
// empty lines between them. What a unit is never depends on how many bytes after it are there yet.
// Whatever comes is hostile: every length is bounded (limit.go), nothing is read twice for each of
// its parts, and what is kept of a message is copied from it.
//
// The reader is as tolerant as servers are where that does no harm (bare LF, spaces, odd case,
// unknown parameters) and strict where two readers might see different messages: bare CR, NUL, two
// lengths.
package rtsp
