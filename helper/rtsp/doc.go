// Package rtsp reads RTSP 1.0 (RFC 2326) and RTSP 2.0 (RFC 7826) as it goes by, and changes the
// ports and addresses in its Transport headers. It does no I/O and keeps no state of a connection.
package rtsp
