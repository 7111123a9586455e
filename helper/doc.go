// Package helper lets media streams through a NAT router whose ports are named inside an RTSP
// dialogue (RFC 2326, RFC 7826). It reads the dialogue from a packet queue (NFQUEUE) and registers
// what is to come in the connection tracking table: expectations when a client asks for a stream,
// the exact flows when the server has agreed.
//
// The way of a packet: queue (queue.go) -> the connection that it belongs to (follow.go, connection.go),
// which puts the segments of each direction in order (direction.go) -> the parser (helper/rtsp) ->
// dialogue (dialogue.go), which matches requests and replies -> setup (setup.go) and stream (stream.go),
// which register through the table -> verdict.
//
// A packet always gets a verdict, and where anything is in doubt that is to let it pass unchanged.
package helper
